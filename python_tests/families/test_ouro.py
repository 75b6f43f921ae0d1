"""Ouro / LoopLM: published layout, parity with a plain re-computation that reads everything anew, exits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from chat_checkpoints import (
    MAX_TOKENS,
    QUESTIONS,
    SEED,
    answer,
    assert_tokens_follow,
    engine_of,
    random_tensors,
    sample,
    solve_on_the_command_line,
    write_checkpoint,
    write_tokenizer,
)
from random_models import keys_of
from safetensors.torch import load_file, save_file
from torch import Tensor

import latent_ext
from latent_ext.engine import choose_engine
from latent_ext.engine.base import Beam, LatentRequest
from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.convert import convert
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.ouro import Ouro
from latent_ext.models.ouro_body import OuroSteps
from latent_ext.ops import philox, sites
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

WIDTH, HEADS, INNER, LAYERS, PASSES, THETA = 24, 4, 20, 2, 3, 1e6
NORMS = ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2")
ENGINES = ("modules", "reference")


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, WIDTH),
        "model.norm.weight": (WIDTH,),
        "model.early_exit_gate.weight": (1, WIDTH),
        "model.early_exit_gate.bias": (1,),
        "lm_head.weight": (vocabulary, WIDTH),
    }
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        found |= {f"{layer}.{norm}.weight": (WIDTH,) for norm in NORMS}
        found |= {f"{layer}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        found |= {f"{layer}.mlp.{part}_proj.weight": (INNER, WIDTH) for part in ("gate", "up")}
        found[f"{layer}.mlp.down_proj.weight"] = (WIDTH, INNER)
    return found


@pytest.fixture
def directory(generator: torch.Generator, tmp_path: Path) -> Path:
    """A small random checkpoint with the published fields (three roles with id 0 included) and tensor names."""
    vocabulary = write_tokenizer(tmp_path, ["<|im_end|>", "<|endoftext|>"])
    tensors = random_tensors(shapes(vocabulary), generator)
    config = {
        "model_type": "ouro", "architectures": ["OuroForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_ouro.OuroConfig", "AutoModelForCausalLM": "modeling_ouro.OuroForCausalLM"},
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS, "hidden_act": "silu", "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": THETA, "rope_scaling": None, "tie_word_embeddings": False,
        "vocab_size": vocabulary,
        "total_ut_steps": PASSES, "early_exit_threshold": 1.0, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "use_cache": True,
        "layer_types": ["full_attention"] * LAYERS, "attention_dropout": 0.0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    return write_checkpoint(tmp_path, config, tensors)


@pytest.fixture
def model(directory: Path) -> LatentModel:
    return latent_ext.load(directory)


class Plain:
    """The published forward pass on raw tensors: the whole text [length, width], every pass, no cache."""

    def __init__(self, directory: Path) -> None:
        self.tensors = load_file(directory / "model.safetensors")

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.tensors[f"model.{name}.weight"]

    def layer(self, x: Tensor, n: int) -> Tensor:
        t, width, length, name = self.tensors, WIDTH // HEADS, len(x), f"layers.{n}"
        normed = self.norm(x, f"{name}.input_layernorm")
        query, key, value = (
            (normed @ t[f"model.{name}.self_attn.{part}_proj.weight"].T).view(length, HEADS, width)
            for part in "qkv"
        )
        angles = torch.arange(length).outer(THETA ** (-torch.arange(0, width, 2) / width))[:, None]

        def turned(part: Tensor) -> Tensor:
            low, high = part.chunk(2, -1)
            cosine, sine = angles.cos(), angles.sin()
            return torch.cat([low * cosine - high * sine, high * cosine + low * sine], -1)

        scores = torch.einsum("ihd,jhd->hij", turned(query), turned(key)) / math.sqrt(width)
        seen = torch.ones(length, length).tril() > 0
        context = torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)
        branch = context.reshape(length, WIDTH) @ t[f"model.{name}.self_attn.o_proj.weight"].T
        x = x + self.norm(branch, f"{name}.input_layernorm_2")
        normed = self.norm(x, f"{name}.post_attention_layernorm")
        gate, up = (normed @ t[f"model.{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        branch = (gate * gate.sigmoid() * up) @ t[f"model.{name}.mlp.down_proj.weight"].T
        return x + self.norm(branch, f"{name}.post_attention_layernorm_2")

    def states(self, ids: Tensor, disturb=lambda t, x: x) -> list[Tensor]:  # type: ignore[no-untyped-def]
        """The normed state [length, width] after each pass, as the next one reads it."""
        x, found = self.tensors["model.embed_tokens.weight"][ids], []
        for t in range(PASSES):
            for n in range(LAYERS):
                x = self.layer(x, n)
            x = self.norm(x, "norm")
            x = disturb(t + 1, x) if t + 1 < PASSES else x
            found.append(x)
        return found

    def logits(self, ids: Tensor, rule: str = "last", threshold: float = 1.0) -> Tensor:
        """Logits of the last position."""
        states = [state[-1] for state in self.states(ids)]
        by_pass = [self.tensors["lm_head.weight"] @ state for state in states]
        left, share = 1.0, []
        for state in states:
            gate = float(torch.sigmoid(self.tensors["model.early_exit_gate.weight"][0] @ state
                                       + self.tensors["model.early_exit_gate.bias"][0]))  # fmt: skip
            share.append(gate * left)
            left *= 1.0 - gate
        share[-1] = 1.0 - sum(share[:-1])
        if rule == "weighted":
            return torch.stack([p * logits for p, logits in zip(share, by_pass, strict=True)]).sum(0)
        taken = PASSES - 1
        if rule == "threshold":
            taken = next((t for t in range(PASSES) if sum(share[: t + 1]) >= threshold), taken)
        return by_pass[taken]


@pytest.mark.parametrize("rule", ["last", "threshold", "weighted"])
@pytest.mark.parametrize("engine", ENGINES)
def test_thoughts_and_answers_are_those_of_the_plain_pass(directory: Path, engine: str, rule: str) -> None:
    model = latent_ext.load(directory, family=Ouro(PASSES, exit_rule=rule, threshold=0.6))  # type: ignore[arg-type]
    plain, runner = Plain(directory), engine_of(model, engine)
    prompts = [model.encode(question) for question in QUESTIONS]
    run = sample(runner, prompts, "none")
    closing = model.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    for temperature in (0.0, 1.0):
        found = answer(runner, run, temperature)
        for row in range(run.rows):
            prompt, key = prompts[row // 2], run.request.keys[row // 2, row % 2]
            last = torch.stack([state[-1] for state in plain.states(prompt)])
            assert_close(run.thoughts[row], last, "latent_phase")

            def logits_behind(tokens: list[int], prompt=prompt) -> Tensor:  # type: ignore[no-untyped-def]
                text = torch.cat([prompt, torch.tensor(tokens, dtype=torch.int64)])
                return plain.logits(text, rule, 0.6)

            assert_tokens_follow(found, row, len(prompt), key, closing, logits_behind, temperature)


def test_the_exit_rules_give_different_logits(directory: Path) -> None:
    """So that the test above tells them apart."""
    plain = Plain(directory)
    texts = [torch.arange(n, n + 4) for n in range(8)]
    for rule in ("threshold", "weighted"):
        assert any(not torch.allclose(plain.logits(ids, rule, 0.6), plain.logits(ids)) for ids in texts)


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_reaches_every_thought_that_is_read_again(
    directory: Path, model: LatentModel, engine: str
) -> None:
    plain, prompt = Plain(directory), model.encode(QUESTIONS[0])
    run = sample(engine_of(model, engine), [prompt], Sampler.parse("noise:0.3"))
    key, last = run.request.keys[0, 1], len(prompt) - 1

    def disturb(t: int, x: Tensor) -> Tensor:
        place = (SEED, key.reshape(1), torch.tensor([last]), sites.NOISE)
        noise = torch.zeros_like(x)
        noise[last] = philox.normals(*place, (t << 20) + torch.arange(WIDTH))[0]
        return x + 0.3 * noise

    states = plain.states(prompt, disturb)
    assert_close(run.thoughts[1], torch.stack([state[last] for state in states]), "latent_phase")


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_engines_agree_with_noise_in_the_answer(model: LatentModel, scope: str) -> None:
    sampler = Sampler.parse("noise:0.4:relative", scope=scope)  # type: ignore[arg-type]
    prompts = [model.encode(question) for question in QUESTIONS]
    runners = [engine_of(model, engine) for engine in ENGINES]
    fast, slow = (sample(runner, prompts, sampler) for runner in runners)
    assert_close(fast.thoughts, slow.thoughts, "latent_phase")
    got, wanted = answer(runners[0], fast), answer(runners[1], slow)
    same = torch.tensor([a == b for a, b in zip(got.tokens, wanted.tokens, strict=True)])
    assert same.sum() >= len(same) - 1  # a near tie of two logits may go either way
    assert_close(got.logprobs[same], wanted.logprobs[same], "answer_logprob")


def test_engines_agree_in_bfloat16(directory: Path) -> None:
    model = latent_ext.load(directory, dtype=torch.bfloat16)
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = (sample(engine_of(model, engine), prompts, "noise:0.2:relative") for engine in ENGINES)
    assert_close(fast.thoughts, slow.thoughts, "latent_phase")


def test_the_tokenizer_says_what_ends_an_answer_and_the_config_how_deep_to_think(model: LatentModel) -> None:
    assert model.ids.eos == model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.ids.stops == (model.tokenizer.convert_tokens_to_ids("<|endoftext|>"),)
    assert model.family == Ouro(PASSES)
    with pytest.raises(RuntimeError, match="'native' cannot run this model"):
        choose_engine(model, "native")


def test_a_threshold_in_the_config_is_taken(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"early_exit_threshold": 0.7}))
    assert latent_ext.load(directory).family == Ouro(PASSES, exit_rule="threshold", threshold=0.7)


def test_a_threshold_of_one_is_the_last_pass_though_the_sum_may_round_below_it(
    model: LatentModel, generator: torch.Generator
) -> None:
    steps = OuroSteps(model.hf, 8, "threshold", 1.0)
    states = [torch.randn(500, WIDTH, generator=generator) for _ in range(8)]
    assert (steps.exit_probabilities(states).cumsum(1)[:, -1] < 1.0).any()
    hidden = steps.hidden(states, torch.arange(500), lambda slot, query, key, value: value)
    assert torch.equal(hidden, states[-1])


def test_bad_arguments_and_tensors_are_named(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"^exit_rule: got 'soon'"):
        Ouro(exit_rule="soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^threshold: got 0"):
        Ouro(exit_rule="threshold", threshold=0.0)
    with pytest.raises(CheckpointError, match="its layout 'ouro' is one of family ouro, not 'huginn'"):
        latent_ext.load(directory, family="huginn")
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.early_exit_gate.bias"]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'model\.early_exit_gate\.bias' of shape \(1,\) is missing"):
        latent_ext.load(directory)


@pytest.mark.parametrize("named", [(), ("--family", "ouro")], ids=["read off the files", "named"])
def test_the_command_line_reads_the_checkpoint(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: tuple[str, ...],
) -> None:
    given = ("--sampler", "noise:0.1", *named)
    result = solve_on_the_command_line(monkeypatch, capsys, directory, *given)
    wanted = latent_ext.solve(
        latent_ext.load(directory), QUESTIONS[0], n=2, sampler="noise:0.1", max_answer_tokens=MAX_TOKENS
    )[0]
    assert [row["text"] for row in result["trajectories"]] == [row.text for row in wanted.trajectories]
    assert [row["steps"] for row in result["trajectories"]] == [PASSES, PASSES]


def test_a_copy_has_the_same_weights_and_no_other_layout_holds_it(directory: Path, tmp_path: Path) -> None:
    assert convert(directory, tmp_path / "copy", "ouro") == {}
    assert latent_ext.load(tmp_path / "copy").weights_hash == latent_ext.load(directory).weights_hash
    with pytest.raises(ValueError, match=r"to: layout 'latenttts' holds family .* is 'ouro'"):
        convert(directory, tmp_path / "other", "latenttts")


@pytest.mark.parametrize("engine", ["modules", "reference"])
def test_a_beam_is_refused(model: LatentModel, engine: str) -> None:
    prompts = [model.encode(question) for question in QUESTIONS]
    request = LatentRequest(prompts, keys_of(prompts, 2), Sampler(), SEED, Beam(1, 2))
    runner = engine_of(model, engine)
    with pytest.raises(ValueError, match=r"^beam: .* thoughts are depth steps in the family 'ouro'"):
        runner.sample(request, runner.read_prompts(prompts, Sampler()))
