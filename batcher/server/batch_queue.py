"""The files and batches of a service: what it keeps, how its batches go on, and what comes out of them.

Invariant: a batch's state only moves forward, as its clock does; each line is answered at most once, and its answer is
in at most one file of results, unless a fault says otherwise.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple, Protocol

from batcher.server.batch_books import BatchBooks
from batcher.server.batch_lines import Checked, Line, LineError, check, raw_lines, read_line
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, Rules, Slip, State
from batcher.server.faults import unit
from batcher.server.responses import Refusal, bad

OK = 200
BATCH, OUTPUT = "batch", "batch_output"
"""The purposes of files."""

_IN_MEMORY = 2**20  # bytes of a file that are kept in memory
_MARGIN = 0.02  # of the time of a batch: to check its file, and to write its results
_MOST_MARGIN_S = 60.0

_EXPIRED = "This request could not be executed before the completion window expired."
_NOT_ASKED = "This request was not executed before the batch ended."


class LineAnswer(NamedTuple):
    """The response to a line.

    Attributes:
        status: of HTTP.
        body: JSON.
        prompts: what the line asks, as the books name it.
        prompt_tokens, completion_tokens: that it used.
    """

    status: int
    body: bytes
    prompts: tuple[str, ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Model(Protocol):
    """Answers the lines of batches."""

    def prompts(self, line: Line) -> tuple[str, ...]:
        """Return what a line asks, as the books name it."""

    def check(self, url: str, model: str, lines: int, size: int) -> tuple[LineError, ...]:
        """Return what is wrong with a batch that asks this route and model, by its lines and bytes."""

    def answer(self, line: Line, key: str) -> LineAnswer:
        """Answer a line, for the API key that made its batch."""


class StoredFile:
    """A file at the service.

    Args:
        number: of the file, from 1.
        filename: as it was uploaded.
        purpose: `batch`, or another one.
        created: seconds since the epoch, by the server's clock.
        content: it, rewound.

    Attributes:
        id: of the file.
        bytes: its length.
        shows: when it is in lists.
    """

    def __init__(self, number: int, filename: str, purpose: str, created: float, content: IO[bytes]) -> None:
        self.number = number
        self.id = f"file-{_digest('file', number)}"
        self.filename = filename
        self.purpose = purpose
        self.created = created
        self.shows = created
        self.content = content
        weakref.finalize(self, content.close)
        self.bytes = content.seek(0, 2)
        content.seek(0)

    def parts(self, size: int = 2**16) -> Iterator[bytes]:
        """Yield its bytes."""
        place = 0
        while part := self.read(place, size):
            place += len(part)
            yield part

    def read(self, place: int, size: int) -> bytes:
        """Return bytes from a place on."""
        self.content.seek(place)
        return self.content.read(size)


class QueuedBatch:
    """A batch at the service.

    Attributes:
        id: of the batch.
        number: from 1.
        file: of its lines.
        endpoint: the path that they ask, as it was given.
        window: the completion window, as it was given.
        metadata: as it was given.
        key: the API key that made it.
        checked: what its file holds.
        state: now; see `BatchQueue.advance`.
        created, started, finalizing, ended, expires, cancelling: seconds since the epoch; None: not yet.
        done: lines that were answered or refused.
        completed, failed: lines with an answer and without one, of those.
        errors: why it failed.
        output_file, error_file: the ids of its results.
        prompt_tokens, completion_tokens: that it used.
    """

    def __init__(
        self,
        number: int,
        file: StoredFile,
        endpoint: str,
        window: str,
        *,
        metadata: Mapping[str, str],
        key: str,
        checked: Checked,
        created: float,
    ) -> None:
        self.number = number
        self.id = f"batch_{_digest('batch', number)}"
        self.file = file
        self.endpoint = endpoint
        self.window = window
        self.metadata = dict(metadata)
        self.key = key
        self.checked = checked
        self.created = created
        self.shows = created
        self.state = State.VALIDATING
        self.started: float | None = None
        self.finalizing: float | None = None
        self.ended: float | None = None
        self.cancelling: float | None = None
        self.expires = created
        self.done = self.completed = self.failed = 0
        self.errors: tuple[LineError, ...] = ()
        self.output_file: str | None = None
        self.error_file: str | None = None
        self.results_late = 0.0
        self.prompt_tokens = self.completion_tokens = 0
        self.plan = _Plan()
        self.results = _Results()
        self.place = 0  # of the next line in its file

    @property
    def total(self) -> int:
        """Its lines, if its file is in order."""
        return 0 if self.checked.errors else self.checked.lines

    @property
    def is_open(self) -> bool:
        """Whether it takes up room in the queue."""
        return not self.state.is_over


class _Plan(NamedTuple):
    """When things happen to a batch, in seconds of the server's clock.

    Attributes:
        checked: its file has been checked.
        begins, works: the first line is answered after, and the last one at.
        ends: it is over.
        target: lines that are answered until it is over.
        end: how it ends.
        rule: that says so.
    """

    checked: float = 0.0
    begins: float = 0.0
    works: float = 0.0
    ends: float = 0.0
    target: int = 0
    end: State = State.COMPLETED
    rule: BatchRule | None = None

    def answered(self, now: float) -> int:
        """Return the lines that are answered by now."""
        if now >= self.works:
            return self.target
        if now <= self.begins:
            return 0
        share = (now - self.begins) / (self.works - self.begins)
        return min(math.floor(self.target * share), self.target)


class _Results:
    """The lines of the results of a batch, and what each asks, until they are written."""

    def __init__(self) -> None:
        self.answered: list[bytes] = []
        self.failed: list[bytes] = []
        self.prompts: list[tuple[str, ...]] = []  # of the answered lines that will be in a file


class BatchQueue:
    """Files and batches.

    Every method first lets the batches go on to the present.

    Args:
        knobs: how it behaves.
        model: answers the lines.
        clock: seconds since the epoch.
        books: what it counts.
        served: the only model; empty for any.
        at_once: lines that are answered in one go at most.

    Attributes:
        books: its counts.
        limits: the knobs.
    """

    def __init__(
        self,
        knobs: BatchKnobs,
        model: Model,
        clock: Callable[[], float],
        *,
        books: BatchBooks | None = None,
        served: str = "",
        at_once: float = math.inf,
    ) -> None:
        self.limits = knobs
        self.books = books or BatchBooks()
        self._model = model
        self._clock = clock
        self._began = clock()
        self._served = served
        self._at_once = self._left = at_once
        self._files: dict[str, StoredFile] = {}
        self._batches: dict[str, QueuedBatch] = {}
        self._made = self._made_files = self._uploads = 0
        self.reset()

    @property
    def now(self) -> float:
        """Seconds since the epoch, by the server's clock, which may go faster than others."""
        return self._began + (self._clock() - self._began) * self.limits.speed

    def reset(self) -> None:
        """Let the times and counts of the faults begin anew; files and batches stay."""
        self._rules = Rules(self.limits.rules, self.limits.seed, self.books.meet)
        self._first: float | None = None

    def meet(self, place: Place) -> BatchRule | None:
        """Count a request about files or batches, and return the fault that it meets."""
        self.books.by_call[place] += 1
        return self._rules.at(place, self._seconds())

    # --- files ---

    def add(self, filename: str, purpose: str, content: IO[bytes]) -> StoredFile:
        """Keep a file; `content` is the queue's from then on."""
        self._made_files += 1
        file = StoredFile(self._made_files, filename, purpose, self.now, content)
        self._files[file.id] = file
        if purpose != OUTPUT:
            self._uploads += 1
            self.books.uploads += 1
            file.shows += self._rules.late(Place.FILES, self._uploads, self._seconds())
        return file

    def files(self, purpose: str = "") -> list[StoredFile]:
        """Return the files that show, the newest first."""
        self.advance()
        now = self.now
        shown = (each for each in self._files.values() if each.shows <= now and purpose in {"", each.purpose})
        return sorted(shown, key=lambda each: each.number, reverse=True)

    def file(self, name: str) -> StoredFile | Refusal:
        """Return a file."""
        self.advance()
        return self._files.get(name) or Refusal(404, f"No such File object: {name}", param="id")

    def delete(self, name: str) -> StoredFile | Refusal:
        """Remove a file; a batch that works on it goes on."""
        file = self.file(name)
        if isinstance(file, StoredFile):
            del self._files[name]
        return file

    # --- batches ---

    def create(
        self, input_file: str, endpoint: str, window: str, *, metadata: Mapping[str, str] | None = None, key: str = ""
    ) -> QueuedBatch | Refusal:
        """Make a batch of a file, as it is before anything has looked at it."""
        file = self.file(input_file)
        if isinstance(file, Refusal):
            said = f"Cannot find file {input_file}, or your organization does not have access to it."
            return bad(said, "input_file_id")
        if file.purpose != BATCH:
            return bad(f"File {file.id} was not uploaded with the purpose 'batch'.", "input_file_id")
        found: set[int] = set()
        asked: list[tuple[str, ...]] = []

        def see(line: Line) -> None:
            prompts = self._model.prompts(line)
            asked.append(prompts)
            for prompt in prompts:
                found.update(self._rules.found_in(prompt))

        checked = check(file.content, endpoint, self._served, self.limits.file_requests, see)
        if not checked.errors:
            wrong = self._model.check(endpoint, checked.model, checked.lines, file.bytes)
            checked = checked._replace(errors=wrong or self._no_room(checked))
        self._made += 1
        self.books.make(file.id, () if checked.errors else asked)
        batch = QueuedBatch(
            self._made, file, endpoint, window, metadata=metadata or {}, key=key, checked=checked, created=self.now
        )
        self._batches[batch.id] = batch
        self._foresee(batch, found)
        return batch

    def batches(self) -> list[QueuedBatch]:
        """Return the batches that show, the newest first."""
        self.advance()
        now = self.now
        return sorted(
            (each for each in self._batches.values() if each.shows <= now), key=lambda each: each.number, reverse=True
        )

    def batch(self, name: str) -> QueuedBatch | Refusal:
        """Return a batch."""
        self.advance()
        return self._batches.get(name) or Refusal(404, f"No batch found with id '{name}'.", param="id")

    def cancel(self, name: str) -> QueuedBatch | Refusal:
        """Let a batch be cancelled; return it as it is then."""
        batch = self.batch(name)
        if isinstance(batch, Refusal) or batch.state is State.CANCELLING:
            return batch
        if batch.state.is_over:
            return Refusal(409, f"Cannot cancel a batch with status '{batch.state}'.")
        batch.cancelling = self.now
        batch.state = State.CANCELLING
        return batch

    # --- what time does ---

    def advance(self) -> bool:
        """Let every batch go on to the present; return whether there is more to do, which one call does not."""
        now, self._left = self.now, self._at_once
        for batch in self._batches.values():
            if batch.is_open:
                self._go_on(batch, now)
        return self._left <= 0

    def _go_on(self, batch: QueuedBatch, now: float) -> None:
        plan = batch.plan
        if batch.cancelling is not None:
            self._go_on_cancelling(batch, batch.cancelling, now)
        elif batch.checked.errors:
            if now >= plan.checked:
                batch.errors = batch.checked.errors
                self._end(batch, State.FAILED, plan.checked)
        else:
            self._start(batch, now)
            if batch.started is not None and self._answer(batch, plan.answered(now)):
                self._finish(batch, now)

    def _go_on_cancelling(self, batch: QueuedBatch, since: float, now: float) -> None:
        """Let a batch go on that was cancelled: what was answered until then is in its results."""
        if batch.checked.errors:
            self._end(batch, State.CANCELLED, since)
            return
        self._start(batch, since)
        ends = since + self.limits.cancelling
        if self._answer(batch, batch.plan.answered(since)) and now >= ends:
            self._end(batch, State.CANCELLED, ends)

    def _finish(self, batch: QueuedBatch, now: float) -> None:
        """Let a batch end of which all that is due was answered."""
        plan = batch.plan
        if now >= plan.works and plan.end is State.COMPLETED:
            batch.finalizing = plan.works
            batch.state = State.FINALIZING
        if now >= plan.ends:
            if plan.end is State.FAILED and plan.rule:
                batch.errors = (LineError(plan.rule.code, plan.rule.message),)
            self._end(batch, plan.end, plan.ends)

    def _start(self, batch: QueuedBatch, now: float) -> None:
        """Let a batch begin whose file has been checked by now."""
        if batch.started is None and now >= batch.plan.checked and not batch.checked.errors:
            batch.started = batch.plan.checked
            if batch.state is State.VALIDATING:
                batch.state = State.IN_PROGRESS

    def _foresee(self, batch: QueuedBatch, found: set[int]) -> None:
        """Decide when what happens to a new batch."""
        number, model, seconds = batch.number, batch.checked.model, self._seconds()
        batch.shows += self._rules.late(Place.LIST, number, seconds)
        batch.expires = batch.created + self.limits.window * days_in(batch.window)
        if batch.checked.errors:
            batch.plan = _Plan(checked=batch.created + min(self.limits.latency * _MARGIN, _MOST_MARGIN_S))
            return
        batch.results_late = self._rules.late(Place.CONTENT, number, seconds)
        takes = self._rules.takes(number, seconds, model, found)
        takes = self.limits.latency if takes is None else takes
        margin = min(takes * _MARGIN, _MOST_MARGIN_S)
        checked, works, ends = batch.created + margin, batch.created + takes - margin, batch.created + takes
        begins = checked + (works - checked) * self.limits.idle
        plan = _Plan(checked, begins, works, ends, batch.checked.lines)
        rule = self._rules.end(number, seconds, model, found)
        if rule and rule.end:
            target = math.floor(batch.checked.lines * rule.answered)
            plan = plan._replace(works=ends, target=target, end=rule.end, rule=rule)
            if rule.end is State.EXPIRED:
                batch.expires = ends
        if plan.ends > batch.expires:
            target = plan.answered(batch.expires)
            checked, begins = min(plan.checked, batch.expires), min(plan.begins, batch.expires)
            plan = _Plan(checked, begins, batch.expires, batch.expires, target, State.EXPIRED)
        batch.plan = plan

    def _answer(self, batch: QueuedBatch, until: int) -> bool:
        """Answer the lines of a batch until this number of them is done; return whether it is."""
        results = batch.results
        if batch.done >= until or self._left <= 0:
            return batch.done >= until
        for place, raw in raw_lines(batch.file.content, batch.place):
            batch.place = place
            batch.done += 1
            line = read_line(raw, batch.done)
            if isinstance(line, Line):
                answer = self._model.answer(line, batch.key)
                self._take(batch, line, answer, results)
            self._left -= 1
            if batch.done >= until or self._left <= 0:
                break
        return batch.done >= until

    def _take(self, batch: QueuedBatch, line: Line, answer: LineAnswer, results: _Results) -> None:
        """Put the response to a line into the results, as the faults have it."""
        prompts = answer.prompts
        is_answered = answer.status == OK
        batch.completed += is_answered
        batch.failed += not is_answered
        batch.prompt_tokens += answer.prompt_tokens
        batch.completion_tokens += answer.completion_tokens
        self.books.answer(prompts, is_answered=is_answered)
        seconds = self._seconds()
        slips = {
            slip for prompt in prompts for slip in self._rules.slips(prompt, batch.number, seconds, batch.checked.model)
        }
        lines = results.answered if is_answered else results.failed
        written = _result(batch, line, answer)
        if Slip.FOREIGN in slips:
            lines.append(_result(batch, line._replace(custom_id=f"stranger-{line.number}"), answer))
        if Slip.DROP in slips or Slip.BROKEN in slips:
            if Slip.BROKEN in slips:
                lines.append(written[: len(written) // 2] + b"\n")
            if is_answered:
                self.books.lose(prompts)
            return
        lines.extend([written] * (2 if Slip.DOUBLE in slips else 1))
        if is_answered:
            results.prompts.append(prompts)

    def _end(self, batch: QueuedBatch, state: State, at: float) -> None:
        """Let a batch be over: write its results, and count them."""
        batch.state = state
        batch.ended = at
        self.books.by_end[state] += 1
        results, rule = batch.results, batch.plan.rule
        is_listed = rule.is_listed if rule and rule.is_listed is not None else state is State.EXPIRED
        if is_listed and not batch.checked.errors:
            error = {"code": "batch_expired", "message": _EXPIRED}
            if state is not State.EXPIRED:
                error = {"code": f"batch_{state}", "message": _NOT_ASKED}
            for place, raw in raw_lines(batch.file.content, batch.place):
                batch.place = place
                if isinstance(line := read_line(raw, 0), Line):
                    results.failed.append(_unasked(line, error))
                    batch.failed += 1
        for prompts in results.prompts:
            self.books.bill(prompts)
        # A file of which a fault has dropped every line is there all the same.
        if batch.completed:
            batch.output_file = self._write(batch, "output", results.answered)
        if batch.failed:
            batch.error_file = self._write(batch, "error", results.failed)
        batch.results = _Results()

    def _write(self, batch: QueuedBatch, what: str, lines: list[bytes]) -> str:
        """Write a file of results, and return its id."""
        if not self.limits.in_order:
            places = sorted(range(len(lines)), key=lambda place: unit(self.limits.seed, batch.number, what, place))
            lines = [lines[place] for place in places]
        content = new_file()
        for line in lines:
            content.write(line)
        return self.add(f"{batch.id}_{what}.jsonl", OUTPUT, content).id

    def shown_files(self, batch: QueuedBatch) -> tuple[str | None, str | None]:
        """Return the ids of a batch's output and error file as far as they show now."""
        if batch.ended is None or self.now < batch.ended + batch.results_late:
            return None, None
        return batch.output_file, batch.error_file

    def _no_room(self, checked: Checked) -> tuple[LineError, ...]:
        """Return the error of a batch that does not fit beside those that are not over."""
        waiting = [each.checked for each in self._batches.values() if each.is_open and not each.checked.errors]
        for name, most, queued in (
            ("token", self.limits.queue_tokens, sum(each.tokens for each in [*waiting, checked])),
            ("request", self.limits.queue_requests, sum(each.lines for each in [*waiting, checked])),
        ):
            if most and queued > most:
                said = (
                    f"Enqueued {name} limit reached for {checked.model or 'this model'}. Limit: {most:,} enqueued"
                    f" {name}s. Please try again once some in_progress batches have been completed."
                )
                return (LineError(f"{name}_limit_exceeded", said),)
        return ()

    def _seconds(self) -> float:
        """Return the seconds since the first request about files or batches, and begin to count with it."""
        if self._first is None:
            self._first = self.now
        return self.now - self._first


def days_in(window: str) -> float:
    """Return the days of a completion window, such as `24h` or `14d`; 0 if it is none."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([hd])", window)
    return int(found[1]) / (24 if found[2] == "h" else 1) if found else 0.0


def new_file() -> IO[bytes]:
    """Return room for a file, in memory as long as it is small."""
    return tempfile.SpooledTemporaryFile(_IN_MEMORY)


def _digest(*parts: object) -> str:
    return f"{int(unit(*parts) * 2**52):013x}{int(unit(*parts, 2) * 2**44):011x}"


def _result(batch: QueuedBatch, line: Line, answer: LineAnswer) -> bytes:
    head = json.dumps({"id": f"batch_req_{_digest(batch.number, line.number)}", "custom_id": line.custom_id})[:-1]
    request = _digest("request", batch.number, line.number)
    said = f'{head}, "response": {{"status_code": {answer.status}, "request_id": "{request}", "body": '
    return said.encode() + answer.body + b'}, "error": null}\n'


def _unasked(line: Line, error: Mapping[str, Any]) -> bytes:
    head = {"id": f"batch_req_{_digest(line.custom_id)}", "custom_id": line.custom_id}
    return json.dumps({**head, "response": None, "error": error}).encode() + b"\n"
