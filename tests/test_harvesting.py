"""The harvest of a batch: every end of a batch and of a line, odd lines, kills in the middle, and money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harvests import COST, MOST, Barn, Files, answer, labels, refusal, unasked

from batcher.calls.batch_service import LINE_CANCELLED, LINE_EXPIRED, Answer, BatchError, Remote, RemoteState
from batcher.engine.batching.harvesting import Harvest
from batcher.journal.entries import BatchState, Outcome
from batcher.journal.writing import Journal
from batcher.records import Failure, Fault, Result, Status

EXPIRED, CANCELLED = RemoteState.EXPIRED, RemoteState.CANCELLED


@pytest.fixture
def barn(tmp_path: Path) -> Barn:
    return Barn(tmp_path / "output")


def test_each_row_of_a_completed_batch_gets_its_own_answer_in_whatever_order_they_come(barn: Barn) -> None:
    field = barn.send()

    found = barn.harvest(field, b"".join(map(answer, reversed(field.lines))))

    assert barn.rows() == ["a0", "a1", "a2", "a3", "a4"]
    assert barn.outcomes() == [("answered", COST)] * 5
    assert found == Harvest(answered=5)
    assert barn.query("SELECT state, why FROM batches") == [(BatchState.DONE, "")]
    assert barn.query("SELECT DISTINCT tier FROM responses") == [("batch",)]
    assert (barn.tally.ok, barn.tally.prompt_tokens, barn.tally.completion_tokens) == (5, 50, 10)
    assert [path.name for path in barn.directory.glob("batch_*")] == []


def test_answers_of_an_expired_batch_are_kept_and_the_other_rows_are_left_at_no_cost(barn: Barn) -> None:
    field = barn.send()
    first, second, third, *_ = field.lines

    found = barn.harvest(
        field, answer(first) + answer(third), unasked(second, LINE_EXPIRED), EXPIRED, total=5, completed=2, failed=3
    )

    assert barn.rows() == ["a0", None, "a2", None, None]
    assert barn.outcomes() == [("answered", COST), ("expired", 0), ("answered", COST), ("expired", 0), ("expired", 0)]
    assert found == Harvest(answered=2, expired=3)


def test_a_cancelled_batch_is_harvested_as_well(barn: Barn) -> None:
    field = barn.send()
    first, second, *_ = field.lines

    found = barn.harvest(field, answer(first), unasked(second, LINE_CANCELLED), CANCELLED)

    assert barn.rows() == ["a0", None, None, None, None]
    assert [name for name, _ in barn.outcomes()] == ["answered", *["cancelled"] * 4]
    assert found == Harvest(answered=1, cancelled=4)


def test_a_batch_that_failed_as_a_whole_says_why_and_its_rows_are_left(barn: Barn) -> None:
    field = barn.send()

    found = barn.harvest(field, state=RemoteState.FAILED, errors=(BatchError("invalid_model", "no such model", 1),))

    assert barn.rows() == [None] * 5
    assert barn.outcomes() == [("unsent", 0)] * 5
    assert found == Harvest(unsent=5)
    assert barn.query("SELECT why FROM batches") == [("invalid_model: no such model",)]


@pytest.mark.parametrize(("counts", "others"), [({}, "lost"), ({"completed": 1, "failed": 0}, "unsent")])
def test_in_a_batch_that_failed_half_way_only_the_services_count_tells_that_a_line_was_not_asked(
    barn: Barn, counts: dict[str, Any], others: str
) -> None:
    field = barn.send()

    barn.harvest(field, answer(field.lines[2]), state=RemoteState.FAILED, **counts)

    assert [name for name, _ in barn.outcomes()] == [others, others, "answered", others, others]


def test_a_line_that_is_missing_in_a_completed_batch_is_charged_at_its_bound(barn: Barn) -> None:
    field = barn.send()

    found = barn.harvest(field, b"".join(map(answer, field.lines[1:])))

    assert barn.rows() == [None, "a1", "a2", "a3", "a4"]
    assert barn.outcomes()[0] == ("lost", MOST.cost)
    assert found == Harvest(answered=4, lost=1)
    assert "1 line" in barn.said[-1]
    assert "may be billed" in barn.said[-1]


def test_an_expired_batch_that_counts_more_answers_than_its_files_have_may_be_billed_for_them(barn: Barn) -> None:
    field = barn.send()

    found = barn.harvest(field, answer(field.lines[4]), state=EXPIRED, completed=3)

    assert [name for name, _ in barn.outcomes()] == ["lost", "lost", "expired", "expired", "answered"]
    assert found == Harvest(answered=1, lost=2, expired=2)


def test_odd_lines_are_named_and_give_no_row_a_wrong_answer(barn: Barn) -> None:
    field = barn.send([0, 1, 2])
    other = barn.send([3, 4])
    first, second, third = field.lines
    key = second.request._replace(key=b"x" * 16)
    odd = (
        answer(first)
        + answer(first, "another")
        + b"no JSON\n"
        + answer(other.lines[0], "of another batch")
        + answer(second._replace(request=key), "of another question")
        + answer("request-7", "of somebody else")
        + b"\n"
        + answer(third)
    )

    found = barn.harvest(field, odd, refusal(third))

    assert barn.rows() == ["a0", None, "a2", None, None]
    assert [name for name, _ in barn.outcomes()] == ["answered", "lost", "answered", None, None]
    assert found == Harvest(answered=2, lost=1, doubled=2, strangers=4)
    [(why,)] = barn.query("SELECT why FROM batches WHERE id = 1")
    assert "line 2 of the output file is there a second time" in why
    assert "line 3 of the output file is no result: 'no JSON'" in why
    assert "line 4 of the output file is about no line of this batch" in why
    assert "custom_id 'request-7'" in why
    assert "line 1 of the error file is there a second time, with a failure" in why
    assert sum("output file" in said for said in barn.said) == 3


def test_of_doubled_lines_the_first_that_answers_counts(barn: Barn) -> None:
    field = barn.send()
    first, second, *others = field.lines

    found = barn.harvest(
        field,
        refusal(first, 500) + answer(first, "late") + answer(first, "later") + b"".join(map(answer, others)),
        refusal(second, 500) + answer(second, "in the error file"),
    )

    assert barn.rows()[:2] == ["late", "in the error file"]
    assert found == Harvest(answered=5, doubled=3)


def test_a_line_that_fails_is_left_to_ask_and_costs_nothing(barn: Barn) -> None:
    field = barn.send()

    found = barn.harvest(field, b"".join(map(answer, field.lines[1:])), refusal(field.lines[0], 500))

    assert barn.rows()[0] is None
    assert barn.outcomes()[0] == ("500", 0)
    assert found == Harvest(answered=4, failed=1)


def test_a_row_ends_after_three_refusals_while_others_are_answered(barn: Barn) -> None:
    found = Harvest()
    for time in range(3):
        field = barn.send([0, time + 1])
        found = barn.harvest(field, answer(field.lines[1]), refusal(field.lines[0], 400, "not like this"))

    assert barn.rows()[0] == "the request was refused: HTTP 400: not like this; gave up after 3 attempts"
    assert found == Harvest(answered=1, failed=1, ended=1)


def test_a_row_whose_content_is_refused_ends_at_once(barn: Barn) -> None:
    field = barn.send([0, 1])

    found = barn.harvest(field, answer(field.lines[1]), refusal(field.lines[0], 400, "filtered", code="content_filter"))

    assert "content" in str(barn.rows()[0])
    assert found == Harvest(answered=1, failed=1, ended=1)


def test_a_row_whose_lines_fail_at_the_service_ends_after_the_most_attempts(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", max_attempts=2)
    for time in range(2):
        field = barn.send([0, time + 1])
        barn.harvest(field, answer(field.lines[1]), refusal(field.lines[0], 503, "busy"))

    assert barn.rows()[0] == "the server failed: HTTP 503: busy; gave up after 2 attempts"


def test_what_expired_was_cancelled_or_got_lost_uses_up_no_attempt(barn: Barn) -> None:
    for state, error in ((EXPIRED, None), (CANCELLED, None), (RemoteState.COMPLETED, None)):
        barn.harvest(barn.send([0]), error, state=state)
    field = barn.send([0, 1])

    barn.harvest(field, answer(field.lines[1]), refusal(field.lines[0]))

    assert barn.rows()[0] is None


def test_a_batch_of_which_every_line_is_refused_ends_no_row(barn: Barn) -> None:
    found = Harvest()
    for _ in range(4):
        field = barn.send()
        found = barn.harvest(field, None, b"".join(refusal(line, 401, "wrong key") for line in field.lines))

    assert barn.rows() == [None] * 5
    assert found.failed == 5
    assert "wrong key" in found.refused
    assert found.failure is not None
    assert found.failure.status == 401


def test_the_last_rows_end_if_the_service_has_answered_others_in_an_earlier_batch(barn: Barn) -> None:
    field = barn.send([1, 2])
    found = barn.harvest(field, b"".join(map(answer, field.lines)))
    for _ in range(3):
        field = barn.send([0])
        found = barn.harvest(field, None, refusal(field.lines[0]))

    assert str(barn.rows()[0]).endswith("gave up after 3 attempts")
    assert not found.refused


def test_rows_with_the_same_question_get_the_answer_of_the_one_that_was_sent(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", questions=["x", "y", "x", "x"], dedup=True)
    field = barn.send()
    assert len(field.lines) == 2

    barn.harvest(field, b"".join(map(answer, field.lines)))

    assert barn.rows() == ["a0", "a1", "a0", "a0"]
    assert barn.tally.ok == 4


def test_labels_are_read_and_what_does_not_fit_is_invalid(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", shape=labels("good", "bad"))
    field = barn.send([0, 1], form="prompt")

    found = barn.harvest(field, answer(field.lines[0], "Good.") + answer(field.lines[1], "so la la"))

    assert barn.query("SELECT status, answer FROM results ORDER BY id") == [("ok", "good"), ("invalid", "so la la")]
    assert barn.query("SELECT form FROM responses ORDER BY id") == [("prompt",), ("prompt",)]
    assert found == Harvest(answered=2)


def test_an_answer_that_does_not_fit_is_kept_and_its_row_asked_again(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", shape=labels("good", "bad"), labels=["good", "bad"], repair=1)
    field = barn.send([0, 1], form="prompt")

    found = barn.harvest(field, answer(field.lines[0], "so la la") + answer(field.lines[1], "bad"))

    assert found == Harvest(answered=1, unfit=1)
    assert barn.rows()[:2] == [None, "bad"]
    again = barn.send([0], form="prompt")
    assert barn.harvest(again, answer(again.lines[0], "quite so")) == Harvest(answered=1)
    assert barn.query("SELECT status, answer FROM results WHERE status = 'invalid'") == [("invalid", "quite so")]


def test_a_row_whose_correction_fails_ends_with_the_answer_that_it_had(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", shape=labels("good", "bad"), labels=["good", "bad"], repair=1, max_attempts=1)
    field = barn.send([0, 1], form="prompt")
    barn.harvest(field, answer(field.lines[0], "so la la") + answer(field.lines[1], "bad"))
    again = barn.send([0], form="prompt")

    barn.harvest(again, None, refusal(again.lines[0], 500))

    assert barn.query("SELECT id, status, answer FROM results ORDER BY id") == [
        (1, "invalid", "so la la"),
        (2, "ok", "bad"),
    ]
    assert barn.outcomes() == [("answered", COST), ("answered", COST), ("500", 0)]


def test_a_form_of_which_no_answer_holds_is_given_up(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", shape=labels("good", "bad"), labels=["good", "bad"])
    assert barn.choice is not None
    before = barn.choice.form
    field = barn.send(form=before)

    found = barn.harvest(field, b"".join(answer(line, "so la la") for line in field.lines))

    assert found == Harvest(unfit=5)
    assert barn.choice.form is not before


def test_when_a_form_is_given_up_it_is_said_which_rows_are_asked_again_and_which_are_not(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", 30, shape=labels("good", "bad"), labels=["good", "bad"])
    assert barn.choice is not None
    field = barn.send(form=barn.choice.form)

    found = barn.harvest(field, b"".join(answer(line, "so la la") for line in field.lines))

    invalid = sum(row is not None for row in barn.rows())
    assert (found.unfit, found.answered) == (30 - invalid, invalid)
    assert 0 < invalid < 30
    said = f"none of its 30 answers fits, so another form is tried for {found.unfit} rows; {invalid} more are invalid"
    assert [said in each for each in barn.said] == [True]


def test_a_response_that_is_too_large_is_not_read_and_may_be_billed(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", 3, max_response_mb=0.01)
    field = barn.send()
    first, second, third = field.lines

    found = barn.harvest(field, answer(first) + answer(second, "x" * 200_000) + answer(third))

    [_, said, _] = barn.rows()
    assert said is not None
    assert "its line has more than 0.13 MB (--max-response-mb allows more)" in said
    assert barn.outcomes()[1] == ("too long", MOST.cost)
    assert found == Harvest(answered=2, failed=1, ended=1)


def test_odd_lines_of_a_kind_are_said_together(barn: Barn) -> None:
    field = barn.send()
    strangers = [answer(f"request-{number}", "of somebody else") for number in range(9)]

    barn.harvest(field, b"".join([*strangers, *map(answer, field.lines)]))

    [(why,)] = barn.query("SELECT why FROM batches WHERE id = 1")
    assert why == (
        "line 1 of the output file is about no line of this batch: custom_id 'request-0', and 8 more lines like that:"
        " 2 (custom_id 'request-1'), 3 (custom_id 'request-2'), 4 (custom_id 'request-3'), ..."
    )
    assert [why in said for said in barn.said] == [True]


def test_one_of_several_answers_is_no_result_yet(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", samples=2, is_one_of_several=True)
    field = barn.send([0])

    found = barn.harvest(field, answer(field.lines[0]))

    assert barn.rows()[0] is None
    assert barn.query("SELECT position, answer, result FROM opinions") == [(0, "a0", None)]
    assert found == Harvest(answered=1)


def test_vectors_are_results(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", task="embedding")
    field = barn.send([0, 1, 2])
    first, second, third = field.lines

    found = barn.harvest(
        field, answer(first, "AAAA", vectors=["AAAA"]) + answer(second, "", vectors=[""]) + answer(third, "AAAA")
    )

    assert barn.query("SELECT status, answer FROM results ORDER BY id") == [("ok", "AAAA"), ("invalid", "")]
    assert barn.query("SELECT body FROM responses") == [(None,), (None,)]
    assert found == Harvest(answered=2, failed=1)
    assert barn.outcomes()[2] == ("protocol", MOST.cost)


def test_an_answer_that_comes_when_its_row_has_one_is_kept_beside_it(barn: Barn) -> None:
    field = barn.send([0])

    async def settle(journal: Journal) -> None:
        [state] = journal.states_at([0])
        request = await journal.sent(0, state.key, 0, 1)
        await journal.settled(request, Outcome("answered", cost=9), Result(Status.OK, "online", ""))

    barn.do(settle)

    found = barn.harvest(field, answer(field.lines[0]))

    assert barn.rows()[0] == "online"
    assert found == Harvest(answered=1, late=1)
    assert barn.query("SELECT answer FROM results ORDER BY id") == [("a0",), ("online",)]
    assert barn.tally.ok == 0


def test_a_download_that_breaks_off_leaves_the_batch_to_be_harvested_again(barn: Barn) -> None:
    field = barn.send()
    raw = b"".join(map(answer, field.lines))
    remote = Remote("batch_1", RemoteState.COMPLETED, output_file="output", error_file="error", completed=5)
    service = Files({"output": raw, "error": Failure(Fault.CONNECTION, "cut")})

    assert barn.try_harvest(field, remote, service) == Failure(Fault.CONNECTION, "cut")
    assert barn.query("SELECT state FROM batches") == [(BatchState.OVER,)]
    service.files["error"] = b""
    assert barn.try_harvest(field, remote, service) == Harvest(answered=5)
    assert service.downloads == ["output", "error", "error"]


def test_a_service_that_names_no_file_yet_is_asked_again(barn: Barn) -> None:
    field = barn.send()

    found = barn.try_harvest(field, Remote("batch_1", RemoteState.COMPLETED, completed=5), Files({}))

    assert isinstance(found, Failure)
    assert "names no file" in found.message
    assert barn.rows() == [None] * 5


def test_a_batch_that_its_service_does_not_know_is_given_up_at_its_bound(barn: Barn) -> None:
    found = barn.try_harvest(barn.send(), None, Files({}))

    assert found == Harvest(lost=5)
    assert barn.outcomes() == [("lost", MOST.cost)] * 5


def test_the_budget_gets_back_what_lines_did_not_cost(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "output", budget=10_000_000)
    field = barn.send()
    first, second, *_ = field.lines

    barn.harvest(field, answer(first), refusal(second, 500), EXPIRED)

    assert barn.left == 10_000_000 - COST


class Killed(Exception):
    pass


class Dies(Files):
    """Ends the process in the middle of a file."""

    last: bytes = b""

    def read(self, line: bytes) -> Answer | None:
        if line == self.last:
            raise Killed
        return super().read(line)


def test_a_harvest_that_was_killed_is_done_again_and_pays_nothing_twice(tmp_path: Path) -> None:
    rows = 600
    barn = Barn(tmp_path / "output", rows)
    field = barn.send()
    raw = [answer(line) for line in field.lines]
    remote = Remote("batch_1", RemoteState.COMPLETED, output_file="output", error_file="error")
    files = {"output": b"".join(raw[10:]) + raw[20], "error": refusal(field.lines[0])}
    dies = Dies(files)
    dies.last = raw[-5]

    with pytest.raises(Killed):
        barn.try_harvest(field, remote, dies)
    kept = sum(row is not None for row in barn.rows())
    assert 0 < kept < rows - 10

    found = barn.try_harvest(field, remote, Files(files))
    assert found == Harvest(answered=rows - 10 - kept, failed=1, lost=9, doubled=1)
    assert barn.rows() == [*[None] * 10, *(f"a{n}" for n in range(10, rows))]
    assert barn.outcomes() == [("400", 0), *[("lost", MOST.cost)] * 9, *[("answered", COST)] * (rows - 10)]
