"""A threshold keeps the accuracy that it promises, and scores are compared with how often they are right."""

from __future__ import annotations

import numpy as np
import pytest

from batcher.quality.cascade import Scored, Threshold, calibration, needed, threshold
from batcher.quality.figures import Floats

ROWS = 4000


def test_the_hand_labels_that_a_promise_needs_are_those_of_the_exact_limit() -> None:
    assert (needed(0.95), needed(0.9), needed(0.99)) == (59, 29, 299)
    # One wrong of 93 has the one-sided lower limit 0.95, of 92 it has not.
    assert needed(0.95, wrong=1) == 93


def chosen(
    rng: np.random.Generator, score: Floats, right: Floats, hand: int, hold: float, *, uneven: bool = False
) -> tuple[Threshold, float | None]:
    """Draw which answers are right and a sample; return the threshold, and the true accuracy of what it keeps."""
    correct = rng.random(ROWS) < right
    chance = np.where(score < 0.5, 4.0 if uneven else 1.0, 1.0)
    chance *= hand / chance.sum()
    drawn = np.flatnonzero(rng.random(ROWS) < chance) if uneven else rng.choice(ROWS, hand, replace=False)
    values, rows = np.unique(score, return_counts=True)
    counts: dict[float | None, int] = dict(zip(values.tolist(), rows.tolist(), strict=True))
    sampled = [Scored(float(score[at]), bool(correct[at]), float(chance[at])) for at in drawn]
    found = threshold(counts, sampled, hold, seed=int(rng.integers(2**31)), draws=800)
    if found.score is None:
        return found, None
    kept = score >= found.score
    assert found.kept == kept.sum()
    return found, float(correct[kept].mean())


def worlds(rng: np.random.Generator) -> dict[str, tuple[Floats, Floats]]:
    """Return scores, and the chance of a right answer at each, near what is to be held: 0.9."""
    fine, coarse = np.round(rng.random(ROWS), 3), rng.choice([1 / 3, 2 / 3, 1.0], ROWS, p=[0.1, 0.25, 0.65])
    return {
        "just below everywhere": (fine, np.full(ROWS, 0.895)),
        "just below at the top": (fine, np.where(fine > 0.6, 0.895, 0.5)),
        "falling slowly": (fine, 0.8 + 0.15 * fine),
        "of three opinions": (coarse, np.where(coarse == 1, 0.895, 0.7)),
    }


@pytest.mark.parametrize("hand", [100, 300])
def test_the_promise_is_kept_in_19_of_20_samples(hand: int) -> None:
    for name, (score, right) in worlds(np.random.default_rng(1)).items():
        rng = np.random.default_rng(hand)
        found = [chosen(rng, score, right, hand, 0.9) for _ in range(100)]
        kept = [accuracy is None or accuracy >= 0.9 for _, accuracy in found]
        # 95%, less what 100 samples are uncertain by.
        assert np.mean(kept) >= 0.95 - 2.33 * 0.0218, name


def test_the_promise_is_kept_for_unequal_chances() -> None:
    rng = np.random.default_rng(5)
    score = np.round(rng.random(ROWS), 3)
    found = [chosen(rng, score, np.full(ROWS, 0.895), 200, 0.9, uneven=True) for _ in range(100)]
    assert np.mean([accuracy is None or accuracy >= 0.9 for _, accuracy in found]) >= 0.95 - 2.33 * 0.0218


def test_a_score_that_parts_right_from_wrong_answers_saves_most_second_requests() -> None:
    rng = np.random.default_rng(6)
    score = np.round(rng.random(ROWS), 3)
    found = [chosen(rng, score, np.where(score > 0.4, 0.99, 0.5), 300, 0.9)[0] for _ in range(30)]
    assert sum(each.score is not None for each in found) >= 28
    assert 0.3 <= np.median([each.share_sent for each in found]) <= 0.42


COUNTS: dict[float | None, int] = {1.0: 600, 2 / 3: 300, 1 / 3: 90, None: 10}


def scored(score: float | None, right: bool, count: int, *, second: bool | None = None) -> list[Scored]:
    return [Scored(score, right, 0.1, second)] * count


def test_all_rows_are_kept_if_all_hold_but_those_without_a_score() -> None:
    found = threshold(COUNTS, [*scored(1.0, True, 60), *scored(2 / 3, True, 30), *scored(1 / 3, True, 9)], 0.9)
    assert (found.score, found.kept, found.sent, found.checked) == (1 / 3, 990, 10, 99)
    assert found.lower >= 0.9
    assert found.accuracy.value == 1.0


def test_rows_below_the_threshold_go_on_and_the_result_says_what_comes_out() -> None:
    hand = [
        *scored(1.0, True, 60),
        *scored(2 / 3, True, 15, second=True),
        *scored(2 / 3, False, 15, second=True),
        *scored(1 / 3, False, 9, second=False),
        *scored(None, False, 1, second=True),
    ]
    found = threshold(COUNTS, hand, 0.95)
    assert (found.score, found.kept, found.sent, found.share_sent) == (1.0, 600, 400, 0.4)
    assert found.overall.value == pytest.approx(0.91)
    assert found.overall.low is not None
    assert found.overall.low < 0.91 < (found.overall.high or 0)


def test_without_second_answers_nothing_is_said_of_the_whole() -> None:
    found = threshold(COUNTS, [*scored(1.0, True, 60), *scored(2 / 3, False, 30)], 0.9)
    assert (found.score, found.overall.value) == (1.0, None)


def test_if_no_threshold_holds_all_rows_go_on_and_the_best_is_named() -> None:
    found = threshold(COUNTS, [*scored(1.0, True, 50), *scored(1.0, False, 10), *scored(2 / 3, True, 30)], 0.95)
    assert (found.score, found.kept, found.sent, found.lower) == (None, 0, 1000, 0.0)
    assert found.tried == 1
    # The one-sided lower limit of 80 in 90; that of 50 in 60 is lower.
    assert found.best == pytest.approx(0.82, abs=0.02)
    assert found.best_score != 1.0
    assert found.accuracy.value is None


def test_too_few_hand_labels_are_said_to_be_too_few() -> None:
    found = threshold(COUNTS, scored(1.0, True, 20), 0.95)
    assert (found.score, found.tried, found.needed, found.best_score) == (None, 0, 59, None)
    assert threshold({}, [], 0.9).score is None


@pytest.mark.parametrize("hold", [0.0, 1.0, 95.0])
def test_an_accuracy_that_none_can_hold_is_refused(hold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        threshold(COUNTS, [], hold)


def test_a_chance_that_is_none_and_rows_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        threshold(COUNTS, [Scored(1.0, True, 0.0)], 0.9)
    with pytest.raises(ValueError, match="more rows"):
        threshold({1.0: 1}, scored(1.0, True, 2), 0.9)


def test_equal_scores_are_one_bin() -> None:
    hand = [*scored(1 / 3, False, 4), *scored(1 / 3, True, 2), *scored(1.0, True, 9), *scored(None, True, 5)]
    found = calibration(hand)
    assert [(each.low, each.high, each.hand) for each in found.bins] == [(1 / 3, 1 / 3, 6), (1.0, 1.0, 9)]
    assert found.bins[0].accuracy.value == pytest.approx(1 / 3)
    assert found.error == pytest.approx(0)
    # 4 wrong answers, 11 right ones, of which 2 have the score of the wrong ones.
    assert found.surer == pytest.approx((9 + 2 / 2) / 11)


def test_many_scores_are_put_into_bins_of_about_equal_size() -> None:
    rng = np.random.default_rng(7)
    hand = [Scored(float(score), bool(rng.random() < score), 0.1) for score in rng.random(1000)]
    found = calibration(hand)
    assert [each.hand for each in found.bins] == [100] * 10
    assert found.error is not None
    assert found.error < 0.06
    held = [(each.accuracy.low or 0) <= each.score <= (each.accuracy.high or 0) for each in found.bins]
    assert sum(held) >= 8


def test_the_error_of_scores_that_are_too_sure_is_how_much_too_sure_they_are() -> None:
    found = calibration([*scored(0.9, True, 6), *scored(0.9, False, 4)])
    assert found.error == pytest.approx(0.3)
    assert found.surer == pytest.approx(0.5)


def test_rows_with_a_small_chance_weigh_more() -> None:
    found = calibration([Scored(1.0, True, 0.1), Scored(1.0, False, 0.3)])
    assert found.bins[0].accuracy.value == pytest.approx(0.75)


def test_without_hand_labels_or_mistakes_calibration_says_what_it_cannot() -> None:
    assert calibration([]).bins == ()
    assert calibration(scored(1.0, True, 3)).surer is None


def test_rows_that_were_certain_to_be_drawn_say_nothing_about_others_of_their_score() -> None:
    # At the only score, 200 rows of a rare label are all labelled and wrong, and 300 of 1,800 others, all right.
    rare, others = [Scored(0.9, False, 1.0)] * 200, [Scored(0.9, True, 300 / 1800)] * 300
    found = threshold({0.9: 2000}, [*rare, *others], 0.85)
    assert found.score == 0.9
    assert found.accuracy.value == pytest.approx(0.9, abs=0.001)
    assert threshold({0.9: 2000}, [*rare, *others], 0.91).score is None
