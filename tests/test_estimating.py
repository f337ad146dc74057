"""Figures with intervals from hand labels: what is known is exact, what is not is allowed for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from batcher.quality.estimating import Estimate, Sampled, estimate
from batcher.quality.figures import Figure


def width(figure: Figure) -> float:
    assert figure.width is not None
    return figure.width


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


def test_a_stratum_that_is_labelled_whole_is_known_and_the_rest_is_drawn() -> None:
    hand = [*rows("rare", "rare", 6, 1.0), *rows("rare", "common", 4, 1.0), *rows("common", "common", 50, 0.05)]
    found = estimate({"rare": 10, "common": 990}, hand)
    rare = found.label("rare")
    assert (rare.precision.value, rare.precision.low, rare.precision.high) == (0.6, 0.6, 0.6)
    assert rare.share.low == pytest.approx(0.006)
    assert rare.share.high == pytest.approx(0.006 + 0.06, abs=0.01)


def test_a_chance_of_1_in_a_stratum_that_is_not_labelled_whole_is_no_census() -> None:
    found = estimate({"a": 100, "b": 100}, [*rows("a", "a", 20, 1.0), *rows("b", "b", 20, 0.2)])
    assert found.label("a").precision.low == pytest.approx(0.9, abs=0.05)


def test_a_gold_label_that_the_model_never_gives_has_a_share_and_no_precision() -> None:
    found = estimate({"a": 500, "b": 500}, [*rows("a", "c", 5, 0.05), *rows("a", "a", 20, 0.05)])
    other = found.label("c")
    assert (other.rows, other.precision.value, other.recall.value, other.few) == (0, None, 0.0, True)
    assert other.share.low is not None
    assert other.share.low > 0


def test_a_label_that_no_hand_label_says_may_not_be_there_and_has_no_recall() -> None:
    found = estimate({"a": 5000, "b": 5000}, [*rows("a", "a", 20), *rows("b", "a", 20)])
    b = found.label("b")
    assert (b.share.value, b.share.low, b.recall.value, b.f1.value) == (0.0, 0.0, None, None)
    # Nothing in 20 and in 20 more, each half of the table.
    assert b.share.high == pytest.approx(0.12, abs=0.03)


def test_one_label_right_each_time_has_the_exact_lower_limit() -> None:
    found = estimate({"a": 1_000_000}, rows("a", "a", 30, 3e-5))
    assert found.accuracy.high == 1.0
    assert found.accuracy.low == pytest.approx(0.025 ** (1 / 30), abs=0.01)
    assert found.kappa.value is None


def test_a_label_that_the_sample_misses_keeps_the_accuracy_of_the_others_as_its_value() -> None:
    hand = [*rows("a", "a", 27), *rows("a", "c", 3)]
    found = estimate({"a": 9000, "b": 1000}, hand)
    assert found.label("b").precision.value is None
    assert found.label("b").share.value == pytest.approx(0.1 * 0.9, abs=0.005)
    # Any of the rows of b may be a or b: the sample holds none.
    assert found.label("b").share.low == pytest.approx(0.0, abs=0.001)
    assert found.label("b").share.high == pytest.approx(0.1 + 0.1, abs=0.05)


def test_chances_may_differ_in_a_stratum_because_labels_changed_after_the_draw() -> None:
    # Rows drawn ten times as often as others stand for a tenth of the rows.
    hand = [*rows("a", "a", 40, 0.5), *rows("a", "b", 4, 0.05), *rows("b", "b", 30, 0.05)]
    found = estimate({"a": 400, "b": 600}, hand)
    right = 40 + (400 - 44) * (40 * 1) / (40 * 1 + 4 * 19)
    assert found.label("a").precision.value == pytest.approx(right / 400)
    assert width(found.label("a").precision) > 2 * width(found.label("b").precision)


def test_figures_do_not_depend_on_the_order_of_rows_or_counts() -> None:
    mixed = estimate(dict(reversed(TABLE.items())), HAND[::2] + HAND[1::2])
    for one, two in zip(mixed.labels, estimate(TABLE, HAND).labels, strict=True):
        assert one.label == two.label
        assert one.share.value == pytest.approx(two.share.value)
        assert one.share.low == pytest.approx(two.share.low, abs=0.01)


def test_shares_of_all_labels_add_up_to_1() -> None:
    hand = [*HAND, *rows("no", "maybe", 4)]
    assert sum(each.share.value or 0.0 for each in estimate(TABLE, hand).labels) == pytest.approx(1)


def test_four_times_the_hand_labels_halve_the_interval_as_the_figure_says() -> None:
    some = estimate(TABLE, HAND)
    assert some.accuracy.more == pytest.approx(3 * 98, abs=12)
    more = estimate(TABLE, [dataclasses.replace(each, chance=0.04) for each in HAND * 4])
    assert width(more.accuracy) == pytest.approx(width(some.accuracy) / 2, rel=0.12)


def test_hand_labels_are_counted_beside_what_they_stand_for_in_the_table() -> None:
    found = estimate(TABLE, HAND).confusion
    assert (found.model, found.gold) == (("no", "yes", None), ("no", "yes"))
    assert found.counted == ((50, 3), (5, 40), (0, 2))
    assert found.estimated[0] == pytest.approx((5000, 300))
    assert found.estimated[2] == pytest.approx((0, 200))


def test_labels_with_few_hand_labels_are_named() -> None:
    hand = [*HAND, *rows("maybe", "maybe", 9)]
    found = estimate({**TABLE, "maybe": 900}, hand)
    assert found.few == ("maybe",)


def test_a_label_with_few_rows_has_enough_hand_labels_if_all_its_rows_have_one() -> None:
    hand = [*rows("rare", "rare", 4, 1.0), *rows("common", "common", 40, 0.1), *rows("common", "rare", 6, 0.1)]
    assert estimate({"rare": 4, "common": 460}, hand).few == ()


@pytest.mark.parametrize("chance", [0.0, -0.1, 1.5])
def test_a_chance_that_is_none_is_refused(chance: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        estimate(TABLE, rows("yes", "yes", 3, chance))


def test_more_sampled_rows_than_the_table_has_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sampled rows have the label 'yes', but 2"):
        estimate({"yes": 2}, rows("yes", "yes", 3))


def test_a_label_that_nobody_gave_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        estimate(TABLE, HAND).label("other")


def test_in_a_large_sample_the_interval_of_a_share_is_that_of_prediction_powered_inference() -> None:
    # 40,000 hand labels of 4,000,000 rows; PPI++ with its best weight, in closed form.
    cells = {("a", "a"): 9000, ("a", "b"): 3000, ("b", "a"): 2000, ("b", "b"): 26000}
    hand = [each for (model, gold), count in cells.items() for each in rows(model, gold, count)]
    found = estimate({"a": 1_200_000, "b": 2_800_000}, hand).label("a").share
    called = np.repeat([model == "a" for model, _ in cells], list(cells.values())).astype(float)
    gold = np.repeat([true == "a" for _, true in cells], list(cells.values())).astype(float)
    slope = np.cov(called, gold, ddof=0)[0, 1] / called.var()
    value = slope * 0.3 + (gold - slope * called).mean()
    reach = 1.96 * (gold - slope * called).std() / len(gold) ** 0.5
    assert found.value == pytest.approx(value, abs=1e-6)
    assert found.low == pytest.approx(value - reach, abs=0.05 * reach)
    assert found.high == pytest.approx(value + reach, abs=0.05 * reach)


def test_in_a_large_sample_the_interval_of_a_share_is_that_of_ppi_python() -> None:
    ppi = pytest.importorskip("ppi_py", reason="the extra `oracles` is not installed: pip install -e '.[oracles]'")
    rng = np.random.default_rng(5)
    true = rng.random(400_000) < 0.3
    model = np.where(rng.random(len(true)) < 0.9, true, ~true)
    drawn = np.zeros(len(true), bool)
    drawn[:4000] = True
    low, high = ppi.ppi_mean_ci(
        true[drawn].astype(float), model[drawn].astype(float), model[~drawn].astype(float), alpha=0.05
    )
    names = np.array(["no", "yes"])
    hand = [
        Sampled(str(a), str(b), 0.01)
        for a, b in zip(names[model[drawn].astype(int)], names[true[drawn].astype(int)], strict=True)
    ]
    found = estimate({"yes": int(model.sum()), "no": int((~model).sum())}, hand).label("yes").share
    assert found.low == pytest.approx(low[0], abs=0.05 * (high[0] - low[0]))
    assert found.high == pytest.approx(high[0], abs=0.05 * (high[0] - low[0]))


def test_kappa_and_alpha_of_a_table_labelled_whole_are_those_of_scikit_learn_and_krippendorff() -> None:
    why = "the extra `oracles` is not installed: pip install -e '.[oracles]'"
    metrics = pytest.importorskip("sklearn.metrics", reason=why)
    krippendorff = pytest.importorskip("krippendorff", reason=why)
    cells = {("a", "a"): 20, ("a", "b"): 5, ("b", "b"): 9, ("b", "c"): 2, ("c", "c"): 7, ("c", "a"): 3}
    hand = [each for (model, gold), count in cells.items() for each in rows(model, gold, count, 1.0)]
    found = estimate({"a": 25, "b": 11, "c": 10}, hand)
    model, gold = [str(each.label) for each in hand], [each.gold for each in hand]
    assert found.kappa.value == pytest.approx(metrics.cohen_kappa_score(model, gold))
    codes = [["abc".index(each) for each in side] for side in (model, gold)]
    assert found.alpha.value == pytest.approx(krippendorff.alpha(codes, level_of_measurement="nominal"))


def test_kappa_and_alpha_are_those_of_arithmetic() -> None:
    hand = [*rows("a", "a", 3, 1.0), *rows("a", "b", 1, 1.0), *rows("b", "b", 4, 1.0)]
    found = estimate({"a": 4, "b": 4}, hand)
    assert found.kappa.value == pytest.approx((7 / 8 - 1 / 2) / (1 - 1 / 2))
    # 16 values, 7 of them a: expected disagreement 2 x 7 x 9 / (16 x 15).
    assert found.alpha.value == pytest.approx(1 - (1 / 8) / (2 * 7 * 9 / (16 * 15)))
