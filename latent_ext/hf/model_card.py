"""The model card of a saved model: what it is, and how it is run."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

_BODY = """
# A latent reasoning model ({family})

It thinks in {latent_length} vectors between `<|start-latent|>` and `<|end-latent|>`, then answers in tokens. Saved by
`latent_ext`, which runs it:

```python
import latent_ext  # registers the format
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this")
tokenizer = AutoTokenizer.from_pretrained("path/to/this", padding_side="left")
inputs = tokenizer("A question.\\n<|start-latent|>", return_tensors="pt")
model.generate(**inputs, num_paths=16, sampler="dropout:0.2", latent_tokenizer=tokenizer, max_new_tokens=64)
```

Prompts end with `<|start-latent|>`, as its family writes them.
"""


def write_model_card(directory: Path, *, family: str, latent_length: int, tags: tuple[str, ...] = ()) -> None:
    """Writes ``README.md`` unless there is one; with `tags`, adds them to one that is there.

    Args:
        directory: exists.
        family, latent_length: named in the text.
        tags: beside the usual ones.
    """
    path = directory / "README.md"
    if path.exists():
        if tags:
            card = ModelCard.load(path)
            card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
            card.save(path)
        return
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["latent-reasoning", "latent_ext", family, *tags],
    )
    text = f"---\n{data.to_yaml()}\n---\n{_BODY.format(family=family, latent_length=latent_length)}"
    ModelCard(text).save(path)
