"""Means and quantiles of numbers: narrower by the model's numbers, and true without their help."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from batcher.quality.figures import Figure, Floats
from batcher.quality.means import Measured, Numbers, numbers

ROWS = 4000


def table(rng: np.random.Generator, kind: str) -> tuple[Floats, Floats]:
    """Return the model's numbers, NaN without one, and the true ones."""
    true = rng.normal(50, 10, ROWS)
    if kind == "score":
        true = rng.integers(1, 6, ROWS).astype(float)
        return np.clip(true + rng.choice([-1, 0, 0, 0, 1], ROWS), 1, 5), true
    if kind == "useless":
        return np.round(rng.normal(0, 1, ROWS), 1), true
    model = np.round(true + rng.normal(2, 5, ROWS))
    return (np.where(rng.random(ROWS) < 0.1, np.nan, model) if kind == "gaps" else model), true


def estimated(rng: np.random.Generator, model: Floats, true: Floats, hand: int) -> Numbers:
    counts = Counter(None if np.isnan(each) else float(each) for each in model)
    drawn = rng.choice(len(model), hand, replace=False)
    chance = hand / len(model)
    sampled = [
        Measured(None if np.isnan(model[at]) else float(model[at]), float(true[at]), chance) for at in drawn.tolist()
    ]
    return numbers(counts, sampled, seed=int(rng.integers(2**31)), draws=400)


def holds(figure: Figure, truth: float) -> bool:
    return figure.low is not None and figure.high is not None and figure.low <= truth <= figure.high


@pytest.mark.parametrize("kind", ["close", "score", "useless", "gaps"])
def test_the_intervals_hold_the_mean_and_the_quantiles(kind: str) -> None:
    rng, held = np.random.default_rng(1), []
    for _ in range(100):
        model, true = table(rng, kind)
        found, ordered = estimated(rng, model, true, 60), np.sort(true)
        bias = float(np.nanmean(model - true))
        held.append(
            [
                holds(found.mean, float(true.mean())),
                holds(found.bias, bias),
                *(holds(each.figure, ordered[int(np.ceil(each.p * ROWS)) - 1]) for each in found.quantiles),
            ]
        )
    # 92%, less what 100 tables are uncertain by.
    assert (np.mean(held, axis=0) >= 0.92 - 2.33 * 0.0271).all(), np.mean(held, axis=0)


def test_good_numbers_of_the_model_make_the_interval_narrow_and_useless_ones_do_no_harm() -> None:
    rng = np.random.default_rng(2)
    true = rng.normal(50, 10, ROWS)
    good, useless = np.round(true + rng.normal(2, 2, ROWS), 1), np.round(rng.normal(0, 1, ROWS), 1)
    widths = [estimated(np.random.default_rng(3), model, true, 100).mean.width or 0 for model in (good, useless)]
    alone = 2 * 1.98 * 10 / 100**0.5
    assert widths[0] < alone / 3
    assert widths[1] == pytest.approx(alone, rel=0.2)


def test_the_mean_is_the_regression_estimate() -> None:
    hand = [Measured(x, y, 0.001) for x, y in ((1.0, 3.0), (2.0, 5.0), (3.0, 7.0), (4.0, 9.0))]
    found = numbers({1.0: 1000, 2.0: 1000, 3.0: 1000, 4.0: 1000, 10.0: 1000}, hand)
    # On the line y = 2 x + 1, and 4 is the mean of the model's numbers.
    assert found.raw == 4.0
    assert found.mean.value == pytest.approx(9.0)
    assert found.bias.value == pytest.approx(2.5 - 6.0)
    assert found.error.value == pytest.approx(3.5)


def test_a_table_measured_whole_is_known() -> None:
    hand = [*[Measured(1.0, 2.0, 1.0)] * 3, Measured(None, 4.0, 1.0)]
    found = numbers({1.0: 3, None: 1}, hand)
    assert (found.rows, found.numbered) == (4, 3)
    assert found.mean == Figure(2.5, 2.5, 2.5, 0)
    assert [each.figure.value for each in found.quantiles] == [2.0, 2.0, 4.0]
    assert {each.figure.width for each in found.quantiles} == {0.0}


def test_without_known_chances_there_are_figures_and_no_interval() -> None:
    found = numbers({1.0: 3, 2.0: 4}, [Measured(1.0, 2.0, None)] * 3)
    assert (found.drawn, found.mean, found.quantiles[1].figure) == (False, Figure(2.0), Figure(2.0))


def test_one_measured_row_is_no_interval_of_a_mean() -> None:
    assert numbers({1.0: 30}, [Measured(1.0, 2.0, 0.1)]).mean == Figure(2.0)


def test_without_measured_rows_the_models_quantiles_are_left() -> None:
    found = numbers({1.0: 5, 2.0: 5}, [])
    assert [(each.raw, each.figure.value) for each in found.quantiles] == [(1.0, None), (1.0, None), (2.0, None)]
    assert numbers({}, []).raw is None


def test_equal_arguments_give_equal_numbers_and_a_chance_that_is_none_is_refused() -> None:
    hand = [Measured(float(x), x + 0.5, 0.1) for x in range(10)]
    counts: dict[float | None, int] = {float(x): 10 for x in range(10)}
    assert numbers(counts, hand) == numbers(counts, hand)
    with pytest.raises(ValueError, match="at most 1"):
        numbers(counts, [Measured(1.0, 2.0, 3.0)])


def test_in_a_large_sample_the_interval_of_the_mean_is_that_of_ppi_python() -> None:
    ppi = pytest.importorskip("ppi_py", reason="the extra `oracles` is not installed: pip install -e '.[oracles]'")
    rng = np.random.default_rng(5)
    true = rng.normal(3, 1, 200_000)
    model = np.round(true + rng.normal(0.2, 0.5, len(true)), 2)
    low, high = ppi.ppi_mean_ci(true[:2000], model[:2000], model[2000:], alpha=0.05)
    hand = [Measured(float(x), float(y), 0.01) for x, y in zip(model[:2000], true[:2000], strict=True)]
    found = numbers(Counter(map(float, model)), hand, draws=200).mean
    assert found.low == pytest.approx(low[0], abs=0.05 * (high[0] - low[0]))
    assert found.high == pytest.approx(high[0], abs=0.05 * (high[0] - low[0]))


def test_a_long_tail_needs_more_numbers_than_even_ones() -> None:
    rng = np.random.default_rng(3)
    for true, is_long in ((rng.lognormal(0, 1, ROWS), True), (rng.normal(50, 10, ROWS), False)):
        model = np.round(true * rng.uniform(0.8, 1.2, ROWS), 2)
        found = estimated(rng, model, true, 100)
        assert (found.enough > found.hand) == is_long
        assert estimated(rng, model, true, ROWS).enough == 0
    # The tail is in the table, and not in the sample.
    counts: dict[float | None, int] = {1.0: 990, 2.0: 1000, 500.0: 10}
    found = numbers(counts, [Measured(1.0, 1.0, 0.05)] * 50 + [Measured(2.0, 2.0, 0.05)] * 50)
    assert found.enough > 1000


def test_a_model_whose_few_errors_are_not_in_the_sample_is_not_taken_to_be_without_any() -> None:
    rng, held = np.random.default_rng(4), []
    for seed in range(60):
        true = rng.integers(1, 6, ROWS).astype(float)
        model = np.where(rng.random(ROWS) < 0.01, np.maximum(true - 2, 1), true)
        counts: Counter[float | None] = Counter(map(float, model))
        drawn = rng.choice(ROWS, 100, replace=False)
        rows = [Measured(float(model[at]), float(true[at]), 100 / ROWS) for at in drawn]
        found = numbers(counts, rows, quantiles=(), seed=seed, draws=1)
        held.append((holds(found.mean, true.mean()), holds(found.bias, float((model - true).mean()))))
        assert found.error.low is not None
        assert found.error.low >= 0
        assert (found.mean.width or 0.0) < 0.3, "the sample alone has 0.55"
    assert (np.mean(held, axis=0) >= 0.92).all()
