"""One small checkpoint of every published layout, with what a round trip of it is compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from published_files import (
    HIDDEN,
    LATENT,
    adapters,
    policy,
    projector,
    stock,
    tokenizer,
    write_latenttts,
    write_original_coconut,
    write_original_codi,
    write_original_colar,
)
from safetensors.torch import load_file
from torch import Tensor

TARGETS = ("c_attn", "c_proj", "c_fc")


@dataclass
class OnDisk:
    """A checkpoint in one layout.

    Attributes:
        directory: where it is.
        layout: its name.
        load: arguments of `load` that it needs.
    """

    directory: Path
    layout: str
    load: dict = field(default_factory=dict)


def latenttts(family: str, body: str) -> Callable[[Path, torch.Generator], OnDisk]:
    def write(parent: Path, generator: torch.Generator) -> OnDisk:
        words = tokenizer(body, ("[PAD]", *LATENT) if family == "codi" else LATENT)
        # The id of the third string may lie outside the table.
        hf = stock(body, len(words) - (family == "codi"), generator)
        extra, config = {}, {}
        if family == "codi":
            head = projector(HIDDEN[body], generator)
            extra = {f"projector.{name}": value for name, value in head.state_dict().items()}
            config = {"projector": True, "projector_hidden_size": HIDDEN[body] + 5}
        elif family == "colar":
            head = policy(HIDDEN[body], generator, gaussian=False)
            extra = {f"lt_head.{name}": value for name, value in head.state_dict().items()}
            config = {"latent_embedding_std": 0.02, "latent_intermediate_size": HIDDEN[body] + 3}
        codi = "CODIGPT2" if body == "gpt2" else "CODILlama"
        name = {"coconut": "COCONUTGPT2", "codi": codi, "colar": "ColarLlama"}[family]
        write_latenttts(parent / "model", hf, name, extra, words, **config)
        return OnDisk(parent / "model", "latenttts")

    return write


def original_coconut(prefixed: bool, simcot: bool) -> Callable[[Path, torch.Generator], OnDisk]:
    def write(parent: Path, generator: torch.Generator) -> OnDisk:
        words = tokenizer("gpt2")
        hf = stock("gpt2", len(words) + 3, generator)
        beside = {"expainable_llm.lm_head.weight": torch.ones(3, 2)} if simcot else None
        write_original_coconut(parent / "model", hf, words, prefixed=prefixed, beside=beside)
        return OnDisk(parent / "model", "simcot-coconut" if simcot else "original-coconut")

    return write


def original_codi(body: str, *, file: str, simcot: bool = False) -> Callable[[Path, torch.Generator], OnDisk]:
    def write(parent: Path, generator: torch.Generator) -> OnDisk:
        words = tokenizer(body, ("[PAD]",))
        hf = stock(body, len(words) + 2, generator)
        pairs = adapters(hf, TARGETS if body == "gpt2" else ("q_proj", "down_proj"), generator)
        head = projector(HIDDEN[body], generator)
        beside = {"decoder.lm_head.weight": torch.ones(3, 2), "pj_in.bias": torch.ones(1)} if simcot else None
        write_original_codi(parent / "model", hf, pairs, head, words, file=file, beside=beside)
        return OnDisk(parent / "model", "original-codi")

    return write


def original_colar(parent: Path, generator: torch.Generator) -> OnDisk:
    words = tokenizer("llama")
    hf = stock("llama", len(words), generator)
    pairs = adapters(hf, ("q_proj", "v_proj"), generator)
    head = policy(HIDDEN["llama"], generator, gaussian=True)
    write_original_colar(parent / "model", parent / "base", hf, pairs, head, words)
    return OnDisk(parent / "model", "original-colar", {"base": parent / "base"})


ZOO: dict[str, Callable[[Path, torch.Generator], OnDisk]] = {
    "LatentTTS COCONUT": latenttts("coconut", "gpt2"),
    "LatentTTS CODI": latenttts("codi", "gpt2"),
    "LatentTTS CODI on Llama": latenttts("codi", "llama"),
    "LatentTTS CoLaR": latenttts("colar", "llama"),
    "Facebook Coconut": original_coconut(prefixed=True, simcot=False),
    "Facebook Coconut, CoT stage": original_coconut(prefixed=False, simcot=False),
    "SIM-CoT Coconut": original_coconut(prefixed=True, simcot=True),
    "original CODI": original_codi("gpt2", file="pytorch_model.bin"),
    "original CODI on Llama": original_codi("llama", file="model.safetensors"),
    "SIM-CoT CODI": original_codi("gpt2", file="pytorch_model.bin", simcot=True),
    "original CoLaR": original_colar,
}


def weight_file(directory: Path) -> Path:
    (found,) = [path for path in directory.iterdir() if path.suffix not in (".json", ".txt", ".jinja")]
    return found


def read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    held = torch.load(path, weights_only=True)
    return held.get("state_dict", held)


def write_file(tensors: dict, path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if path.suffix == ".ckpt" else tensors, path)
