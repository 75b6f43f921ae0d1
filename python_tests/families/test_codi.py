"""CODI on GPT-2 and Llama, in the LatentTTS layout and in the authors' own with unmerged LoRA."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import (
    ENGINES,
    QUESTIONS,
    STEPS,
    TOKENS,
    assert_agrees_with_reference,
    assert_equals_plain_loop,
    ids_of,
)
from plain_loops import Plain, fixed
from published_files import (
    EOS,
    HIDDEN,
    LATENT,
    RANK,
    adapters,
    add_adapters,
    projector,
    stock,
    tokenizer,
    write_latenttts,
    write_original_codi,
)
from random_models import answer_all, make_engine, sample
from torch import Tensor, nn
from transformers import DynamicCache

import latent_ext
from latent_ext.engine.visible_pads import CACHE_ARGUMENT
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

TARGETS = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
# The published alpha; every rank has its own scale.
SCALE = 32 / RANK
BODIES = ("gpt2", "llama")
LAYOUTS = ("latenttts", "original", "simcot")


class Published:
    """One checkpoint on disk and the stock modules it was written from."""

    def __init__(self, body: str, layout: str, directory: Path, generator: torch.Generator) -> None:
        self.directory, self.layout = directory, layout
        self.words = tokenizer(body, ("[PAD]",))
        rows = len(self.words) + 2
        self.hf, self.head = stock(body, rows, generator), projector(HIDDEN[body], generator)
        self.pairs = adapters(self.hf, TARGETS[body], generator)
        self.merged = copy.deepcopy(self.hf).double()
        if layout == "latenttts":
            extra = {f"projector.{name}": value for name, value in self.head.state_dict().items()}
            named = tokenizer(body, ("[PAD]", *LATENT))
            architecture = "CODIGPT2" if body == "gpt2" else "CODILlama"
            write_latenttts(directory, self.hf, architecture, extra, named, projector=True)
        else:
            beside = {"decoder.model.norm.weight": torch.ones(4), "pj_in.weight": torch.ones(2, 2)}
            file = "pytorch_model.bin" if body == "gpt2" else "model.safetensors"
            add_adapters(self.merged, self.pairs, SCALE)
            write_original_codi(
                directory, self.hf, self.pairs, self.head, self.words, file=file,
                beside=beside if layout == "simcot" else None,
            )  # fmt: skip
        self.start, self.end = rows - 2, rows - 1
        head = copy.deepcopy(self.head).double()
        eos = self.words.convert_tokens_to_ids(EOS)
        allowed = None if layout == "latenttts" else rows - 1
        self.plain = Plain(self.merged, lambda hidden: (head(hidden), None), self.end, eos, allowed=allowed)

    def prompts(self) -> list[list[int]]:
        texts = QUESTIONS
        if self.layout != "latenttts":
            texts = tuple(text.strip().replace("  ", " ") for text in QUESTIONS)
        return [ids_of(self.words, text, self.start) for text in texts]


@pytest.fixture
def published(generator: torch.Generator, tmp_path: Path) -> Callable[..., Published]:
    return lambda body, layout: Published(body, layout, tmp_path / "model", generator)


@pytest.mark.parametrize("sigma", [0.0, 0.4])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("body", BODIES)
def test_thoughts_and_answers_equal_a_plain_loop(
    published: Callable[..., Published], body: str, layout: str, engine: str, sigma: float
) -> None:
    files = published(body, layout)
    model = latent_ext.load(files.directory, latent_length=STEPS)
    assert model.family.name == "codi"
    assert_equals_plain_loop(model, files.plain, files.prompts(), engine, sigma)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.parametrize("body", BODIES)
def test_engines_agree_under_dropout(
    published: Callable[..., Published], body: str, engine: str, scope: str
) -> None:
    model = latent_ext.load(published(body, "original").directory, latent_length=STEPS)
    assert_agrees_with_reference(model, engine, Sampler.parse("dropout:0.1", scope=scope))  # type: ignore[arg-type]


@torch.no_grad()
def by_authors_batch(plain: Plain, prompts: list[Tensor], pad: int) -> list[tuple[Tensor, list[int]]]:
    """The authors' batch: pads on the left, a mask for the prompt's pass alone, no positions, one cache."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    cache = DynamicCache()
    how = {CACHE_ARGUMENT: cache, "use_cache": True, "output_hidden_states": True}
    output = plain.hf(input_ids=ids, attention_mask=mask, **how)
    thoughts = []
    for _ in range(STEPS):
        thoughts.append(plain.form(output.hidden_states[-1][:, -1])[0])
        output = plain.hf(inputs_embeds=thoughts[-1].unsqueeze(1), **how)
    tokens: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    fed = torch.full((len(prompts),), plain.end)
    for _ in range(TOKENS):
        output = plain.hf(input_ids=fed.unsqueeze(1), **how)
        fed = output.logits[:, -1, : plain.allowed].argmax(dim=-1)
        for row, token in enumerate(fed.tolist()):
            done[row] = done[row] or token == plain.eos
            if not done[row]:
                tokens[row].append(token)
    return [(torch.stack([z[row] for z in thoughts]), tokens[row]) for row in range(len(prompts))]


def run_of(model: LatentModel, engine: str, prompts: list[Tensor]) -> tuple[Tensor, list[list[int]]]:
    runner = make_engine(engine, model, TOKENS)
    run = sample(runner, prompts, Sampler(), 1)
    return run.thoughts, answer_all(runner, run, max_tokens=TOKENS).tokens


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", BODIES)
def test_visible_pads_reproduce_the_authors_batch(
    published: Callable[..., Published], body: str, engine: str
) -> None:
    files = published(body, "original")
    model = latent_ext.load(files.directory, latent_length=STEPS, switches={"pads": "visible"})
    prompts = [model.encode(question) for question in QUESTIONS]
    thoughts, tokens = run_of(model, engine, prompts)
    for row, (wanted, written) in enumerate(by_authors_batch(files.plain, prompts, model.ids.pad)):
        assert_close(thoughts[row], wanted.float(), "latent_phase")
        assert tokens[row] == written


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pads", ["masked", "visible"])
def test_a_question_alone_is_read_as_the_authors_read_it(
    published: Callable[..., Published], engine: str, pads: str
) -> None:
    files = published("gpt2", "original")
    model = latent_ext.load(files.directory, latent_length=STEPS, switches={"pads": pads})
    for question in QUESTIONS:
        prompt = model.encode(question)
        thoughts, tokens = run_of(model, engine, [prompt])
        wanted, written, _ = fixed(files.plain, prompt, STEPS, TOKENS)
        assert_close(thoughts[0], wanted.float(), "latent_phase")
        assert tokens[0] == written


def test_visible_pads_allow_no_dropout(published: Callable[..., Published]) -> None:
    model = latent_ext.load(published("gpt2", "original").directory, switches={"pads": "visible"})
    with pytest.raises(ValueError, match=r"sampler: got 'dropout:0.2'; with pads='visible' no dropout"):
        latent_ext.solve(model, "7", n=1, sampler="dropout:0.2")


@pytest.mark.parametrize("body", BODIES)
def test_unmerged_adapters_compute_beside_their_linears_in_bfloat16(
    published: Callable[..., Published], body: str
) -> None:
    files = published(body, "original")
    model = latent_ext.load(files.directory, latent_length=STEPS, switches={"lora": "unmerged"})
    assert {parameter.dtype for parameter in model.hf.parameters()} == {torch.bfloat16}
    hf = copy.deepcopy(files.hf).bfloat16()
    frequencies = getattr(hf.get_submodule(hf.base_model_prefix), "rotary_emb", None)
    if frequencies is not None:
        frequencies.inv_freq = model.body.rotary_emb.inv_freq

    def beside(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        lora_a, lora_b = (files.pairs[f"{name}.lora_{part}"].bfloat16() for part in "AB")
        return lambda module, inputs, output: output + (inputs[0] @ lora_a.T) @ lora_b.T * SCALE

    for name, module in hf.named_modules():
        if f"{name}.lora_A" in files.pairs:
            module.register_forward_hook(beside(name))
    head = copy.deepcopy(files.head).bfloat16()
    plain = Plain(hf, lambda hidden: (head(hidden), None), files.end, files.plain.eos, allowed=files.end)
    prompt = model.encode(QUESTIONS[0])
    expected, _, _ = fixed(plain, prompt, STEPS, TOKENS)
    for engine in ("modules", "reference"):
        thoughts, _ = run_of(model, engine, [prompt])
        assert_close(thoughts[0], expected, "latent_phase")
    with pytest.raises(RuntimeError, match=r"native.*is a LoraLinear, not a (Conv1D|Linear)"):
        latent_ext.solve(model, "7", n=1, engine="native")


def test_merging_is_done_in_float32(published: Callable[..., Published]) -> None:
    files = published("gpt2", "original")
    model = latent_ext.load(files.directory, dtype=torch.bfloat16)
    linear = model.hf.transformer.h[0].attn.c_attn.weight
    assert linear.dtype == torch.bfloat16
    wanted = files.merged.transformer.h[0].attn.c_attn.weight.float().bfloat16()
    assert_close(linear, wanted, "norm")


def test_the_end_token_is_no_answer_token_in_the_original(published: Callable[..., Published]) -> None:
    files = published("gpt2", "original")
    model = latent_ext.load(files.directory)
    assert model.answer_head.shape[0] == files.end
    allowed = latent_ext.load(files.directory, switches={"end_token": "allowed"})
    assert allowed.answer_head.shape[0] == files.end + 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [("The answer is: 1,080", "1080"), ("3 then -4.50.", "-4.5"), ("no number", None), ("", None)],
)
def test_the_answer_is_the_last_number_of_the_answer(text: str, answer: str | None) -> None:
    from latent_ext.models.codi import Codi

    assert Codi().answer(text) == answer
