"""Small random checkpoints written as their authors' codes write them, from stock Hugging Face modules."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

Tensors = dict[str, Tensor]
LATENT = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")
EOS, BOS = "<|endoftext|>", "<|begin_of_text|>"
HIDDEN = {"gpt2": 48, "llama": 40}
RANK = 4


def tokenizer(body: str, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Bytes, ``###`` as one token, end of sequence; Llama's puts a begin of sequence in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: place for place, symbol in enumerate([*alphabet, "##", "###"])}
    merges = [("#", "#"), ("##", "#")]
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([EOS])
    if body == "llama":
        inner.add_special_tokens([BOS])
        begin = inner.token_to_id(BOS)
        inner.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, begin)]
        )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=EOS)
    wrapped.add_tokens(list(added))
    return wrapped


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Larger than usual initial weights, so that attention and norms matter; much larger ones feed rounding on."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.08
        parameter.copy_(1.0 + noise if parameter.dim() == 1 and name.endswith("weight") else noise)


def stock(body: str, rows: int, generator: torch.Generator, *, tied: bool = True) -> nn.Module:
    """A ``GPT2LMHeadModel`` or ``LlamaForCausalLM`` of two layers, by default tied as the published bases are."""
    if body == "gpt2":
        hf: nn.Module = GPT2LMHeadModel(
            GPT2Config(vocab_size=rows, n_positions=512, n_embd=HIDDEN[body], n_layer=2, n_head=4)
        )
    else:
        hf = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=rows, max_position_embeddings=512, hidden_size=HIDDEN[body], intermediate_size=56,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
                tie_word_embeddings=tied,
            )
        )  # fmt: skip
    randomise(hf, generator)
    return hf.eval().requires_grad_(False)


def own_tensors(hf: nn.Module) -> Tensors:
    """Parameters by Hugging Face's names; a tied output embedding once."""
    return {name: value.detach().clone() for name, value in hf.named_parameters()}


def projector(hidden: int, generator: torch.Generator) -> nn.Sequential:
    inner = hidden + 5
    module = nn.Sequential(
        nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden), nn.LayerNorm(hidden)
    )
    randomise(module, generator)
    return module.eval().requires_grad_(False)


def policy(hidden: int, generator: torch.Generator, *, gaussian: bool) -> nn.Module:
    inner = hidden + 3
    fc = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner))
    parts = OrderedDict(fc=fc, mean=nn.Linear(inner, hidden))
    if gaussian:
        parts["log_std"] = nn.Linear(inner, hidden)
    module = nn.Sequential(parts)
    randomise(module, generator)
    return module.eval().requires_grad_(False)


def adapters(hf: nn.Module, targets: tuple[str, ...], generator: torch.Generator) -> Tensors:
    """LoRA pairs for the linears whose last name is among `targets`, by the linear's own name."""
    pairs: Tensors = {}
    for name, module in hf.named_modules():
        if name.rpartition(".")[2] in targets:
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            pairs[f"{name}.lora_A"] = torch.randn(RANK, weight.shape[1], generator=generator) * 0.05
            pairs[f"{name}.lora_B"] = torch.randn(weight.shape[0], RANK, generator=generator) * 0.05
    return pairs


@torch.no_grad()
def add_adapters(hf: nn.Module, pairs: Tensors, scale: float) -> None:
    """Adds what the adapters do to the weights, in the dtype of `hf`."""
    for name, module in hf.named_modules():
        if f"{name}.lora_A" in pairs:
            lora_a, lora_b = (pairs[f"{name}.lora_{part}"].to(module.weight.dtype) for part in "AB")
            update = scale * (lora_b @ lora_a)
            module.weight += update.T if isinstance(module, Conv1D) else update


def write_config(directory: Path, hf: nn.Module, **changes: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config = json.loads(hf.config.to_json_string()) | changes
    (directory / "config.json").write_text(json.dumps(config))


def write_latenttts(
    directory: Path,
    hf: nn.Module,
    architecture: str,
    extra: Tensors,
    words: PreTrainedTokenizerFast,
    **config,
) -> None:
    """safetensors, config.json with ids that nobody reads, and the tokenizer."""
    write_config(
        directory,
        hf,
        architectures=[architecture],
        vocab_size=50257,
        latent_id=-100,
        latent_start_id=-100,
        **config,
    )
    save_file(own_tensors(hf) | extra, directory / "model.safetensors", metadata={"format": "pt"})
    words.save_pretrained(directory)


def write_original_coconut(
    directory: Path,
    hf: nn.Module,
    words: PreTrainedTokenizerFast,
    *,
    prefixed: bool = True,
    beside: Tensors | None = None,
) -> None:
    """``checkpoint_33`` as the wrapper saves it, beside config and tokenizer of the base model."""
    write_config(directory, hf, vocab_size=50257)
    words.save_pretrained(directory)
    own = own_tensors(hf)
    table = own["transformer.wte.weight"]
    own["lm_head.weight"] = table
    if prefixed:
        own = {f"base_causallm.{name}": value for name, value in own.items()} | {"embedding.weight": table}
    torch.save(own | (beside or {}), directory / "checkpoint_33")


def write_original_codi(
    directory: Path, hf: nn.Module, pairs: Tensors, head: nn.Sequential, words: PreTrainedTokenizerFast,
    *, file: str = "pytorch_model.bin", beside: Tensors | None = None,
) -> None:  # fmt: skip
    """The wrapper's state dict: PEFT's names, ``prj.*``, the output embedding stored a second time."""
    write_config(directory, hf, vocab_size=50257)
    words.save_pretrained(directory)
    own = own_tensors(hf)
    table = own.get("transformer.wte.weight", own.get("model.embed_tokens.weight"))
    own["lm_head.weight"] = table.clone()
    adapted = {name.removesuffix(".lora_A") for name in pairs if name.endswith(".lora_A")}
    saved: Tensors = dict(beside or {})
    for name, value in own.items():
        linear, _, part = name.rpartition(".")
        inside = f"{linear}.base_layer.{part}" if linear in adapted else name
        saved[f"codi.base_model.model.{inside}"] = value
    for name, value in pairs.items():
        saved[f"codi.base_model.model.{name}.default.weight"] = value
    for index, name in (("1", "1"), ("3", "3"), ("4", "ln")):
        for part in ("weight", "bias"):
            saved[f"prj.{name}.{part}"] = getattr(head[int(index)], part).detach().clone()
    if file.endswith(".safetensors"):
        save_file(saved, directory / file)
    else:
        torch.save(saved, directory / file)


def write_original_colar(
    directory: Path,
    base: Path,
    hf: nn.Module,
    pairs: Tensors,
    head: nn.Module,
    words: PreTrainedTokenizerFast,
) -> None:
    """A Lightning checkpoint of adapters and policy; the base model lies in a directory of its own."""
    write_config(base, hf, architectures=["LlamaForCausalLM"], latent_embedding_std=0.12)
    save_file(own_tensors(hf), base / "model.safetensors")
    words.save_pretrained(base)
    directory.mkdir(parents=True)
    state = {f"llm.base_model.model.{name}.default.weight": value for name, value in pairs.items()}
    state |= {f"latent_policy.{name}": value.detach().clone() for name, value in head.named_parameters()}
    torch.save(
        {"epoch": 3, "global_step": 7, "state_dict": state}, directory / "epoch3__step7__monitor0.5.ckpt"
    )
