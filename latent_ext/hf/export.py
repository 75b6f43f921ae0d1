"""A decoding method inside a checkpoint folder: whoever loads it with ``trust_remote_code=True`` needs no other line."""

from __future__ import annotations

from pathlib import Path

from latent_ext.hf.model_card import write_model_card

_GENERATE = '''"""Parallel latent trajectories as this model's generate; the work is done by the installed latent_ext."""

from transformers import GenerationMixin

import latent_ext


def generate(model, **kwargs):
    """``model.generate`` with latent_ext.generate as its decoding method, whose arguments it takes."""
    kwargs.pop("custom_generate", None)
    kwargs.pop("trust_remote_code", None)
    return GenerationMixin.generate(model, custom_generate=latent_ext.generate, **kwargs)
'''


def export_custom_generate(directory: str | Path, *, family: str = "coconut", latent_length: int = 6) -> Path:
    """Writes ``custom_generate/`` into a checkpoint folder, and tags its model card.

    ``AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).generate(...)`` then takes the arguments of
    `latent_ext.generate`; so does ``model.generate(..., custom_generate=directory, trust_remote_code=True)``.

    Args:
        directory: a checkpoint folder; its other files are left as they are.
        family, latent_length: named in the model card, where there is none yet.

    Returns:
        ``directory / "custom_generate"``.

    Raises:
        ValueError: if `directory` is no folder.

    Source: https://huggingface.co/docs/transformers/generation_strategies, "Custom generation methods".
    """
    root = Path(directory)
    if not root.is_dir():
        raise ValueError(f"directory: {str(root)!r} is no folder; save a checkpoint there first")
    folder = root / "custom_generate"
    folder.mkdir(exist_ok=True)
    (folder / "generate.py").write_text(_GENERATE, encoding="utf-8")
    (folder / "requirements.txt").write_text("latent_ext\n", encoding="utf-8")
    write_model_card(root, family=family, latent_length=latent_length, tags=("custom_generate",))
    return folder
