"""Writes a trained LatentRM into the package in the LatentTTS layout.

The step scores are checked against Hugging Face modules with the same weights.

    python examples/shipped_model/export_latent_rm.py --work build/shipped_model
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
import yaml
from batches import Encoder
from judge import judge, prepare
from measure_samplers import load_generator
from safetensors.torch import save_file
from sampling import LatentSampler, Noise
from scorer import HEAD, Scorer
from torch import Tensor
from transformers import AutoTokenizer, GPT2Model

from latent_ext.assets import SHIPPED_GENERATOR, SHIPPED_LATENT_RM


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_latent_rm(
    weights: dict[str, Tensor], folder: Path, generator: Path, noise: Noise, labels: dict[str, int]
) -> None:
    """Writes model.safetensors (fp16) and config.json with what the LatentRM was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((generator / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["COCONUTGPT2ForTokenClassification"]
    config["trained_on"] = {
        "sampler": str(noise),
        "scope": "latent",
        "sites": "residual",
        "generator_sha256": sha256_of(generator / "model.safetensors"),
        "correct": "the answer must directly follow the thoughts; an explicit step before it counts as wrong",
        "loss": "step-wise contrastive cross-entropy on the running sum of step scores",
        **labels,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {name if name in HEAD else f"transformer.{name}": w for name, w in weights.items()}
    tensors = {name: w.detach().half().contiguous() for name, w in tensors.items()}
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


@torch.no_grad()
def largest_difference(generator: Path, scorer: Scorer, prompts: list[bytes], thoughts: Tensor) -> float:
    """Largest difference of step scores between `scorer` and Hugging Face modules with the scorer's weights.

    Args:
        generator: folder of the generator, for the config.
        scorer: over float32 weights.
        prompts: of some questions.
        thoughts: [questions, rows, steps, hidden].
    """
    _, _, config = load_generator(generator)
    model = GPT2Model(config).eval()
    backbone = {name: w for name, w in scorer.weights.items() if name not in HEAD}
    model.load_state_dict(backbone, strict=True)
    steps = thoughts.shape[2]
    ours = scorer.step_scores(prompts, thoughts)
    worst = 0.0
    for prompt, rows, expected in zip(prompts, thoughts, ours, strict=True):
        text = model.wte(torch.tensor([list(prompt)])).expand(len(rows), -1, -1)
        hidden = model(inputs_embeds=torch.cat([text, rows], 1)).last_hidden_state[:, -steps:]
        scores = hidden @ scorer.weights["classifier.weight"][0] + scorer.weights["classifier.bias"]
        worst = max(worst, float((scores - expected).abs().max()))
    return worst


def main() -> None:
    """Exports, checks, and prints the ranking figures on validation problems."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="the folder train_latent_rm.py wrote")
    parser.add_argument("--folder", type=Path, default=SHIPPED_LATENT_RM)
    parser.add_argument("--generator", type=Path, default=SHIPPED_GENERATOR)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.yaml"))
    parser.add_argument("--problems", type=int, default=300, help="validation problems per number of steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = yaml.safe_load(arguments.recipe.read_text())["latent_rm"]
    noise = Noise(**settings["noise"])
    weights = torch.load(arguments.work / "latent_rm.pt")["weights"]
    labels = {"rows": settings["rows"], "rollouts": settings["rollouts"]}
    write_latent_rm(weights, arguments.folder, arguments.generator, noise, labels)
    generator, shape, config = load_generator(arguments.generator)
    encoder = Encoder(AutoTokenizer.from_pretrained(arguments.generator))
    sizes = (shape, encoder.start, encoder.end, config.latent_length)
    rounded = {name: w.half().float() for name, w in weights.items()}
    scorer = Scorer(rounded, *sizes)
    held = prepare(LatentSampler(generator, *sizes, noise, seed=1), encoder, arguments.problems)
    some = held.prompts[5][:5], held.thoughts[5][:5, :4]
    print("largest difference to Hugging Face:", largest_difference(arguments.generator, scorer, *some))
    print(json.dumps(judge(scorer, held)))


if __name__ == "__main__":
    main()
