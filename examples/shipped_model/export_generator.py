"""Writes a trained generator and the held-out problems into the package, and checks them.

    python examples/shipped_model/export_generator.py --work build/shipped_model

The check loads the written folder with Hugging Face classes, rolls the thoughts out by hand in float32 and
decodes greedily; its accuracy must be that of the training code on the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from batches import Encoder
from network import LAYER_NORM_EPS, MaskPool, Network, Shape
from safetensors.torch import save_file
from torch import Tensor
from train_generator import evaluate
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from latent_ext.assets import SHIPPED_GENERATOR, SHIPPED_PROBLEMS
from latent_ext.evaluation.arithmetic import Problem, generate, write_problems

SHIPPED_SPLITS = {
    "valid": ("valid", (2, 6)),
    "test_2_5": ("test", (2, 5)),
    "test_5": ("test", (5, 5)),
    "test_6": ("test", (6, 6)),
}
_PER_SPLIT = 500
_SEED = 7


def problems_of(name: str) -> list[Problem]:
    """The shipped problems of one name."""
    split, steps = SHIPPED_SPLITS[name]
    return generate(_PER_SPLIT, split=split, steps=steps, seed=_SEED)


def write_generator(
    weights: dict[str, Tensor], shape: Shape, thoughts: int, dropout: float, folder: Path
) -> None:
    """Writes config.json, generation_config.json and model.safetensors (fp16) beside the tokenizer in
    `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in _LATENT_TOKENS.items()}
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.positions,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        activation_function="gelu_new",
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=0.0,
        layer_norm_epsilon=LAYER_NORM_EPS,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        architectures=["GPT2LMHeadModel"],
        dtype="float16",
        latent_length=thoughts,
        **ids,
    )
    config.save_pretrained(folder)
    GPT2LMHeadModel(config).generation_config.save_pretrained(folder)
    tensors = {f"transformer.{name}": w.detach().half().contiguous() for name, w in weights.items()}
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


_LATENT_TOKENS = {
    "latent_id": "<|latent|>",
    "latent_start_id": "<|start-latent|>",
    "latent_end_id": "<|end-latent|>",
}


@torch.no_grad()
def greedy_answers(folder: Path, questions: Sequence[str], longest_answer: int = 8) -> list[str]:
    """Noise-free answers of an exported generator, with Hugging Face modules alone and one question at a
    time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    embed = model.transformer.wte
    end, thoughts = model.config.latent_end_id, model.config.latent_length
    answers = []
    for question in questions:
        ids = tokenizer(question + "\n<|start-latent|>", return_tensors="pt").input_ids
        out = model(ids, output_hidden_states=True, use_cache=True)
        for _ in range(thoughts):
            thought = out.hidden_states[-1][:, -1:]
            out = model(
                inputs_embeds=thought,
                past_key_values=out.past_key_values,
                output_hidden_states=True,
                use_cache=True,
            )
        token, written = end, []
        while len(written) < longest_answer:
            out = model(inputs_embeds=embed(torch.tensor([[token]])), past_key_values=out.past_key_values)
            token = int(out.logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            written.append(token)
        answers.append(tokenizer.decode(written).removeprefix("### "))
    return answers


def main() -> None:
    """Exports, checks and prints the accuracies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="the folder train_generator.py wrote")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.yaml"))
    parser.add_argument("--folder", type=Path, default=SHIPPED_GENERATOR)
    parser.add_argument("--problems", type=Path, default=SHIPPED_PROBLEMS)
    parser.add_argument(
        "--check", type=int, default=200, help="how many problems of each split are decoded with HF"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = yaml.safe_load(arguments.recipe.read_text())
    thoughts = recipe["model"]["thoughts"]
    state = torch.load(arguments.work / "checkpoint.pt")
    shape = Shape(**state["shape"])
    weights = state["optimizer"]["master"]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(arguments.work / "tokenizer").save_pretrained(arguments.folder)
    write_generator(weights, shape, thoughts, recipe["generator"]["dropout"], arguments.folder)
    arguments.problems.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(AutoTokenizer.from_pretrained(arguments.folder))
    rounded = {name: w.half().float() for name, w in weights.items()}
    network = Network(rounded, shape, MaskPool(0.0, torch.float32, 0, 0))
    for name in SHIPPED_SPLITS:
        problems = problems_of(name)
        write_problems(arguments.problems / f"{name}.jsonl", problems)
        checked = problems[: arguments.check]
        answers = greedy_answers(arguments.folder, [p.question for p in checked])
        right = sum(a == p.answer for a, p in zip(answers, checked, strict=True))
        ours = evaluate(network, [encoder.problem(p) for p in checked], encoder.end, thoughts)
        every = evaluate(network, [encoder.problem(p) for p in problems], encoder.end, thoughts)
        print(
            f"{name}: Hugging Face {100 * right / max(1, len(checked)):.1f} %,",
            f"training code {ours['latent']} %",
            every,
        )


if __name__ == "__main__":
    main()
