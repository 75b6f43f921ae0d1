"""Both engines against a loop over plain Hugging Face modules, written out here and sharing no code with them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from random_models import (
    BODIES,
    HEADS,
    QUESTIONS,
    SEED,
    answer_all,
    keys_of,
    make_engine,
    plain_thought,
    random_llama_model,
    random_model,
    sample,
)
from torch import Tensor, nn

from latent_ext.models.latent_model import LatentModel
from latent_ext.ops import philox
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

ENGINES = ("native", "modules", "reference")
STEPS, TOKENS = 4, 5


@torch.no_grad()
def by_hand(
    hf: nn.Module, prompt: Tensor, thoughts: int, head: str = "none", drop: nn.Module | None = None
) -> tuple[Tensor, list[int], bool]:
    """The whole sequence is read again for every thought and token: no cache, one trajectory.

    `drop` acts on the input vectors.
    """
    embed = hf.get_input_embeddings()

    def read(inputs: Tensor) -> tuple[Tensor, Tensor]:
        batch = inputs.unsqueeze(0) if drop is None else drop(inputs.unsqueeze(0))
        output = hf(inputs_embeds=batch, output_hidden_states=True)
        return output.hidden_states[-1][0, -1:], output.logits[0, -1]

    inputs = embed(prompt)
    for _ in range(thoughts):
        inputs = torch.cat([inputs, plain_thought(hf, head, read(inputs)[0])])
    latent = inputs[len(prompt) :]
    inputs = torch.cat([inputs, embed(torch.tensor([105]))])
    tokens: list[int] = []
    for _ in range(TOKENS):
        token = int(read(inputs)[1].argmax())
        if token == 0:
            return latent, tokens, True
        tokens.append(token)
        inputs = torch.cat([inputs, embed(torch.tensor([token]))])
    return latent, tokens, False


class HandMade(nn.Module):
    """Stands in for one `nn.Dropout`: the mask of each position is looked up, and clean positions pass."""

    def __init__(self, site: int, key: int, p: float, noisy: range) -> None:
        super().__init__()
        self.site, self.key, self.p, self.noisy = site, key, p, noisy

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone()
        for at in self.noisy:
            if at < x.shape[1]:
                mask = philox.keep_mask(SEED, torch.tensor([self.key]), at, self.site, x.shape[2], self.p)
                out[0, at] = x[0, at] * mask[0] / (1.0 - self.p)
        return out


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", BODIES)
def test_deterministic_thoughts_and_answers_equal_a_plain_loop(
    generator: torch.Generator, body: str, engine: str, head: str
) -> None:
    model = BODIES[body][0](generator, latent_length=STEPS, head=head)
    prompts = [model.encode(question) for question in QUESTIONS]
    runner = make_engine(engine, model, TOKENS)
    run = sample(runner, prompts, Sampler(), 1)
    answers = answer_all(runner, run, max_tokens=TOKENS)
    for b, prompt in enumerate(prompts):
        thoughts, tokens, finished = by_hand(copy.deepcopy(model.hf).double(), prompt, STEPS, head)
        assert_close(run.thoughts[b], thoughts.float(), "latent_phase")
        assert (answers.tokens[b], bool(answers.finished[b])) == (tokens, finished)


def put_masks_into_gpt2(hf: nn.Module, mask: Callable[[int], nn.Module]) -> nn.Module | None:
    hf.transformer.drop = mask(3)
    for layer, block in enumerate(hf.transformer.h):
        block.attn.resid_dropout = mask(16 + 8 * layer)
        block.mlp.dropout = mask(17 + 8 * layer)
    return None


def put_masks_into_llama(hf: nn.Module, mask: Callable[[int], nn.Module]) -> nn.Module | None:
    """As LatentTTS does: every down_proj becomes the linear and a dropout behind it."""
    for layer, block in enumerate(hf.model.layers):
        block.mlp.down_proj = nn.Sequential(block.mlp.down_proj, mask(17 + 8 * layer))
    return mask(3)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("make_model", "put_masks"),
    [(random_model, put_masks_into_gpt2), (random_llama_model, put_masks_into_llama)],
    ids=["gpt2", "llama"],
)
def test_dropout_equals_a_plain_loop_with_hand_made_masks(
    generator: torch.Generator,
    make_model: Callable[..., LatentModel],
    put_masks: Callable[..., nn.Module | None],
    engine: str,
    scope: str,
) -> None:
    model = make_model(generator, latent_length=STEPS)
    prompt = model.encode(QUESTIONS[1])
    runner = make_engine(engine, model, TOKENS)
    sampler = Sampler.parse("dropout:0.2", scope=scope, sites="residual+embedding")  # type: ignore[arg-type]
    run = sample(runner, [prompt], sampler, 3)
    answers = answer_all(runner, run, max_tokens=TOKENS)
    first = 0 if scope == "prompt+latent" else len(prompt) - 1
    noisy = range(first, len(prompt) + STEPS - 1)
    for n, key in enumerate(keys_of([prompt], 3)[0].tolist()):
        hf = copy.deepcopy(model.hf).double()
        drop = put_masks(hf, lambda site, key=key: HandMade(site, key, 0.2, noisy))
        thoughts, tokens, finished = by_hand(hf, prompt, STEPS, drop=drop)
        assert_close(run.thoughts[n], thoughts.float(), "latent_phase")
        assert (answers.tokens[n], bool(answers.finished[n])) == (tokens, finished)
