"""What a person who looks at rows one by one reads of a journal: their answers, attempts, votes and corrections.

Invariant: it only reads; each row is found by its position, without a pass over the table.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batcher.errors import OutputError
from batcher.journal.access import log_path
from batcher.journal.corrections import BY_HAND
from batcher.journal.entries import CORRECTED
from batcher.journal.opening import read_kind
from batcher.journal.reading import HAS_VOTES
from batcher.journal.sampling import SampleReader
from batcher.journal.schema import IN_SCOPE, bound, text_of
from batcher.place import version_of
from batcher.records import GAVE_UP, OF_AN_IMAGE, Result, Source, Status

T = TypeVar("T")

LONGEST_LABEL = 300
"""Characters of an answer that is counted as a label."""
_LONGEST_REASON = 200
# The plus keeps SQLite from reading all rows up to the end of the plan.
_BETWEEN = f"r.position >= ? AND r.position < ? AND +r.{IN_SCOPE}"
_ATTEMPTS = 5  # to read a journal that a run is writing without a lock


InShort = tuple[Any, ...]
"""A row for the index: position, `results.id` or None, status, answer if it is `ok`, error if not, whether a person
gave the answer. A text may be bytes (`schema.text_of`), and one that is not needed is None."""


class RowLine(NamedTuple):
    """A row in a list.

    Attributes:
        position: of the row.
        result: the id of its result; None: it has none yet, and the rest is empty.
        status: how it ended.
        answer: its text; in a pass that needs no more only the beginning.
        error: why it is not `ok`.
        is_by_hand: a person gave the answer.
    """

    position: int
    result: int | None
    status: str
    answer: str
    error: str
    is_by_hand: bool


class Latest(NamedTuple):
    """What shows that a journal has changed, and how: the highest or lowest ids of its tables.

    Attributes:
        run: of the latest process; another one may have planned anew.
        rows: the rows of the plan.
        request: the highest id of a request.
        made: the lowest id of a result that no request brought: corrections, and answers that were read again.
        gold: the highest ids of a draw, of a drawn row and of a hand label.
        line: when the latest request in a batch ended, in seconds since 1970; 0 if none has.
    """

    run: int
    rows: int
    request: int
    made: int
    gold: tuple[int, int, int]
    line: float = 0.0


class RowFacts(NamedTuple):
    """A row and the result that it has.

    Attributes:
        key: of its question.
        result: the id of its result; None: it has none, and the rest is empty.
        answered: the key of the question that the result answers.
        ended: the result.
        source: who gave it.
        root: the id of the request that brought the answer.
        is_cut: the answer was cut off at the most tokens that it may have.
        is_kept: the row keeps the answer to an earlier question.
    """

    key: bytes
    result: int | None
    answered: bytes = b""
    ended: Result | None = None
    source: Source | None = None
    root: int = 0
    is_cut: bool = False
    is_kept: bool = False


class Attempt(NamedTuple):
    """A request for a row, as the journal has it; None for what is not known."""

    id: int
    sent: float
    ended: float | None
    outcome: str | None
    model: str
    base_url: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    cost: int | None
    is_paid: bool


class OneVote(NamedTuple):
    """One of the answers that a result is made of."""

    result: Result
    model: str
    confidence: float | None


class Step(NamedTuple):
    """A correction of a row, or its undoing; the texts are empty if they are not known."""

    at: float | None
    who: str
    origin: str
    why: str
    is_undo: bool
    before: Result | None
    after: Result


class RowReader(SampleReader):
    """Reads a journal row by row."""

    def latest(self) -> Latest:
        """Return what shows later whether the journal has changed."""
        [(run, rows, request, made, draw, drawn, gold, line)] = self._all(
            "SELECT (SELECT max(id) FROM runs), (SELECT max(rows) FROM scope), (SELECT max(id) FROM requests),"
            " (SELECT min(id) FROM results), (SELECT max(id) FROM draws), (SELECT max(id) FROM drawn),"
            " (SELECT max(id) FROM gold), (SELECT max(latest) FROM"
            " (SELECT (SELECT max(ended) FROM requests WHERE sent_in = b.id) AS latest FROM batches b))"
        )
        gold_ids = (draw or 0, drawn or 0, gold or 0)
        return Latest(run or 0, rows or 0, request or 0, min(made or 0, 0), gold_ids, line or 0.0)

    def each_in_short(self, *, is_whole: bool, has_answers: bool = True) -> Iterator[InShort]:
        """Read all rows of the plan, in the order of their positions.

        Args:
            is_whole: read whole answers, and not only what a label may have.
            has_answers: read answers at all.
        """
        return self.stream(f"{_in_short(is_whole=is_whole, has_answers=has_answers)} ORDER BY r.position")

    def in_short(self, positions: Sequence[int], *, is_whole: bool, has_answers: bool = True) -> list[InShort]:
        """Read some rows as `each_in_short` does."""
        query = _in_short(is_whole=is_whole, has_answers=has_answers).replace("{", "{{").replace("}", "}}")
        return [*self.look_up(f"{query} AND r.position IN ({{}})", positions)]

    def lines_at(self, positions: Sequence[int]) -> dict[int, RowLine]:
        """Return rows by their positions."""
        found = self.look_up(
            f"SELECT r.position, r.result, a.status, a.answer, a.error, r.result < 0 AND a.source = {BY_HAND}"
            f" FROM rows r LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE} AND r.position IN ({{}})",
            positions,
        )
        return {line.position: line for line in map(_line, found)}

    def texts_between(self, start: int, stop: int) -> list[tuple[int, str]]:
        """Return the position of each row with a result in a range, and its answer and error, with NUL between them."""
        found = self._all(
            f"SELECT r.position, a.answer, a.error FROM rows r JOIN results a ON a.id = r.result WHERE {_BETWEEN}",
            (start, stop),
        )
        return [(at, f"{text_of(answer)}\0{text_of(error)}") for at, answer, error in found]

    def text_of(self, start: int, stop: int) -> str | None:
        """Return all answers and errors of the rows in a range in one text; None if one has lone surrogates."""
        [(is_odd, text)] = self._all(
            "SELECT max(typeof(a.answer) = 'blob' OR typeof(a.error) = 'blob'),"
            " coalesce(group_concat(iif(typeof(a.answer) = 'blob', '', a.answer) || char(0)"
            " || iif(typeof(a.error) = 'blob', '', a.error), char(1)), '')"
            f" FROM rows r JOIN results a ON a.id = r.result WHERE {_BETWEEN}",
            (start, stop),
        )
        return None if is_odd else text

    def sources(self, positions: Sequence[int]) -> dict[int, str]:
        """Return who gave the answers of rows, the model or `hand`, by position; rows without a result are left out."""
        found = self.look_up(
            f"SELECT r.position, iif(a.source = {BY_HAND}, 'hand', s.model) FROM rows r"
            " JOIN results a ON a.id = r.result JOIN sources s ON s.id = a.source WHERE r.position IN ({})",
            positions,
        )
        return {position: text_of(model) for position, model in found}

    def has_reasoning(self) -> bool:
        """Return whether one of the latest answers came with the model's thoughts."""
        latest = "SELECT reasoning FROM responses ORDER BY id DESC LIMIT 200"
        return bool(self._all(f"SELECT EXISTS (SELECT 1 FROM ({latest}) WHERE reasoning <> '')")[0][0])

    def has_votes(self) -> bool:
        """Return whether a result is made of several answers."""
        return bool(self._all(HAS_VOTES)[0][0])

    # -- What has changed

    def each_request(self, after: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the id and the position of each request that was not sent in a batch, in the order of the ids."""
        yield from self.stream(
            "SELECT id, position FROM requests WHERE id > ? AND sent_in IS NULL ORDER BY id", (after,)
        )

    def open_requests(self, run: int, first: int) -> list[int]:
        """Return the ids of the requests of one process in flight, from an id on."""
        found = self._all(
            "SELECT id FROM requests WHERE id >= ? AND run = ? AND ended IS NULL AND sent_in IS NULL", (first, run)
        )
        return [number for (number,) in found]

    def positions_of_lines(self, since: float) -> set[int]:
        """Return the positions of the requests that came back with batches after a moment, in seconds since 1970."""
        found = self._all("SELECT position FROM requests WHERE sent_in IS NOT NULL AND ended > ?", (since,))
        return {position for (position,) in found}

    def in_batches_at(self, position: int, keys: Collection[bytes]) -> list[int]:
        """Return the ids of the requests in batches for the row at a position that ask one of some questions."""
        found = self.look_up(
            f"SELECT id FROM requests WHERE sent_in IS NOT NULL AND position = {position:d} AND key IN ({{}})", [*keys]
        )
        return [number for (number,) in found]

    def with_followers(self, positions: Collection[int]) -> set[int]:
        """Return positions, and those of the rows that get the answers of these (`--dedup`)."""
        found = self.look_up("SELECT position FROM same WHERE leader IN ({})", [*positions])
        return {*positions, *(position for (position,) in found)}

    def positions_of(self, requests: Sequence[int]) -> set[int]:
        """Return the positions of requests."""
        return {position for (position,) in self.look_up("SELECT position FROM requests WHERE id IN ({})", requests)}

    def positions_below(self, result: int) -> list[int]:
        """Return the rows whose result has an id below one: what people, or another reading, changed since."""
        found = self._all(f"SELECT position FROM rows WHERE result < ? AND {IN_SCOPE}", (result,))
        return [position for (position,) in found]

    def with_answer(self, answer: str) -> list[int]:
        """Return the positions of the rows that are `ok` and have this answer."""
        found = self._all(
            "SELECT r.position FROM rows r JOIN results a ON a.id = r.result"
            f" WHERE r.{IN_SCOPE} AND a.status = 'ok' AND a.answer = ? ORDER BY r.position",
            (bound(answer),),
        )
        return [position for (position,) in found]

    # -- One row

    def facts_of(self, position: int) -> RowFacts | None:
        """Return a row with its result; None if the plan has no such row."""
        found = self._all(
            "SELECT r.key, r.result, r.is_kept IS NOT NULL, a.key, a.status, a.answer, a.error,"
            " g.model, g.base_url, g.params, coalesce(w.root, a.id), s.is_cut"
            " FROM rows r LEFT JOIN results a ON a.id = r.result LEFT JOIN sources g ON g.id = a.source"
            " LEFT JOIN rereads w ON w.id = a.id LEFT JOIN responses s ON s.id = coalesce(w.root, a.id)"
            f" WHERE r.position = ? AND r.{IN_SCOPE}",
            (position,),
        )
        if not found:
            return None
        key, result, is_kept, answered, status, answer, error, *source, root, is_cut = found[0]
        if result is None or status is None:
            return RowFacts(key, None)
        ended = Result(Status(status), text_of(answer), text_of(error))
        return RowFacts(key, result, answered, ended, Source(*source), root, bool(is_cut), bool(is_kept))

    def attempts_at(self, requests: Sequence[int], keys: Collection[bytes]) -> list[Attempt]:
        """Return the attempts among some requests that ask one of some questions, the first one first."""
        marks = ", ".join(f"x'{key.hex()}'" for key in keys)
        found = self.look_up(
            "SELECT q.id, q.sent, q.ended, q.outcome, g.model, g.base_url, q.prompt_tokens, q.completion_tokens,"
            " q.reasoning_tokens, q.cached_tokens, q.cost, q.outcome IN ('answered', 'unfit', 'too large')"
            " FROM requests q JOIN sources g ON g.id = q.source"
            f" WHERE q.id IN ({{}}) AND q.key IN ({marks}) AND q.outcome IS NOT 'unsent' ORDER BY q.id",
            sorted(requests),
        )
        return [Attempt._make([*values, bool(is_paid)]) for *values, is_paid in found]

    def votes_of(self, result: int) -> list[OneVote]:
        """Return the answers that a result, or the one that people have replaced, is made of."""
        found = self._all(
            "SELECT p.status, p.answer, p.error, g.model, s.confidence FROM opinions p"
            " JOIN sources g ON g.id = p.source LEFT JOIN responses s ON s.id = p.id"
            " WHERE p.result = ? AND p.round = 0 ORDER BY p.id",
            (result,),
        )
        return [
            OneVote(Result(Status(status), text_of(answer), text_of(error)), text_of(model), sure)
            for status, answer, error, model, sure in found
        ]

    def results_before(self, result: int) -> list[int]:
        """Return the ids of a result and of those that it replaced, the latest first."""
        found = self._all(
            "WITH RECURSIVE earlier (id, n) AS (SELECT ?, 0 UNION ALL SELECT w.before, n + 1 FROM earlier e"
            " JOIN rereads w ON w.id = e.id) SELECT id FROM earlier ORDER BY n",
            (result,),
        )
        return [number for (number,) in found]

    def history_of(self, results: Sequence[int]) -> list[Step]:
        """Return what people changed, the first change first.

        Args:
            results: what `results_before` returned.
        """
        found = {
            number: (Result(Status(status), text_of(answer), text_of(error)), bool(is_person))
            for number, status, answer, error, is_person in self.look_up(
                f"SELECT id, status, answer, error, id < 0 AND source = {BY_HAND} FROM results WHERE id IN ({{}})",
                results,
            )
        }
        told = self._told([number for number in results if number < 0])
        steps = []
        for number, before in zip(results, [*results, None][1:], strict=True):
            after, is_person = found.get(number, (None, False))
            if after is None or not (is_person or number in told):
                continue
            had = found.get(before, (None, False))[0] if before is not None else None
            at, who, why, origin, is_undo = told.get(number) or (*self._noted(number), "", "", False)
            steps.append(Step(at, who, origin, why, is_undo, had, after))
        return steps[::-1]

    def _told(self, results: Sequence[int]) -> dict[int, tuple[float | None, str, str, str, bool]]:
        """Return what is known of corrections."""
        found = self.look_up("SELECT id, at, who, why, origin, is_undo FROM corrections WHERE id IN ({})", results)
        return {
            number: (at, text_of(who), text_of(why), text_of(origin), bool(is_undo))
            for number, at, who, why, origin, is_undo in found
        }

    def _noted(self, result: int) -> tuple[float | None, str]:
        """Return when a correction was recorded that an older batcher read in a file, and who made it: not known."""
        found = self._all("SELECT at FROM events WHERE kind = ? AND subject = ?", (CORRECTED, str(result)))
        return (found[0][0] if found else None), ""


def _in_short(*, is_whole: bool, has_answers: bool) -> str:
    answer = "a.answer" if is_whole else f"substr(a.answer, 1, {LONGEST_LABEL + 1})"
    return (
        "SELECT r.position, r.result, coalesce(a.status, ''),"
        f" iif(a.status = 'ok', {answer if has_answers else 'NULL'}, NULL), nullif(a.error, ''),"
        f" coalesce(r.result < 0 AND a.source = {BY_HAND}, 0)"
        f" FROM rows r LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE}"
    )


def _line(found: Sequence[Any]) -> RowLine:
    position, result, status, answer, error, is_by_hand = found
    if status is None:
        return RowLine(position, None, "", "", "", is_by_hand=False)
    return RowLine(position, result, status, _text(answer), _text(error), bool(is_by_hand))


def _text(value: str | bytes | None) -> str:
    # A text that was cut may end within a character.
    return (
        value.decode("utf-8", "replace") if isinstance(value, bytes) and not _is_whole(value) else text_of(value or "")
    )


def _is_whole(value: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        value.decode("utf-8", "surrogatepass")
        return True
    return False


def reason_of(error: str) -> str:
    """Return the cause in the error of a row, as `Reader.failures` counts it."""
    if error.startswith(OF_AN_IMAGE) and ": " in error:
        error = f"image: {error.partition(': ')[2]}"
    cause, gave_up, _ = error.partition(GAVE_UP)
    return cause if gave_up else error[:_LONGEST_REASON]


class Looks:
    """Readers of a journal for short looks, from several threads; each sees what was committed before it.

    A reader that holds a lock of SQLite's would keep a run from beginning: it is closed after each look. One of a file
    that no process writes holds none, and serves the next look if nothing was written meanwhile.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[tuple[object, RowReader]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def stamp(self) -> tuple[object, ...]:
        """Return what changes with each commit, without opening the journal."""
        found: list[object] = []
        for each in (self.path, log_path(self.path)):
            try:
                found.append(version_of(each))
            except OSError:
                found.append(None)
        return tuple(found)

    def look(self, work: Callable[[RowReader], T]) -> T:
        """Return what some work finds in the journal; it may be done again if the journal was written meanwhile.

        Raises:
            OutputError: the journal cannot be read.
        """
        for left in reversed(range(_ATTEMPTS)):
            with self.reader() as (reader, stamp):
                try:
                    return work(reader)
                except OutputError:
                    if not left or self.stamp() == stamp:
                        raise
        raise AssertionError

    @contextlib.contextmanager
    def reader(self) -> Iterator[tuple[RowReader, tuple[object, ...]]]:
        """Yield a reader for the block, and the stamp of what it sees.

        Raises:
            OutputError: the journal cannot be read.
        """
        stamp = self.stamp()
        reader = self._taken(stamp) or read_kind(self.path, RowReader)
        is_good = False
        try:
            yield reader, stamp
            is_good = True
        finally:
            if is_good and reader.holds_no_lock and not self._is_closed:
                with self._lock:
                    self._idle.append((stamp, reader))
            else:
                reader.close()

    def _taken(self, stamp: object) -> RowReader | None:
        with self._lock:
            old = [reader for made, reader in self._idle if made != stamp]
            self._idle = [each for each in self._idle if each[0] == stamp]
            taken = self._idle.pop()[1] if self._idle else None
        for each in old:
            each.close()
        return taken

    def close(self) -> None:
        self._is_closed = True
        self._taken(object())
