from __future__ import annotations

import random
from collections.abc import Iterator
from operator import eq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.reports.verification.pairing import aligned

ROWS = list(range(50))


def differing(expected: list[int], found: list[int]) -> list[tuple[int | None, int | None]]:
    return [(ours, theirs) for ours, theirs in aligned(expected, found, eq) if ours != theirs]


@given(first=st.integers(0, 49), count=st.integers(1, 30))
def test_what_is_missing_or_too_many_is_named_and_nothing_else(first: int, count: int) -> None:
    gap = ROWS[first : first + count]
    fewer = ROWS[:first] + ROWS[first + count :]
    assert differing(ROWS, fewer) == [(row, None) for row in gap]
    assert differing(fewer, ROWS) == [(None, row) for row in gap]


@given(st.sets(st.integers(0, 49), min_size=2, max_size=2))
def test_two_rows_that_have_changed_places_are_two_pairs(places: set[int]) -> None:
    one, other = places
    swapped = ROWS.copy()
    swapped[one], swapped[other] = other, one
    assert differing(ROWS, swapped) == sorted([(one, other), (other, one)])


def test_an_edited_row_is_a_pair_and_one_that_moved_is_missing_here_and_too_many_there() -> None:
    assert differing(ROWS, [*ROWS[:7], 99, *ROWS[8:]]) == [(7, 99)]
    assert differing(ROWS, [*ROWS[:7], *ROWS[8:], 7]) == [(7, None), (None, 7)]


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_every_item_of_both_comes_once_and_in_its_order(expected: list[int], found: list[int]) -> None:
    pairs = list(aligned(expected, found, eq))
    assert [ours for ours, _ in pairs if ours is not None] == expected
    assert [theirs for _, theirs in pairs if theirs is not None] == found
    assert (None, None) not in pairs


@pytest.mark.parametrize("kind", ["same", "other", "shuffled"])
def test_comparisons_grow_no_faster_than_rows_and_little_is_read_ahead(kind: str) -> None:
    rows = 100_000
    found = list(range(rows)) if kind != "other" else [-1] * rows
    if kind == "shuffled":
        random.Random(1).shuffle(found)
    taken = 0
    compared = 0

    def counted() -> Iterator[int]:
        nonlocal taken
        while taken < rows:
            taken += 1
            yield taken - 1

    def same(ours: int, theirs: int) -> bool:
        nonlocal compared
        compared += 1
        return ours == theirs

    pairs = aligned(counted(), found, same)
    for number, _ in enumerate(pairs):
        assert taken <= number + 1001
    assert compared <= (1 if kind == "same" else 25) * rows
