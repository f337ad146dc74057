"""Tables whose true labels are known, samples of them, and how often intervals hold the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batcher.quality.estimating import Estimate, Sampled, estimate

ROWS = 10_000
Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What tables are drawn from.

    Attributes:
        shares: of the true labels.
        confusion: the model's label given the true one, `confusion[true][model]`.
    """

    shares: Shares
    confusion: Shares

    @property
    def names(self) -> list[str]:
        return [f"label {at}" for at in range(len(self.shares))]

    def table(self, rng: np.random.Generator) -> Counts:
        """Draw a table of `ROWS` rows; return its counts, `counts[true][model]`."""
        joint = self.shares[:, None] * self.confusion
        return rng.multinomial(ROWS, joint.ravel() / joint.sum()).reshape(joint.shape)


def two_labels(share: float, sensitivity: float, specificity: float) -> World:
    """Return a world of two labels, of which the first has this share."""
    return World(
        np.array([share, 1 - share]),
        np.array([[sensitivity, 1 - sensitivity], [1 - specificity, specificity]]),
    )


def many_labels(count: int, right: float) -> World:
    """Return a world of labels with shares like 1, 1/2, 1/3 ..., each of which is right equally often."""
    shares = 1 / np.arange(1, count + 1)
    confusion = np.full((count, count), (1 - right) / (count - 1))
    np.fill_diagonal(confusion, right)
    return World(shares / shares.sum(), confusion)


def sample(table: Counts, hand: int, rng: np.random.Generator, *, per_label: bool) -> Iterator[tuple[int, int, float]]:
    """Draw a sample by hand; yield the model's label, the true one and the chance of each row."""
    by_model = table.sum(0)
    if per_label:
        for model, rows in enumerate(by_model.tolist()):
            drawn = min(max(hand // len(by_model), 1), rows)
            for true, count in enumerate(rng.multivariate_hypergeometric(table[:, model], drawn).tolist()):
                yield from [(model, true, drawn / rows)] * count
        return
    drawn = rng.multivariate_hypergeometric(table.ravel(), hand).reshape(table.shape)
    for true, model in np.argwhere(drawn):
        yield from [(int(model), int(true), hand / int(table.sum()))] * int(drawn[true, model])


@dataclass(frozen=True)
class Run:
    """A table, its sample and what is estimated of it."""

    table: Counts
    sampled: Sequence[tuple[int, int, float]]
    estimate: Estimate


def runs(world: World, hand: int, *, per_label: bool, times: int, draws: int = 1000, seed: int = 0) -> Iterator[Run]:
    """Draw tables and samples of them, and estimate."""
    rng, names = np.random.default_rng(seed), world.names
    for at in range(times):
        table = world.table(rng)
        sampled = list(sample(table, hand, rng, per_label=per_label))
        counts: dict[str | None, int] = dict(zip(names, table.sum(0).tolist(), strict=True))
        rows = [Sampled(names[model], names[true], chance) for model, true, chance in sampled]
        yield Run(table, sampled, estimate(counts, rows, seed=at, draws=draws))


def holds(low: float | None, high: float | None, truth: float) -> bool:
    """Return whether an interval holds the truth, up to rounding."""
    return low is not None and high is not None and low - 1e-9 <= truth <= high + 1e-9
