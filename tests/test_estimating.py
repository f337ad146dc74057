"""Figures with intervals from hand labels: what is known is exact, what is not is allowed for."""

from __future__ import annotations

import dataclasses

import pytest

from batcher.quality.estimating import Estimate, Sampled, estimate


def rows(label: str | None, gold: str, count: int, chance: float | None = 0.01) -> list[Sampled]:
    return [Sampled(label, gold, chance)] * count


TABLE = {"no": 5300, "yes": 4500, None: 200}
HAND = [
    *rows("yes", "yes", 40),
    *rows("yes", "no", 5),
    *rows("no", "no", 50),
    *rows("no", "yes", 3),
    *rows(None, "yes", 2),
]


def test_the_figures_of_a_random_sample_are_those_of_arithmetic() -> None:
    found = estimate(TABLE, HAND)
    # Each stratum's share of right rows, times its rows.
    right = 4500 * 40 / 45 + 5300 * 50 / 53
    assert found.accuracy.value == pytest.approx(right / 9800)
    yes = found.label("yes")
    true = 4500 * 40 / 45 + (5300 + 200) * 5 / 55
    assert yes.share.value == pytest.approx(true / 10000)
    assert yes.precision.value == pytest.approx(40 / 45)
    assert yes.recall.value == pytest.approx(4000 / true)
    assert yes.f1.value == pytest.approx(2 * 4000 / (4500 + true))
    assert yes.raw == 4500 / 9800
    assert (yes.rows, yes.hand, yes.checked, yes.few) == (4500, 45, 45, False)


def test_equal_arguments_give_an_equal_estimate_and_another_seed_moves_the_limits_a_little() -> None:
    first, again, other = (estimate(TABLE, HAND, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    for one, two in zip(first.labels, other.labels, strict=True):
        assert one.share.low == pytest.approx(two.share.low, abs=0.01)


def test_a_table_labelled_whole_by_hand_has_no_interval_to_speak_of() -> None:
    hand = [*rows("a", "a", 3, 1.0), *rows("b", "a", 2, 1.0)]
    found = estimate({"a": 3, "b": 2}, hand)
    assert found.accuracy == dataclasses.replace(found.accuracy, value=0.6, low=0.6, high=0.6, more=0)
    assert [each.share.value for each in found.labels] == [1.0, 0.0]
    assert {each.share.width for each in found.labels} == {0.0}
    assert found.few == ()


def test_without_known_chances_there_are_figures_and_no_interval() -> None:
    found = estimate({"a": 30, "b": 20}, [*rows("a", "a", 3, None), *rows("b", "a", 2, None)])
    assert found.drawn is False
    assert found.accuracy.value == pytest.approx(0.6)
    assert found.accuracy.low is None
    assert found.labels[0].share.width is None


def test_hand_labels_of_unknown_origin_are_left_out_beside_drawn_ones() -> None:
    plain = estimate(TABLE, HAND)
    mixed = estimate(TABLE, [*HAND, *rows("no", "yes", 500, None)])
    assert (mixed.unused, mixed.hand) == (500, 100)
    assert dataclasses.replace(mixed, unused=0) == plain


@pytest.mark.parametrize("counts", [{}, {"a": 5}, {None: 7}])
def test_without_hand_labels_nothing_is_known(counts: dict[str | None, int]) -> None:
    found: Estimate = estimate(counts, [])
    assert (found.accuracy.value, found.kappa.value, found.hand) == (None, None, 0)
    assert all(each.share.value is None for each in found.labels)
