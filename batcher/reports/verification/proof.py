"""`verify`: prove that every row of a run is right, by its journal, its files and, where it is at hand, its input.

Invariant: it only reads, and takes no part's word for another. What does not fit is named, a row by the first check
that it fails; what could not be checked is said.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.answer.columns import COUNT as _ANSWER_COLUMNS
from batcher.answer.columns import AnswerColumns
from batcher.errors import InputError, OutputError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset, open_dataset
from batcher.input.key import keyer
from batcher.input.marks import Marks
from batcher.input.prompt import PromptFunction, Renderer, failed_on, from_function, from_template, with_system
from batcher.journal.journal import Chunk, Counts, EndpointAccount, Journal, LastRun, RowRecord, Unreconciled, is_sealed
from batcher.journal.matching import Proof, kept
from batcher.journal.schema import ADOPTED
from batcher.money.prices import NANO, dollars
from batcher.output.directory import Store, csv_line, read_csv
from batcher.planning.plan import ROWS_AT_ONCE, prompts_of
from batcher.records import Message, RowState, Status, Values
from batcher.reports.verification.findings import Finding, Found, Kind
from batcher.reports.verification.pairing import aligned
from batcher.settings import check_keyword

if TYPE_CHECKING:
    from batcher.input.dataset import Data

Prompt = str | PromptFunction | None
"""What may be said instead of the recorded prompt."""


_OF_REQUESTS = {
    Unreconciled.BROUGHT_NONE: Kind.BROUGHT_NONE,
    Unreconciled.BROUGHT_BY_NONE: Kind.BROUGHT_BY_NONE,
    Unreconciled.OTHER_QUESTION: Kind.REQUEST_OTHER,
    Unreconciled.OTHER_OUTCOME: Kind.OUTCOME,
    Unreconciled.NEVER_ENDED: Kind.NEVER_ENDED,
    Unreconciled.OF_NOBODY: Kind.OF_NOBODY,
}


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        keyword: of the run.
        counts: the rows by how they ended.
        chunks: chunk files that were compared.
        endpoints: what became of the requests, per endpoint.
        findings: all that does not fit; rows that are left included.
        notes: what could not be checked, and what else to know.
    """

    keyword: str
    counts: Counts
    chunks: int
    endpoints: tuple[EndpointAccount, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary that JSON can hold; money in US dollars."""
        return {
            "keyword": self.keyword,
            "ok": self.ok,
            "counts": {**self.counts._asdict(), "left": self.counts.left},
            "chunks": self.chunks,
            "endpoints": [_account_as_dict(account) for account in self.endpoints],
            "findings": [finding._asdict() for finding in self.findings],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        counts = self.counts
        sent, answered, failed, in_flight = (
            sum(getattr(each, name) for each in self.endpoints) for name in ("sent", "answered", "failed", "in_flight")
        )
        ended = f"{counts.ok:,} ok, {counts.invalid:,} invalid, {counts.error:,} error, {counts.left:,} left"
        verdict = "everything fits" if self.ok else "not proven"
        lines = [
            f"{self.keyword}: {verdict}",
            f"  rows      {counts.rows:,}: {ended}",
            f"  files     {self.chunks:,} chunk files compared",
            f"  requests  {sent:,} sent = {answered:,} answered + {failed:,} failed + {in_flight:,} without an end",
        ]
        lines += [f"    {_account_in_words(account)}" for account in self.endpoints]
        lines += [f"  found     {finding}" for finding in self.findings]
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join(lines)


def _account_as_dict(account: EndpointAccount) -> dict[str, Any]:
    values = account._asdict()
    values["cost_usd"], values["uncertain_usd"] = values.pop("cost") / NANO, values.pop("uncertain") / NANO
    return values


def _account_in_words(account: EndpointAccount) -> str:
    at = f" at {account.base_url}" if account.base_url else ""
    money = [f"{dollars(account.cost)} for answers"] if account.cost else []
    money += [f"at most {dollars(account.uncertain)} without one"] if account.uncertain else []
    return (
        f"endpoint {account.endpoint + 1}, {account.model}{at}: {account.sent:,} = {account.answered:,}"
        f" + {account.failed:,} + {account.in_flight:,}" + "".join(f"; {each}" for each in money)
    )


def verify(
    keyword: str,
    data: Data | None = None,
    prompt: str | PromptFunction | None = None,
    *,
    output_dir: str | os.PathLike[str] = "output",
) -> Verification:
    """Prove that every row stands in the result once, in order, and with the answer to its own prompt.

    Args:
        keyword: names the run.
        data: its input, as for `run`. With it each row's question is made again and compared; without it the journal
            and the files are compared with one another.
        prompt: the function that made the prompts, if it was one: the journal cannot hold it.
        output_dir: where the run writes.

    Raises:
        SettingsError: the keyword cannot be one, or the input cannot be read, lacks a column, or has a row on which the
            prompt function fails.
        OutputError: there is no journal, or it cannot be read.
    """
    check_keyword(keyword)
    store = Store(Path(output_dir), keyword)
    dataset = None if data is None else open_dataset(data)
    with Journal.read(store.existing_journal()) as journal, journal.snapshot():
        if damage := journal.damage():
            finding = Finding(Kind.DAMAGED.slug, Kind.DAMAGED.value, places=(str(journal.path), *damage))
            return Verification(keyword, Counts(0, 0, 0, 0), 0, (), (finding,), ())
        last = journal.last_run()
        if last is None:
            raise OutputError(f"{store.journal_path} holds no run yet")
        return _Proof(store, journal, last, _Asked(dataset, prompt, last) if dataset else None).made()


class _InputRow(NamedTuple):
    """A row of INPUT: its position, its cells as a file holds them, and what its question is made of.

    If the key cannot be made, it is None, and `hashes` are the marks of the cells that the question reads.
    """

    position: int
    values: Values
    cells: list[str]
    key: bytes | None
    hashes: bytes


class _Question(NamedTuple):
    """A question that a run has recorded, asked about the rows of INPUT.

    Attributes:
        render: makes the messages.
        key: makes the key of messages.
    """

    render: Renderer
    key: Callable[[Sequence[Message]], bytes]

    @classmethod
    def of(cls, recorded: Mapping[str, Any], columns: tuple[str, ...], prompt: Prompt = None) -> _Question | None:
        """Make it of what a run has recorded; None if that was a function and no prompt is given.

        Raises:
            InputError: INPUT lacks a column.
        """
        if callable(prompt):
            render = from_function(prompt, columns)
        elif prompt is not None:
            render = from_template(prompt, "prompt", columns)
        elif recorded.get("prompt_option", "function") != "function":
            render = prompts_of(recorded["prompt_option"], recorded.get("prompt", ""), columns).render
        else:
            return None
        if recorded.get("system") is not None:
            render = with_system(render, recorded["system"], "--system", columns)
        return cls(render, keyer(recorded.get("params", {})))

    def about(self, values: Values) -> bytes:
        """Return the key of the question about a row; empty if none can be made of it."""
        try:
            return self.key(self.render(values))
        except InputError:
            return b""


class _Asked:
    """What INPUT asks now.

    Args:
        dataset: INPUT.
        prompt: the function that made the prompts, or another template than the recorded one.
        last: the latest run.

    Attributes:
        dataset: INPUT.
        question: what is asked, or None if nobody knows.

    Raises:
        InputError: INPUT lacks a column.
    """

    def __init__(self, dataset: Dataset, prompt: Prompt, last: LastRun) -> None:
        self.dataset = dataset
        self.question = _Question.of(last.question, dataset.columns, prompt)
        self._limit = last.question.get("limit")
        self._names = tuple(last.question.get("columns", ()))
        if gone := set(self._names) - set(dataset.columns):
            raise InputError(f"{dataset.name} has no column {min(gone)!r}, which the prompts were made of")
        self._marks = Marks(dataset.columns)
        self._marks_before = Marks(last.question.get("table", ()))

    def rows(self) -> Iterator[_InputRow]:
        """Read INPUT.

        Raises:
            InputError: it cannot be read, or the prompt function failed on a row.
        """
        for start, rows in self.dataset.slices(ROWS_AT_ONCE, self._limit):
            for position, values in enumerate(rows, start):
                try:
                    row = self._row(position, values)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a user's function may raise anything
                    raise failed_on(self.dataset.where(position), error) from error
                yield row

    def _row(self, position: int, values: Values) -> _InputRow:
        cells = [writable(cell(value)) for value in values]
        if self.question:
            return _InputRow(position, values, cells, self.question.about(values), b"")
        return _InputRow(position, values, cells, None, self._marks.cut(self._marks.of(values), self._names))

    def hashes_of(self, marks: bytes | None) -> bytes:
        """Return the marks of the cells that a row's question read; empty if an older batcher made them."""
        return self._marks_before.cut(marks or b"", self._names)


class _Row:
    """A row on its way through the checks.

    Attributes:
        position, key, hashes, result: as in the journal.
        kept: what the journal has of it, if it keeps an answer to an earlier question.
        ending: answer, status and error as a file holds them, or None where they are not known.
        cells: the input's cells as a file holds them, or None where they are not known.
        is_named: a check has named it already.
    """

    __slots__ = ("cells", "ending", "hashes", "is_named", "kept", "key", "position", "result")

    def __init__(self, position: int, key: bytes = b"", hashes: bytes = b"", result: int | None = None) -> None:
        self.position = position
        self.key = key
        self.hashes = hashes
        self.result = result
        self.kept: RowRecord | None = None
        self.ending: list[str] | None = None
        self.cells: list[str] | None = None
        self.is_named = False


class _Line(NamedTuple):
    """A row of a file: its first line's number, and its cells."""

    number: int
    cells: list[str]


def _fits(row: _Row, line: _Line) -> bool:
    """Tell whether a file's row is what it should be, as far as that is known."""
    if row.cells is not None and line.cells[:-_ANSWER_COLUMNS] != row.cells:
        return False
    return row.ending is None or line.cells[-_ANSWER_COLUMNS:] == row.ending


def _is_of(row: _Row, line: _Line) -> bool:
    """Tell whether a file's row is about this one, whatever its answer: many may have been corrected by hand."""
    return _fits(row, line) if row.cells is None else line.cells[:-_ANSWER_COLUMNS] == row.cells


def _paired(rows: list[_Row], lines: list[_Line], *, is_told_apart: bool) -> Iterator[tuple[_Row | None, _Line | None]]:
    """Pair rows and lines; without the rows' cells, by answers alone, only as they stand."""
    if is_told_apart:
        yield from aligned(rows, lines, _is_of)
    else:
        yield from zip(rows, lines, strict=True)


def _asks_the_same(row: _Row, asked: _InputRow) -> bool:
    if asked.key is not None:
        return row.key in {asked.key, b""}
    return not row.hashes or row.hashes == asked.hashes


class _Proof:
    """One pass over requests, rows, INPUT and chunk files, side by side; then the result as a whole."""

    def __init__(self, store: Store, journal: Journal, last: LastRun, asked: _Asked | None) -> None:
        self._journal = journal
        self._last = last
        self._asked = asked
        self._found = Found()
        self._scope = journal.scope()
        self._is_finished = not journal.left()
        self._chunks = journal.chunks()
        self._starts = range(0, self._scope, last.chunk_size)
        answer = last.question.get("answer_column")
        self._store = store.as_found([start for start in self._starts if start in self._chunks], answer)
        if asked:
            names = AnswerColumns(answer) if answer else self._store.answer_columns
            self._store = Store(store.directory, store.keyword, asked.dataset.columns, names, self._store.encoding)
        self._header = self._store.all_columns
        self._result = _ResultReader(self._store.all_path, self._header)
        # Results that do not fit their requests, and results that are gone; the rows that have them are named as well.
        self._suspects: dict[int, Kind] = {}
        self._gone: set[int] = set()
        # Chunk files that cannot be compared row by row, and rows that are not as the journal has them in theirs.
        self._unread: set[int] = set()
        self._changed: set[int] = set()
        self._ended = dict.fromkeys(Status, 0)
        self._unsealed = self._adopted = self._compared = 0
        # Rows that keep an answer, by its proof; and those of them whose earlier question cannot be made again.
        self._kept = dict.fromkeys(Proof, 0)
        self._unmade = 0
        self._earlier: dict[int, _Question | None] = {}
        sources = [tuple(each) for each in last.question.get("sources", ())]
        known = journal.sources().items() if sources else ()
        self._strangers = {number for number, source in known if source not in sources and source != ADOPTED}

    def made(self) -> Verification:
        self._check_requests()
        rows = self.rows()
        for start in self._starts:
            chunk_rows = islice(rows, self._last.chunk_size)
            self._check_chunk(start, min(self._last.chunk_size, self._scope - start), chunk_rows)
            deque(chunk_rows, maxlen=0)  # those that could not be compared
        deque(rows, maxlen=0)  # INPUT may go on
        for number in self._unanswered - self._gone:
            self._found.requests(Kind.BROUGHT_NONE, number)
        self._check_files()
        self._check_result()
        counts = Counts(self._scope, *(self._ended[status] for status in (Status.OK, Status.INVALID, Status.ERROR)))
        return Verification(
            self._store.keyword,
            counts,
            self._compared,
            tuple(self._journal.endpoint_accounts()),
            self._found.findings(),
            tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        if self._last.is_at_work:
            yield "A run is at work: what was found may be on its way. Verify again when it has ended."
        if self._asked is None:
            yield "INPUT was not given: journal and files were compared with one another, but not with the table."
        elif self._asked.question is None:
            yield (
                "How the prompts were made is not in the journal, which cannot hold a function: each row's cells are"
                " those that its prompt was made of, but it was not made again. In Python, give prompt= for that."
            )
        if not self._is_finished and self._store.all_path.exists():
            yield f"{self._store.all_path} is of an earlier state, and was not compared; the next one will replace it."
        if count := sum(self._kept.values()):
            by_id, unmade = self._kept[Proof.ID], self._kept[Proof.OLDER] + self._unmade
            yield (
                f"{count:,} rows keep an answer to an earlier question, as --on-change reuse asked for."
                + (f" {by_id:,} of them were edited, and are known by their id alone." if by_id else "")
                + (f" The earlier question of {unmade:,} cannot be made again." if unmade else "")
            )
        if self._adopted:
            yield f"{self._adopted:,} answers were adopted from files: nobody knows who gave them, and to what."
        if self._unsealed:
            yield f"{self._unsealed:,} answers were journalled by an older batcher, without a seal to check them by."

    # -- Requests

    def _check_requests(self) -> None:
        for first, last in self._journal.missing_requests():
            self._found.requests(Kind.REQUEST_LOST, first, last)
        self._unanswered: set[int] = set()
        for query, kind in _OF_REQUESTS.items():
            numbers = self._journal.unreconciled(query)
            if kind is Kind.BROUGHT_NONE:
                self._unanswered.update(numbers)
                continue
            for number in numbers:
                self._found.requests(kind, number)
                self._suspects.setdefault(number, kind)
        self._check_askers()

    def _check_askers(self) -> None:
        """Compare whom each process asked with the pool that it has recorded."""
        sources = self._journal.sources()
        for run, endpoint, source in self._journal.askers():
            pool = self._journal.question(run).get("pool")
            if pool is None or source not in sources or [*sources[source]] in pool[endpoint : endpoint + 1]:
                continue
            for number in self._journal.requests_to(run, endpoint, source):
                self._found.requests(Kind.ASKED_OTHER, number)
                self._suspects.setdefault(number, Kind.ASKED_OTHER)

    # -- Rows

    def rows(self) -> Iterator[_Row]:
        """Yield the rows, each checked by itself and with its cells in INPUT."""
        return self._with_input(self._journalled())

    def _journalled(self) -> Iterator[_Row]:
        """Read the rows of the journal, each checked by itself; one that is gone leaves its place."""
        end = 0
        for start in range(0, self._scope, ROWS_AT_ONCE):
            for record in self._journal.records(start, min(start + ROWS_AT_ONCE, self._scope)):
                yield from map(self._lost, range(end, record.position))
                end = record.position + 1
                yield self._checked(record)
        yield from map(self._lost, range(end, self._scope))

    def _lost(self, position: int) -> _Row:
        self._found.rows(Kind.ROW_LOST, position)
        row = _Row(position)
        row.is_named = True
        return row

    def _checked(self, record: RowRecord) -> _Row:
        hashes = self._asked.hashes_of(record.cells) if self._asked and not self._asked.question else b""
        row = _Row(record.position, record.key, hashes, record.result)
        if fault := self._fault_of(record):
            self._found.rows(fault, record.position)
            row.is_named = True
            return row
        if kind := self._suspects.get(record.result or 0):
            self._found.rows(kind, record.position)
        row.ending = [writable(_text(part)) for part in (record.answer, record.status, record.error)]
        row.kept = None if record.is_kept is None else record
        return row

    def _fault_of(self, record: RowRecord) -> Kind | None:
        if record.result is None:
            return Kind.LEFT
        if record.found is None:
            self._gone.add(record.result)
            return Kind.ANSWER_LOST
        status = _STATUSES.get(record.status)
        if status is not None:
            self._ended[status] += 1
        if record.is_kept is not None:
            proof = _proof_of(record)
            if proof is None:
                return Kind.OTHER_ROW
            self._kept[proof] += 1
        elif record.answered != record.key:
            return Kind.OTHER_QUESTION
        elif record.source in self._strangers and status is not Status.ERROR:
            return Kind.OTHER_SOURCE
        self._adopted += record.found < 0
        self._unsealed += record.sealed is None
        is_whole = record.sealed is None or is_sealed(record)
        return None if status is not None and is_whole else Kind.CHANGED

    def _with_input(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        """Give each row its cells in INPUT, and find those that ask something else there."""
        if self._asked is None:
            yield from rows
            return
        for row, asked in aligned(rows, self._asked.rows(), _asks_the_same):
            if row is None:
                self._found.rows(Kind.INPUT_MORE, asked.position if asked else 0)
                continue
            if asked is None:
                self._name(Kind.INPUT_LACKS, row)
            elif _asks_the_same(row, asked):
                row.cells = asked.cells
                if row.kept and not self._is_own(row.kept, asked.values):
                    self._name(Kind.OTHER_ROW, row)
            else:
                self._name(Kind.INPUT_OTHER, row)
            yield row

    def _is_own(self, kept: RowRecord, values: Values) -> bool:
        """Return whether a row keeps an answer to the earlier question about itself, as far as that can be told."""
        if kept.answered == kept.key or _proof_of(kept) is not Proof.COLUMNS:
            return True
        run = kept.run or 0
        if run not in self._earlier:
            self._earlier[run] = self._question_of(run)
        question = self._earlier[run]
        self._unmade += question is None
        return question is None or question.about(values) == kept.answered

    def _question_of(self, run: int) -> _Question | None:
        """Return what a process asked, or None if INPUT has lost a column of that, or a function made the prompts."""
        if not run or self._asked is None:
            return None
        try:
            return _Question.of(self._journal.question(run), self._asked.dataset.columns)
        except InputError:
            return None

    def _name(self, kind: Kind, row: _Row, place: str = "") -> None:
        if not row.is_named:
            self._found.rows(kind, row.position, place=place)
            row.is_named = True

    # -- Chunk files

    def _check_chunk(self, start: int, count: int, rows: Iterator[_Row]) -> None:
        chunk, path = self._chunks.get(start), self._store.chunk_path(start)
        if (chunk is None or chunk.rows != count) and not self._is_finished:
            return  # not written yet, or in chunks of another size
        self._unread.add(start)
        sha256 = self._store.sha256(start)
        if chunk is None or chunk.rows != count or sha256 is None:
            self._found.rows(Kind.FILE_LOST, start, start + count - 1, str(path))
            return
        self._compared += 1
        if not chunk.origin and sha256 == chunk.sha256:  # adopted, and to be made anew
            self._found.rows(Kind.FILE_OLD, start, start + count - 1, str(path))
            return
        try:
            with closing(read_csv(path)) as lines:
                if next(lines, (0, []))[1] != self._header:
                    self._found.rows(Kind.FILE_COLUMNS, start, start + count - 1, str(path))
                elif sha256 == chunk.sha256:
                    self._check_intact(rows, lines)
                    self._unread.discard(start)
                else:
                    self._check_changed(start, chunk, list(rows), [_Line(*line) for line in lines])
        except OutputError as error:
            self._found.rows(Kind.FILE_BROKEN, start, start + count - 1, str(error))

    def _check_intact(self, rows: Iterator[_Row], lines: Iterator[tuple[int, list[str]]]) -> None:
        """Compare a file that is as it was written: it may only be older than the journal or INPUT."""
        for row, (_, cells) in zip(rows, lines, strict=False):
            if not _fits(row, _Line(0, cells)):
                self._name(Kind.FILE_OLD, row)

    def _check_changed(self, start: int, chunk: Chunk, rows: list[_Row], lines: list[_Line]) -> None:
        """Compare a file that somebody has changed since it was written."""
        path = self._store.chunk_path(start)
        is_told_apart = self._asked is not None or self._take_cells_of_result(start, rows)
        if not is_told_apart and len(lines) != len(rows):
            self._found.rows(Kind.FILE_ROWS, start, start + len(rows) - 1, f"{path} ({len(lines):,} rows)")
            return
        is_in_order, has_other_cells = True, False
        for row, line in _paired(rows, lines, is_told_apart=is_told_apart):
            if row is None:
                self._found.place(Kind.FILE_MORE, f"{path}, line {line.number if line else 0}")
                is_in_order = False
            elif line is None:
                self._name(Kind.FILE_LACKS, row, str(path))
                is_in_order = False
            elif not _fits(row, line):
                is_answer = row.ending is not None and line.cells[-_ANSWER_COLUMNS:] != row.ending
                self._name(Kind.FILE_ANSWER if is_answer else Kind.FILE_CELLS, row, f"{path}, line {line.number}")
                self._changed.add(row.position)
                has_other_cells |= row.cells not in (None, line.cells[:-_ANSWER_COLUMNS])
        if is_in_order:
            self._unread.discard(start)
            # Where all answers are the same, they may still stand beside other cells than they were written with.
            if self._asked is None and not has_other_cells and not self._is_made_of(rows, lines, chunk):
                self._found.rows(Kind.FILE_UNPROVEN, start, start + len(rows) - 1, str(path))

    def _take_cells_of_result(self, start: int, rows: list[_Row]) -> bool:
        """Give rows the cells that `all_<keyword>.csv` has for them, where it has what the journal has."""
        lines = self._result.rows(start, len(rows), self._scope)
        if len(lines) != len(rows) or not all(map(_fits, rows, lines)):
            return False
        for row, line in zip(rows, lines, strict=True):
            row.cells = line.cells[:-_ANSWER_COLUMNS]
        return True

    def _is_made_of(self, rows: Sequence[_Row], lines: Sequence[_Line], chunk: Chunk) -> bool:
        written = [csv_line(line.cells[:-_ANSWER_COLUMNS]) for line in lines]
        states = [RowState(row.key, row.result) for row in rows]
        return chunk.origin == self._store.origin(written, states)

    def _check_files(self) -> None:
        """Look for chunk files that are no part of the result."""
        if self._is_finished:
            for start in sorted(self._store.starts() - set(self._starts)):
                self._found.place(Kind.FILE_EXTRA, str(self._store.chunk_path(start)))

    # -- The result as a whole

    def _check_result(self) -> None:
        path = self._store.all_path
        if not self._is_finished:
            return
        if not path.exists():
            self._found.place(Kind.ALL_LOST, str(path))
        elif (self._unread and self._asked) or not self._store.is_joined(self._starts):
            try:
                self._compare_result(path)
            except OutputError as error:
                self._found.place(Kind.ALL_BROKEN, str(error))

    def _compare_result(self, path: Path) -> None:
        with closing(read_csv(path)) as lines:
            if next(lines, (0, []))[1] != self._header:
                self._found.place(Kind.ALL_COLUMNS, str(path))
                return
            for row, line in aligned(self._lines_to_be(), (_Line(*each) for each in lines), _is_of):
                if row is None:
                    self._found.place(Kind.ALL_MORE, f"{path}, line {line.number if line else 0}")
                elif line is None:
                    self._found.rows(Kind.ALL_LACKS, row.position, place=str(path))
                elif not _fits(row, line) and not self._is_of_before(row, line):
                    self._found.rows(Kind.ALL_OTHER, row.position, place=f"{path}, line {line.number}")

    def _lines_to_be(self) -> Iterator[_Row]:
        """Yield what the result should hold: what the chunk files do, or journal and INPUT in their place."""
        again = _Proof(self._store, self._journal, self._last, self._asked)  # what it finds has been found
        rows = again.rows()
        for start in self._starts:
            in_place = islice(rows, self._last.chunk_size)
            if start in self._unread:
                yield from in_place
                continue
            deque(in_place, maxlen=0)
            with closing(read_csv(self._store.chunk_path(start))) as lines:
                next(lines)
                for position, (_, cells) in enumerate(lines, start):
                    row = _Row(position)
                    row.cells, row.ending = cells[:-_ANSWER_COLUMNS], cells[-_ANSWER_COLUMNS:]
                    yield row

    def _as_journalled(self, position: int) -> _Row:
        row = _Row(position)
        for record in self._journal.records(position, position + 1):
            if record.found is not None:
                row.ending = [writable(_text(part)) for part in (record.answer, record.status, record.error)]
        return row

    def _is_of_before(self, row: _Row, line: _Line) -> bool:
        """Tell whether the result holds a row as it was before its chunk file was changed, which has been named."""
        return row.position in self._changed and _fits(self._as_journalled(row.position), line)


def _proof_of(record: RowRecord) -> Proof | None:
    """Return how it is known that the answer that a row keeps is its own; None if it was kept for another row."""
    if not isinstance(record.is_kept, bytes):
        return Proof.OLDER
    return next((proof for proof in Proof if record.is_kept == kept(proof, record.key, record.result or 0)), None)


_STATUSES = {status.value.encode(): status for status in Status}


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a disk has changed it
        return value.decode("utf-8", "replace")


class _ResultReader:
    """Reads parts of `all_<keyword>.csv`, each further on than the one before."""

    def __init__(self, path: Path, header: list[str]) -> None:
        self._path = path
        self._header = header
        self._end = 0
        self._lines: Iterator[tuple[int, list[str]]] | None = None

    def rows(self, start: int, count: int, of: int) -> list[_Line]:
        """Return the rows from a position on; none where it does not hold all rows, or cannot be read."""
        try:
            if self._lines is None:
                self._lines = self._open(of)
            deque(islice(self._lines, start - self._end), maxlen=0)
            self._end = start + count
            return [_Line(*line) for line in islice(self._lines, count)]
        except OutputError:
            return []

    def _open(self, of: int) -> Iterator[tuple[int, list[str]]]:
        """Read it once to count: where a row is missing, all that follow seem to be others."""
        if sum(1 for _ in read_csv(self._path)) != of + 1:
            return iter(())
        lines = read_csv(self._path)
        return lines if next(lines)[1] == self._header else iter(())
