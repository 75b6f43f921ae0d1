"""Soft tokens: weights as published, noise from the counter, phases that end by themselves, parity with re-reading."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_checkpoints import (
    MAX_TOKENS,
    QUESTIONS,
    SEED,
    answer,
    assert_rows_agree,
    assert_tokens_follow,
    engine_of,
    sample,
    solve_on_the_command_line,
    write_tokenizer,
)
from random_models import keys_of, random_llama_model, random_llama_reward, random_model, random_reward
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import latent_ext
from latent_ext.engine import choose_engine
from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.family import NO_TOKEN
from latent_ext.models.gamma import log_gammas
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.soft_thinking import LatentGRPO, SoftThinking
from latent_ext.models.soft_tokens import SoftTokens
from latent_ext.models.thought_rule import Draw
from latent_ext.ops import philox, sites
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

ENGINES = ("modules", "reference")
MOST = 6
FAMILIES = {
    "soft-thinking": SoftThinking(MOST, width=5, top_k=12, entropy=3.0, entropy_steps=4),
    "latent-grpo": LatentGRPO(MOST, width=5),
}
BODIES = {"gpt2": (random_model, random_reward), "llama": (random_llama_model, random_llama_reward)}
CASES = [
    ("soft-thinking", "gpt2"),
    ("soft-thinking", "qwen2"),
    ("latent-grpo", "gpt2"),
    ("latent-grpo", "llama"),
]


@torch.no_grad()
def random_qwen2(generator: torch.Generator) -> Qwen2ForCausalLM:
    """Of the size of the random Llama; queries, keys and values have biases."""
    config = Qwen2Config(
        vocab_size=112, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf = Qwen2ForCausalLM(config)
    for name, parameter in hf.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.12 + ("norm" in name) * 1.0)
    return hf.eval()


def soft_model(name: str, body: str, generator: torch.Generator, directory: Path) -> LatentModel:
    """A random body whose checkpoint is written by Hugging Face and read as that family's."""
    vocabulary = write_tokenizer(directory, ["<think>", "</think>"])
    hf = random_qwen2(generator) if body == "qwen2" else BODIES[body][0](generator, positions=96).hf
    if body != "qwen2":
        del hf.thought_head_module
    hf.resize_token_embeddings(vocabulary)
    with torch.no_grad():
        hf.get_output_embeddings().weight.mul_(3.0)
    hf.save_pretrained(directory)
    return latent_ext.load(directory, family=FAMILIES[name])


@pytest.fixture(params=CASES, ids="-".join)
def model(request: pytest.FixtureRequest, generator: torch.Generator, tmp_path: Path) -> LatentModel:
    name, body = request.param
    return soft_model(name, body, generator, tmp_path)


def plain_weights(
    model: LatentModel, logits: Tensor, key: Tensor, position: int, parts: dict
) -> tuple[Tensor, int, bool]:
    """Weights [vocabulary] of one thought by the published order of steps, its heaviest token, whether it is over."""
    family, end = model.family, model.ids.end
    place = (SEED, key.reshape(1), torch.tensor([position]), sites.TOKEN)
    weights = torch.zeros_like(logits)
    if isinstance(family, LatentGRPO):
        logs, ids = logits.log_softmax(0), logits.argsort(descending=True)
        if "gumbel" not in parts or int(ids[0]) == end:
            weights[ids[: family.width]] = logits[ids[: family.width]].softmax(0)
            return weights, int(ids[0]), int(ids[0]) == end
        gumbel, held, kept = parts["gumbel"], 0.0, []
        for rank, token in enumerate(ids.tolist()):
            if held < family.noise_top_p or rank < family.width:
                kept.append(token)
            held += float(logs[token].exp())
        noise = philox.gumbels(*place, torch.tensor(kept))[0].clamp(-1.5, 3.0) + (
            1.5 if gumbel.one_sided else 0.0
        )
        scores = logs[kept] + gumbel.scale * noise
        best = scores.argsort(descending=True)[: family.width]
        weights[torch.tensor(kept)[best]] = (scores[best] / gumbel.tau).softmax(0)
        return weights, kept[int(best[0])], kept[int(best[0])] == end
    assert isinstance(family, SoftThinking)
    p = (logits / family.temperature).softmax(0)
    p = p * (p >= p.sort(descending=True).values[family.top_k - 1])  # type: ignore[operator]
    p = p / p.sum()
    ordered = p.sort(descending=True)
    before = ordered.values.cumsum(0) - ordered.values
    p = p.scatter(0, ordered.indices, torch.where(before < family.top_p, ordered.values, 0.0))
    p = p / p.sum()
    p = p * (p >= family.min_p * p.max())
    p = p / p.sum()
    if "dirichlet" in parts:
        ids = p.nonzero().squeeze(1)
        draw = Draw(torch.tensor([SEED]), key.reshape(1), torch.tensor([position]))
        p = torch.zeros_like(p).scatter(
            0, ids, log_gammas(parts["dirichlet"].alpha * p[ids][None], ids[None], draw)[0].softmax(0).float()
        )
    best = p.argsort(descending=True)[: family.width]
    share = p[best] / p[best].sum()
    if "gumbel" in parts:
        noise = philox.gumbels(*place, best)[0]
        share = ((share.log() + parts["gumbel"].scale * noise) / parts["gumbel"].tau).softmax(0)
    weights[best] = share
    heaviest = int(best[share.argmax()])
    return weights, heaviest, heaviest == end


def plain_thoughts(
    model: LatentModel, prompt: Tensor, key: Tensor, sampler: Sampler
) -> tuple[Tensor, list[int]]:
    """Thoughts [n, hidden] by stock modules that re-read everything for each one, and their heaviest tokens."""
    heaviest: list[int] = []
    hf, table = model.hf, model.hf.get_input_embeddings().weight
    fed, low = table[prompt], 0
    for t in range(MOST):
        logits = hf(inputs_embeds=fed.unsqueeze(0)).logits[0, -1]
        weights, token, over = plain_weights(model, logits, key, len(prompt) + t, sampler.active)
        if isinstance(model.family, SoftThinking):
            p = (logits / model.family.temperature).softmax(0)
            low = low + 1 if float(torch.special.entr(p).sum()) < model.family.entropy else 0
            over = over or low >= model.family.entropy_steps
        if over:
            break
        heaviest.append(token)
        fed = torch.cat([fed, (weights @ table).unsqueeze(0)])
    return fed[len(prompt) :], heaviest


SAMPLERS = ("none", "gumbel:0.7", "gumbel:0.5:0.8:one-sided")


@pytest.mark.parametrize("text", [*SAMPLERS, "dirichlet:2", "dirichlet:5+gumbel:0.5"])
@pytest.mark.parametrize("engine", ENGINES)
def test_thoughts_and_answers_are_those_of_stock_modules_that_reread_everything(
    model: LatentModel, engine: str, text: str
) -> None:
    sampler = Sampler.parse(text)
    if not set(sampler.active) <= set(model.feedback.randomness):
        assert isinstance(model.family, LatentGRPO)
        with pytest.raises(ValueError, match="sampler: 'dirichlet' does not act in the family 'latent-grpo'"):
            latent_ext.solve(model, "7", sampler=sampler)
        return
    runner, prompts = engine_of(model, engine), [model.encode(question) for question in QUESTIONS]
    run = sample(runner, prompts, sampler, count=3)
    found = answer(runner, run, 1.0)
    table = model.hf.get_input_embeddings().weight
    assert run.counts is not None
    parted: list[str] = []
    for row in range(run.rows):
        prompt, key = prompts[row // 3], run.request.keys[row // 3, row % 3]
        wanted, _ = plain_thoughts(model, prompt, key, sampler)
        length = int(run.counts[row])
        assert not run.thoughts[row, length:].any()
        try:
            assert length == len(wanted)
            assert_close(run.thoughts[row, :length], wanted, "soft_thought")
        except AssertionError as error:
            # Rounding may decide which token is among the heaviest, once in thousands of thoughts.
            parted.append(f"row {row}: {error}")
            continue

        def logits_behind(tokens: list[int], prompt=prompt, wanted=wanted) -> Tensor:  # type: ignore[no-untyped-def]
            written = table[torch.tensor([model.ids.end, *tokens])]
            return model.hf(inputs_embeds=torch.cat([table[prompt], wanted, written]).unsqueeze(0)).logits[
                0, -1
            ]

        first = len(prompt) + length + 1
        assert_tokens_follow(found, row, first, key, [model.ids.eos], logits_behind, temperature=1.0)
    assert len(parted) <= 1, "\n".join(parted)


@pytest.mark.parametrize("text", ["gumbel:3", "gumbel:3+dropout:0.1", "gumbel:3+noise:0.2:relative"])
def test_phases_end_at_any_length_and_the_answer_goes_on_from_there(model: LatentModel, text: str) -> None:
    """The end token is in turn each token that is the heaviest at some step of the first trajectory."""
    prompts, seen = [model.encode(question) for question in QUESTIONS], set()
    key = keys_of(prompts, 1)[0, 0]
    model.ids = replace(model.ids, end=NO_TOKEN)
    for end in dict.fromkeys(plain_thoughts(model, prompts[0], key, Sampler.parse("gumbel:3"))[1]):
        model.ids = replace(model.ids, end=end)
        runners = [engine_of(model, engine) for engine in ENGINES]
        fast, slow = (sample(runner, prompts, text, count=3) for runner in runners)
        assert_rows_agree(fast, slow, "soft_thought")
        got, wanted = answer(runners[0], fast), answer(runners[1], slow)
        same = torch.tensor([a == b for a, b in zip(got.tokens, wanted.tokens, strict=True)])
        assert same.sum() >= len(same) - 2  # near ties may go either way
        assert_close(got.logprobs[same], wanted.logprobs[same], "answer_logprob")
        seen |= set(fast.counts.tolist())  # type: ignore[union-attr]
    assert 0 in seen
    assert any(0 < length < MOST for length in seen)


@pytest.mark.parametrize("text", ["dropout:0.2", "noise:0.3", "dropout:0.1:trajectory+gumbel:1"])
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
def test_engines_agree_under_dropout_and_noise(model: LatentModel, text: str, scope: str) -> None:
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    prompts = [model.encode(question) for question in QUESTIONS]
    fast, slow = (sample(engine_of(model, engine), prompts, sampler) for engine in ENGINES)
    assert_rows_agree(fast, slow, "soft_thought")


def test_a_latent_rm_scores_thoughts_and_nothing_behind_them(
    generator: torch.Generator, tmp_path: Path
) -> None:
    for body, (_, make_reward) in BODIES.items():
        model = soft_model("latent-grpo", body, generator, tmp_path)
        reward = make_reward(generator, positions=96)
        reward.module.body.resize_token_embeddings(len(model.tokenizer))
        results = {
            engine: latent_ext.solve(model, list(QUESTIONS), n=4, sampler="gumbel:1", reward=reward, engine=engine,
                                     max_answer_tokens=MAX_TOKENS, return_thoughts=True)
            for engine in ENGINES
        }  # fmt: skip
        for fast, slow in zip(*results.values(), strict=True):
            scores = [torch.tensor([t.step_scores for t in result.trajectories]) for result in (fast, slow)]
            assert_close(*scores, "step_score")
            for trajectory in fast.trajectories:
                assert trajectory.thoughts is not None
                assert trajectory.step_scores is not None
                assert not any(trajectory.step_scores[len(trajectory.thoughts) :])


def test_trajectories_of_a_deterministic_run_share_their_thoughts(model: LatentModel) -> None:
    runner, prompt = engine_of(model, "modules"), model.encode(QUESTIONS[0])
    run = sample(runner, [prompt], "none", count=4)
    assert torch.equal(run.thoughts, run.thoughts[:1].expand_as(run.thoughts))
    assert len({tuple(tokens) for tokens in answer(runner, run).tokens}) == 1


def test_the_first_trajectories_of_many_are_the_few(model: LatentModel) -> None:
    runner, prompts = engine_of(model, "modules"), [model.encode(question) for question in QUESTIONS]
    many, few = (sample(runner, prompts, "gumbel:1", count=count) for count in (5, 2))
    for b in range(2):
        part = slice(5 * b, 5 * b + 2)
        assert_close(many.thoughts[part], few.thoughts[2 * b : 2 * b + 2], "soft_thought")


def test_the_end_token_is_the_last_of_its_ids_or_the_first(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, [])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode("</think>", add_special_tokens=False)
    assert SoftThinking().ids(tokenizer).end == ids[-1]
    assert LatentGRPO().ids(tokenizer).end == ids[0]
    opened = tokenizer.decode(LatentGRPO().prompt("7").ids(tokenizer))
    assert len(LatentGRPO().prompt("7").ids(tokenizer)) > len(SoftThinking().prompt("7").ids(tokenizer)), (
        opened
    )


def test_native_says_why_it_is_not_taken(generator: torch.Generator, tmp_path: Path) -> None:
    model = soft_model("soft-thinking", "llama", generator, tmp_path)
    assert isinstance(model.hf, LlamaForCausalLM)
    choice = choose_engine(model)[1]
    assert choice.name == "modules"
    assert "'native' cannot run this model on cpu: its thoughts are formed by a rule" in choice.why
    with pytest.raises(RuntimeError, match=r"its thoughts are formed by a rule in Python \(SoftTokens\)"):
        choose_engine(model, "native")
    with pytest.raises(ValueError, match="weights: 'int8' needs the native engine"):
        choose_engine(model, weights="int8")


def test_a_deviation_from_a_stated_head_is_refused_before_anything_is_sampled(
    generator: torch.Generator, tmp_path: Path
) -> None:
    model = soft_model("soft-thinking", "gpt2", generator, tmp_path)
    with pytest.raises(ValueError, match=r"^reward: 'deviation' needs thoughts .* through a stated head"):
        latent_ext.solve(model, [], sampler="gumbel:0.5", reward="deviation")


@pytest.mark.parametrize("shape", [0.003, 0.4, 1.0, 7.5])
def test_gamma_values_have_the_moments_of_a_gamma_and_of_its_logarithm(shape: float) -> None:
    rows, n = 400, 50
    draw = Draw(torch.tensor([SEED]), torch.arange(rows), torch.full((rows,), 9))
    logs = log_gammas(torch.full((rows, n), shape), torch.arange(n).expand(rows, n), draw)
    values, count = logs.exp(), rows * n
    # Six standard errors: var(x) = shape, var(log x) = trigamma(shape).
    assert abs(values.mean() - shape) < 6 * math.sqrt(shape / count)
    trigamma = float(torch.special.polygamma(1, torch.tensor(shape, dtype=torch.float64)))
    wanted = float(torch.special.digamma(torch.tensor(shape, dtype=torch.float64)))
    assert abs(logs.mean() - wanted) < 6 * math.sqrt(trigamma / count)


def test_a_gamma_value_belongs_to_its_token_wherever_that_stands() -> None:
    draw = Draw(torch.tensor([SEED]), torch.tensor([5]), torch.tensor([3]))
    shapes, ids = torch.tensor([[0.2, 3.0, 1.1]]), torch.tensor([[90, 2, 41]])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(
        log_gammas(shapes, ids, draw)[:, order], log_gammas(shapes[:, order], ids[:, order], draw)
    )


def test_latent_grpo_ends_where_the_end_is_heaviest_without_noise(generator: torch.Generator) -> None:
    rows, lm_head = 200, torch.randn(60, 8, generator=generator)
    hidden = torch.randn(rows, 8, generator=generator)
    rule = SoftTokens(lm_head, lm_head, width=4, noise="choice")
    heaviest = (hidden @ lm_head.T).argmax(1)
    keys, positions = torch.arange(rows), torch.full((rows,), 9)
    for end in range(60):
        draw = Draw(torch.tensor([SEED]), keys, positions, Sampler.parse("gumbel:4").active, end)
        ended = rule.next_thought(hidden, None, draw).ended
        assert ended is not None
        assert ended[heaviest == end].all()


BAD = [
    {"noise": "all"}, {"width": 0}, {"width": 9}, {"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"noise_top_p": 1.5},
    {"min_p": -0.1},
]  # fmt: skip


@pytest.mark.parametrize("given", BAD, ids=str)
def test_bad_settings_name_the_argument(given: dict) -> None:
    table, argument = torch.zeros(8, 4), next(iter(given))
    with pytest.raises(ValueError, match=f"^{argument}: got "):
        SoftTokens(table, table, **({"width": 2} | given))


def test_the_command_line_reads_a_plain_body_as_the_family_that_is_named(
    generator: torch.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    soft_model("soft-thinking", "qwen2", generator, tmp_path)
    given = ("--family", "soft-thinking", "--sampler", "gumbel:0.5", "--latent-length", 3)
    result = solve_on_the_command_line(monkeypatch, capsys, tmp_path, *given)
    wanted = latent_ext.solve(
        latent_ext.load(tmp_path, family="soft-thinking", latent_length=3),
        QUESTIONS[0],
        n=2,
        sampler="gumbel:0.5",
        max_answer_tokens=MAX_TOKENS,
    )[0]
    assert [row["steps"] for row in result["trajectories"]] == [row.steps for row in wanted.trajectories]
    assert [row["text"] for row in result["trajectories"]] == [row.text for row in wanted.trajectories]
    with pytest.raises(CheckpointError, match=r"no family is known .*Qwen2.* allowed are .*soft-thinking"):
        latent_ext.load(tmp_path)


def test_a_family_with_a_layout_of_its_own_is_refused_elsewhere() -> None:
    with pytest.raises(CheckpointError, match=r"its layout .* not 'huginn'"):
        latent_ext.load(family="huginn")
