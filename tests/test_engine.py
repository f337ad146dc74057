"""The parts of a run, each alone: the feed hands out rows, the asker settles them, the ending says why it ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fake_service import Call, Service, answer_to, refusal
from hypothesis import given
from hypothesis import strategies as st
from journals import figures
from virtual_time import run_virtually

from batcher.endpoint import Endpoint
from batcher.engine.asking import Asker
from batcher.engine.chunks import Chunks, OpenChunk
from batcher.engine.ending import Ended, Ending, report_of
from batcher.engine.feed import Feed, Row
from batcher.engine.planned_input import PlannedInput
from batcher.engine.progress import Progress, Tally
from batcher.engine.runner import open_for_run
from batcher.errors import BudgetReached, EndpointsLost, InputError, Interrupted, OutputError, RunStopped
from batcher.journal.entries import Outcome
from batcher.journal.opening import open_journal
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.money.tariff import Tariff
from batcher.output.directory import Store
from batcher.place import Displaced
from batcher.planning.job import Job, prepare
from batcher.planning.making import make
from batcher.planning.plan import Plan
from batcher.pool.member import Member
from batcher.pool.pool import Pool, PoolClosed
from batcher.records import (
    Bound,
    Completion,
    EndpointCount,
    Failure,
    Fault,
    Question,
    Result,
    Status,
    Usage,
    Values,
)
from batcher.settings import Settings

T = TypeVar("T")

# A dollar for each token: what a request costs is its number of tokens.
ENDPOINT = Endpoint("m", prices={"in": 1e6, "out": 1e6})
TEXTS = ["a", "b", "a", "c", "b", "a", "d"]


def quiet() -> Progress:
    return Progress("k", quiet=True)


@dataclass
class Parts:
    """What a run is made of, up to the asker."""

    job: Job
    journal: Journal
    planned: Plan
    planned_input: PlannedInput
    chunks: Chunks

    def feed(self, most_rows: int = 100) -> Feed:
        return Feed(self.planned_input, self.journal, self.chunks, most_rows)


@contextlib.asynccontextmanager
async def parts(folder: Path, data: Any, **options: Any) -> AsyncIterator[Parts]:
    """Plan a run of a table, and open its parts."""
    settings = Settings.of({"keyword": "k", "output_dir": folder, "endpoints": [ENDPOINT], **options})
    job = prepare(data, "{text}", settings)
    with job.store.prepared(), open_journal(job.store.journal_path) as journal:
        planned = make(job, journal, lambda: False)
        planned_input = PlannedInput(job, journal, planned.counts.rows)
        yield Parts(job, journal, planned, planned_input, Chunks(job, journal, planned, planned_input, quiet()))


def in_virtual_time(work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return run_virtually(run())[0]


# -- Starting


class Pulled(Store):
    """An output directory of which a refused run, which had made it, removes the parent while this one is made."""

    times = 2

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        if self.times:
            self.times -= 1
            raise OutputError(f"the output directory {self.directory} cannot be used: No such file or directory")
        with super().prepared():
            yield


def test_a_run_whose_directory_is_removed_while_it_starts_makes_it_again(tmp_path: Path) -> None:
    store = Pulled(tmp_path / "output", "k", ["text"])
    job = prepare(TEXTS, "{text}", Settings.of({"keyword": "k", "output_dir": tmp_path, "endpoints": [ENDPOINT]}))
    with contextlib.ExitStack() as stack:
        assert open_for_run(replace(job, store=store), stack).path == store.journal_path
    assert not store.directory.exists(), "no run began in it"
    store.times = 9
    with contextlib.ExitStack() as stack, pytest.raises(OutputError, match="cannot be used"):
        open_for_run(replace(job, store=store), stack)


# -- The feed


class Halting(PlannedInput):
    """Holds up the thread that reads at a row that has its result, as a slow prompt function does."""

    def halt(self) -> None:
        self.is_there, self.may_go_on = threading.Event(), threading.Event()

    def question(self, position: int, values: Values, key: bytes) -> Question:
        if position == 1:
            self.is_there.set()
            assert self.may_go_on.wait(60)
        return super().question(position, values, key)


def test_a_chunk_is_finished_once_though_its_early_row_ends_while_the_chunk_is_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with parts(tmp_path, ["a", "b"], chunk_size=2) as run:
            [_, state] = run.journal.states(0, 2)
            request = await run.journal.sent(1, state.key, 0, run.planned.sources[0], Bound(1, 1, 1))
            await run.journal.settled(request, Outcome("answered"), Result(Status.OK, "B", ""))
            halting = Halting(run.job, run.journal, 2)
            halting.halt()
            feed = Feed(halting, run.journal, run.chunks, 100)
            [early] = await feed.early([0])
            reading = asyncio.get_running_loop().create_task(feed.next())
            await asyncio.to_thread(halting.is_there.wait, 60)
            finished = feed.finished_by(early)
            halting.may_go_on.set()
            item: Row | OpenChunk | None = await reading
            while item is not None:
                assert isinstance(item, OpenChunk)
                finished.append(item)
                item = await feed.next()
            assert [chunk.start for chunk in finished] == [0]

    in_virtual_time(work)


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_each_row_is_handed_out_once_and_in_order_or_finished_by_the_one_that_asks_the_same(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], chunk_size: int, most_rows: int, dedup: bool
) -> None:
    async def work() -> None:
        folder = tmp_path_factory.mktemp("feed")
        async with parts(folder, texts, chunk_size=chunk_size, dedup=dedup) as run:
            feed = run.feed(most_rows)
            rows: list[Row] = []
            closed: list[OpenChunk] = []
            while (item := await feed.next()) is not None:
                if isinstance(item, Row):
                    rows.append(item)
                    closed += feed.finished_by(item)
                else:
                    closed.append(item)
            assert feed.is_read
            first = [n for n, text in enumerate(texts) if text not in texts[:n]]
            assert [row.position for row in rows] == (first if dedup else list(range(len(texts))))
            assert sum(1 + row.followers for row in rows) == len(texts)
            assert sorted(chunk.start for chunk in closed) == list(range(0, len(texts), chunk_size))

    in_virtual_time(work)


def test_a_feed_that_is_closed_reads_no_further(tmp_path: Path) -> None:
    async def work() -> None:
        async with parts(tmp_path, TEXTS, chunk_size=1) as run:
            feed = run.feed(most_rows=2)
            first = await feed.next()
            assert isinstance(first, Row)
            assert first.question.messages == [{"role": "user", "content": "a"}]
            feed.close()
            assert [await feed.next() is not None for _ in range(2)] == [True, False], "what was read is handed out"
            assert not feed.is_read

    in_virtual_time(work)


def test_a_row_that_has_changed_since_the_plan_is_not_handed_out(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "t.csv"
        path.write_text("text,other\na,1\nb,2\n", encoding="utf-8")
        async with parts(tmp_path / "output", path) as run:
            path.write_text("text,other\na,1\nb,3\n", encoding="utf-8")
            with pytest.raises(InputError, match="row 1"):
                await run.feed().next()

    in_virtual_time(work)


# -- The asker


@dataclass
class Asking:
    """A row and what asks about it."""

    asker: Asker
    row: Row
    tally: Tally
    spending: Spending
    pool: Pool
    member: Member


@contextlib.asynccontextmanager
async def asking(folder: Path, service: Service, budget: int | None = None, **options: Any) -> AsyncIterator[Asking]:
    async with parts(folder, ["a"], param={"max_tokens": 5}, **options) as run:
        tariff = Tariff.of(ENDPOINT, run.job.settings.params)
        member = Member(0, ENDPOINT, run.planned.sources[0], service().caller(ENDPOINT), tariff)
        tally = Tally(*run.planned.counts)
        spending = Spending([tariff], budget)
        async with Pool([member]) as pool:
            asker = Asker(run.job.settings, run.journal, pool=pool, spending=spending, tally=tally, progress=quiet())
            row = await run.feed().next()
            assert isinstance(row, Row)
            yield Asking(asker, row, tally, spending, pool, member)
            await run.journal.flush()


def test_a_row_is_asked_until_it_has_its_result_and_each_attempt_is_in_the_journal(tmp_path: Path) -> None:
    def fail_twice(call: Call) -> Failure | None:
        return refusal(500) if call.nth <= 2 else None

    async def work() -> None:
        async with asking(tmp_path, Service(["a"], instead=fail_twice)) as found:
            result = await found.asker.ask(found.row)
            assert (result.status, result.answer) == (Status.OK, answer_to("a"))
            assert (found.tally.ok, found.tally.left) == (1, 0)
            assert found.spending.spent == 12 * 10**9
            assert found.pool.in_flight == 0
        async with parts(tmp_path, ["a"], param={"max_tokens": 5}) as again:
            assert again.journal.counts() == (1, 1, 0, 0)
            totals = again.journal.totals()
            assert (totals.requests, totals.retries, totals.answered, totals.failed, totals.out) == (3, 2, 1, 2, 0)
            assert again.journal.spent().total == 12 * 10**9

    in_virtual_time(work)


@pytest.mark.parametrize(
    ("came", "status", "is_charged"),
    [
        (None, Status.OK, True),
        (Completion("", usage=Usage(10, 2)), Status.INVALID, True),
        (refusal(400), Status.ERROR, False),
        (Failure(Fault.TOO_LONG, "too long", may_be_billed=True), Status.ERROR, True),
    ],
    ids=["answered", "empty", "refused", "billed without an answer"],
)
def test_however_a_request_ends_its_reservation_is_settled(
    tmp_path: Path, came: Completion | Failure | None, status: Status, is_charged: bool
) -> None:
    async def work() -> None:
        async with asking(tmp_path, Service(["a"], instead=lambda _call: came), budget=10**13) as found:
            most = found.member.tariff.most(found.row.question.messages)
            assert most
            assert (await found.asker.ask(found.row)).status is status
            left = 10**13 - (0 if not is_charged else most if status is Status.ERROR else 12 * 10**9)
            # Exactly what is left can be reserved, and not a nano-dollar more.
            budget = found.spending._budget
            assert budget
            assert (budget.reserved, budget.limit - budget.spent) == (0, left)

    in_virtual_time(work)


def test_a_row_that_cannot_be_asked_ends_as_an_error_without_a_request(tmp_path: Path) -> None:
    async def work() -> None:
        service = Service(["a"])
        async with asking(tmp_path, service) as found:
            row = found.row._replace(question=Question([], fault="line 3: it is no JSON"))
            assert await found.asker.ask(row) == Result(Status.ERROR, "", "line 3: it is no JSON")
            assert (found.tally.error, found.tally.sent, found.spending.spent, service.calls) == (1, 0, 0, [])
        async with parts(tmp_path, ["a"], param={"max_tokens": 5}) as again:
            assert again.journal.counts() == (1, 0, 0, 1)
            assert again.journal.totals().requests == 0

    in_virtual_time(work)


def test_a_row_that_backs_off_is_let_go_when_the_asker_is_closed(tmp_path: Path) -> None:
    async def work() -> None:
        service = Service(["a"], instead=lambda _call: refusal(500, retry_after=600))
        async with asking(tmp_path, service) as found:
            asked = asyncio.ensure_future(found.asker.ask(found.row))
            await asyncio.sleep(10)
            found.asker.refresh()
            assert found.tally.waiting_for
            found.asker.close()
            with pytest.raises(PoolClosed):
                await asked
            assert asyncio.get_running_loop().time() < 11
            assert (found.tally.done, found.pool.in_flight) == (0, 0)

    in_virtual_time(work)


# -- The ending

LOST = (EndpointCount("endpoint 1 (m)", 3, "the API key was refused"),)
TROUBLE = OutputError("the disk is full")


@pytest.mark.parametrize(
    ("ending", "error", "words"),
    [
        (Ending(trouble=TROUBLE, stopped_by="SIGTERM"), RunStopped, "the disk is full"),
        (Ending(stopped_by="SIGTERM", out_of_money="the budget is used up"), Interrupted, "stopped by SIGTERM"),
        (Ending(out_of_money="the budget is used up"), BudgetReached, "the budget is used up"),
        (Ending(), EndpointsLost, "no endpoint is left:\n  endpoint 1 (m): the API key was refused"),
    ],
)
def test_the_first_thing_that_explains_an_early_end_is_raised_and_recorded(
    tmp_path: Path, ending: Ending, error: type[BaseException], words: str
) -> None:
    async def work() -> None:
        async with parts(tmp_path, TEXTS) as run:
            report = report_of(run.job, figures(rows=7, ok=3), ending, endpoints=LOST)
        assert (report.status, report.left, report.output) == ("stopped", 4, None)
        with pytest.raises(error, match="3 of 7 rows are saved") as raised:
            Ended(ending, report).report_or_raise()
        assert str(raised.value).startswith(words.split("\n", maxsplit=1)[0])
        assert ending.in_words(LOST) == words

    in_virtual_time(work)


def test_a_run_that_is_done_but_whose_journal_was_moved_is_not_reported_as_done(tmp_path: Path) -> None:
    async def work() -> None:
        async with parts(tmp_path, TEXTS) as run:
            done = Ending(is_done=True)
            assert report_of(run.job, figures(rows=7, ok=7), done).output == run.job.store.all_path
            moved = replace(done, displaced=Displaced(is_kept=True))
            assert report_of(run.job, figures(rows=7, ok=7), moved).status == "stopped"

    in_virtual_time(work)
