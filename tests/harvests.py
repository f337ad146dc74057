"""Batches that are over, to harvest: rows that are out, and a service that has only their files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fake_batches import FakeBatches
from fake_service import Service
from journals import COMPARISON, say
from virtual_time import run_virtually

from batcher.answer.labels import Labels
from batcher.answer.shape import Shape
from batcher.calls.batch_service import Answer, BatchService, Remote, RemoteState
from batcher.calls.forms import ladder_of
from batcher.endpoint import Endpoint
from batcher.engine.batching.harvesting import Harvest, Harvester
from batcher.engine.batching.lines import custom_id
from batcher.engine.progress import Progress, Tally
from batcher.journal.entries import Batch, BatchState, Line, Request
from batcher.journal.opening import open_journal
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.money.tariff import Tariff
from batcher.pool.forms import FormChoice
from batcher.pool.member import Member
from batcher.records import Bound, Completion, Failure, Fault, Usage
from batcher.settings import Settings

NAME = "0123456789abcdef"
ENDPOINT = Endpoint("m", "http://somewhere", prices={"in": 1, "out": 2, "batch": 0.5})
MOST = Bound(1000, 1000, 1_500_000, 1_000_000)
"""What a line may cost: a thousand tokens of either kind, at half of one and two dollars a million."""
USED = Usage(10, 2)
"""What an answer uses: it costs 10 * 500 + 2 * 1000 nano-dollars."""
COST = 7_000


class Files(FakeBatches):
    """A service that only hands out files, whose lines are the JSON that `answer`, `refusal` and `unasked` make.

    Args:
        files: their contents by id; a `Failure` is what a download gets instead.
    """

    def __init__(self, files: Mapping[str, bytes | Failure]) -> None:
        self.files = dict(files)
        self.downloads: list[str] = []

    def read(self, line: bytes) -> Answer | None:
        try:
            said = json.loads(line)
            name = said.pop("custom_id")
        except (ValueError, LookupError, TypeError):
            return None
        if "text" in said:
            usage = Usage(*said.pop("usage", (USED.prompt_tokens, USED.completion_tokens)))
            vectors = tuple(said.pop("vectors", ()))
            return Answer(name, Completion(finish_reason="stop", usage=usage, raw=line, vectors=vectors, **said))
        return Answer(name, Failure(Fault(said.pop("fault", "status")), **said))

    async def download(self, file: str, path: Path) -> Failure | None:
        await asyncio.sleep(1)
        self.downloads.append(file)
        content = self.files.get(file, Failure(Fault.STATUS, "no such file", 404))
        if isinstance(content, Failure):
            return content
        path.write_bytes(content)  # noqa: ASYNC240 - the test's own, and small
        return None


def answer(line: Line | str, text: str | None = None, **more: Any) -> bytes:
    """Return a line of a file with an answer to a line of the batch; default: `a` and the row's position."""
    if isinstance(line, Line):
        text = f"a{line.request.position}" if text is None else text
    return json.dumps({"custom_id": _name(line), "text": text, **more}).encode() + b"\n"


def refusal(line: Line, status: int | None = 400, message: str = "no", **more: Any) -> bytes:
    return json.dumps({"custom_id": _name(line), "message": message, "status": status, **more}).encode() + b"\n"


def unasked(line: Line, code: str) -> bytes:
    return refusal(line, None, "not asked", code=code, fault="other")


def _name(line: Line | str) -> str:
    return line if isinstance(line, str) else custom_id(line.request)


class Field(NamedTuple):
    """A batch that is out.

    Attributes:
        batch: as the journal has it.
        lines: of it, in the order of their rows.
    """

    batch: Batch
    lines: Sequence[Line]


class Barn:
    """Harvests in virtual time, in a journal whose rows 0, 1, 2, ... are out; each call is a process of its own.

    Args:
        directory: the output directory.
        rows: in the table.
        options: of the run.
        shape: what answers must be.
        budget: nano-dollars; None: none.
    """

    def __init__(
        self,
        directory: Path,
        rows: int = 5,
        *,
        shape: Shape | None = None,
        questions: Sequence[object] | None = None,
        dedup: bool = False,
        budget: int | None = None,
        is_one_of_several: bool = False,
        **options: Any,
    ) -> None:
        self.directory = directory
        self.path = directory / "journal_k.sqlite"
        self.shape = shape
        self.questions = range(rows) if questions is None else questions
        self.settings = Settings.of(options)
        self.budget = budget
        self.is_one_of_several = is_one_of_several
        self.said: list[str] = []
        self.tally = Tally()
        self.left: int | None = None
        self.choice = FormChoice(ladder_of(shape)) if shape else None
        self.how: dict[str, Any] = {"dedup": dedup}
        directory.mkdir(exist_ok=True)
        with open_journal(self.path) as journal:
            self._plan(journal)
            journal.start_run(500, {"prompt": "Is it good?"})

    def _plan(self, journal: Journal) -> None:
        with journal.planning(COMPARISON) as matching:
            say(matching, self.questions, **self.how)

    def send(self, positions: Sequence[int] | None = None, form: str = "") -> Field:
        """Put rows into a batch that is at the service."""

        async def work(journal: Journal) -> Field:
            places = [*positions] if positions is not None else [*range(len(self.questions))]
            states = dict(zip(places, journal.states_at(places), strict=True))
            lines = [
                (line, MOST)
                for place, state in states.items()
                if state.leader is None
                for line in [_request(journal, place, state.key)]
            ]
            made = Batch(name=f"{NAME[:-1]}{len(journal.batches())}", url="/v1/chat/completions", form=form, source=1)
            batch = await journal.batch_made(made._replace(requests=len(lines)), lines)
            batch = await journal.batch_moved(batch, state=BatchState.SENT, service_id=f"batch_{batch.id}")
            await journal.flush()
            return Field(batch, journal.lines(batch.id))

        found: Field = self.do(work)
        return found

    def harvest(
        self,
        field: Field,
        output: bytes | Failure | None = None,
        error: bytes | Failure | None = None,
        state: RemoteState = RemoteState.COMPLETED,
        **more: Any,
    ) -> Harvest:
        """Harvest a batch with these files."""
        files = {"output": output, "error": error}
        service = Files({name: content for name, content in files.items() if content is not None})
        named = {f"{name}_file": name for name, content in files.items() if content is not None}
        found = self.try_harvest(field, Remote(f"batch_{field.batch.id}", state, **{**named, **more}), service)
        assert isinstance(found, Harvest)
        return found

    def try_harvest(self, field: Field, remote: Remote | None, service: BatchService) -> Harvest | Failure:
        async def work(journal: Journal) -> Harvest | Failure:
            member = Member(
                0,
                ENDPOINT,
                1,
                Service([])().caller(ENDPOINT),
                Tariff.of(ENDPOINT, {"max_tokens": 1000}),
                choice=self.choice,
            )
            spent = 0 if self.budget is None else journal.spent().total
            spending = Spending([member.tariff], self.budget, spent)
            progress = _Said(self.said)
            harvester = Harvester(
                journal,
                self.settings,
                directory=self.directory,
                keyword="k",
                shape=self.shape,
                is_one_of_several=self.is_one_of_several,
                spending=spending,
                tally=self.tally,
                progress=progress,
            )
            [batch] = [each for each in journal.batches() if each.id == field.batch.id]
            try:
                return await harvester.harvest(batch, remote, service, member)
            finally:
                self.left = spending.shortage(Bound()).left

        found: Harvest | Failure = self.do(work)
        return found

    def do(self, work: Callable[[Journal], Any]) -> Any:
        """Do something with the journal, as a process of its own."""

        async def opened() -> Any:
            with open_journal(self.path) as journal:
                self._plan(journal)
                journal.start_run(500, {"prompt": "Is it good?"})
                return await work(journal)

        return run_virtually(opened())[0]

    def query(self, question: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as journal:
            return journal.execute(question).fetchall()

    def rows(self) -> list[str | None]:
        """Return the answer of each row, or its error; None: it has no result."""
        return [
            found
            for (found,) in self.query(
                "SELECT iif(status = 'error', error, answer) FROM rows r LEFT JOIN results a ON a.id = r.result"
                " ORDER BY position"
            )
        ]

    def outcomes(self) -> list[tuple[str | None, int | None]]:
        """Return how each line of the batches ended, and what it cost."""
        return self.query("SELECT outcome, cost FROM requests WHERE sent_in IS NOT NULL ORDER BY id")


class _Said(Progress):
    def __init__(self, said: list[str]) -> None:
        super().__init__("k", quiet=True)
        self._said = said

    def say(self, message: str, level: str = "info") -> None:  # noqa: ARG002 - what is said counts
        self._said.append(message)


def _request(journal: Journal, place: int, key: bytes) -> Request:
    return Request(journal.number(), place, key, 0, 1)


def labels(*names: str) -> Labels:
    return Labels.of([*names], "labels")
