"""A draw is a simple random sample, a larger one holds a smaller one, and each row's chance is what it says."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batcher.quality.drawing import Numbers, chance_in, draw
from batcher.records import Stratum

TABLES = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from(["x", "y", None])), max_size=30)


def sorted_rows(rows: list[tuple[bytes, str | None]]) -> list[tuple[bytes, int, str | None]]:
    numbered = ((marks, position, label) for position, (marks, label) in enumerate(rows))
    return sorted(numbered, key=lambda each: each[:2])


def drawn(rows: list[tuple[bytes, str | None]], most: int, seed: int = 0, *, per_label: bool = False) -> set[int]:
    found = draw(Numbers("k", seed).each(sorted_rows(rows), per_label=per_label), most)
    return {each.position for each in found.rows}


@given(TABLES, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_a_larger_draw_holds_a_smaller_one(
    rows: list[tuple[bytes, str | None]], one: int, other: int, per_label: bool
) -> None:
    fewer, more = sorted((one, other))
    assert drawn(rows, fewer, per_label=per_label) <= drawn(rows, more, per_label=per_label)


@given(TABLES, st.integers(1, 20), st.booleans())
def test_a_draw_takes_as_many_rows_of_each_stratum_as_it_is_asked_for(
    rows: list[tuple[bytes, str | None]], most: int, per_label: bool
) -> None:
    found = draw(Numbers("k", 1).each(sorted_rows(rows), per_label=per_label), most)
    sizes = Counter(label if per_label else None for _, label in rows)
    assert {each.label: (each.rows, each.drawn) for each in found.strata} == {
        label: (size, min(size, most)) for label, size in sizes.items()
    }
    assert len({each.position for each in found.rows}) == len(found.rows) == sum(each.drawn for each in found.strata)
    for each in found.strata:
        assert each.below == max(row.number for row in found.rows if row.label == each.label)


@given(st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=20), st.randoms(), st.integers(1, 10))
def test_the_same_rows_are_drawn_in_whatever_order_the_table_is(
    cells: list[bytes], chance: random.Random, most: int
) -> None:
    shuffled = [*cells]
    chance.shuffle(shuffled)
    before, after = (
        [table[each] for each in drawn([(cell, None) for cell in table], most)] for table in (cells, shuffled)
    )
    assert Counter(before) == Counter(after)


@given(st.sets(st.binary(min_size=1, max_size=2), min_size=2, max_size=20), st.integers(1, 10))
def test_rows_that_come_later_displace_others_and_no_more(cells: set[bytes], most: int) -> None:
    *old, new = sorted(cells)
    before = {old[each] for each in drawn([(cell, None) for cell in old], most)}
    after = {[*old, new][each] for each in drawn([(cell, None) for cell in [*old, new]], most)}
    assert after - before <= {new}


def test_each_row_and_each_pair_is_drawn_as_often_as_its_chance_says() -> None:
    rows: list[tuple[bytes, str | None]] = [(b"%d" % number, None) for number in range(8)]
    rows[3] = rows[4]  # equal rows have chances of their own
    seeds, most = 6000, 3
    found = [drawn(rows, most, seed) for seed in range(seeds)]
    single = Counter(position for each in found for position in each)
    pairs = Counter(pair for each in found for pair in itertools.combinations(sorted(each), 2))
    for position in range(len(rows)):
        assert abs(single[position] / seeds - 3 / 8) < 0.03
    for pair in itertools.combinations(range(len(rows)), 2):
        assert abs(pairs[pair] / seeds - 3 * 2 / (8 * 7)) < 0.03


def test_in_a_draw_per_label_each_row_is_drawn_as_often_as_its_stratum_says() -> None:
    rows: list[tuple[bytes, str | None]] = [(b"%d" % number, "x" if number < 2 else "y") for number in range(10)]
    rows[9] = (b"9", None)
    seeds = 4000
    found = [draw(Numbers("k", seed).each(sorted_rows(rows), per_label=True), 2) for seed in range(seeds)]
    assert {each.label: each.chance for each in found[0].strata} == {"x": 1.0, "y": 2 / 7, None: 1.0}
    counts = Counter(row.position for each in found for row in each.rows)
    for position, (_, label) in enumerate(rows):
        chance = next(each.chance for each in found[0].strata if each.label == label)
        assert abs(counts[position] / seeds - chance) < 0.03


def test_other_keywords_and_seeds_draw_other_rows() -> None:
    rows = [(b"%d" % number, number, None) for number in range(1000)]
    ways = [("k", 0), ("k", 1), ("j", 0)]
    found = [{each.position for each in draw(Numbers(*way).each(rows, per_label=False), 100).rows} for way in ways]
    assert all(len(one & other) < 40 for one, other in itertools.combinations(found, 2))


def test_a_row_that_an_earlier_draw_would_have_taken_had_no_chance_in_it() -> None:
    strata = [Stratum("x", 100, 10, 0.1), Stratum(None, 50, 50, 0.99)]
    assert chance_in(strata, 0.2, "x") == 0.1
    assert chance_in(strata, 0.05, "x") == 0.0
    assert chance_in(strata, 0.995, None) == 1.0
    assert chance_in(strata, 0.5, "other") == 0.0


def test_the_order_of_the_file_says_nothing_about_labels() -> None:
    numbers = Numbers("k", 0)
    order = sorted(range(200), key=numbers.order)
    firsts = [sum(position < 100 for position in order[start : start + 50]) for start in range(0, 200, 50)]
    assert all(10 < each < 40 for each in firsts)
