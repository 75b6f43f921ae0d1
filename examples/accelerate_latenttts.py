"""One line more for a model in the LatentTTS layout: the same tokens, sooner.

Writes a small COCONUT checkpoint in that layout (random weights), loads it with stock transformers modules, answers
questions twice and compares: by a loop over the stock modules that reads everything again for each thought and each
token, as Coconut's published code does in its answers, and by the same model object after ``latent_ext.accelerate``.

    python examples/accelerate_latenttts.py            # about 30 seconds on one core
    python examples/accelerate_latenttts.py --questions 2 --layers 2 --hidden 64
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import latent_ext
from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.evaluation.problems import shipped_problems

STEPS, NEW_TOKENS = 6, 32


def write_checkpoint(directory: Path, layers: int, hidden: int) -> None:
    """config.json with the latent ids, model.safetensors, tokenizer: what LatentTTS's scripts read."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_GENERATOR)
    ids = {
        name: tokenizer.convert_tokens_to_ids(text)
        for name, text in {
            "latent_id": "<|latent|>", "latent_start_id": "<|start-latent|>", "latent_end_id": "<|end-latent|>",
        }.items()
    }  # fmt: skip
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=hidden, n_layer=layers, n_head=hidden // 32,
        initializer_range=0.1, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    model.config.architectures = ["COCONUTGPT2"]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@torch.no_grad()
def loop_over_stock_modules(model: GPT2LMHeadModel, prompt: Tensor) -> list[int]:
    """prompt int64 [length] -> ids after it: latent tokens, end token, answer up to its end or NEW_TOKENS in all."""
    config, embed = model.config, model.get_input_embeddings()
    inputs = embed(prompt).unsqueeze(0)
    for _ in range(STEPS):
        read = model(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
        inputs = torch.cat([inputs, read.hidden_states[-1][:, -1:]], dim=1)
    written = [config.latent_id] * STEPS + [config.latent_end_id]
    while len(written) < NEW_TOKENS and written[-1] != config.eos_token_id:
        inputs = torch.cat([inputs, embed(torch.tensor([[written[-1]]]))], dim=1)
        written.append(int(model(inputs_embeds=inputs, use_cache=False).logits[0, -1].argmax()))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384, help="a multiple of 32")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(Path(directory), asked.layers, asked.hidden)
        tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    texts = [
        f"{problem.question}\n<|start-latent|>" for problem in shipped_problems("test_5", asked.questions)
    ]
    inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    prompts = [
        ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]

    started = time.perf_counter()
    loop = [loop_over_stock_modules(model, prompt) for prompt in prompts]
    loop_seconds = time.perf_counter() - started

    model = latent_ext.accelerate(model)
    how = {**inputs, "latent_length": STEPS, "max_new_tokens": NEW_TOKENS}
    started = time.perf_counter()
    sequences = model.generate(**how)
    first_seconds = time.perf_counter() - started
    started = time.perf_counter()
    sequences = model.generate(**how)
    seconds = time.perf_counter() - started
    model.restore()

    length = inputs["input_ids"].shape[1]
    equal = [
        row[: len(tokens)] == tokens and set(row[len(tokens) :]) <= {tokenizer.pad_token_id}
        for row, tokens in zip(sequences[:, length:].tolist(), loop, strict=True)
    ]
    tokens = sum(map(len, loop))
    print(
        f"GPT-2 of {asked.layers} layers, hidden {asked.hidden}, {STEPS} thoughts, sampling off, one thread"
    )
    print(
        f"loop over stock modules    {loop_seconds:7.2f} s for {len(prompts)} questions, {tokens} positions written"
    )
    print(
        f"after latent_ext.accelerate {seconds:6.2f} s (first call, which packs the weights: {first_seconds:.2f} s)"
    )
    print(f"equal tokens on {sum(equal)} of {len(equal)} questions")
    if not all(equal):
        raise SystemExit("the tokens differ: no speed-up is claimed")
    print(f"speed-up {loop_seconds / seconds:.1f}x")


if __name__ == "__main__":
    main()
