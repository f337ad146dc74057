"""The vote over several answers to one question."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.voting import sameness, vote
from batcher.records import Result, Status

ANSWERS = st.sampled_from("abc").map(lambda answer: Result(Status.OK, answer, ""))
INVALID = st.sampled_from("xy").map(lambda answer: Result(Status.INVALID, answer, "not a label"))
ERRORS = st.just(Result(Status.ERROR, "", "status 500"))
RESULTS = st.lists(ANSWERS | INVALID | ERRORS, min_size=1, max_size=9)


def ok(results: list[Result]) -> list[str]:
    return [result.answer for result in results if result.status is Status.OK]


@given(RESULTS)
def test_the_answer_with_the_most_votes_counts_and_of_equals_the_first(results: list[Result]) -> None:
    found = vote(results, str)
    votes = Counter(ok(results))
    if votes:
        most = max(votes.values())
        first = next(answer for answer in ok(results) if votes[answer] == most)
        assert results[found.chosen].answer == first
        assert found.for_it == most
        assert found.is_tied == (sum(count == most for count in votes.values()) > 1)
    assert found.answers == sum(result.status is not Status.ERROR for result in results)
    assert 0 <= found.agreement <= 1


@given(RESULTS, st.randoms())
def test_the_order_of_the_answers_decides_nothing_but_ties(results: list[Result], random: object) -> None:
    found = vote(results, str)
    shuffled = results.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = vote(shuffled, str)
    assert (again.for_it, again.answers, again.is_tied) == (found.for_it, found.answers, found.is_tied)
    if ok(results) and not found.is_tied:
        assert shuffled[again.chosen].answer == results[found.chosen].answer


@given(RESULTS)
def test_a_further_vote_for_the_answer_that_counts_changes_nothing_but_its_number(results: list[Result]) -> None:
    found = vote(results, str)
    if not ok(results):
        return
    more = vote([*results, results[found.chosen]], str)
    assert (more.chosen, more.for_it, more.is_tied) == (found.chosen, found.for_it + 1, False)


@given(st.lists(INVALID | ERRORS, min_size=1, max_size=5))
def test_without_an_ok_answer_the_first_invalid_one_counts_and_else_the_first_error(results: list[Result]) -> None:
    found = vote(results, str)
    statuses = [result.status for result in results]
    first = statuses.index(Status.INVALID) if Status.INVALID in statuses else 0
    assert (found.chosen, found.for_it, found.is_tied, found.agreement) == (first, 0, False, 0.0)


@given(RESULTS)
def test_the_places_that_agree_are_in_order_and_all_say_the_same(results: list[Result]) -> None:
    found = vote(results, str)
    assert all(before < after for before, after in pairwise(found.agreeing))
    assert len({results[place].answer for place in found.agreeing}) <= 1
    assert found.agreeing[:1] in {(), (found.chosen,)}


@pytest.mark.parametrize(
    ("answers", "agree"),
    [
        (['{"score": 1, "why": "x"}', '{"why": "x", "score": 1.0}'], True),
        (['{"score": 1}', '{"score": true}'], False),
        (['{"score": 1}', '{"score": 2}'], False),
    ],
)
def test_json_is_equal_if_its_values_are_whatever_the_order_of_the_fields(answers: list[str], agree: bool) -> None:
    shape = Schema.of({"type": "object", "properties": {"score": {}, "why": {"type": "string"}}}, "schema")
    found = vote([Result(Status.OK, answer, "") for answer in answers], sameness(shape))
    assert (found.for_it == 2) is agree
    assert json.loads(answers[found.chosen]) == json.loads(answers[0])


def test_a_text_is_equal_but_for_white_space_around_it_and_a_label_only_to_itself() -> None:
    texts = [Result(Status.OK, text, "") for text in ("yes\n", " yes", "Yes")]
    assert vote(texts, sameness(None)).for_it == 2
    assert vote(texts, sameness(Labels.of(["yes", "Yes"], "labels"))).for_it == 1


def test_the_confidence_of_a_vote_is_the_mean_of_the_answers_that_agree() -> None:
    found = vote([Result(Status.OK, answer, "") for answer in "ababa"], str)
    assert found.confidence([0.5, 0.1, 0.7, None, None]) == pytest.approx(0.6)
    assert found.confidence([None] * 5) is None
