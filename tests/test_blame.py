"""Who is to blame for a failed attempt, decided without a clock: the row, or the endpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.pool.blame import (
    FIRST_WAIT_S,
    GIVES_UP_S,
    LEAVES_S,
    LONGEST_WAIT_S,
    RATE_LIMITS,
    REFUSALS,
    SEVERAL,
    Attempt,
    Case,
    Decision,
    History,
    Policy,
    Scene,
    Standing,
    Trial,
    backoff,
    judge,
)
from batcher.records import Failure, Fault
from batcher.settings import Settings

RATE_LIMIT = Failure(Fault.STATUS, "slow down", 429)
DOWN = Failure(Fault.STATUS, "down", 500)
REFUSED = Failure(Fault.STATUS, "I do not like it", 400)
FORBIDDEN = Failure(Fault.STATUS, "no entry", 403)
NO_KEY = Failure(Fault.STATUS, "who are you?", 401)
CLOSED = Failure(Fault.STATUS, "no", 429, "billing_not_active")
NOBODY = Failure(Fault.CONNECTION, "nobody listens")

jitters = st.floats(0, 1, exclude_max=True)


class Bench:
    """An endpoint, and rows that fail there at moments of the test's own."""

    def __init__(self, *, is_known: bool = False, answers: int = 0, pool: Trial | None = None) -> None:
        self.standing = Standing(0.0, is_known=is_known, pool=pool)
        self.now = 0.0
        for _ in range(answers):
            self.answer()

    def answer(self) -> None:
        self.now += 1
        self.standing.answered(self.now - 0.5)

    def fail(self, history: History, failure: Failure, scene: Scene | None = None, seconds: float = 1.0) -> Decision:
        self.now += seconds
        attempt = Attempt(self.now - seconds, self.now)
        return judge(Case(failure, history, self.standing, attempt, scene or Scene()), seconds)


# -- Refusals


@pytest.mark.parametrize("failure", [REFUSED, FORBIDDEN, NO_KEY])
def test_a_row_ends_after_three_refusals_if_others_are_answered_between(failure: Failure) -> None:
    bench, row = Bench(answers=1), History(7)
    for _ in range(REFUSALS - 1):
        assert not bench.fail(row, failure).row_ends
        bench.answer()
    last = bench.fail(row, failure)
    assert last.row_ends
    assert last.reason.endswith(f"{failure.message}; gave up after 3 refusals")


def test_a_row_does_not_end_while_no_other_is_answered() -> None:
    bench, row = Bench(answers=1), History(7)
    assert not any(bench.fail(row, REFUSED).row_ends for _ in range(50))


def test_answers_to_calls_that_left_before_a_refusal_show_nothing() -> None:
    bench, row = Bench(answers=1), History(7)
    for _ in range(10):
        assert not bench.fail(row, FORBIDDEN).row_ends
        bench.standing.answered(bench.now - 5)


def test_an_endpoint_rests_after_several_rows_and_leaves_after_half_an_hour() -> None:
    bench = Bench(answers=1)
    decisions = [bench.fail(History(number), FORBIDDEN) for number in range(SEVERAL)]
    assert [each.rests for each in decisions] == [False] * (SEVERAL - 1) + [True]
    began = bench.now
    number = SEVERAL
    while (last := bench.fail(History(number), FORBIDDEN, seconds=60)).out is None:
        number += 1
        assert not last.row_ends
    assert LEAVES_S - 60 <= bench.now - began <= LEAVES_S + 60
    assert "no row was answered for 30m" in last.out


def test_calls_in_flight_begin_no_second_rest() -> None:
    bench = Bench(answers=1)
    for number in range(SEVERAL):
        bench.fail(History(number), FORBIDDEN)
    late = Attempt(bench.now - 0.5, bench.now + 1)
    assert not judge(Case(FORBIDDEN, History(99), bench.standing, late)).rests


def test_one_answer_clears_an_endpoint() -> None:
    bench = Bench(answers=1)
    for number in range(3 * SEVERAL):
        bench.fail(History(number), FORBIDDEN)
    assert bench.standing.is_suspect
    bench.answer()
    assert not bench.standing.is_suspect
    assert not bench.fail(History(99), FORBIDDEN).rests


def test_a_row_is_evidence_against_the_first_endpoint_alone() -> None:
    first, second = Bench(), Bench()
    for number in range(20):
        row = History(number)
        first.fail(row, FORBIDDEN)
        assert second.fail(row, FORBIDDEN).out is None


@pytest.mark.parametrize(("failure", "rows"), [(NO_KEY, 2), (FORBIDDEN, 2), (CLOSED, 2), (REFUSED, 3)])
def test_a_fresh_endpoint_leaves_when_as_many_rows_are_told_the_same(failure: Failure, rows: int) -> None:
    bench = Bench()
    outs = [bench.fail(History(number), failure).out for number in range(rows)]
    assert [out is not None for out in outs] == [False] * (rows - 1) + [True]
    assert outs[-1] is not None
    assert outs[-1].endswith(f"({rows} different rows were told so)")


def test_what_differs_in_its_request_id_alone_is_the_same() -> None:
    bench = Bench()
    said = [f"Something is wrong (request id: 2026041718452646631922{number}osoX)" for number in range(3)]
    outs = [bench.fail(History(n), replace(REFUSED, message=text)).out for n, text in enumerate(said)]
    assert outs[-1] is not None


def test_rows_that_are_refused_in_words_of_their_own_take_out_no_fresh_endpoint() -> None:
    bench = Bench()
    for number in range(20):
        assert bench.fail(History(number), replace(REFUSED, message=f"too long: {number}")).out is None


def test_one_row_alone_takes_out_no_fresh_endpoint_while_there_are_others() -> None:
    bench, row = Bench(), History(0)
    assert all(bench.fail(row, NO_KEY, Scene(left=1)).out is None for _ in range(10))
    assert bench.fail(row, NO_KEY, Scene(is_last=True)).out is not None


def test_an_earlier_process_vouches_for_an_endpoint_but_not_for_its_key() -> None:
    bench = Bench(is_known=True)
    assert [bench.fail(History(n), FORBIDDEN).out for n in range(3)] == [None] * 3
    assert [bench.fail(History(n), NO_KEY).out is None for n in range(10, 14)] == [True, True, True, False]


def test_a_closed_account_takes_out_an_endpoint_at_once_if_a_second_row_is_told_so() -> None:
    bench = Bench(answers=1000)
    assert [bench.fail(History(n), CLOSED).out is None for n in range(2)] == [True, False]


def test_the_last_rows_of_a_table_end_though_no_other_can_show_that_the_endpoint_answers() -> None:
    bench, row = Bench(answers=1), History(7)
    last = Scene(is_last=True)
    assert [bench.fail(row, FORBIDDEN, last).row_ends for _ in range(REFUSALS)] == [False, False, True]


def test_where_nothing_is_answered_in_a_whole_pool_each_endpoint_that_refuses_is_suspect() -> None:
    """Ten endpoints refuse a row or two each: too few for each of them alone."""
    pool = Trial()
    benches = [Bench(answers=1, pool=pool) for _ in range(10)]
    rows = [History(number) for number in range(10)]
    for bench, row in zip(benches, rows, strict=True):
        bench.fail(row, FORBIDDEN)
    assert all(bench.standing.is_suspect for bench in benches)
    last = Scene(is_last=True, troubled=10)
    assert not any(bench.fail(row, FORBIDDEN, last).row_ends for bench in benches for row in rows)
    benches[0].now = 100
    benches[0].answer()
    assert not any(bench.standing.is_suspect for bench in benches)


def test_rows_that_all_end_for_one_reason_are_not_believed_after_several() -> None:
    too_long = Failure(Fault.STATUS, "no", 400, "context_length_exceeded")
    bench = Bench(answers=1)
    ends = [bench.fail(History(number), too_long).row_ends for number in range(SEVERAL + 2)]
    assert ends == [True] * (SEVERAL - 1) + [False] * 3
    fresh = Bench()
    decisions = [fresh.fail(History(number), too_long) for number in range(3)]
    assert [(each.row_ends, each.out is None) for each in decisions] == [(False, True), (False, True), (False, False)]


@pytest.mark.parametrize("bench", [Bench(), Bench(answers=1)], ids=["fresh", "proven"])
def test_a_response_that_is_too_long_was_paid_for_and_is_never_asked_for_again(bench: Bench) -> None:
    too_long = Failure(Fault.TOO_LONG, "it is longer than 64 MB", may_be_billed=True)
    assert all(bench.fail(History(number), too_long).row_ends for number in range(3 * SEVERAL))
    assert not bench.standing.is_fresh


@pytest.mark.parametrize("answers", [0, 1])
def test_a_model_that_always_raises_leaves_when_it_has_never_answered(answers: int) -> None:
    bench = Bench(answers=answers)
    decisions = [bench.fail(History(number), Failure(Fault.OTHER, "ValueError: no key")) for number in range(3)]
    assert [each.row_ends for each in decisions] == [answers > 0] * 3
    assert (decisions[-1].out is None) == (answers > 0)


def test_a_filter_that_has_read_a_row_shows_that_key_and_model_are_right() -> None:
    bench = Bench()
    assert bench.fail(History(0), Failure(Fault.STATUS, "no", 400, "content_filter")).row_ends
    assert not bench.standing.is_fresh


# -- Rate limits


def test_a_row_that_alone_meets_a_rate_limit_ends() -> None:
    bench, row = Bench(answers=100), History(7)
    for _ in range(RATE_LIMITS - 1):
        assert not bench.fail(row, RATE_LIMIT, seconds=30).row_ends
        bench.answer()
    assert bench.fail(row, RATE_LIMIT).row_ends


def test_bad_luck_at_a_crowded_limit_ends_no_row() -> None:
    """Three calls of four are refused, whichever they are: then a row may be refused many times by chance."""
    bench, row = Bench(answers=100), History(7)
    for number in range(40):
        assert not bench.fail(row, RATE_LIMIT).row_ends
        for other in range(3):
            bench.fail(History(1000 + 3 * number + other), RATE_LIMIT)
        bench.answer()


def test_a_rate_limit_that_lasts_for_hours_takes_out_the_endpoint() -> None:
    bench, row = Bench(answers=1), History(7)
    began = bench.now
    while bench.fail(row, RATE_LIMIT, seconds=60).out is None:
        assert bench.now - began < GIVES_UP_S + 120
    assert bench.now - began >= GIVES_UP_S


def test_after_its_first_rate_limit_the_endpoint_waits_and_then_the_row() -> None:
    bench, row = Bench(answers=1), History(7)
    waits = [bench.fail(row, replace(RATE_LIMIT, retry_after=5)).wait_s for _ in range(5)]
    assert waits == [0.0, 5.0, 5.0, 5.0, 6.0]


@given(st.integers(1, 200), jitters)
def test_a_rate_limit_uses_up_neither_attempts_nor_time(times: int, jitter: float) -> None:
    row = History(7)
    standing = Standing()
    for _ in range(times):
        judge(Case(RATE_LIMIT, row, standing, Attempt(0, 1), jitter=jitter), 5.0)
    assert (row.attempts, row.in_flight_s) == (0, 0.0)


# -- Failures


def test_the_last_attempt_ends_the_row() -> None:
    bench, row = Bench(answers=1), History(7)
    decisions = [bench.fail(row, DOWN) for _ in range(6)]
    assert [each.row_ends for each in decisions] == [False] * 5 + [True]
    assert decisions[-1].reason == "the server failed: HTTP 500: down; gave up after 6 attempts, 6 s in flight"


def test_the_deadline_ends_the_row() -> None:
    row, standing = History(7), Standing(is_known=True)
    policy = Policy(max_attempts=100, deadline=300.0)
    ends = [judge(Case(DOWN, row, standing, Attempt(0, 120), policy=policy), 120.0).row_ends for _ in range(3)]
    assert ends == [False, False, True]


def test_a_silent_endpoint_gives_a_row_its_attempts_back_but_not_its_time() -> None:
    row, standing = History(7), Standing(is_known=True)
    for _ in range(100):
        assert not judge(Case(DOWN, row, standing, Attempt(0, 1), is_silent=True), 1.0).row_ends
    assert (row.attempts, row.in_flight_s) == (0, 100.0)


def test_a_fresh_endpoint_that_fails_leaves_after_the_attempts_of_one_row_at_three_rows() -> None:
    bench = Bench()
    decisions = [bench.fail(History(number % 3), DOWN) for number in range(6)]
    assert [each.out is None for each in decisions] == [True] * 5 + [False]
    assert not any(each.row_ends for each in decisions)
    alone, row = Bench(), History(0)
    assert all(alone.fail(row, DOWN, Scene(left=1)).out is None for _ in range(20))


@pytest.mark.parametrize("failure", [NOBODY, replace(DOWN, status=503)])
def test_a_service_that_is_not_up_is_waited_for_and_then_left(failure: Failure) -> None:
    bench = Bench()
    while (last := bench.fail(History(0), failure, seconds=10)).out is None:
        assert last.rests
        assert bench.now < 600
    assert bench.now == 600
    assert last.out.endswith("; it was not up after 10m 00s")


def test_a_host_that_cannot_be_reached_is_left_at_once_unless_it_has_answered() -> None:
    unknown = Failure(Fault.UNREACHABLE, "the host name is unknown")
    assert Bench().fail(History(0), unknown).out is not None
    assert Bench(answers=1).fail(History(0), unknown).out is None


def test_a_row_that_fails_while_others_are_answered_is_odd() -> None:
    bench, row = Bench(answers=1), History(7)
    bench.fail(row, DOWN)
    assert not row.is_odd
    bench.answer()
    assert row.is_odd


# -- Waits


@given(st.integers(1, 10**9), jitters)
def test_a_wait_stays_within_its_bounds(attempt: int, jitter: float) -> None:
    wait = backoff(attempt, jitter)
    assert FIRST_WAIT_S / 2 <= wait <= LONGEST_WAIT_S
    assert wait <= FIRST_WAIT_S * 2.0 ** min(attempt - 1, 100)
    assert backoff(attempt, 0) <= wait <= backoff(attempt + 1, jitter)


def test_waits_double_and_spread() -> None:
    assert [backoff(attempt, 0) for attempt in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(3, 0.5) == 3.0


@pytest.mark.parametrize(("asked", "wait_s"), [(None, 0.75), (0.2, 0.75), (40.0, 40.0), (86_400.0, 60.0)])
def test_a_row_waits_as_long_as_the_server_asks_but_a_minute_at_most(asked: float | None, wait_s: float) -> None:
    bench = Bench(answers=1)
    assert bench.fail(History(7), replace(DOWN, retry_after=asked)).wait_s == wait_s


def test_a_policy_begins_with_the_defaults_of_the_settings() -> None:
    settings = Settings()
    assert Policy() == Policy(settings.max_attempts, settings.deadline, settings.wait_s)


@given(
    st.lists(st.tuples(st.sampled_from([RATE_LIMIT, DOWN, REFUSED, FORBIDDEN, NO_KEY, CLOSED, NOBODY]), st.booleans())),
    st.integers(1, 9),
)
def test_whatever_comes_no_endpoint_that_answers_between_leaves(events: list[tuple[Failure, bool]], rows: int) -> None:
    """A row that is asked twice at least meets an answer to another one in between, so that no two rows agree."""
    bench = Bench(answers=1)
    histories = [History(number) for number in range(rows)]
    for number, (failure, _) in enumerate(events):
        assert bench.fail(histories[number % rows], failure).out is None
        bench.answer()
