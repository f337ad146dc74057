"""Drift along a run: found if it is there and large, and hardly ever if it is not."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from batcher.quality import drift
from batcher.quality.drift import Table
from batcher.quality.figures import Ints


def table(counts: Ints, by: str = "input", of: str = "label", values: tuple[float, ...] | None = None) -> Table:
    return Table(
        by,
        of,
        tuple(f"stretch {at}" for at in range(len(counts))),
        tuple(f"column {at}" for at in range(counts.shape[1])),
        tuple(tuple(line) for line in counts.tolist()),
        values,
    )


def latencies(seconds: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> Table:
    """Return a table of latencies in tenths of a second."""
    rounded = [np.round(each, 1) for each in seconds]
    values = np.unique(np.concatenate(rounded))
    counts = np.array([np.bincount(np.searchsorted(values, each), minlength=len(values)) for each in rounded])
    return table(counts, of="latency", values=tuple(values.tolist()))


def steady(rng: np.random.Generator, rows: int, labels: int) -> list[Table]:
    """Return the tables of a run without drift: labels by input and time, two endpoints, statuses and latencies."""
    shares = rng.dirichlet(np.ones(labels))
    return [
        table(rng.multinomial(rows // 10, shares, size=10)),
        table(rng.multinomial(rows // 10, shares, size=10), by="time"),
        table(np.array([rng.multinomial(rows * 2 // 3, shares), rng.multinomial(rows // 3, shares)]), by="endpoint"),
        table(rng.multinomial(rows // 10, [0.97, 0.02, 0.01], size=10), of="status"),
        latencies(list(rng.lognormal(0, 1, (10, rows // 10)))),
    ]


@pytest.mark.parametrize(("rows", "labels"), [(300, 2), (2000, 30), (10_000, 5)])
def test_a_run_without_drift_raises_a_false_alarm_in_one_of_twenty_runs_at_most(rows: int, labels: int) -> None:
    rng = np.random.default_rng(4)
    found = [drift.drift(steady(rng, rows, labels)).looks for _ in range(100)]
    alarms = [min(look.corrected for look in looks) <= 0.05 for looks in found]
    # 5%, and what 100 runs are uncertain by.
    assert np.mean(alarms) <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 100)


def test_a_stretch_with_other_labels_is_found_with_how_far_it_is_off() -> None:
    counts = np.full((10, 2), (300, 700))
    counts[7] = (400, 600)
    [found] = drift.drift([table(counts)]).findings
    assert (found.stretch, found.column, found.rows) == ("stretch 7", "column 0", 1000)
    assert (found.here, found.elsewhere) == (0.4, 0.3)
    assert found.effect == pytest.approx(2 * (math.asin(math.sqrt(0.4)) - math.asin(math.sqrt(0.3))))
    assert found.corrected < 1e-6


def test_what_is_certain_and_small_is_no_finding() -> None:
    counts = np.full((10, 2), (30_000, 70_000))
    counts[7] = (31_500, 68_500)
    found = drift.drift([table(counts)])
    assert found.looks[0].corrected < 1e-15
    assert found.findings == ()


def test_of_two_endpoints_one_is_compared_once() -> None:
    found = drift.drift([table(np.array([[900, 50, 50], [700, 250, 50]]), by="endpoint")])
    assert {look.stretch for look in found.looks} == {None, "stretch 1"}
    assert {each.column for each in found.findings} == {"column 0", "column 1"}


def test_drift_that_is_spread_over_many_labels_is_found_for_the_whole_table() -> None:
    rng = np.random.default_rng(2)
    shares = np.full(70, 1 / 70)
    moved = shares * np.tile([0.65, 1.35], 35)
    counts = np.array([rng.multinomial(700, each) for each in (shares, shares, moved)])
    found = drift.drift([table(counts)]).findings
    assert [(each.stretch, each.column) for each in found] == [(None, None)]


def test_later_stretches_that_take_longer_are_found() -> None:
    rng = np.random.default_rng(3)
    seconds = [rng.lognormal(0 if at < 8 else 0.5, 0.5, 400) for at in range(10)]
    found = drift.drift([latencies(seconds)]).findings
    assert {each.stretch for each in found[:2]} == {"stretch 8", "stretch 9"}
    assert found[0].effect > 0.1
    assert (found[0].here or 0) > (found[0].elsewhere or 0)


@pytest.mark.parametrize("counts", [np.zeros((0, 0)), np.array([[5, 6]]), np.array([[5, 6], [0, 0]]), np.zeros((3, 2))])
def test_a_run_of_one_stretch_has_nothing_to_compare(counts: Ints) -> None:
    assert drift.drift([table(counts.astype(np.int64))]).looks == ()


def test_a_label_that_is_all_or_nothing_and_equal_latencies_show_nothing() -> None:
    same = table(np.array([[30, 0], [40, 0]]))
    equal = dataclasses.replace(same, of="latency", values=(0.1, 0.2))
    assert drift.drift([same, equal]).findings == ()


def test_holms_procedure_multiplies_by_the_tests_that_are_left() -> None:
    assert drift.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert drift.holm([0.5, 0.9]) == [1.0, 1.0]
    assert drift.holm([]) == []


def test_the_test_of_one_label_is_fishers_exact_one() -> None:
    # The lady tasting tea: 4 cups of 8, all 4 right; 1 of 70 ways.
    [look] = [each for each in drift.drift([table(np.array([[0, 4], [4, 0]]))]).looks if each.stretch]
    assert look.p == pytest.approx(2 / 70)


def test_the_tests_are_those_of_scipy() -> None:
    stats = pytest.importorskip(
        "scipy.stats", reason="the extra `oracles` is not installed: pip install -e '.[oracles]'"
    )
    rng = np.random.default_rng(6)
    counts = rng.multinomial(400, [0.5, 0.3, 0.2], size=4)
    counts[2] += np.array([0, 40, 25])
    looks = {(each.stretch, each.column): each for each in drift.drift([table(counts)]).looks}
    assert looks[None, None].p == pytest.approx(stats.chi2_contingency(counts).pvalue)
    for at, column in itertools.product(range(4), range(3)):
        here, rows, hits, total = counts[at, column], counts[at].sum(), counts[:, column].sum(), counts.sum()
        law = stats.hypergeom(total, hits, rows)
        expected = min(1.0, 2 * min(law.cdf(here), law.sf(here - 1)))
        if expected < 0.1:
            assert looks[f"stretch {at}", f"column {column}"].p == pytest.approx(expected, rel=1e-6)
    seconds = [np.round(rng.lognormal(0.1 * at, 0.5, 200), 1) for at in range(4)]
    found = {each.stretch: each for each in drift.drift([latencies(list(seconds))]).looks}
    assert found[None].p == pytest.approx(stats.kruskal(*seconds).pvalue, rel=1e-6)
    rest = np.concatenate(seconds[:3])
    expected = stats.mannwhitneyu(seconds[3], rest, method="asymptotic").pvalue
    assert found["stretch 3"].p == pytest.approx(expected, rel=1e-6)
