"""Batches in the journal: each line has one end, follows its row, and no row is asked while it is out."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import BOUND, COMPARISON, begun, change, come, ended, is_out, key, look, out, plan, results, say

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import ChangedError
from batcher.journal.comparing import in_order
from batcher.journal.entries import CANCELLED, EXPIRED, LOST, Batch, BatchState, Outcome, Request
from batcher.journal.evidence import Unreconciled
from batcher.journal.following import Follower
from batcher.journal.matching import Matched
from batcher.journal.opening import open_journal, read_evidence, read_journal, rehearse
from batcher.journal.rules import Rules
from batcher.journal.times import moments, used
from batcher.journal.writing import Journal
from batcher.planning.forecast import Forecast
from batcher.records import Bound, Completion, Usage
from batcher.words import command_line


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path) as journal:
        plan(journal, "abcd")
        journal.start_run(500, {})
        yield journal


def matched(journal: Journal, questions: str, models: str = "m", **how: Any) -> Matched:
    with journal.planning(COMPARISON) as matching:
        return say(matching, questions, models, **how)


async def test_a_batch_and_its_lines_are_there_as_a_whole_before_it_leaves(journal: Journal, path: Path) -> None:
    batch = await out(journal, [0, 2])
    assert (batch.id, batch.run, batch.requests, batch.state) == (1, 1, 2, BatchState.MADE)
    assert look(path, "SELECT id, position, cost, sent_in, outcome FROM requests") == [
        (1, 0, 1000, 1, None),
        (2, 2, 1000, 1, None),
    ]
    with read_journal(path) as reader:
        assert reader.batches(is_open=True) == [batch]
        assert [line.request[:2] for line in reader.lines(batch.id)] == [(1, 0), (2, 2)]
        assert [line.request.id for line in reader.lines(batch.id, after=1)] == [2]
        assert reader.lines(batch.id, most=1)[0].bound == Bound(100, None, 1000, None)
        assert is_out(reader) == [1, 0, 1, 0]


async def test_what_is_known_of_a_batch_is_on_disk_after_each_step(journal: Journal, path: Path) -> None:
    batch = await out(journal, [0])
    for state in (BatchState.UPLOADING, BatchState.UPLOADED, BatchState.CREATING, BatchState.SENT, BatchState.OVER):
        batch = await journal.batch_moved(batch, state=state, why="\ud800", completed=1)
        with read_journal(path) as reader:
            assert reader.batches() == [batch]
            assert batch.is_open
    with pytest.raises(ValueError, match="unexpected field"):
        await journal.batch_moved(batch, speed=3)


async def test_an_answer_is_its_row_s_and_a_late_one_no_row_s(journal: Journal) -> None:
    batch = await out(journal, [0, 1])
    online = await journal.sent(1, key("b"), 0, 1)
    await journal.settled(online, Outcome("answered", Usage(10, 5), 40), ended(answer="first"))
    lines = await come(journal, batch, "second")
    assert [line.is_answered for line in lines] == [False, True]
    done = await journal.batch_done(batch)
    assert not done.is_open
    assert results(journal) == [lines[0].request.id, online.id, None, None]
    assert journal.spent().answered == 80
    assert (is_out(journal), journal.lines(batch.id)) == ([0, 0, 0, 0], [])


async def test_a_second_answer_that_does_not_know_it_is_late_takes_no_row(journal: Journal) -> None:
    batch = await out(journal, [0])
    [line] = journal.lines(batch.id)
    online = await journal.sent(0, key("a"), 0, 1)
    await journal.settled(online, Outcome("answered"), ended())
    await journal.settled(line.request, Outcome("answered"), ended(), followers=True)
    assert results(journal)[0] == online.id


async def test_lines_of_a_dropped_batch_were_never_sent_and_cost_nothing(journal: Journal) -> None:
    batch = await out(journal, [0, 1])
    assert journal.spent().uncertain == 2000
    await journal.batch_dropped(batch, why="the file was refused")
    assert journal.spent().total == 0
    [counts] = journal.batch_counts()
    assert (counts.unsent, counts.open, counts.batch.why) == (2, 0, "the file was refused")
    assert is_out(journal) == [0, 0, 0, 0]
    assert journal.totals().requests == 0


@pytest.mark.parametrize(("left", "cost", "uncertain"), [(EXPIRED, 0, 0), (CANCELLED, 7, 14), (LOST, None, 2000)])
async def test_what_is_left_of_a_batch_gets_its_end_with_it(
    journal: Journal, left: str, cost: int | None, uncertain: int
) -> None:
    batch = await out(journal, [0, 1, 2])
    await come(journal, batch, most=1)
    await journal.batch_done(batch, left, cost, completed=1, failed=0)
    [counts] = journal.batch_counts()
    assert (counts.answered, getattr(counts, left), counts.open) == (1, 2, 0)
    assert (counts.cost, counts.uncertain) == (20, uncertain)
    assert journal.spent()[:2] == (20, uncertain)
    assert journal.refusals_of(key("b")) == {left: 1}
    assert journal.refusals_of(key("a")) == {}


async def test_refusals_count_from_the_latest_answer_and_for_one_row_alone(journal: Journal) -> None:
    for name in ("500", "unfit"):
        batch = await out(journal, [0])
        [line] = journal.lines(batch.id)
        journal.failed(line.request, Outcome(name, cost=0))
        await journal.batch_done(batch)
    assert journal.refusals_of(key("a")) == {"500": 1, "unfit": 1}
    assert journal.refusals_of(key("a"), 0) == {"500": 1, "unfit": 1}
    assert journal.refusals_of(key("a"), 1) == {}
    batch = await out(journal, [0])
    await come(journal, batch)
    assert journal.refusals_of(key("a")) == {}


async def test_a_batch_that_is_too_large_becomes_two(journal: Journal) -> None:
    batch = await out(journal, [0, 1, 2])
    half = batch._replace(name="fedcba9876543210")
    first, second = await journal.batch_split(batch, (batch._replace(bytes=5), half), [2, 3])
    assert (first.id, first.requests, second.id, second.requests) == (1, 1, 2, 2)
    assert [[line.request.id for line in journal.lines(each)] for each in (1, 2)] == [[1], [2, 3]]
    assert journal.batches() == [first, second]
    await come(journal, second)
    assert results(journal) == [None, 2, 3, None]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("abc", "abc", "111"),
        ("abc", "cab", "111"),
        ("abc", "bc", "11"),
        ("abc", "xabc", "0111"),
        ("abc", "axc", "101"),
        ("aab", "xaab", "0111"),
        ("ab", "aabb", "1010"),
        ("aaa", "aa", "11"),
        ("abc", "", ""),
    ],
)
def test_a_line_goes_where_its_row_stands(path: Path, before: str, now: str, expected: str) -> None:
    with open_journal(path) as journal:
        plan(journal, before)
        journal.start_run(500, {})
        batch = asyncio.run(out(journal, range(len(before))))
        plan(journal, now, on_change="redo")
        assert "".join(map(str, is_out(journal))) == expected
        asyncio.run(come(journal, batch))
        assert "".join("01"[each is not None] for each in results(journal)) == expected
        plan(journal, before, on_change="redo")  # what no row waited for is there when it is asked
        assert None not in results(journal)


def test_answers_that_no_row_waited_for_serve_rows_that_ask_the_same_later(journal: Journal) -> None:
    batch = asyncio.run(out(journal, [0, 1]))
    assert matched(journal, "xxcd", on_change="redo").out == 0
    lines = asyncio.run(come(journal, batch))
    assert all(line.is_answered for line in lines)
    assert results(journal) == [None] * 4
    plan(journal, "xbad", on_change="redo")
    assert results(journal) == [None, 2, 1, None]


@pytest.mark.parametrize("on_change", ["abort", "redo", "reuse"])
def test_a_row_that_is_out_and_asks_something_else_now_is_a_changed_row(journal: Journal, on_change: str) -> None:
    batch = asyncio.run(out(journal, [0, 1, 2]))
    with journal.planning(COMPARISON) as matching:
        # The first letter is the row's text: it is the same, and its question another.
        found = say(matching, ["a1", "b", "c", "d"], on_change=on_change)
        [cause] = matching.causes()
    assert (found.changed, found.own, found.out, found.batches) == ({0: 1}, 1, 2, 1)
    assert (found.changed_out, found.own_out) == (1, 1)
    assert (cause.run, cause.is_same_question, cause.columns) == (1, False, 0)
    assert is_out(journal) == [0, 1, 1, 0]
    asyncio.run(come(journal, batch))
    assert results(journal) == [None, 2, 3, None]
    assert matched(journal, ["a1", "b", "c", "d"]).changed == {}  # type: ignore[arg-type]


def test_a_line_to_a_source_that_has_left_the_pool_leaves_its_row(journal: Journal) -> None:
    asyncio.run(out(journal, [0, 1]))
    found = matched(journal, "abcd", "n", on_change="redo")
    assert (found.changed, found.out, found.changed_out) == ({0: 2}, 0, 2)
    assert is_out(journal) == [0, 0, 0, 0]
    found = matched(journal, "abcd", "mn")
    assert (found.changed, found.out) == ({}, 2)
    assert is_out(journal) == [1, 1, 0, 0]


def test_several_lines_about_a_row_stay_together(path: Path) -> None:
    with open_journal(path) as journal:
        plan(journal, "aab")
        journal.start_run(500, {})
        asyncio.run(out(journal, [0, 0, 1, 1, 1, 2]))
        assert journal.totals()[:5] == (6, 0, 0, 6, 0)  # none of them is a further attempt
        plan(journal, "xbaa", samples=3, on_change="redo")
        assert is_out(journal) == [0, 1, 2, 3]


def test_of_rows_that_ask_the_same_the_one_that_is_asked_for_all_gets_the_line(path: Path) -> None:
    with open_journal(path) as journal:
        plan(journal, "aaa")
        journal.start_run(500, {})
        batch = asyncio.run(out(journal, [1]))
        plan(journal, "aaa", dedup=True)
        assert [state[2:] for state in journal.states(0, 3)] == [(None, 2, 1), (0, 0, 0), (0, 0, 0)]
        plan(journal, "xaaa", dedup=True)
        assert [state.leader for state in journal.states(0, 4)] == [None, None, 1, 1]
        asyncio.run(come(journal, batch))
        assert results(journal) == [None, 1, 1, 1]


def test_a_follower_with_an_answer_of_its_own_keeps_it(path: Path) -> None:
    with open_journal(path) as journal:
        plan(journal, "aaa")
        journal.start_run(500, {})
        batch = asyncio.run(out(journal, [0, 2]))
        plan(journal, "aaa", dedup=True)
        [first, second] = journal.lines(batch.id)
        outcome = Outcome("answered")
        for line in (second, first):
            asyncio.run(journal.settled(line.request, outcome, ended(), followers=line.followers > 0))
        assert results(journal) == [1, 1, 2]


def test_rows_behind_a_limit_keep_their_lines_if_no_row_before_it_asks_the_same(journal: Journal) -> None:
    asyncio.run(out(journal, [2, 3]))
    found = matched(journal, "abcd", limit=2)
    assert found.out == 0
    found = matched(journal, "adcd", limit=2, on_change="redo")
    assert (found.out, is_out(journal)) == (1, [0, 1, 1, 0])


def test_what_is_in_batches_is_not_in_flight_and_stays_charged_in_full(journal: Journal, path: Path) -> None:
    bound = Bound(100, 50, 1000, 200)

    async def work() -> None:
        await out(journal, [0], bound)
        request = await journal.sent(0, key("a"), 0, 1, bound)
        await journal.settled(request, Outcome("answered", Usage(10, 5), 40), ended())
        await out(journal, [1], bound)
        await journal.sent(1, key("b"), 0, 1, bound)

    asyncio.run(work())
    assert journal.in_flight(1) == (1, 1000)
    assert journal.rows_in_flight() == 1
    # The first row's tokens are known, and its line is charged all the same: its end gives back the rest.
    assert journal.spent()[:2] == (40, 3000)
    assert [each[0] for each in journal.lost(9)] == [key("b")]
    with read_journal(path) as reader:
        assert Follower().look(reader, 1, 0.0, 1.0).in_flight == 1


def test_pictures_over_time_leave_out_what_waits_in_batches(journal: Journal, path: Path) -> None:
    async def work() -> None:
        await come(journal, await out(journal, [0, 1]))
        request = await journal.sent(2, key("c"), 0, 1)
        await journal.settled(request, Outcome("answered", Usage(10, 5), 40), ended())

    asyncio.run(work())
    with read_journal(path) as reader:
        assert len(moments(reader)) == 1
        assert [(each.requests, each.cost) for each in used(reader)] == [(3, 80)]
        [part] = in_order(reader, has_labels=True, has_times=True)
        assert [seconds is None for seconds in part.seconds] == [True, True, False]
        assert reader.ended_since(0.0) == 1
        change(path, "UPDATE requests SET ended = 1e12 WHERE sent_in = 1")  # read by a later process
        assert reader.seconds()[1] < 60


def test_a_run_is_followed_through_batches_that_are_read(journal: Journal, path: Path) -> None:
    follower = Follower()
    with read_journal(path) as reader:
        batch = asyncio.run(out(journal, [0, 1]))
        online = asyncio.run(journal.sent(2, key("c"), 0, 1))
        assert follower.look(reader, 1, 0.0, 1.0).counts.left == 4
        asyncio.run(come(journal, batch, most=1))
        assert follower.look(reader, 1, 0.0, 1.0).counts.left == 3
        asyncio.run(journal.settled(online, Outcome("answered"), ended()))
        found = follower.look(reader, 1, 0.0, 1.0)
        assert (found.counts.left, found.in_flight) == (2, 0)


def test_what_came_with_a_batch_has_its_tier_and_attempts_and_no_latency(journal: Journal) -> None:
    async def work() -> None:
        expired = await out(journal, [0])
        await journal.batch_done(expired, EXPIRED, 0)
        await come(journal, await out(journal, [0]))
        late = await out(journal, [1])
        request = await journal.sent(1, key("b"), 0, 1)
        came = Completion("yes", service_tier="flex")
        await journal.settled(request, Outcome("answered", completion=came), ended())
        journal.beside(0, 2, ["attempts"])  # counts what is there
        await come(journal, late)

    asyncio.run(work())
    batch, online = journal.beside(0, 2, ["tier", "attempts", "latency"])
    assert (batch.tier, batch.attempts, batch.latency) == ("batch", "2", "")
    assert (online.tier, online.attempts, online.latency != "") == ("flex", "1", True)


def test_numbers_that_were_taken_for_a_batch_and_not_used_are_no_lost_requests(path: Path) -> None:
    async def work(journal: Journal) -> None:
        numbers = [journal.number() for _ in range(3)]
        assert numbers == [1, 2, 3]
        request = await journal.sent(0, key(0), 0, 1)
        assert request.id > 3
        await journal.batch_made(Batch(source=1), [(Request(2, 1, key(1), 0, 1), BOUND)])

    with begun(path) as journal:
        asyncio.run(work(journal))
    with read_evidence(path) as reader:
        assert reader.missing_requests() == []
        assert [line.request.id for line in reader.lines(1)] == [2]


@pytest.mark.parametrize(
    "change", ["DELETE FROM batches", "UPDATE batches SET source = 9", "UPDATE batches SET state = 'done'"]
)
def test_a_line_that_contradicts_its_batch_is_found(path: Path, change: str) -> None:
    with begun(path) as journal:
        asyncio.run(out(journal, [0]))
        with read_evidence(path) as reader:
            assert reader.unreconciled(Unreconciled.LINE_OTHER) == []
        journal._db.do(change)
    with read_evidence(path) as reader:
        assert reader.unreconciled(Unreconciled.LINE_OTHER) == [1]


# -- With a run


TEXTS = ["a", "b", "c", "d"]
AS_LINES = """
INSERT INTO batches (id, run, endpoint, source, name, made, state, url, form, requests, bytes, tokens, sha256,
    service_id, service_state, completed, failed, why)
    VALUES (1, 1, 0, 1, '0123456789abcdef', 1.0, 'sent', '/v1/chat/completions', '', 3, 10, 3, x'01', 'batch_7',
    '', 3, 0, '');
UPDATE requests SET ended = NULL, outcome = NULL, cost = 1000000, sent_in = 1 WHERE position > 0;
DELETE FROM results WHERE id IN (SELECT id FROM requests WHERE position > 0);
DELETE FROM responses WHERE id IN (SELECT id FROM requests WHERE position > 0);
UPDATE rows SET result = NULL WHERE position > 0;
DELETE FROM chunks;
"""


@pytest.fixture
def sent(lab: Lab) -> Path:
    """A journal whose first row is answered, and whose others are out in a batch."""
    lab.run(TEXTS, Service(TEXTS), "{text}")
    path = lab.directory / "journal_k.sqlite"
    change(path, AS_LINES)
    for each in lab.directory.glob("*.csv"):
        each.unlink()
    return path


def planned(lab: Lab, texts: list[str], prompt: str = "{text}", **options: object) -> Forecast:
    return batcher.plan(
        texts,
        prompt,
        keyword="k",
        output_dir=lab.directory,
        endpoints=[Endpoint("m")],
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.usefixtures("sent")
def test_a_plan_says_what_is_out_asks_it_nothing_and_leaves_the_journal_alone(lab: Lab) -> None:
    before = {path.name: path.read_bytes() for path in lab.directory.iterdir()}
    found = planned(lab, ["d", "a", "x", "b", "c"])
    assert "1 answered, 3 out in 1 batch, 1 new" in found.summary
    assert (found.new, found.requests, found.changed) == (1, 1, 0)
    assert "in flight when" not in found.summary
    assert {path.name: path.read_bytes() for path in lab.directory.iterdir()} == before


@pytest.mark.usefixtures("sent")
def test_a_plan_in_a_copy_moves_lines_as_the_run_does(lab: Lab, sent: Path) -> None:
    with rehearse(sent) as copy:
        keys = [state.key for state in copy.states(0, 9)]
        with copy.planning(COMPARISON) as matching:
            sources = matching.source_ids([])
            matching.add_rows(0, keys[::-1], [b""] * 4)
            found = matching.finish(4, Rules(frozenset([1, *sources])))
        assert (found.out, found.batches, is_out(copy)) == (3, 1, [1, 1, 1, 0])
        assert [line[0] for line in look(sent, "SELECT position FROM requests ORDER BY id")] == [0, 1, 2, 3]


@pytest.mark.usefixtures("sent")
def test_a_new_question_about_rows_that_are_out_is_asked_about_first(lab: Lab) -> None:
    found = planned(lab, TEXTS, "Is it {text}?")
    assert (found.changed, found.new) == (4, 0)
    assert "4 answered to another question (the prompt changed), 3 of them still out in batches" in found.summary
    assert "3 rows are out in batches to the earlier question: what is answered is still paid" in found.summary
    service = Service([])
    with pytest.raises(ChangedError, match="3 rows are out: what the service answers of them is paid for in any case"):
        lab.run(TEXTS, service, "Is it {text}?")
    with pytest.raises(
        ChangedError, match=r"k: 3 of 4 rows are out in batches that ask an earlier question \(the prompt"
    ):
        lab.run(TEXTS, service, "Is it {text}?", on_change="reuse")
    with command_line(), pytest.raises(ChangedError, match="`batcher cancel k`, which keeps what came"):
        lab.run(TEXTS, service, "Is it {text}?", on_change="reuse")
    asked = [f"Is it {text}?" for text in TEXTS]
    assert lab.run(TEXTS, Service(asked), "Is it {text}?", on_change="redo").ok == 4
    assert batcher.verify("k", TEXTS, output_dir=lab.directory).ok
    assert planned(lab, TEXTS, "Is it {text}?").changed == 0


def test_what_a_service_did_not_get_to_counts_as_neither_sent_nor_failed(lab: Lab, sent: Path) -> None:
    async def work() -> None:
        with open_journal(sent) as journal:
            [batch] = journal.batches()
            [first, second, _] = journal.lines(batch.id)
            await journal.settled(first.request, Outcome("answered", Usage(1, 1), 500_000, Completion("b")), ended())
            journal.failed(second.request, Outcome(CANCELLED, cost=0))
            await journal.batch_done(batch, EXPIRED, 0, completed=1, failed=2)

    asyncio.run(work())
    figures = batcher.status("k", output_dir=lab.directory)
    assert (figures.requests, figures.answered, figures.failed, figures.out) == (2, 2, 0, 0)
    found = batcher.verify("k", TEXTS, output_dir=lab.directory)
    assert "2 sent = 2 answered + 0 failed + 0 without an end" in str(found)
    assert "1 batch: 3 lines = 1 answered + 1 expired + 1 cancelled" in str(found)
    assert not [note for note in found.notes if "the service counts" in note]


@pytest.mark.usefixtures("sent")
def test_verify_reconciles_what_was_sent_with_what_came(lab: Lab, sent: Path) -> None:
    found = batcher.verify("k", TEXTS, output_dir=lab.directory)
    assert [each.kind for each in found.findings] == ["left"]
    assert "1 batch: 3 lines = 0 answered + 3 not over" in str(found)

    async def work() -> None:
        with open_journal(sent) as journal:
            [batch] = journal.batches()
            [first, second, _] = journal.lines(batch.id)
            outcome = Outcome("answered", Usage(1, 1), 500_000, Completion("b"))
            await journal.settled(first.request, outcome, ended(answer="b"))
            journal.failed(second.request, Outcome("400", cost=0))
            await journal.batch_done(batch, LOST, why="a line was there twice")

    asyncio.run(work())
    found = batcher.verify("k", TEXTS, output_dir=lab.directory)
    assert "1 batch: 3 lines = 1 answered + 1 failed (400) + 1 lost" in str(found)
    assert "batch 1 (batch_7): the service counts 3 answered and 0 failed, and 2 came: 1 lost." in found.notes
    assert "batch 1 (batch_7): a line was there twice" in found.notes
    [batch] = found.to_dict()["batches"]
    assert {name: batch[name] for name in ("lines", "answered", "failed", "lost", "open", "state")} == {
        "lines": 3,
        "answered": 1,
        "failed": {"400": 1},
        "lost": 1,
        "open": 0,
        "state": "done",
    }
    assert (batch["cost_usd"], batch["uncertain_usd"]) == (0.0005, 0.001)
    change(sent, "UPDATE batches SET completed = 1, failed = 2; UPDATE requests SET outcome = 'expired' WHERE cost > 0")
    change(sent, "UPDATE requests SET outcome = 'answered' WHERE cost = 500000")
    assert not any("counts" in note for note in batcher.verify("k", TEXTS, output_dir=lab.directory).notes)
    change(sent, "UPDATE batches SET requests = 4, state = 'done'; UPDATE requests SET outcome = NULL, ended = NULL")
    kinds = {each.kind for each in batcher.verify("k", TEXTS, output_dir=lab.directory).findings}
    assert {"batch-lines", "line-other"} <= kinds


@pytest.mark.usefixtures("sent")
def test_a_report_and_a_status_count_what_is_in_batches_and_draw_no_picture_of_it(lab: Lab) -> None:
    status = batcher.status("k", lab.directory)
    assert (status.left, status.requests) == (3, 4)
    assert "3 without an end" not in str(status)
    assert batcher.report("k", lab.directory).path.exists()


# -- Against a model

QUESTIONS = st.text("abc", min_size=1, max_size=6)
ENDS = st.sampled_from(["ok", "500", "stay"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("plan"), QUESTIONS, st.booleans()),
        st.tuples(st.just("make"), st.integers(1, 4), st.booleans()),
        st.tuples(
            st.just("read"), st.lists(st.sampled_from(["ok", "500", "stay"]), min_size=6, max_size=6), st.booleans()
        ),
        st.tuples(st.just("online"), st.integers(0, 5), st.booleans()),
        st.tuples(st.sampled_from(["split", "drop", "kill"]), st.just(0), st.booleans()),
    ),
    max_size=14,
)


class Books:
    """What a service and a person would know: lines by id, and what each ended as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copies = itertools.count()
        self.open: dict[int, bytes] = {}
        self.answered = self.uncertain = 0
        self.answers: dict[int, bytes] = {}
        self.dedup = False
        self.shares = False  # rows that have shared an answer keep it
        self.is_planned = False  # since the last plan no line has ended without an answer

    def reopened(self, journal: Journal) -> Journal:
        """Return the journal as it is after a kill at this moment."""
        copy = self.folder / str(next(self.copies))
        copy.mkdir()
        for each in journal.path.parent.iterdir():
            if each.name.startswith("journal_x.sqlite") and not each.name.endswith("-shm"):
                shutil.copy(each, copy / each.name)
        journal.close()
        again = open_journal(copy / "journal_x.sqlite")
        again.start_run(500, {})
        return again


async def make(journal: Journal, books: Books, most: int) -> None:
    states = journal.states(0, 100)
    asked = [at for at, each in enumerate(states) if each.result is None and each.leader is None and not each.out]
    if books.is_planned:
        waiting = Counter(state.key for state in states if state.result is None)
        lines = Counter(books.open.values())
        for each, rows in Counter(states[at].key for at in asked).items():
            assert rows <= (min(waiting[each], 1) if books.dedup else waiting[each]) - lines[each]
    if asked[:most]:
        batch = await out(journal, asked[:most])
        books.open |= {line.request.id: line.request.key for line in journal.lines(batch.id)}


async def read(journal: Journal, books: Books, how: list[str], *, is_done: bool) -> None:
    for batch in journal.batches(is_open=True)[:1]:
        for line, name in zip(journal.lines(batch.id), itertools.cycle(how), strict=False):
            number = line.request.id
            if name == "ok":
                outcome, result = Outcome("answered", Usage(10, 5), 20), ended(answer=line.request.key.hex())
                await journal.settled(
                    line.request, outcome, result, followers=line.followers > 0, is_late=line.is_answered
                )
                books.answers[number] = books.open.pop(number)
                books.answered += 20
            elif name == "500":
                journal.failed(line.request, Outcome("500", cost=3))
                await journal.flush()
                del books.open[number]
                books.uncertain += 3
                books.is_planned = False
        if is_done:
            for line in journal.lines(batch.id):
                del books.open[line.request.id]
                books.is_planned = False
            await journal.batch_done(batch, EXPIRED, 0)


async def online(journal: Journal, books: Books, position: int) -> None:
    for state in journal.states(position, position + 1):
        if state.result is None and state.leader is None:  # also one that is out: its deadline comes
            request = await journal.sent(position, state.key, 0, 1)
            outcome = Outcome("answered", Usage(10, 5), 40)
            await journal.settled(request, outcome, ended(answer=state.key.hex()), followers=bool(state.followers))
            books.answers[request.id] = state.key
            books.answered += 40
            books.is_planned = False


async def split_or_drop(journal: Journal, books: Books, what: str) -> None:
    for batch in journal.batches(is_open=True)[-1:]:
        numbers = [line.request.id for line in journal.lines(batch.id)]
        if what == "split":
            half = numbers[len(numbers) // 2 :]
            await journal.batch_split(batch, (batch, batch), half)
        else:
            await journal.batch_dropped(batch)
            books.is_planned = False
            for number in numbers:
                del books.open[number]


def check(journal: Journal, books: Books) -> None:
    states = journal.states(0, 100)
    for state, result in zip(states, journal.results_so_far(0, 100), strict=True):
        assert result is None or result.answer == state.key.hex()
        assert state.result is None or books.answers[state.result] == state.key
    used = Counter(state.result for state in states if state.result is not None)
    assert books.shares or all(count == 1 for count in used.values())
    assert journal.spent()[:2] == (books.answered, books.uncertain + 1000 * len(books.open))
    counts = journal.batch_counts()
    assert sum(each.open for each in counts) == len(books.open)
    assert all(
        each.lines
        == each.batch.requests
        == each.answered + sum(each.failed.values()) + each.expired + each.unsent + each.open
        for each in counts
    )
    lines = Counter(
        (line.request.position, line.request.key) for each in counts for line in journal.lines(each.batch.id)
    )
    assert [each.out for each in states] == [
        0 if each.result is not None else lines[at, each.key] for at, each in enumerate(states)
    ]


@settings(max_examples=60)
@given(QUESTIONS, STEPS)
def test_no_row_gets_another_row_s_answer_or_is_asked_while_it_is_out(first: str, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        books = Books(Path(folder))
        journal = open_journal(Path(folder, "journal_x.sqlite"))
        plan(journal, first)
        journal.start_run(500, {})
        for what, value, flag in steps:
            if what == "plan":
                books.dedup = flag
                books.shares |= flag
                plan(journal, value, on_change="redo", dedup=flag)
                books.is_planned = True
            elif what == "make":
                asyncio.run(make(journal, books, value))
            elif what == "read":
                asyncio.run(read(journal, books, value, is_done=flag))
            elif what == "online":
                asyncio.run(online(journal, books, value))
            elif what == "kill":
                journal = books.reopened(journal)
            else:
                asyncio.run(split_or_drop(journal, books, what))
            check(journal, books)
        journal.close()
