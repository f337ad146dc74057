"""Intervals hold the truth as often as they say, also with few hand labels, rare labels and many of them.

A part of the grid of `benchmarks/coverage.py`. Seeds are fixed; what a coverage from so few tables is uncertain by is
allowed for once at each point, and hardly matters for all points together.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from known_tables import ROWS, World, holds, many_labels, runs, two_labels

from batcher.quality.estimating import Sampled, estimate

LEAST = 0.92
TIMES = 200
# Of 200 tables, 92% of which hold, fewer than this many hold with a chance of 1%.
ENOUGH = LEAST - 2.33 * math.sqrt(LEAST * (1 - LEAST) / TIMES)

TWO = list(itertools.product((0.01, 0.05, 0.2, 0.5), ((0.6, 0.6), (0.6, 0.99), (0.95, 0.95), (0.99, 0.99)), (30, 300)))
MANY = [(5, 0.9, 30), (5, 0.99, 300), (20, 0.6, 100), (20, 0.99, 300), (77, 0.6, 30), (77, 0.9, 300)]


def coverage(world: World, hand: int, *, per_label: bool, times: int = TIMES) -> tuple[list[float], float]:
    """Return the coverage of each label's share, and of the accuracy."""
    shares, accuracy = np.zeros(len(world.shares)), 0
    for run in runs(world, hand, per_label=per_label, times=times, draws=400):
        figures = [run.estimate.label(name).share for name in world.names]
        truth = run.table.sum(1) / ROWS
        shares += [holds(each.low, each.high, share) for each, share in zip(figures, truth, strict=True)]
        accuracy += holds(run.estimate.accuracy.low, run.estimate.accuracy.high, np.trace(run.table) / ROWS)
    return list(shares / times), accuracy / times


@pytest.mark.parametrize("per_label", [False, True])
def test_intervals_of_two_labels_hold_the_truth(per_label: bool) -> None:
    found = {}
    for share, (yes, no), hand in TWO:
        [of_share, _], of_accuracy = coverage(two_labels(share, yes, no), hand, per_label=per_label)
        found[share, yes, no, hand] = (of_share, of_accuracy)
    assert {point: each for point, each in found.items() if min(each) < ENOUGH} == {}
    assert np.mean(list(found.values())) >= 0.95


@pytest.mark.parametrize("per_label", [False, True])
def test_intervals_of_many_labels_hold_the_truth(per_label: bool) -> None:
    found = {}
    for labels, right, hand in MANY:
        if per_label and hand < labels:
            continue
        world, times = many_labels(labels, right), 100
        of_shares, of_accuracy = coverage(world, hand, per_label=per_label, times=times)
        often = [each for each, share in zip(of_shares, world.shares, strict=True) if share >= 0.01]
        found[labels, right, hand] = (float(np.mean(often)), of_accuracy)
    least = LEAST - 2.33 * math.sqrt(LEAST * (1 - LEAST) / 100)
    assert {point: each for point, each in found.items() if min(each) < least} == {}
    assert np.mean(list(found.values())) >= 0.95


def test_the_same_check_fails_for_labels_that_are_merely_counted() -> None:
    world, counted, ours = two_labels(0.2, 0.95, 0.95), [], []
    for run in runs(world, 30, per_label=False, times=TIMES, draws=400):
        truth, share = run.table[0].sum() / ROWS, run.table[:, 0].sum() / ROWS
        reach = 1.96 * math.sqrt(share * (1 - share) / ROWS)
        counted.append(holds(share - reach, share + reach, truth))
        figure = run.estimate.label("label 0").share
        ours.append(holds(figure.low, figure.high, truth))
    assert np.mean(counted) < 0.02 < ENOUGH < np.mean(ours)


def test_a_bias_of_half_a_width_fails_the_check() -> None:
    world, moved = two_labels(0.2, 0.9, 0.9), []
    for run in runs(world, 100, per_label=False, times=TIMES, draws=400):
        figure = run.estimate.label("label 0").share
        half = (figure.width or 0.0) / 2
        moved.append(holds((figure.low or 0.0) + half, (figure.high or 0.0) + half, run.table[0].sum() / ROWS))
    assert np.mean(moved) < ENOUGH


def test_intervals_of_precision_recall_f1_and_kappa_hold_the_truth_where_they_are_known() -> None:
    held: dict[str, list[bool]] = {name: [] for name in ("precision", "recall", "f1", "kappa")}
    for world, hand in ((two_labels(0.05, 0.8, 0.95), 100), (many_labels(5, 0.9), 100)):
        for run in runs(world, hand, per_label=False, times=200, draws=400):
            right, model, true = np.diag(run.table), run.table.sum(0), run.table.sum(1)
            for at, name in enumerate(world.names):
                figures = run.estimate.label(name)
                truths = {
                    "precision": right[at] / model[at],
                    "recall": right[at] / true[at],
                    "f1": 2 * right[at] / (model[at] + true[at]),
                }
                for what, truth in truths.items():
                    figure = getattr(figures, what)
                    held[what] += [holds(figure.low, figure.high, truth)] if figure.value is not None else []
            agreed, chance = right.sum() / ROWS, float(model @ true) / ROWS**2
            kappa = run.estimate.kappa
            held["kappa"].append(holds(kappa.low, kappa.high, (agreed - chance) / (1 - chance)))
    assert {name: np.mean(each) for name, each in held.items() if np.mean(each) < 0.93} == {}
    assert min(map(len, held.values())) >= 400


def test_rows_without_a_label_that_the_sample_leaves_out_may_have_any() -> None:
    counts: dict[str | None, int] = {"yes": 500, "no": 8500, None: 1000}
    hand = [*[Sampled("yes", "yes", 0.1)] * 50, *[Sampled("no", "no", 50 / 8500)] * 50]
    found = estimate(counts, hand)
    share = found.label("yes").share
    assert found.unreached == 1000
    # All of them may be "yes", and none may be.
    assert holds(share.low, share.high, 0.05)
    assert holds(share.low, share.high, 0.15)
    assert holds(found.label("no").share.low, 1.0, 0.85)


def test_a_random_sample_that_meets_no_row_without_a_label_takes_them_to_be_few() -> None:
    found = estimate({"yes": 500, "no": 9490, None: 10}, [Sampled("no", "no", 0.01)] * 100)
    assert found.unreached == 0
