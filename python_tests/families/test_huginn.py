"""Huginn: published layout, parity with a plain re-computation that reads everything anew, its own random handles."""

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
from random_models import keys_of, random_reward
from safetensors.torch import load_file, save_file
from torch import Tensor

import latent_ext
from latent_ext.engine.base import Beam, LatentRequest
from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.convert import convert
from latent_ext.models.huginn import Huginn
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops import philox, sites
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

WIDTH, HEADS, INNER, DEPTH = 24, 4, 20, 3
BLOCKS = [("prelude", 2), ("core_block", 4), ("coda", 2)]
CLOSING = ("<|end_text|>", "<|begin_text|>", "<|end_turn|>")


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocabulary, WIDTH),
        "transformer.adapter.weight": (WIDTH, 2 * WIDTH),
        "transformer.ln_f.weight": (WIDTH,),
    }
    for kind, count in BLOCKS:
        for n in range(count):
            block = f"transformer.{kind}.{n}"
            found |= {f"{block}.norm_{k}.weight": (WIDTH,) for k in (1, 2, 3, 4)}
            found |= {
                f"{block}.attn.Wqkv.weight": (3 * WIDTH, WIDTH),
                f"{block}.attn.qk_bias": (2, 1, HEADS, WIDTH // HEADS),
                f"{block}.attn.proj.weight": (WIDTH, WIDTH),
                f"{block}.mlp.fc.weight": (2 * INNER, WIDTH),
                f"{block}.mlp.proj.weight": (WIDTH, INNER),
            }
    return found


@pytest.fixture
def directory(generator: torch.Generator, tmp_path: Path) -> Path:
    """A small random checkpoint with the published fields and tensor names, remote code entries included."""
    vocabulary = write_tokenizer(tmp_path, CLOSING)
    tensors = random_tensors(shapes(vocabulary), generator)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    tensors["freqs_cis"] = torch.zeros(1, 128, 1, WIDTH // HEADS // 2, 2)
    config = {
        "model_type": "huginn_raven", "architectures": ["RavenForCausalLM"],
        "auto_map": {"AutoConfig": "code.RavenConfig", "AutoModelForCausalLM": "code.RavenForCausalLM"},
        "n_embd": WIDTH, "n_heads": HEADS, "n_layers": 8, "block_size": 128, "vocab_size": 65536, "padding_multiple": 4096,
        "intermediate_size": INNER, "n_layers_in_prelude": 2, "n_layers_in_recurrent_block": 4, "n_layers_in_coda": 2,
        "mean_recurrence": DEPTH, "norm_eps": 1e-6, "qk_bias": True, "rope_base": 50000, "tie_embeddings": True,
        "bias": False, "block_class_name": "SandwichBlock", "norm_class_name": "RMSNorm_llama", "state_init": "like-init",
        "mlp_class_name": "GatedMLP", "nonlin_name": "SiLU", "injection_type": "linear", "torch_dtype": "bfloat16",
    }  # fmt: skip
    return write_checkpoint(tmp_path, config, tensors)


@pytest.fixture
def model(directory: Path) -> LatentModel:
    return latent_ext.load(directory)


class Plain:
    """The published forward pass on raw tensors: the whole text [length, width], every depth, no cache."""

    def __init__(self, directory: Path) -> None:
        self.tensors = load_file(directory / "model.safetensors")

    def norm(self, x: Tensor, name: str) -> Tensor:
        return (
            x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.tensors[f"transformer.{name}.weight"]
        )

    def block(self, x: Tensor, name: str) -> Tensor:
        t, width = self.tensors, WIDTH // HEADS
        length = len(x)
        query, key, value = (
            self.norm(x, f"{name}.norm_1") @ t[f"transformer.{name}.attn.Wqkv.weight"].T
        ).split(WIDTH, 1)
        angles = torch.arange(length).outer(50000.0 ** (-torch.arange(0, width, 2) / width))
        turn = torch.polar(torch.ones_like(angles), angles)
        bias = t[f"transformer.{name}.attn.qk_bias"][:, 0]

        def turned(part: Tensor, shift: Tensor) -> Tensor:
            pairs = torch.view_as_complex(
                (part.view(length, HEADS, width) + shift).unflatten(2, (-1, 2)).contiguous()
            )
            return torch.view_as_real(pairs * turn[:, None]).flatten(2)

        scores = torch.einsum("ihd,jhd->hij", turned(query, bias[0]), turned(key, bias[1])) / math.sqrt(width)
        seen = torch.ones(length, length).tril() > 0
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        context = torch.einsum("hij,jhd->ihd", weights, value.view(length, HEADS, width)).reshape(
            length, WIDTH
        )
        x = self.norm(context @ t[f"transformer.{name}.attn.proj.weight"].T + x, f"{name}.norm_2")
        gate, up = (self.norm(x, f"{name}.norm_3") @ t[f"transformer.{name}.mlp.fc.weight"].T).chunk(2, 1)
        branch = (gate * gate.sigmoid() * up) @ t[f"transformer.{name}.mlp.proj.weight"].T
        return self.norm(branch + x, f"{name}.norm_4")

    def __call__(self, ids: Tensor, start: Tensor, disturb=lambda t, x: x) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        """Logits [length, vocabulary] and states [length, DEPTH, width] as they were read on."""
        t = self.tensors
        e = t["transformer.wte.weight"][ids] * math.sqrt(WIDTH)
        for n in range(2):
            e = self.block(e, f"prelude.{n}")
        x, states = disturb(0, start), []
        for step in range(DEPTH):
            x = torch.cat([x, e], 1) @ t["transformer.adapter.weight"].T
            for n in range(4):
                x = self.block(x, f"core_block.{n}")
            x = disturb(step + 1, x) if step + 1 < DEPTH else x
            states.append(x)
        x = self.norm(x, "ln_f")
        for n in range(2):
            x = self.block(x, f"coda.{n}")
        return self.norm(x, "ln_f") @ t["lm_head.weight"].T, torch.stack(states, 1)


def drawn_start(length: int, key: Tensor, first: int) -> Tensor:
    """Published initial state on the counter's numbers: a normal cut at 3 deviations, zeros before `first`."""
    words = philox.random_words(SEED, key.expand(length), torch.arange(length), sites.INITIAL_STATE, WIDTH)
    low, high = ((1 + math.erf(z / math.sqrt(2))) / 2 for z in (-3.0, 3.0))
    uniform = low + (high - low) * (words.double() + 0.5) / 2**32
    values = math.sqrt(2.0) * torch.erfinv(2 * uniform - 1) * math.sqrt(2 / (5 * WIDTH)) * math.sqrt(WIDTH)
    return (values * (torch.arange(length) >= first).unsqueeze(1)).float()


ENGINES = ("modules", "reference")


@pytest.mark.parametrize("sampler", ["none", "state", "state:prompt"])
@pytest.mark.parametrize("engine", ENGINES)
def test_thoughts_and_answers_are_those_of_the_plain_pass(
    directory: Path, model: LatentModel, engine: str, sampler: str
) -> None:
    plain, runner = Plain(directory), engine_of(model, engine)
    prompts = [model.encode(question) for question in QUESTIONS]
    chosen = Sampler.parse(sampler.partition(":")[0], scope="prompt+latent" if ":" in sampler else "latent")
    run = sample(runner, prompts, chosen)
    answers = {temperature: answer(runner, run, temperature) for temperature in (0.0, 1.0)}
    for row in range(run.rows):
        prompt, key = prompts[row // 2], run.request.keys[row // 2, row % 2]
        first = 1 << 20 if sampler == "none" else 0 if ":" in sampler else len(prompt) - 1

        def logits_behind(tokens: list[int], prompt=prompt, key=key, first=first) -> Tensor:  # type: ignore[no-untyped-def]
            text = torch.cat([prompt, torch.tensor(tokens, dtype=torch.int64)])
            return plain(text, drawn_start(len(text), key, first))[0][-1]

        states = plain(prompt, drawn_start(len(prompt), key, first))[1]
        assert_close(run.thoughts[row], states[-1], "latent_phase")
        closing = model.tokenizer.convert_tokens_to_ids(list(CLOSING))
        for temperature, found in answers.items():
            assert_tokens_follow(found, row, len(prompt), key, closing, logits_behind, temperature)


@pytest.mark.parametrize("schedule", ["fixed", "geom", "sqrt", "line", "chi"])
@pytest.mark.parametrize("engine", ENGINES)
def test_its_own_noise_mixes_and_norms_the_state_before_every_step(
    directory: Path, model: LatentModel, engine: str, schedule: str
) -> None:
    plain = Plain(directory)
    prompt = model.encode(QUESTIONS[0])
    run = sample(
        engine_of(model, engine), [prompt], Sampler.parse(f"mix:0.4:{schedule}", scope="prompt+latent")
    )
    key, places, n = run.request.keys[0, 1], torch.arange(len(prompt)), 0.4 * math.sqrt(2 / 5)

    def disturb(t: int, x: Tensor) -> Tensor:
        place = (SEED, key.expand(len(x)), places, sites.INITIAL_STATE)
        noise = philox.normals(*place, ((t + 1) << 20) + torch.arange(WIDTH))
        share = {
            "fixed": n,
            "geom": n / (t + 1),
            "sqrt": n / (t + 1) ** 0.5,
            "line": max(n, 1 - t / DEPTH),
        }.get(schedule)
        if share is None:
            share = (
                2
                * n
                * (philox.random_words(*place, torch.tensor([((t + 2) << 20) - 1])).double() + 0.5)
                / 2**32
            )
        return plain.norm(x * (1 - share) + noise * share, "core_block.3.norm_4").float()

    states = plain(prompt, torch.zeros(len(prompt), WIDTH), disturb)[1]
    assert_close(run.thoughts[1], states[-1], "latent_phase")


def test_additive_noise_reaches_every_thought_that_is_read_again(directory: Path, model: LatentModel) -> None:
    plain, prompt = Plain(directory), model.encode(QUESTIONS[0])
    for engine in ENGINES:
        run = sample(
            engine_of(model, engine), [prompt], Sampler.parse("noise:0.3:relative", scope="prompt+latent")
        )
        key, places = run.request.keys[0, 0], torch.arange(len(prompt))

        def disturb(t: int, x: Tensor, key=key, places=places) -> Tensor:  # type: ignore[no-untyped-def]
            noise = philox.normals(
                SEED, key.expand(len(x)), places, sites.NOISE, (t << 20) + torch.arange(WIDTH)
            )
            return x if t == 0 else x + 0.3 * x.square().mean(-1, keepdim=True).sqrt() * noise

        states = plain(prompt, torch.zeros(len(prompt), WIDTH), disturb)[1]
        assert_close(run.thoughts[0], states[-1], "latent_phase")


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_engines_agree_where_everything_is_random_at_once(model: LatentModel, scope: str) -> None:
    sampler = Sampler.parse("state:0.8+mix:0.1:chi+noise:0.2", scope=scope)  # type: ignore[arg-type]
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = (sample(engine_of(model, engine), prompts, sampler) for engine in ENGINES)
    assert_close(fast.thoughts, slow.thoughts, "latent_phase")


def test_engines_agree_in_bfloat16(directory: Path) -> None:
    model = latent_ext.load(directory, dtype=torch.bfloat16)
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = (sample(engine_of(model, engine), prompts, "state+noise:0.2") for engine in ENGINES)
    assert_close(fast.thoughts, slow.thoughts, "latent_phase")


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_a_trajectory_depends_on_no_batch_mate(model: LatentModel, scope: str) -> None:
    runner = engine_of(model, "modules")
    prompts = [model.encode(question) for question in QUESTIONS]
    sampler = Sampler.parse("state", scope=scope)  # type: ignore[arg-type]
    both, alone = sample(runner, prompts, sampler, 4), sample(runner, prompts[1:], sampler, 2)
    assert_close(both.thoughts[4:6], alone.thoughts, "latent_phase")
    assert not torch.allclose(both.thoughts[4], both.thoughts[5])


def test_the_initial_state_has_the_published_spread(model: LatentModel) -> None:
    from latent_ext.models.thought_rule import Draw

    steps, rows = model.feedback, 4000
    parts = Sampler.parse("state").active
    draw = Draw(torch.tensor([SEED]), torch.arange(rows), torch.zeros(rows, dtype=torch.int64), parts)
    state = steps.initial_state(torch.zeros(rows, WIDTH), draw)  # type: ignore[union-attr]
    std = math.sqrt(2 / 5)
    assert state.abs().max() <= 3 * std
    # A normal cut at 3 deviations has 0.98658 of its standard deviation; 6 standard errors of either statistic.
    assert abs(state.std() / (0.98658 * std) - 1) < 6 / math.sqrt(2 * state.numel())
    assert abs(state.mean()) < 6 * std / math.sqrt(state.numel())


def test_the_fastest_engine_is_modules_and_native_says_why_not(model: LatentModel) -> None:
    from latent_ext.engine import choose_engine

    assert choose_engine(model)[1].name == "modules"
    with pytest.raises(
        RuntimeError, match="'native' cannot run this model on cpu: its thoughts are depth steps"
    ):
        choose_engine(model, "native")


def test_solve_samples_answers_from_random_states_and_chunks_change_nothing(model: LatentModel) -> None:
    whole, cut = (
        latent_ext.solve(
            model,
            list(QUESTIONS),
            n=5,
            sampler="state",
            max_answer_tokens=4,
            max_rows=rows,
            return_thoughts=True,
        )
        for rows in (None, 2)
    )
    for one, other in zip(whole, cut, strict=True):
        assert one.settings["sampler"] == "state:1"
        assert [t.tokens for t in one.trajectories] == [t.tokens for t in other.trajectories]
        assert all(t.thoughts is not None and t.thoughts.shape == (DEPTH, WIDTH) for t in one.trajectories)


def test_what_does_not_fit_the_family_is_refused_by_name(
    model: LatentModel, generator: torch.Generator
) -> None:
    with pytest.raises(
        ValueError, match="sampler: 'dropout' does not act in the family 'huginn'; allowed are state, mix"
    ):
        latent_ext.solve(model, "7", sampler="dropout:0.1")
    with pytest.raises(
        ValueError, match="sampler: 'state' does not act in the family 'coconut'; allowed are dropout, noise"
    ):
        latent_ext.solve(latent_ext.load(), "7", sampler="state")
    with pytest.raises(ValueError, match=r"^reward: a LatentRM reads thoughts as positions"):
        latent_ext.solve(model, "7", sampler="state", reward=random_reward(generator))


def test_the_prompt_is_the_chat_template_and_depth_is_an_argument(
    directory: Path, model: LatentModel
) -> None:
    text = model.tokenizer.decode(model.encode("7"))
    assert text.startswith("<|system|>")
    assert text.endswith("<|reply|>")
    assert model.family == Huginn(DEPTH)
    deeper = latent_ext.load(directory, latent_length=5)
    prompt = deeper.encode("7")
    assert sample(engine_of(deeper, "modules"), [prompt], "none").thoughts.shape[1] == 5


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors["transformer.core_block.1.attn.qk_bias"]


def widen(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.adapter.weight"] = torch.zeros(WIDTH, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"tensor 'transformer\.core_block\.1\.attn\.qk_bias' of shape \(2, 1, 4, 6\) is missing"),
        (
            widen,
            r"tensor 'transformer\.adapter\.weight' has shape \(24, 24\); the config asks for \(24, 48\)",
        ),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor 'extra' belongs to no part"),
    ],
)
def test_a_faulty_tensor_is_named(directory: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        latent_ext.load(directory)


def test_another_network_under_the_same_name_is_refused(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"injection_type": "add"}))
    with pytest.raises(CheckpointError, match="injection_type is 'add'; only 'linear' is supported"):
        latent_ext.load(directory)


@pytest.mark.parametrize("named", [(), ("--family", "huginn")], ids=["read off the files", "named"])
def test_the_command_line_reads_the_checkpoint(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: tuple[str, ...],
) -> None:
    given = ("--sampler", "state+mix:0.1", *named)
    result = solve_on_the_command_line(monkeypatch, capsys, directory, *given)
    wanted = latent_ext.solve(
        latent_ext.load(directory), QUESTIONS[0], n=2, sampler="state+mix:0.1", max_answer_tokens=MAX_TOKENS
    )[0]
    assert [row["text"] for row in result["trajectories"]] == [row.text for row in wanted.trajectories]
    assert [row["steps"] for row in result["trajectories"]] == [DEPTH, DEPTH]


def test_a_copy_has_the_same_weights_and_no_other_layout_holds_it(directory: Path, tmp_path: Path) -> None:
    assert convert(directory, tmp_path / "copy", "huginn") == {}
    assert latent_ext.load(tmp_path / "copy").weights_hash == latent_ext.load(directory).weights_hash
    with pytest.raises(ValueError, match=r"to: layout 'latenttts' holds family .* is 'huginn'"):
        convert(directory, tmp_path / "other", "latenttts")


@pytest.mark.parametrize("engine", ["modules", "reference"])
def test_a_beam_is_refused(model: LatentModel, engine: str) -> None:
    prompts = [model.encode(question) for question in QUESTIONS]
    request = LatentRequest(prompts, keys_of(prompts, 2), Sampler(), SEED, Beam(1, 2))
    runner = engine_of(model, engine)
    with pytest.raises(ValueError, match=r"^beam: .* thoughts are depth steps in the family 'huginn'"):
        runner.sample(request, runner.read_prompts(prompts, Sampler()))
