"""Operations are those that PyTorch counts when the reference engine runs, and those counted by hand."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, QUESTIONS, random_model, random_reward
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

import latent_ext
from latent_ext.engine.base import Beam
from latent_ext.engine.flops import PHASES, Cost, cost_of, costs_of, expand
from latent_ext.engine.operations import BodyOperations, Operations
from latent_ext.mixture import as_sampler_or_mixture, members
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM

ASKED = QUESTIONS[1:]


def hidden_by_the_mask(body: BodyOperations, length: int) -> int:
    """PyTorch's counter takes every key for every query of a pass; the mask hides some of them."""
    return body.per_key * length * (length - 1) // 2


def counted_models(body: str, generator: torch.Generator, **settings: str) -> tuple[LatentModel, LatentRM]:
    """With attention in plain products: PyTorch's counter does not know the fused one on CPU."""
    model, reward = BODIES[body][0](generator, **settings), BODIES[body][1](generator)
    model.hf.set_attn_implementation("eager")
    reward.module.body.set_attn_implementation("eager")
    return model, reward


def masked(
    model: LatentModel, reward: LatentRM, lengths: list[int], whole_prompt_rows: int, scored: list
) -> int:
    generator, scorer = BodyOperations.of(model.body), BodyOperations.of(reward.module.body)
    total = 0
    for length in lengths:
        if whole_prompt_rows:
            total += whole_prompt_rows * hidden_by_the_mask(generator, length)
        else:
            total += hidden_by_the_mask(generator, length - 1)
        total += sum(rows * hidden_by_the_mask(scorer, length + steps) for rows, steps in scored)
    return total


@pytest.mark.parametrize(
    ("sampler", "scope", "head"),
    [
        ("none", "latent", "none"),
        ("noise:0.4", "latent", "projector"),
        ("dropout:0.2", "prompt+latent", "none"),
    ],
)
@pytest.mark.parametrize("body", BODIES)
def test_the_count_is_what_pytorch_counts_when_the_reference_engine_runs(
    generator: torch.Generator, body: str, sampler: str, scope: str, head: str
) -> None:
    model, reward = counted_models(body, generator, head=head)
    with FlopCounterMode(display=False) as counter:
        results = latent_ext.solve(
            model, ASKED, n=3, sampler=sampler, scope=scope, reward=reward, engine="reference",
            decode="all", max_answer_tokens=4,
        )  # fmt: skip
    cost = cost_of(model, reward, results)
    lengths = [len(model.encode(question)) for question in ASKED]
    steps = model.family.latent_length
    unseen = masked(model, reward, lengths, 3 if scope == "prompt+latent" else 0, [(3, steps)])
    assert cost.flops == counter.get_total_flops() - unseen
    assert cost.flops == sum(cost.phases.values())


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("body", BODIES)
def test_the_count_of_a_beam_search_is_what_pytorch_counts(
    generator: torch.Generator, body: str, lookahead: int
) -> None:
    model, reward = counted_models(body, generator)
    with FlopCounterMode(display=False) as counter:
        results = latent_ext.solve(
            model, ASKED, select="beam", beams=2, candidates=3, lookahead=lookahead, sampler="noise:0.4",
            reward=reward, engine="reference", max_answer_tokens=4,
        )  # fmt: skip
    steps = model.family.latent_length
    further = [min(lookahead, steps - 1 - t) for t in range(steps)]
    scored = [(6, t + 1 + further[t]) for t in range(steps)] + [(2, steps)]
    lengths = [len(model.encode(question)) for question in ASKED]
    cost = cost_of(model, reward, results)
    assert cost.flops == counter.get_total_flops() - masked(model, reward, lengths, 0, scored)
    assert cost.thoughts == len(ASKED) * 6 * (steps + sum(further))


@pytest.mark.parametrize("engine", ["native", "modules"])
def test_engines_that_share_work_are_charged_for_what_they_do(
    generator: torch.Generator, engine: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    length, steps, n = len(model.encode(ASKED[0])), model.family.latent_length, 4

    def cost(sampler: str, **settings: object) -> Cost:
        results = latent_ext.solve(
            model, ASKED[0], n=n, sampler=sampler, engine=engine, max_answer_tokens=4, **settings
        )  # type: ignore[arg-type]
        return cost_of(model, settings.get("reward"), results)  # type: ignore[arg-type]

    assert cost("noise:0.4").prompt_tokens == length
    assert cost("dropout:0.2").prompt_tokens == length - 1 + n
    assert cost("dropout:0.2", scope="prompt+latent").prompt_tokens == n * length
    assert cost("none").thoughts == steps
    assert cost("noise:0.4").thoughts == n * steps
    best, voted = cost("noise:0.4", reward=reward), cost("noise:0.4", reward=reward, decode="all")
    assert best.reward_positions == voted.reward_positions == length + n * steps
    assert best.phases["sample"] == voted.phases["sample"]
    assert 0 < best.phases["answer"] < voted.phases["answer"]
    assert cost("noise:0.4").phases["score"] == 0


def test_the_expansion_of_a_budget_is_the_cost_of_the_run_that_it_describes(
    generator: torch.Generator,
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    searches = {"beams": 2, "candidates": 3, "lookahead": 1, "select": "beam"}
    for settings, budget in (({"n": 4}, {"n": 4}), (searches, {"beam": Beam(2, 3, lookahead=1)})):
        results = latent_ext.solve(
            model, ASKED, sampler="noise:0.4", reward=reward, max_answer_tokens=1, **settings
        )  # type: ignore[arg-type]
        lengths = [len(model.encode(question)) for question in ASKED]
        planned = expand(
            model, reward, prompt_tokens=lengths, answer_tokens=1, sampler="noise:0.4", decoded=1, **budget,  # type: ignore[arg-type]
        )  # fmt: skip
        assert planned == cost_of(model, reward, results)
        assert [result.cost for result in results] == costs_of(model, reward, results)


def test_a_mixture_costs_what_its_samplers_cost_and_reads_the_latent_rms_prompt_once(
    generator: torch.Generator,
) -> None:
    model, reward = random_model(generator), random_reward(generator)

    def cost(sampler: str, n: int) -> Cost:
        found = latent_ext.solve(
            model,
            ASKED[0],
            n=n,
            sampler=sampler,
            reward=reward,
            decode="all",
            engine="native",
            max_answer_tokens=1,
        )[0].cost
        assert found is not None
        return found

    mixed, apart = cost("mix(noise:0.4|svp:0.5)", 4), cost("noise:0.4", 2) + cost("svp:0.5", 2)
    assert mixed.thoughts == apart.thoughts
    assert mixed.phases["sample"] == apart.phases["sample"]
    assert 2 * mixed.phases["read_reward_prompts"] == apart.phases["read_reward_prompts"]


def test_noise_on_singular_values_costs_two_products_of_its_rank_per_position(
    generator: torch.Generator,
) -> None:
    model, n = random_model(generator), 3
    width, layers, steps = model.blocks.hidden_size, model.blocks.layers, model.family.latent_length

    def sampled(sampler: str) -> int:
        found = latent_ext.solve(model, ASKED[0], n=n, sampler=sampler, engine="native", max_answer_tokens=1)
        assert found[0].cost is not None
        return found[0].cost.phases["sample"]

    # Every trajectory reads the last prompt token and all thoughts but the last under it.
    assert sampled("svp:0.5") - sampled("dropout:0.5") == n * steps * layers * 2 * (2 * width * width)


def test_a_reward_that_computes_by_itself_leaves_operations_uncounted(generator: torch.Generator) -> None:
    model = random_model(generator)
    deviation = latent_ext.solve(model, ASKED[0], n=2, sampler="dropout:0.2", reward="deviation")[0].cost
    logprob = latent_ext.solve(model, ASKED[0], n=2, sampler="dropout:0.2", reward="answer_logprob")[0].cost
    assert deviation is not None
    assert logprob is not None
    assert deviation.flops is None
    assert "deviation needs thoughts" in str(deviation.uncounted)
    assert logprob.flops is not None


def test_a_body_is_counted_as_by_hand() -> None:
    gpt2 = BodyOperations.of(GPT2Model(GPT2Config(n_embd=2, n_layer=1, n_head=1)))
    # 4 * 2 * 2 attention weights and 2 * 2 * 8 of the MLP; two products of width 2 per seen position.
    assert gpt2 == BodyOperations(linear=2 * 48, per_key=8, hidden=2)
    assert gpt2.read(3, 5) == 2 * 96 + (4 + 5) * 8
    llama = BodyOperations.of(
        LlamaModel(
            LlamaConfig(
                hidden_size=4, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, head_dim=2, vocab_size=9,
            )
        )
    )  # fmt: skip
    # q and o 4 x 4, k and v 4 x 2, three 4 x 6 in the MLP, in two layers.
    assert llama == BodyOperations(linear=2 * 2 * (32 + 16 + 72), per_key=2 * 2 * 2 * 4, hidden=4)


def test_costs_add_up_and_an_unknown_count_stays_unknown() -> None:
    known = Cost(1, 2, 3, 4, 5, dict.fromkeys(PHASES, 1))
    assert known + known == Cost(2, 4, 6, 8, 10, dict.fromkeys(PHASES, 2))
    unknown = known + Cost(1, 1, 1, 1, None, {}, "rows stop by themselves")
    assert (unknown.answer_tokens, unknown.flops, unknown.uncounted) == (4, None, "rows stop by themselves")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("n", {"n": 0}),
        ("answer_tokens", {"answer_tokens": 0}),
        ("decoded", {"decoded": 0}),
        ("prompt_tokens", {"prompt_tokens": [0, 5]}),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_by_name(
    generator: torch.Generator, name: str, settings: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        expand(random_model(generator), **{"prompt_tokens": 5, "answer_tokens": 3, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["mix(none|dropout:0.2)", "mix(dropout:0.2|none)", "mix(noise:0.4|svp:0.3|none)"]
)
def test_a_mixture_costs_no_more_than_its_budget(generator: torch.Generator, text: str) -> None:
    model, reward = random_model(generator), random_reward(generator)
    result = latent_ext.solve(
        model, ASKED[0], n=7, sampler=text, reward=reward, decode="all", engine="native", max_answer_tokens=3
    )[0]
    assert result.cost is not None
    assert result.cost.thoughts == result.settings["budget"]["thoughts"]
    assert result.cost.flops is not None
    assert result.cost.flops <= result.settings["budget"]["flops"]


@pytest.mark.parametrize(
    ("sampler", "decode"),
    [("dropout:0.2", "needed"), ("dropout:0.2", "all"), ("mix(none|dropout:0.2|noise:0.4)", "all")],
)
@pytest.mark.parametrize("body", BODIES)
def test_clean_replay_is_counted_as_pytorch_counts_it(
    generator: torch.Generator, body: str, sampler: str, decode: str
) -> None:
    model, reward = counted_models(body, generator)
    with FlopCounterMode(display=False) as counter:
        results = latent_ext.solve(
            model, ASKED, n=3, sampler=sampler, reward=reward, replay="clean", engine="reference",
            decode=decode, max_answer_tokens=4,
        )  # fmt: skip
    lengths, steps = [len(model.encode(question)) for question in ASKED], model.family.latent_length
    drawn_by = as_sampler_or_mixture(sampler)
    read_by, scored_by = BodyOperations.of(model.body), BodyOperations.of(reward.module.body)
    unseen = 0
    for length, result in zip(lengths, results, strict=True):
        unseen += len(members(drawn_by)) * hidden_by_the_mask(read_by, length - 1)
        unseen += 3 * hidden_by_the_mask(scored_by, length + steps)
        # The second reading: the prompt in one pass, then all thoughts but the last of each decoded row in another.
        decoded = [one.index for one in result.trajectories if one.tokens is not None]
        again = [n for n in decoded if sampler == "dropout:0.2" or n == 1]
        unseen += bool(again) * hidden_by_the_mask(read_by, length)
        unseen += len(again) * hidden_by_the_mask(read_by, steps - 1)
    assert cost_of(model, reward, results).flops == counter.get_total_flops() - unseen


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("head", ["none", "projector"])
@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.parametrize("body", BODIES)
def test_engines_that_share_prompts_read_again_what_was_not_read_clean(
    generator: torch.Generator, body: str, engine: str, head: str, scope: str
) -> None:
    model, n = BODIES[body][0](generator, head=head), 3
    length, steps = len(model.encode(ASKED[0])), model.family.latent_length
    costs, counted = {}, {}
    for replay in ("none", "clean"):
        with FlopCounterMode(display=False) as counter:
            result = latent_ext.solve(
                model, ASKED[0], n=n, sampler="dropout:0.2", scope=scope, replay=replay, engine=engine,
                decode="all", max_answer_tokens=1,
            )[0]  # fmt: skip
        assert result.cost is not None
        costs[replay], counted[replay] = result.cost, counter.get_total_flops()
        assert result.settings["budget"] == result.cost.to_dict()
    prompt = 1 if scope == "latent" else length
    assert costs["clean"].prompt_tokens - costs["none"].prompt_tokens == prompt
    of_body, operations = BodyOperations.of(model.body), Operations(model, None)
    passes = of_body.read(length - prompt, length) + n * of_body.read(length, length + steps - 1)
    # The native op forms a thought from every position that it is given.
    formed = n * (steps - 1) + (scope == "latent") if engine == "native" else 0
    more = costs["clean"].phases["sample"] - costs["none"].phases["sample"]
    assert more == passes + formed * operations.thought
    if engine == "modules":
        # PyTorch's counter sees the linear layers, not the op that attends.
        assert counted["clean"] - counted["none"] == of_body.linear * (prompt + n * (steps - 1))
