"""Two runs on the same hand labels: exact tests, and an interval of the difference that holds it."""

from __future__ import annotations

import numpy as np
import pytest

from batcher.quality.agreement import Pair, Paired, mcnemar, paired

# First, second, gold: both right, only the first, only the second, neither.
BOTH, FIRST, SECOND, NEITHER = ("x", "x", "x"), ("x", "y", "x"), ("x", "y", "y"), ("x", "y", "z")
WRONG = ("x", "x", "y")


def pairs(*cells: tuple[tuple[str, str, str], int], chance: float | None = 0.01) -> list[Pair]:
    return [Pair(*labels, chance) for labels, count in cells for _ in range(count)]


def test_mcnemars_test_is_the_exact_two_sided_binomial() -> None:
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert (mcnemar(0, 0), mcnemar(4, 4)) == (1.0, 1.0)


def test_mcnemars_test_is_that_of_statsmodels() -> None:
    tables = pytest.importorskip(
        "statsmodels.stats.contingency_tables",
        reason="the extra `oracles` is not installed: pip install -e '.[oracles]'",
    )
    for first, second in ((3, 15), (0, 6), (40, 41), (7, 2)):
        expected = tables.mcnemar([[50, first], [second, 20]], exact=True).pvalue
        assert mcnemar(first, second) == pytest.approx(min(expected, 1.0))


def test_the_figures_are_those_of_arithmetic_by_where_the_runs_differ() -> None:
    found = paired(10_000, 1000, pairs((BOTH, 80), (WRONG, 10), (FIRST, 6), (SECOND, 3), (NEITHER, 1)))
    both = 9000 * 80 / 90
    assert found.first.value == pytest.approx((both + 600) / 10_000)
    assert found.second.value == pytest.approx((both + 300) / 10_000)
    assert found.difference.value == pytest.approx(0.03)
    assert (found.only_first, found.only_second, found.p) == (6, 3, mcnemar(6, 3))
    # No difference can be larger than the share of rows that differ.
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert -0.1 < found.difference.low < 0 < found.difference.high <= 0.1


def test_runs_that_agree_everywhere_do_not_differ() -> None:
    found = paired(10_000, 0, pairs((BOTH, 80), (WRONG, 20)))
    assert (found.difference.value, found.difference.width, found.p) == (0.0, 0.0, 1.0)
    assert found.first == found.second


def test_without_a_hand_label_where_they_differ_the_difference_may_be_all_of_it() -> None:
    found = paired(10_000, 100, pairs((BOTH, 20)))
    assert (found.difference.low, found.difference.high) == (-0.01, 0.01)


def test_a_row_without_a_label_is_wrong() -> None:
    found = paired(4, 2, [Pair("x", None, "x", 1.0), Pair(None, "x", "x", 1.0), *pairs((BOTH, 2), chance=1.0)])
    assert (found.only_first, found.only_second, found.first.value) == (1, 1, 0.75)


def test_a_table_labelled_whole_has_no_interval_to_speak_of() -> None:
    found = paired(10, 4, pairs((BOTH, 6), (FIRST, 3), (SECOND, 1), chance=1.0))
    assert (found.difference.low, found.difference.high) == (0.2, 0.2)


def test_without_known_chances_there_is_a_test_and_no_interval() -> None:
    found = paired(100, 40, pairs((BOTH, 6), (FIRST, 4), chance=None))
    assert (found.drawn, found.difference.low) == (False, None)
    assert found.p == pytest.approx(0.125)
    assert found.difference.value == pytest.approx(0.4)


def test_without_hand_labels_nothing_is_known() -> None:
    found = paired(100, 40, [])
    assert (found.first.value, found.difference.value, found.p) == (None, None, 1.0)


@pytest.mark.parametrize(("chance", "words"), [(2.0, "at most 1"), (1.0, "hand labels of")])
def test_what_no_sample_can_be_is_refused(chance: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paired(10, 4, pairs((FIRST, 5), chance=chance))


def compared(rng: np.random.Generator, shares: tuple[float, float], hand: int, *, uneven: bool) -> tuple[Paired, float]:
    """Draw a table of 5,000 rows, of which 1,000 differ, and a sample, and compare; return the true difference, too."""
    first, second, neither = rng.multinomial(1000, [*shares, 1 - sum(shares)])
    both = rng.binomial(4000, 0.9)
    rows = np.repeat(np.arange(5), [first, second, neither, both, 4000 - both])
    chance = np.where(rows < 3, 4.0 if uneven else 1.0, 1.0)
    chance *= hand / chance.sum()
    drawn = np.flatnonzero(rng.random(5000) < chance) if uneven else rng.choice(5000, hand, replace=False)
    labels = (FIRST, SECOND, NEITHER, BOTH, WRONG)
    sampled = [Pair(*labels[rows[at]], float(chance[at])) for at in drawn]
    return paired(5000, 1000, sampled, seed=int(rng.integers(2**31)), draws=500), float(first - second) / 5000


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(("shares", "hand"), [((0.45, 0.45), 100), ((0.7, 0.2), 60), ((0.2, 0.1), 300)])
def test_the_interval_of_the_difference_holds_it(shares: tuple[float, float], hand: int, *, uneven: bool) -> None:
    rng, held = np.random.default_rng(8), []
    for _ in range(300):
        found, truth = compared(rng, shares, hand, uneven=uneven)
        assert found.difference.low is not None
        assert found.difference.high is not None
        held.append(found.difference.low <= truth <= found.difference.high)
    # 92%, less what 300 tables are uncertain by.
    assert np.mean(held) >= 0.92 - 2.33 * 0.0157


def test_equally_good_runs_differ_significantly_in_one_of_twenty_samples_at_most() -> None:
    rng = np.random.default_rng(9)
    for uneven in (False, True):
        p_values = [compared(rng, (0.45, 0.45), 100, uneven=uneven)[0].p for _ in range(300)]
        assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 2.33 * 0.0126


def test_rows_that_were_certain_to_be_drawn_stand_for_no_others() -> None:
    # Of 100 rows with a rare label, drawn whole, both runs have none right; of 60 drawn from 900 others, the first all.
    rare = [Pair("rare", "x", "x", 1.0)] * 50 + [Pair("rare", "rare", "x", 1.0)] * 50
    others = [Pair("x", "y", "x", 60 / 900)] * 30 + [Pair("x", "x", "x", 60 / 900)] * 30
    found = paired(1000, 500, [*rare, *others])
    assert found.first.value == pytest.approx(0.9, abs=0.01)
    assert found.second.value == pytest.approx(0.5, abs=0.01)
    assert found.difference.value == pytest.approx(0.4, abs=0.01)


def test_the_interval_of_a_difference_holds_if_a_rare_label_was_drawn_whole() -> None:
    rng, held = np.random.default_rng(5), []
    for seed in range(200):
        gold = rng.choice(3, 1500, p=[0.6, 0.37, 0.03])
        first, second = (np.where(rng.random(1500) < right, gold, rng.integers(0, 3, 1500)) for right in (0.7, 0.8))
        first = np.where((first == 2) | (rng.random(1500) < 0.03), 2, first)  # it is seldom right
        sampled = []
        for label in range(3):
            rows = np.flatnonzero(first == label)
            count = min(250 if label == 2 else 40, len(rows))
            taken = rng.choice(rows, count, replace=False)
            sampled += [Pair(str(first[at]), str(second[at]), str(gold[at]), count / len(rows)) for at in taken]
        found = paired(1500, int((first != second).sum()), sampled, seed=seed, draws=400).difference
        truth = (first == gold).mean() - (second == gold).mean()
        held.append((found.low or 0.0) <= truth <= (found.high or 0.0))
    assert np.mean(held) >= 0.92
