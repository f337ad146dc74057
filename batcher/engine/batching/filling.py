"""Fills files with lines: a request for each row of the table that has no result and is not out.

Invariant: a line's money is charged before it stands in a file, at the most that it may cost; a file keeps within the
limits of its service; and a file that exists under its own name is whole.

One round reads the table once, slice by slice, over as many files as it takes. Rows that come back without an answer
meanwhile wait for the next round. The memory holds one slice, and what the journal needs of the lines of the files that
are being filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

from batcher.calls.batch_service import BatchService
from batcher.calls.forms import AS_IT_COMES, Wire
from batcher.engine.asked import repaired
from batcher.engine.batching.lines import custom_id, new_name
from batcher.engine.planned_input import PlannedInput
from batcher.engine.progress import Tally
from batcher.engine.stop import to_the_end
from batcher.input.images import holds_images, loaded
from batcher.input.picture import Unusable
from batcher.journal.entries import UNSENT, Batch, Outcome, Request
from batcher.journal.writing import Journal
from batcher.money.budget import BudgetSpent
from batcher.money.spending import Spending
from batcher.money.tariff import Tariff
from batcher.money.tokens import ESTIMATE, prompt_tokens
from batcher.output.csv_file import as_output_errors
from batcher.planning.asking import in_batches
from batcher.planning.job import Job
from batcher.pool.member import Member
from batcher.records import Bound, Message, Question, Result, RowState, Slice, Status, Values
from batcher.words import counted

T = TypeVar("T")

_LINES_AT_ONCE = 500
_LEAST_ROOM = 1 / 4
"""The share of a queue that must be free before a file is made for the rest of it: small files cost as many calls."""


class Place:
    """An endpoint whose service takes batches.

    Attributes:
        member: the endpoint.
        service: its batch API.
        tokens_out: the estimated tokens of its batches that are not over; open: the number of these.
        is_full: its queue has refused a batch, and none of its batches has come back since.
        out: why it takes no further batch; empty if it does.
        most_lines: of its files, by what it has refused; 0: not known.
        trouble: why it does not answer now, and when it is asked again; empty if it does.
    """

    def __init__(self, member: Member, service: BatchService) -> None:
        self.member = member
        self.service = service
        self.tokens_out = 0
        self.open = 0
        self.is_full = False
        self.out = ""
        self.trouble = ""
        self.most_lines = 0
        self._tariffs: dict[str | None, Tariff] = {}

    @property
    def host(self) -> str:
        """The name of its server, for people."""
        endpoint = self.member.endpoint
        return urlsplit(endpoint.real_source.base_url).netloc or endpoint.where or self.member.label

    def lower(self, batch: Batch) -> None:
        """Make smaller files from now on: one of this size was too large."""
        self.most_lines = max(min(self.most_lines or batch.requests, batch.requests // 2), 1)

    @property
    def wire(self) -> Wire:
        """What its requests add to a row's messages."""
        return self.member.choice.wire(0) if self.member.choice else AS_IT_COMES

    def tariff(self, wire: Wire) -> Tariff:
        """Return the prices of its lines in a form."""
        if wire.form not in self._tariffs:
            [self._tariffs[wire.form]] = in_batches([self.member.tariff_in(wire.form)])
        return self._tariffs[wire.form]

    @property
    def most_tokens(self) -> int:
        """The most tokens of a further file; 0: any number."""
        limit = self.service.limits.tokens
        return max(limit - self.tokens_out, 1) if limit else 0

    @property
    def takes_more(self) -> bool:
        """Whether its queue has room for a further batch, as far as that is known."""
        limits = self.service.limits
        if self.out or self.is_full or (limits.at_once and self.open >= limits.at_once):
            return False
        return not limits.tokens or not self.open or self.most_tokens >= limits.tokens * _LEAST_ROOM


class _Candidate(NamedTuple):
    """A row that lacks lines."""

    position: int
    key: bytes
    question: Question
    followers: int


class _Line(NamedTuple):
    """A line that is about to stand in a file."""

    request: Request
    bound: Bound
    data: bytes
    tokens: int


@dataclass
class _File:
    """A file that is being filled.

    Attributes:
        place: where it goes.
        url: of its lines.
        wire: how they are asked.
        path: where it will be; temporary: where it is until then.
    """

    name: str
    place: Place
    url: str
    wire: Wire
    path: Path
    temporary: Path
    content: BinaryIO
    lines: list[tuple[Request, Bound]] = field(default_factory=list)
    size: int = 0
    tokens: int = 0
    charged: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)
    unwritten: list[bytes] = field(default_factory=list)

    def takes(self, line: _Line, most_lines: int) -> bool:
        """Return whether a line fits into it, too."""
        limits, most_tokens = self.place.service.limits, self.place.most_tokens
        inputs = limits.inputs if self.url.endswith("/embeddings") else 0
        most = min(filter(None, (limits.requests, inputs, self.place.most_lines, most_lines)), default=0)
        if most and len(self.lines) >= most:
            return False
        if limits.bytes and self.size + len(line.data) > limits.bytes:
            return False
        return not most_tokens or not self.lines or self.tokens + line.tokens <= most_tokens

    def add(self, line: _Line) -> None:
        self.lines.append((line.request, line.bound))
        self.size += len(line.data)
        self.tokens += line.tokens
        self.charged += line.bound.cost or 0
        self.unwritten.append(line.data)

    def write(self) -> None:
        """Write what was added; runs in a thread."""
        data = b"".join(self.unwritten)
        self.unwritten.clear()
        with as_output_errors(self.path, "written"):
            self.content.write(data)
        self.sha256.update(data)

    def finish(self) -> None:
        """Give it its own name, when it is on disk; runs in a thread."""
        self.write()
        with as_output_errors(self.path, "written"):
            self.content.flush()
            os.fsync(self.content.fileno())
            self.content.close()
            self.temporary.replace(self.path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.content.close()
        for path in (self.temporary, self.path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class Filler:
    """Makes batches of the rows that have no result and are not out.

    Args:
        job: the run.
        journal: has the states of the rows, and gets the batches.
        planned_input: the table.
        places: the endpoints.
        sources: ids of the sources whose answers count (`--samples`).
        others: ids of the sources of a second endpoint, whose answers that did not fit are not mended here.
        spending: is charged.
        tally: counts rows that cannot be asked.

    Attributes:
        is_round_over: the table was read to its end; the next call begins anew.
        short: the budget does not cover the next line; None: it did.
    """

    def __init__(
        self,
        job: Job,
        journal: Journal,
        planned_input: PlannedInput,
        places: Sequence[Place],
        *,
        sources: Sequence[int],
        others: Sequence[int] = (),
        spending: Spending,
        tally: Tally,
    ) -> None:
        self.is_round_over = True
        self.short: BudgetSpent | None = None
        self._job = job
        self._journal = journal
        self._input = planned_input
        self._store = job.store
        self._places = places
        self._sources = sources
        self._others = others
        self._spending = spending
        self._tally = tally
        self._slices: Iterator[Slice] = iter(())
        self._end = 0
        self._pending: deque[_Candidate] = deque()
        self._files: dict[tuple[str, str], _File] = {}
        self._unfit: dict[bytes, str] = {}
        self._has_opinions = False
        # The answers to other rows that rows of this round have taken up.
        self._taken: set[int] = set()
        self._is_closed = self._is_stale = False
        self._making = asyncio.Lock()

    async def forget(self) -> None:
        """Drop what was read, and the files that are not full; the next call of `make` begins a round anew."""
        self._is_stale = True
        async with self._making:
            await self._give_up()
            self._pending.clear()
            self._slices, self.is_round_over = iter(()), True
            self._is_stale = False

    def close(self) -> None:
        """Make no further batch."""
        self._is_closed = True

    async def make(self, most_lines: int = 0) -> Batch | None:
        """Fill a file, and record the batch and its lines.

        Args:
            most_lines: of the file; 0: as many as the service takes.

        Returns:
            The batch, whose file is ready to leave; None: no row is left in this round, or the budget does not cover
            the next one, or no endpoint takes it.

        Raises:
            OutputError: the file or the journal cannot be written.
            InputError: the input cannot be read, or was changed.
        """
        async with self._making:
            return await self._make(most_lines)

    async def _make(self, most_lines: int) -> Batch | None:
        self.short = None
        try:
            while not self._is_closed and not self._is_stale:
                if not self._pending and not await self._read_on():
                    break
                if full := await self._fill(most_lines):
                    return await self._made(full)
                if self.short or self._pending:  # what is pending goes to an endpoint that takes nothing now
                    break
            begun = [each for each in self._files.values() if each.lines]
            if begun and not self._is_closed and not self._is_stale:
                return await self._made(max(begun, key=lambda each: len(each.lines)))
            await self._give_up()  # what is open is empty, or the run is stopping
        except BaseException:
            await self._give_up()
            raise
        return None

    async def _give_up(self) -> None:
        """Remove the files that are not full: nothing of them has left."""
        for file in self._files.values():
            self._spending.give_back(file.charged)
            await in_thread(file.remove)
        self._files.clear()

    # -- Reading

    async def _read_on(self) -> bool:
        """Read rows that lack lines; return False at the end of the table."""
        if self.is_round_over:
            if self._files:
                return False  # of the round that ended: they are finished first
            await in_thread(self._begin)
            self.is_round_over = False
        found = await in_thread(self._next)
        if found is None:
            self.is_round_over = True
            return False
        self._pending += found
        return True

    def _begin(self) -> None:
        """Begin a round; runs in a thread."""
        self._slices, self._end = self._input.chunks(), 0
        self._taken.clear()
        self._has_opinions = self._journal.has_open_opinions()
        settings = self._job.settings
        mends = self._job.shape is not None and settings.repair > 0
        self._unfit = self._journal.unfit_texts(self._others) if mends else {}

    def _next(self) -> list[_Candidate] | None:
        """Return the rows that lack lines in the next slice that has some; None at the end. Runs in a thread."""
        for start, rows in self._slices:
            if self._is_closed:
                return None
            self._end = start + len(rows)
            states = self._journal.states(start, self._end)
            if len(states) != len(rows):
                raise self._input.changed(start + len(states))
            self._input.check(start, rows)
            if found := [*self._lacking(start, rows, states)]:
                return found
        if self._end != self._input.rows and not self._is_closed:
            raise self._input.changed(self._end)
        return None

    def _lacking(self, start: int, rows: Sequence[Values], states: Sequence[RowState]) -> Iterator[_Candidate]:
        """Yield each row as often as it lacks a line."""
        for position, (values, state) in enumerate(zip(rows, states, strict=True), start):
            if state.result is None and state.leader is None and (lines := self._lines_lacking(position, state)):
                question = self._input.question(position, values, state.key)
                for _ in range(lines if not question.fault else 1):
                    yield _Candidate(position, state.key, question, state.followers)

    def _lines_lacking(self, position: int, state: RowState) -> int:
        """Return how many lines a row lacks."""
        wanted = self._job.settings.samples - state.out
        if wanted <= 0 or not self._has_opinions:
            return max(wanted, 0)
        own, others = self._journal.open_opinions(position, state.key, self._sources)
        free = [each.id for each in others if each.id not in self._taken][: max(wanted - len(own), 0)]
        self._taken.update(free)
        return max(wanted - len(own) - len(free), 0)

    # -- Filling

    async def _fill(self, most_lines: int) -> _File | None:
        """Put pending rows into files; return one that is full."""
        while self._pending:
            candidate = self._pending[0]
            question = candidate.question
            if question.fault:
                await self._end_row(candidate, question.fault)
                continue
            file = await self._file_for(question)
            if file is None:
                return None
            if isinstance(file, str):
                await self._end_row(candidate, file)
                continue
            if holds_images(question.messages):
                made = await in_thread(self._made_line, candidate, file, self._journal.number())
            else:
                made = self._made_line(candidate, file, self._journal.number())
            if isinstance(made, str):
                await self._end_row(candidate, made)
                continue
            if not file.takes(made, most_lines):
                return file
            if not self._spending.charge(made.bound):
                self.short = self._spending.shortage(made.bound)
                return None
            file.add(made)
            self._unfit.pop(candidate.key, None)
            self._pending.popleft()
            if len(file.unwritten) >= _LINES_AT_ONCE:
                await in_thread(file.write)
        return None

    async def _file_for(self, question: Question) -> _File | str | None:
        """Return the file that a row's line goes into; None: no endpoint takes one now; a text: none ever will."""
        model = question.terms.model
        among = [each for each in self._places if each.member.endpoint.real_source.model == model] if model else []
        among = among or [*self._places]
        if all(each.out for each in among) and any(not each.out for each in self._places):
            return "; ".join(f"{each.member.label} takes no batches: {each.out}" for each in among)
        kind = among[0].service.url(question.terms), model
        if kind not in self._files:
            free = [each for each in among if each.takes_more]
            if not free:
                return None
            place = min(free, key=lambda each: (each.tokens_out, each.open))
            self._files[kind] = await in_thread(self._new_file, place, kind[0])
        return self._files[kind]

    def _new_file(self, place: Place, url: str) -> _File:
        name = new_name()
        path = self._store.batch_path(name)
        temporary = path.with_name(f".{path.name}.tmp")
        with as_output_errors(path, "written"):
            content = temporary.open("wb")
        return _File(name, place, url, place.wire, path, temporary, content)

    def _made_line(self, candidate: _Candidate, file: _File, number: int) -> _Line | str:
        """Return a row's line, or why the row cannot be asked in a batch."""
        position, key, question, _ = candidate
        place, wire, terms = file.place, file.wire, question.terms
        messages: Sequence[Message] = question.messages
        if text := self._unfit.get(key, ""):
            messages = repaired(question.messages, text, self._job.shape.read(text).error if self._job.shape else "")
        bound = place.tariff(wire).on(terms, messages).bound(messages)
        tokens = round(prompt_tokens(wire.messages(messages), ESTIMATE))
        try:
            sent = wire.messages(loaded([*messages]) if holds_images(messages) else messages)
        except Unusable as fault:
            return str(fault)
        request = Request(number, position, key, place.member.number, place.member.source)
        data = place.service.line(custom_id(request), sent, wire.params, terms)
        if excess := _excess(place, len(data), tokens):
            return excess
        return _Line(request, bound, data, tokens)

    async def _end_row(self, candidate: _Candidate, fault: str) -> None:
        """End the pending row that is next: it cannot be asked."""
        position, key, _, followers = candidate
        while self._pending and self._pending[0].position == position:
            self._pending.popleft()
        member = self._places[0].member
        request = await self._journal.sent(position, key, member.number, member.source, Bound(cost=0))
        outcome, ended = Outcome(UNSENT, cost=0), Result(Status.ERROR, "", fault)
        result = await self._journal.settled(request, outcome, ended, followers=followers > 0)
        self._tally.count(result.status, 1 + followers)

    async def _made(self, file: _File) -> Batch:
        """Finish a file, and record its batch and lines."""
        del self._files[next(key for key, each in self._files.items() if each is file)]
        try:
            await in_thread(file.finish)
            batch = Batch(
                endpoint=file.place.member.number,
                source=file.place.member.source,
                name=file.name,
                url=file.url,
                requests=len(file.lines),
                bytes=file.size,
                tokens=file.tokens,
                sha256=file.sha256.digest(),
                form=file.wire.form or "",
            )
            return await self._journal.batch_made(batch, file.lines)
        except BaseException:
            self._spending.give_back(file.charged)
            file.remove()
            raise


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do work in a thread, to its end even if this task is cancelled."""
    return await to_the_end(asyncio.get_running_loop().run_in_executor(None, work, *args))


def _excess(place: Place, size: int, tokens: int) -> str:
    """Return why a line fits into no file of a service; empty if it fits."""
    limits = place.service.limits
    most = min(filter(None, (limits.bytes, limits.line_bytes)), default=0)
    if most and size > most:
        at = place.member.endpoint.where
        return f"its request has {counted(size, 'byte')}, and a line of a batch at {at} at most {most:,}"
    if limits.tokens and tokens > limits.tokens:
        return (
            f"its request has about {counted(tokens, 'token')}, and a batch at {place.member.endpoint.where} takes at"
            f" most {limits.tokens:,}"
        )
    return ""
