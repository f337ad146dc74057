"""How often the intervals of `batcher estimate` hold the truth, beside other ways, as tables in Markdown.

Invariant: each figure comes from tables whose true labels are known, drawn anew each time, and every way sees the same
tables and the same hand labels.

Of each table of 10,000 rows a sample is labelled by hand without a mistake. A cell holds the coverage and the mean
width of the intervals of the shares of the true labels: with two labels those of the first, with more the mean over all
labels of at least 1% (in brackets the least coverage of one of them). The last column holds those of the accuracy. The
ways:

- batcher: `batcher.quality.estimating.estimate`
- counted: the model's labels counted, with the usual interval of a share
- by hand: the hand labels alone, weighted by their chances, with the usual (Wald) interval
- PPI++: prediction-powered inference with the best weight (Angelopoulos, Duchi and Zrnic 2023); for unequal chances the
  weighted one
- Dirichlet: post-stratified by the model's label, with Jeffreys' weight 1/2 for each label in each stratum

A coverage from 1,000 tables is uncertain by 1.4 points (0.95), from 200 by 3.

    python benchmarks/coverage.py [--times N] [--only two|many] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from known_tables import ROWS, Run, Shares, World, holds, many_labels, runs, two_labels

_NORMAL = 1.959964
_WAYS = ("batcher", "counted", "by hand", "PPI++", "Dirichlet")
_DRAWS = 1000


class Tally(NamedTuple):
    """How often a way holds, and how wide it is, for each label."""

    held: Shares
    width: Shares


def counted(run: Run) -> Iterator[tuple[float, float]]:
    """Yield the interval of each label's share that counting the model's labels gives."""
    for share in run.table.sum(0) / ROWS:
        reach = _NORMAL * np.sqrt(share * (1 - share) / ROWS)
        yield share - reach, share + reach


def weighted(run: Run, *, predicted: bool) -> Iterator[tuple[float, float]]:
    """Yield the intervals of the hand labels alone, or of PPI++."""
    model, true, chance = (np.array(column) for column in zip(*run.sampled, strict=True))
    weight = 1 / chance
    weight /= weight.sum()
    for label, share in enumerate(run.table.sum(0) / ROWS):
        gold, guess = (true == label).astype(float), (model == label).astype(float)
        varies = weight @ (guess - weight @ guess) ** 2
        slope = weight @ ((guess - weight @ guess) * (gold - weight @ gold)) / varies if predicted and varies else 0.0
        rest = gold - slope * guess
        value = slope * share + weight @ rest
        reach = _NORMAL * np.sqrt(weight**2 @ (rest - weight @ rest) ** 2)
        yield value - reach, value + reach


def dirichlet(run: Run, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Yield the intervals of a Dirichlet with the weight 1/2 for each label in each stratum."""
    sampled = np.zeros(run.table.shape)
    for model, true, _ in run.sampled:
        sampled[true, model] += 1
    total = np.zeros((_DRAWS, len(run.table)))
    for model, rows in enumerate(run.table.sum(0)):
        drawn = rng.standard_gamma(sampled[:, model] + 0.5, (_DRAWS, len(run.table)))
        total += rows / ROWS * drawn / drawn.sum(1, keepdims=True)
    yield from zip(*np.quantile(total, (0.025, 0.975), axis=0), strict=True)


def measured(world: World, hand: int, *, per_label: bool, times: int) -> tuple[dict[str, Tally], float, float]:
    """Return the tallies of the shares by way, and coverage and width of the accuracy."""
    rng = np.random.default_rng(1)
    held: dict[str, list[list[bool]]] = defaultdict(list)
    width: dict[str, list[list[float]]] = defaultdict(list)
    accuracy = []
    for run in runs(world, hand, per_label=per_label, times=times, draws=_DRAWS):
        ours = [run.estimate.label(name).share for name in world.names]
        ways = {
            "batcher": ((each.low or 0.0, each.high or 0.0) for each in ours),
            "counted": counted(run),
            "by hand": weighted(run, predicted=False),
            "PPI++": weighted(run, predicted=True),
            "Dirichlet": dirichlet(run, rng),
        }
        truth = run.table.sum(1) / ROWS
        for way, intervals in ways.items():
            pairs = list(intervals)
            held[way].append([holds(*pair, each) for pair, each in zip(pairs, truth, strict=True)])
            width[way].append([high - low for low, high in pairs])
        figure = run.estimate.accuracy
        accuracy.append((holds(figure.low, figure.high, np.trace(run.table) / ROWS), figure.width or 0.0))
    tallies = {way: Tally(np.mean(held[way], axis=0), np.mean(width[way], axis=0)) for way in _WAYS}
    of_accuracy, wide = np.mean(accuracy, axis=0)
    return tallies, float(of_accuracy), float(wide)


def row(name: str, world: World, hand: int, *, per_label: bool, times: int) -> str:
    """Return a line of the table."""
    tallies, accuracy, wide = measured(world, hand, per_label=per_label, times=times)
    often = world.shares >= 0.01 if len(world.shares) > 2 else np.array([True, False])
    cells = [name, f"{hand} {'per label' if per_label else 'of all'}"]
    for way, tally in tallies.items():
        least = f" ({tally.held[often].min():.2f})" if way == "batcher" and len(world.shares) > 2 else ""
        cells.append(f"{tally.held[often].mean():.3f}{least} / {tally.width[often].mean():.3f}")
    cells.append(f"{accuracy:.3f} / {wide:.3f}")
    return "| " + " | ".join(cells) + " |"


def lines(times: int, only: str, *, quick: bool) -> Iterator[str]:
    """Yield the lines of the table as they come."""
    yield "| true share, sensitivity, specificity | hand labels | " + " | ".join(_WAYS) + " | accuracy |"
    yield "| --- " * (3 + len(_WAYS)) + "|"
    hands = (30, 300) if quick else (30, 100, 300)
    if only != "many":
        pairs = ((0.6, 0.6), (0.6, 0.99), (0.95, 0.95), (0.99, 0.99)) if quick else _PAIRS
        for share, (yes, no), hand, per_label in itertools.product(_SHARES, pairs, hands, (False, True)):
            yield row(f"{share:.0%}, {yes}, {no}", two_labels(share, yes, no), hand, per_label=per_label, times=times)
    if only != "two":
        for count, right, hand, per_label in itertools.product((5, 20, 77), _RIGHT, hands, (False, True)):
            if not per_label or hand >= count:
                world = many_labels(count, right)
                yield row(f"{count} labels, {right} right", world, hand, per_label=per_label, times=max(times // 5, 1))


_SHARES = (0.01, 0.05, 0.2, 0.5)
_PAIRS = (*itertools.product((0.6, 0.8, 0.95), (0.6, 0.8, 0.95)), (0.6, 0.99), (0.95, 0.99), (0.99, 0.99))
_RIGHT = (0.6, 0.8, 0.95, 0.99)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--times", type=int, default=1000, help="tables for each line; a fifth of them with many labels"
    )
    parser.add_argument("--only", choices=("two", "many"), default="")
    parser.add_argument("--quick", action="store_true", help="a part of the grid")
    options = parser.parse_args()
    for line in lines(options.times, options.only, quick=options.quick):
        print(line, flush=True)
