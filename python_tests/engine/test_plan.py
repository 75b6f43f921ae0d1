"""Plans: every trajectory once, never more memory than given unless one row alone needs it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_ext.engine.plan import plan

questions = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 4)), max_size=8)


@given(
    questions,
    st.integers(1, 40),
    st.integers(1, 4000),
    st.one_of(st.none(), st.integers(1, 50)),
    st.integers(0, 9),
)
def test_chunks_cover_every_trajectory_once_within_the_budget(asked, n, memory, max_rows, slope) -> None:  # type: ignore[no-untyped-def]
    lengths, limits = [length for length, _ in asked], [limit for _, limit in asked]

    def row_bytes(length: int) -> int:
        return 10 + slope * length

    seen: Counter[tuple[int, int]] = Counter()
    for chunk in plan(lengths, limits, n, row_bytes, memory_bytes=memory, max_rows=max_rows):
        assert {limits[b] for b in chunk.questions} == {chunk.answer_limit}
        assert [begin for begin, _ in chunk.parts] == [0] + [end for _, end in chunk.parts[:-1]]
        for begin, end in chunk.parts:
            rows = len(chunk.questions) * (end - begin)
            assert max_rows is None or rows <= max_rows
            assert rows == 1 or rows * row_bytes(max(lengths[b] for b in chunk.questions)) <= memory
            seen.update((b, i) for b in chunk.questions for i in range(begin, end))
    assert seen == Counter((b, i) for b in range(len(asked)) for i in range(n))


def test_ample_memory_gives_one_chunk_for_questions_of_one_limit() -> None:
    chunks = list(plan([9, 3, 5], [7, 7, 7], 4, lambda length: length, memory_bytes=1 << 20))
    assert [chunk.questions for chunk in chunks] == [(1, 2, 0)]
    assert chunks[0].parts == ((0, 4),)


@pytest.mark.parametrize(("argument", "value"), [("memory_bytes", 0), ("memory_bytes", -1), ("max_rows", 0)])
def test_a_budget_that_is_not_positive_is_named(argument: str, value: int) -> None:
    how = {"memory_bytes": 1000, argument: value}
    with pytest.raises(ValueError, match=f"^{argument}: got {value}"):
        list(plan([3], [3], 1, lambda length: length, **how))
