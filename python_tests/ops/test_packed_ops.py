"""The ops on packed models: they do what their references do, and the same bits in every organisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import OpCase
from packed_cases import (
    BODIES,
    STEPS,
    STORAGE,
    VOCABULARY,
    cases_of_every_op,
    decode_answers_case,
    latent_rollout_case,
    on_every_format_and_body,
    pack_linear_case,
    packed_model,
    read_prompts_case,
    rollout_results,
    rows_of_steps,
    select_prompts,
)
from torch import Generator, Tensor

from latent_ext import _native, ops
from latent_ext.models.packed import WEIGHTS
from latent_ext.ops.next_token import tempered
from latent_ext.ops.packed_reference import attend_with, elements_of, pass_rows, unpack
from latent_ext.ops.tolerances import assert_close, tolerance

SHAPES = ((1, 1), (16, 4), (48, 64), (49, 7), (131, 51), (200, 770))
DROPOUTS: dict[str, dict[str, Any]] = {
    "none": {},
    "per step": {"p": 0.3},
    "per trajectory": {"p": 0.3, "per_trajectory": True},
    "embedding, too": {"p": 0.3, "embedding": True},
    "singular values": {"svp": 0.6},
}
SAMPLERS: dict[str, dict[str, Any]] = DROPOUTS | {
    "noise": {"sigma": 0.5},
    "relative noise, dropout and singular values": {"sigma": 0.4, "relative": True, "p": 0.2, "svp": 0.3},
}
PRUNINGS: dict[str, dict[str, Any]] = {
    "beams": {"keep": (2, 2, 2, 1), "candidates": 2},
    "halving": {"keep": (3, 2, 1, 0)},
    "now and then": {"keep": (0, 2, 0, 2), "candidates": 2},
    "more than there are": {"keep": (9, 9, 9, 9)},
}


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def assert_written_agrees(actual: Tensor, expected: Tensor, kind: str, weights: str) -> None:
    """Written where the reference writes; elsewhere both leave the NaN that was there."""
    assert torch.equal(actual.isnan(), expected.isnan())
    written = ~expected.isnan()
    assert_close(actual[written], expected[written], kind, storage=STORAGE[weights])


# pack_linear


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("format", WEIGHTS)
def test_panels_are_those_of_the_reference(
    generator: Generator, format: str, outputs: int, inputs: int
) -> None:
    case = pack_linear_case(generator, format, outputs, inputs)
    case.arguments["weight"][0] = 0.0  # an output without any weight has scale 0
    for actual, expected in zip(case.run(), case.run_reference(), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_panels_hold_every_weight_once(generator: Generator, outputs: int, inputs: int) -> None:
    case = pack_linear_case(generator, "fp32", outputs, inputs)
    (panels,) = case.run()
    assert torch.equal(elements_of(panels, inputs, outputs, "fp32"), case.arguments["weight"])
    assert int((panels != 0).sum()) == int((case.arguments["weight"] != 0).sum())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_int8_weight_that_is_not_finite_makes_its_output_nan(bad: float) -> None:
    weight = torch.tensor([[1.0, bad, 2.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    panels, sums = torch.empty(16, dtype=torch.int32), torch.empty(16, dtype=torch.int32)
    scales = torch.empty(16)
    ops.pack_linear(weight, "int8", panels, scales, sums)
    assert scales[0].isnan()
    assert scales[1] > 0.0


def test_int8_weights_lie_within_half_a_step(generator: Generator) -> None:
    case = pack_linear_case(generator, "int8", 67, 91)
    panels, scales, sums = case.run()
    integers, weight = elements_of(panels, 91, 67, "int8").float(), case.arguments["weight"]
    step = scales[:67, None]
    assert ((integers * step - weight).abs() <= step * (0.5 + tolerance("logits", torch.float32).rtol)).all()
    assert torch.equal(integers.abs().amax(dim=1), torch.full((67,), 127.0))
    assert torch.equal(sums[:67], integers.sum(dim=1).to(torch.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "fp8"}, "format must be one of 'fp32', 'bf16', 'int8', got 'fp8'"),
        ({"format": "fp32"}, r"panels must have shape \[words\]"),
        ({"scales": None}, "scales and sums must be given for format 'int8'"),
        ({"weight": torch.zeros(0, 5)}, "weight must have at least one output and one input, got 0 and 5"),
        ({"weight": torch.zeros(5)}, r"weight must have shape \[outputs, inputs\]"),
        ({"sums": torch.zeros(16)}, "sums must be int32, got float32"),
    ],
)
def test_a_matrix_that_cannot_be_packed_is_named(
    generator: Generator, changes: dict[str, Any], message: str
) -> None:
    case = pack_linear_case(generator, "int8", 9, 5).with_arguments(**changes)
    with pytest.raises(RuntimeError, match=message):
        ops.pack_linear(**case.arguments)


# Agreement with the references


@pytest.mark.parametrize("dropout", DROPOUTS)
@on_every_format_and_body
def test_prompts_are_read_as_by_the_reference(
    generator: Generator, body: str, weights: str, dropout: str
) -> None:
    packed = packed_model(generator, body, weights)
    case = read_prompts_case(generator, packed, **DROPOUTS[dropout])
    for actual, expected in zip(case.run(), case.run_reference(), strict=True):
        assert_written_agrees(actual, expected, "packed_pass", weights)


def test_caches_alone_are_the_same_caches(generator: Generator) -> None:
    packed = packed_model(generator)
    case = read_prompts_case(generator, packed, lengths=(3, 7), p=0.2)
    hidden, *caches = case.with_arguments(last_hidden=False).run()
    assert hidden.shape == (0, packed.token_embedding.shape[1])
    for without, with_hidden in zip(caches, case.run()[1:], strict=True):
        assert_written_agrees(without, with_hidden, "rng", "fp32")


def test_there_may_be_no_prompts_and_empty_prompts(generator: Generator) -> None:
    packed = packed_model(generator)
    hidden, *_ = read_prompts_case(generator, packed, lengths=()).run()
    assert hidden.shape == (0, packed.token_embedding.shape[1])
    case = read_prompts_case(generator, packed, lengths=(0, 2, 0), last_hidden=False)
    for actual, expected in zip(case.run(), case.run_reference(), strict=True):
        assert_written_agrees(actual, expected, "packed_pass", "fp32")


def assert_rollouts_agree(case: OpCase, weights: str) -> None:
    actual, expected = (rollout_results(case, run()) for run in (case.run, case.run_reference))
    for name, value in expected.items():
        if name == "step_scores":
            assert_close(actual[name], value, "packed_logit", storage=STORAGE[weights])
        elif value.is_floating_point():
            assert_written_agrees(actual[name], value, "packed_pass", weights)
        else:
            assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("first_is_hidden", [False, True], ids=["first is read", "first is hidden"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@on_every_format_and_body
def test_a_rollout_is_that_of_the_reference(
    generator: Generator, body: str, weights: str, sampler: str, first_is_hidden: bool
) -> None:
    packed, reward = (packed_model(generator, body, weights) for _ in range(2))
    case = latent_rollout_case(
        generator, packed, reward, first_is_hidden=first_is_hidden, **SAMPLERS[sampler]
    )
    assert_rollouts_agree(case, weights)


def lead_of_the_kept(case: OpCase) -> float:
    """The smallest distance of totals between which a pruning of the reference decides."""
    a, smallest = case.arguments, torch.inf
    counts = rows_of_steps(case.rows, a["questions"], tuple(a["keep"]), a["candidates"])
    for t, keep in enumerate(a["keep"]):
        width = counts[t] // a["questions"]
        if keep == 0 or keep >= width:
            continue
        # As far as this pruning all is as in the whole run; what it decides on are the rows without it.
        before = case.with_arguments(keep=[*a["keep"][:t], *[0] * (STEPS - t)])
        results = rollout_results(before, before.run_reference())
        totals = results["step_scores"][:, : t + 1].sum(dim=1).view(a["questions"], -1)
        ordered = totals.sort(dim=1, descending=True).values
        smallest = min(smallest, float((ordered[:, keep - 1] - ordered[:, keep]).min()))
    return smallest


@pytest.mark.parametrize("questions", [1, 2, 3])
@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("body", list(BODIES))
def test_pruning_keeps_branches_and_names_what_the_reference_does(
    generator: Generator, body: str, pruning: str, questions: int
) -> None:
    # Pruning sees totals and not formats; in fp32 alone are few of them too close for rounding.
    packed, reward = (packed_model(generator, body, "fp32") for _ in range(2))
    for _ in range(20):
        case = latent_rollout_case(
            generator, packed, reward, rows=12, questions=questions, sigma=0.8, p=0.2, **PRUNINGS[pruning]
        )
        # Rounding may decide between near equals: such draws say nothing.
        if lead_of_the_kept(case) > 2 * STEPS * tolerance("packed_logit", torch.float32).atol:
            return assert_rollouts_agree(case, "fp32")
    pytest.fail("twenty draws in a row were decided by less than rounding")


def test_children_have_keys_of_their_own_and_one_past(generator: Generator) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    case = latent_rollout_case(generator, packed, reward, rows=3, sigma=0.8, keep=(1, 0, 0, 0), candidates=4)
    results = rollout_results(case, case.run())
    parent = int(results["lineage"][0, 0])
    key = case.arguments["keys"][parent]
    assert torch.equal(results["final_keys"], ops.child_key(key, 1, torch.arange(4)))
    assert results["final_keys"][0] == key
    assert torch.equal(results["lineage"], torch.tensor([[parent, n, n, n] for n in range(4)]))
    thoughts = results["thoughts"]
    assert torch.equal(thoughts[:, 0], thoughts[:1, 0].expand(4, -1))
    assert all(not torch.equal(thoughts[0, 1], thoughts[n, 1]) for n in range(1, 4))


@on_every_format_and_body
def test_a_child_is_the_row_that_was_never_pruned(generator: Generator, body: str, weights: str) -> None:
    """Child 0 of a kept row goes on, bit for bit, as if nothing had been pruned."""
    packed, reward = (packed_model(generator, body, weights) for _ in range(2))
    case = latent_rollout_case(
        generator, packed, reward, rows=8, questions=2, sigma=0.8, p=0.2, keep=(3, 2, 2, 1), candidates=2
    )
    pruned = rollout_results(case, case.run())
    whole = case.with_arguments(keep=[], candidates=1)
    free = rollout_results(whole, whole.run())
    found = 0
    for key, thoughts, scores in zip(
        pruned["final_keys"], pruned["thoughts"], pruned["step_scores"], strict=True
    ):
        for row in (free["final_keys"] == key).nonzero().flatten().tolist():
            found += 1
            assert torch.equal(thoughts, free["thoughts"][row])
            assert torch.equal(scores, free["step_scores"][row])
    keys = case.arguments["keys"].tolist()
    assert found == sum(key in keys for key in pruned["final_keys"].tolist())


# Answers


def values_along(case: OpCase, tokens: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's values (whose largest is the token) and log probabilities where rows write given tokens.

    Args:
        tokens: int64 [rows, steps], what each row writes.
        count: int64 [rows], how many of them.

    Returns:
        Both [rows, steps, vocabulary]; NaN behind `count`.
    """
    a = case.arguments
    model = unpack(a["model"])
    pages = {name: a[name].clone() for name in ("suffix_key", "suffix_value")}
    lengths = a["suffix_len"].clone()
    shape = (*tokens.shape, VOCABULARY)
    values, logprobs = torch.full(shape, torch.nan), torch.full(shape, torch.nan)

    def read(rows: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        attend = attend_with(
            model, a["prefix_key"], a["prefix_value"], a["prompt_index"][rows], a["prompt_len"],
            pages["suffix_key"], pages["suffix_value"], a["ancestry"][rows], lengths[rows],
        )  # fmt: skip
        positions = a["prompt_len"][a["prompt_index"][rows]] + lengths[rows]
        hidden = pass_rows(model, a["position_embedding"], inputs, positions, a["keys"][rows], attend)
        lengths[rows] += 1
        return hidden, positions + 1

    everyone = torch.arange(case.rows)
    if a["thought"] is not None:
        read(everyone, a["thought"])
    token = a["first_token"]
    for step in range(tokens.shape[1]):
        rows = everyone[count > step]
        if len(rows) == 0:
            break
        hidden, positions = read(rows, a["token_embedding"][token[rows]])
        assert model.lm_head is not None
        logits = model.lm_head(hidden)
        values[rows, step] = tempered(
            logits, a["keys"][rows], positions, a["seed"], a["temperature"], a["top_p"]
        )
        logprobs[rows, step] = logits.log_softmax(dim=1)
        token = tokens[:, step]
    return values, logprobs


@pytest.mark.parametrize("ending", ["at the limit", "early"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("thought", [True, False], ids=["thought", "no thought"])
@on_every_format_and_body
def test_answers_are_drawn_as_by_the_reference(
    generator: Generator, body: str, weights: str, thought: bool, temperature: float, ending: str
) -> None:
    packed = packed_model(generator, body, weights)
    case = decode_answers_case(generator, packed, thought=thought, temperature=temperature)
    assert_answers_agree(case, weights, ending)


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("body", BODIES)
def test_answers_are_drawn_from_the_nuclei_of_the_reference(
    generator: Generator, body: str, top_p: float
) -> None:
    case = decode_answers_case(generator, packed_model(generator, body), temperature=1.5, top_p=top_p)
    assert_answers_agree(case, "fp32", "at the limit")
    whole = case.with_arguments(top_p=1.0).run()[0]
    assert top_p > 0.9 or not torch.equal(case.run()[0], whole)


def assert_answers_agree(case: OpCase, weights: str, ending: str) -> None:
    """Tokens are the reference's but where rounding decides, log probabilities are those of the tokens."""
    if ending == "early":
        # A token that some row does write ends answers.
        end = int(case.run()[0][2, 2])
        case = case.with_arguments(end_of_sequence=end)
    tokens, logprob, finished, _, _, suffix_len = case.run()
    expected, expected_logprob, expected_finished, _, _, expected_len = case.run_reference()

    written = tokens >= 0
    lengths = written.sum(dim=1)
    assert torch.equal(written, torch.arange(tokens.shape[1]) < lengths[:, None])
    assert ending == "at the limit" or finished.any()
    reads = lengths + finished.long() + int(case.arguments["thought"] is not None)
    assert torch.equal(suffix_len, case.arguments["suffix_len"] + reads)

    # Every token is the reference's best, or within rounding of it, given the tokens before it.
    drawn = tokens.clone()
    drawn[finished, lengths[finished]] = case.arguments["end_of_sequence"]
    count = lengths + finished.long()
    values, logprobs = values_along(case, drawn, count)
    places = (torch.arange(drawn.shape[1]) < count[:, None]).nonzero(as_tuple=True)
    of_places = values[places].nan_to_num(-torch.inf)  # NaN: outside the nucleus
    best = of_places.topk(2, dim=1).values
    chosen = of_places.gather(1, drawn[places].unsqueeze(1)).squeeze(1)
    # Two values that are each off by the tolerance may change places.
    gap = 2 * tolerance("packed_logit", STORAGE[weights]).atol
    assert (best[:, 0] - chosen <= gap).all()
    along = torch.zeros(drawn.shape)
    along[places] = logprobs[places].gather(1, drawn[places].unsqueeze(1)).squeeze(1)
    assert_close(logprob, along.sum(dim=1), "packed_logit", storage=STORAGE[weights])

    # Where no token was within rounding of another, the reference itself writes the same answer.
    clear = torch.ones(case.rows, dtype=torch.bool)
    clear[places[0][best[:, 0] - best[:, 1] <= gap]] = False
    assert torch.equal(tokens[clear], expected[clear])
    assert torch.equal(finished[clear], expected_finished[clear])
    assert torch.equal(suffix_len[clear], expected_len[clear])
    assert_close(logprob[clear], expected_logprob[clear], "packed_logit", storage=STORAGE[weights])
    assert weights != "fp32" or clear.sum() >= case.rows // 2


# The same bits


def select_rollout(case: OpCase, rows: Tensor) -> dict[str, Tensor]:
    chosen = case.select(rows)
    return rollout_results(chosen, chosen.run())


@pytest.mark.parametrize("count", [5, 37, 150])
@on_every_format_and_body
def test_a_rollout_is_the_same_bits_in_every_batch(
    generator: Generator, body: str, weights: str, count: int
) -> None:
    packed, reward = (packed_model(generator, body, weights) for _ in range(2))
    case = latent_rollout_case(generator, packed, reward, rows=count, sigma=0.4, p=0.2, embedding=True)
    together = rollout_results(case, case.run())
    order = torch.randperm(count, generator=generator)
    for rows in (order, order[: count // 2], torch.tensor([count - 1]), torch.tensor([0, count - 1, 0])):
        alone = select_rollout(case, rows)
        for name in ("thoughts", "step_scores", "suffix_key", "suffix_value", "final_keys", "final_prompts"):
            assert torch.equal(alone[name], together[name][rows]), name


@pytest.mark.parametrize(("count", "top_p"), [(5, 1.0), (37, 0.7), (150, 1.0), (150, 0.7)])
@on_every_format_and_body
def test_an_answer_is_the_same_bits_in_every_batch(
    generator: Generator, body: str, weights: str, count: int, top_p: float
) -> None:
    packed = packed_model(generator, body, weights)
    case = decode_answers_case(
        generator, packed, rows=count, temperature=1.0, top_p=top_p, end_of_sequence=5, max_tokens=4
    )
    together = case.run()
    order = torch.randperm(count, generator=generator)
    for rows in (order, order[: count // 2], torch.tensor([count - 1])):
        tokens, logprob, finished, _, _, suffix_len = case.select(rows).run()
        for actual, expected in zip(
            (tokens, logprob, finished, suffix_len), (*together[:3], together[5]), strict=True
        ):
            assert torch.equal(actual, expected[rows])


@on_every_format_and_body
def test_a_prompt_is_the_same_bits_in_every_batch(generator: Generator, body: str, weights: str) -> None:
    # 300 tokens in all: more than pass through the layers together
    lengths = (7, 1, 33, 16, 2, 39, 30, 38, 1, 32, 37, 25, 39)
    packed = packed_model(generator, body, weights)
    case = read_prompts_case(generator, packed, lengths, p=0.2, embedding=True)
    hidden, key, value = case.run()
    order = torch.randperm(len(lengths), generator=generator)
    for prompts in (order, order[:5], torch.tensor([5])):
        alone = select_prompts(case, prompts).run()
        for actual, expected in zip(
            alone, (hidden[prompts], key[:, prompts], value[:, prompts]), strict=True
        ):
            assert_written_agrees(actual, expected, "rng", "fp32")


def results_of(case: OpCase) -> list[Tensor]:
    if case.name == "latent_rollout":
        return list(rollout_results(case, case.run()).values())
    return case.run()


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("rows", [1, 6, 40])
@on_every_format_and_body
def test_the_number_of_threads_changes_no_bit(
    generator: Generator, restored_threads: None, body: str, weights: str, rows: int
) -> None:
    packed, reward = (packed_model(generator, body, weights) for _ in range(2))
    for case in cases_of_every_op(generator, packed, reward, rows).values():
        torch.set_num_threads(1)
        expected = results_of(case)
        torch.set_num_threads(2)
        assert_same_bits(results_of(case), expected)


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= set(_native.supported_capabilities()), reason="needs levels avx2 and avx512"
)
@pytest.mark.parametrize("body", list(BODIES))
def test_avx2_and_avx512_give_the_same_bits_in_fp32(
    generator: Generator, restored_capability: None, body: str
) -> None:
    packed, reward = packed_model(generator, body), packed_model(generator, body)
    for case in cases_of_every_op(generator, packed, reward, 19).values():
        _native.set_cpu_capability("avx2")
        expected = results_of(case)
        _native.set_cpu_capability("avx512")
        assert_same_bits(results_of(case), expected)


def test_a_seed_may_be_an_int_or_a_tensor(generator: Generator) -> None:
    packed, reward = packed_model(generator), packed_model(generator)
    for case in cases_of_every_op(generator, packed, reward, 3).values():
        seed = int(case.arguments["seed"])
        expected = results_of(case)
        for same in (seed, seed % (1 << 64), torch.tensor(seed)):
            assert_same_bits(results_of(case.with_arguments(seed=same)), expected)
        with pytest.raises(TypeError, match="seed must be an int or an int64 tensor, got float"):
            case.with_arguments(seed=1.0).run()
