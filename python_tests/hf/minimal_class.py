"""`accelerate` on the smallest classes of LatentTTS's interface, on whatever transformers release is installed.

LatentTTS's own classes import on transformers 4.52.4 alone, so its users are there. This script needs neither pytest nor
the shipped tokenizer, which that release cannot read. It says what it found, and exits with an error where it differs.

    python python_tests/hf/minimal_class.py
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import latent_ext

LATENT, START, END, EOS, VOCABULARY, STEPS, NEW = 59, 57, 58, 0, 60, 6, 24
IDS = {"latent_id": LATENT, "latent_start_id": START, "latent_end_id": END}


class LatentGenerate:
    """LatentTTS's ``generate``, without sampling and without a cache, one prompt after another."""

    @torch.no_grad()
    def generate(
        self: Any, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any
    ) -> Tensor:
        input_ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        written = [self.answer(ids[real.bool()]) for ids, real in zip(input_ids, mask, strict=True)]
        longest = max(map(len, written))
        filled = torch.tensor([row + [EOS] * (longest - len(row)) for row in written])
        return torch.cat([input_ids, filled], dim=1)

    def answer(self: Any, prompt: Tensor) -> list[int]:
        embed = self.get_input_embeddings()
        inputs = embed(prompt).unsqueeze(0)
        for _ in range(STEPS):
            hidden = self(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1][:, -1:]
            inputs = torch.cat(
                [inputs, self.projector(hidden) if hasattr(self, "projector") else hidden], dim=1
            )
        written = [LATENT] * STEPS + [END]
        while len(written) < NEW and written[-1] != EOS:
            inputs = torch.cat([inputs, embed(torch.tensor([[written[-1]]]))], dim=1)
            written.append(int(self(inputs_embeds=inputs).logits[0, -1].argmax()))
        return written


def with_projector(model: Any) -> Any:
    size = model.config.hidden_size
    model.projector = nn.Sequential(
        nn.Dropout(0.0), nn.Linear(size, size + 5), nn.GELU(), nn.Linear(size + 5, size), nn.LayerNorm(size)
    )
    return model


class CoconutGPT2(LatentGenerate, GPT2LMHeadModel):
    """COCONUT on GPT-2."""


class CoconutLlama(LatentGenerate, LlamaForCausalLM):
    """COCONUT on Llama."""


class TokenClassifier(nn.Module):
    """LatentTTS's process reward model."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.transformer = body
        self.classifier = nn.Linear(48, 1)


def models() -> dict[str, Any]:
    gpt2 = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=48, n_layer=2, n_head=4, bos_token_id=EOS, eos_token_id=EOS,
        pad_token_id=EOS, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.2, **IDS,
    )  # fmt: skip
    llama = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=EOS,
        initializer_range=0.2, **IDS,
    )  # fmt: skip
    return {
        "COCONUT on GPT-2": CoconutGPT2(gpt2),
        "CODI on GPT-2": with_projector(CoconutGPT2(gpt2)),
        "COCONUT on Llama": CoconutLlama(llama),
        "CODI on Llama": with_projector(CoconutLlama(llama)),
    }


def batch() -> dict[str, Tensor]:
    ids, mask = torch.full((3, 10), EOS), torch.zeros(3, 10, dtype=torch.int64)
    for row, length in enumerate((9, 4, 6)):
        ids[row, -length - 1 :] = torch.cat([torch.randint(1, 50, (length,)), torch.tensor([START])])
        mask[row, -length - 1 :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def check(what: str, holds: bool) -> None:
    print(f"{'ok' if holds else 'WRONG':5} {what}")
    if not holds:
        raise SystemExit(1)


def main() -> None:
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs = batch()
    for name, model in models().items():
        model.eval()
        own = model.generate(**inputs)
        how = {**inputs, "latent_length": STEPS, "max_new_tokens": NEW}
        for engine in ("native", "modules", "reference"):
            served = latent_ext.accelerate(model, engine=engine).generate(**how)
            check(f"{name}, {engine}: the tokens of its own generate", torch.equal(served, own))
        for by in (
            {"latent_do_sample_by": "dropout", "dropout_p": 0.2},
            {"latent_do_sample_by": "noise", "noise_std": 0.5},
        ):
            full = (
                how
                | {"latent_do_sample": True, "num_return_sequences": 4, "return_dict_in_generate": True}
                | by
            )
            runs = []
            for engine in ("native", "reference"):
                torch.manual_seed(7)
                runs.append(latent_ext.accelerate(model, engine=engine).generate(**full).latent_thoughts)
            same = torch.allclose(*runs, rtol=1e-4, atol=1e-4)
            differ = len({tuple(row) for row in runs[0][:, 0].tolist()}) == 12
            check(
                f"{name}, {by['latent_do_sample_by']}: engines draw the same, trajectories differ",
                same and differ,
            )
        check(
            f"{name}: restore() brings back its own generate",
            torch.equal(model.restore().generate(**inputs), own),
        )

    model = models()["COCONUT on GPT-2"].eval()
    judge = TokenClassifier(GPT2LMHeadModel(model.config).transformer).eval()
    found = latent_ext.accelerate(model).generate(
        **inputs, process_reward_model=judge, num_beams=3, num_beam_candidates=2, latent_do_sample=True,
        latent_do_sample_by="noise", noise_std=0.5, latent_length=STEPS, max_new_tokens=NEW, return_dict_in_generate=True,
    )  # fmt: skip
    check("beam search: one row per prompt, scored", found.reward_scores.shape == (3, STEPS))


if __name__ == "__main__":
    main()
