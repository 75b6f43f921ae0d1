"""Live models as users of LatentTTS hold them: its classes in their smallest form, and batches for them."""

from __future__ import annotations

import torch
from random_models import QUESTIONS, TOKENIZER, projector_module, random_llama_model, random_model
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, GPT2Model, LlamaForCausalLM, PreTrainedModel

from latent_ext.models.coconut import Coconut
from latent_ext.models.family import single_token_id

IDS = {
    "latent_id": single_token_id(TOKENIZER, "<|latent|>"),
    "latent_start_id": single_token_id(TOKENIZER, "<|start-latent|>"),
    "latent_end_id": single_token_id(TOKENIZER, "<|end-latent|>"),
}
EOS = int(TOKENIZER.eos_token_id)
STEPS = 4


class CODIGPT2(GPT2LMHeadModel):
    """LatentTTS's class as far as weights and names go."""

    def __init__(self, config) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config)
        self.projector = projector_module(config.hidden_size, config.hidden_size + 5)
        self.post_init()


class CODILlama(LlamaForCausalLM):
    """The same on Llama."""

    def __init__(self, config) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config)
        self.projector = projector_module(config.hidden_size, config.hidden_size + 5)
        self.post_init()


class TokenClassifier(nn.Module):
    """``COCONUTGPT2ForTokenClassification`` as far as weights and names go."""

    def __init__(self, body: GPT2Model, classifier: nn.Linear) -> None:
        super().__init__()
        self.transformer = body
        self.dropout = nn.Dropout(0.1)
        self.classifier = classifier


def live_model(generator: torch.Generator, family: str, body: str) -> PreTrainedModel:
    """A random model in eval mode whose config knows the latent ids, with ``latent_length`` nowhere in it."""
    make = random_model if body == "gpt2" else random_llama_model
    stock = make(generator, head="projector" if family == "codi" else "none").hf
    head = stock.thought_head_module
    del stock.thought_head_module
    if family == "codi":
        codi = (CODIGPT2 if body == "gpt2" else CODILlama)(stock.config)
        codi.load_state_dict(stock.state_dict() | {f"projector.{k}": v for k, v in head.state_dict().items()})
        stock = codi.eval()
    for name, value in IDS.items():
        setattr(stock.config, name, value)
    stock.config.pad_token_id = stock.generation_config.pad_token_id = EOS
    return stock


def prompts() -> list[Tensor]:
    """int64 [length] each."""
    return [torch.tensor(TOKENIZER(Coconut().prompt(question))["input_ids"]) for question in QUESTIONS]


def batch_of(listed: list[Tensor]) -> dict[str, Tensor]:
    """Padded on the left with the end-of-sequence token, as LatentTTS's collator pads."""
    longest = max(map(len, listed))
    ids = torch.full((len(listed), longest), EOS)
    mask = torch.zeros(len(listed), longest, dtype=torch.int64)
    for row, prompt in enumerate(listed):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}
