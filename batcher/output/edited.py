"""Reads a chunk file that somebody has changed: with an editor, a spreadsheet or a program.

Invariant: a correction is read only if it is certain which row it belongs to: the file has the chunk's rows, in their
order, and their cells are the input's, or what a spreadsheet makes of them. Otherwise the reason is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import OutputError
from batcher.input.cell import cell, writable
from batcher.input.marks import Marks
from batcher.output.cells import difference_by_marks, short
from batcher.output.file_format import read_table
from batcher.output.spreadsheet import WORKBOOK, Reformatting, Sheet, first_twins, sheets_of
from batcher.records import Status, Values
from batcher.words import counted, verb

_STATUSES = [each.value for each in Status]


class Edited(NamedTuple):
    """A chunk file that was changed.

    Attributes:
        lines: the cells of its rows, in the columns of the run, with the input's cells as the input has them.
        how: how it differs in form from a file of the run; empty if it can be joined as it is.
        corrections: the number of rows whose answer, status or error is not the journal's.
        is_whole: it has every column of the run.
    """

    lines: list[list[str]]
    how: str
    corrections: int
    is_whole: bool = True


class UnfitError(Exception):
    """A file does not fit in this reading of it.

    Attributes:
        is_cell: a cell of the input differs; else the file as a whole cannot be read.
        agreed: the cells with characters beyond ASCII that agreed before.
    """

    def __init__(self, said: str, *, is_cell: bool = False, agreed: int = 0) -> None:
        super().__init__(said)
        self.is_cell = is_cell
        self.agreed = agreed


class _Fit(NamedTuple):
    """The cells of a file that fits.

    Attributes:
        lines: the rows.
        are_reformatted: the columns in which a cell was lost or changed in form.
        agreed: the cells with characters beyond ASCII that agreed.
        answered: the rows whose status follows from the answer that a person gave them.
    """

    lines: list[list[str]]
    are_reformatted: Sequence[str]
    agreed: int
    answered: int


def settled(added: AnswerColumns, ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Return the answer's cells as a person means them: a row to which somebody gives an answer has not failed.

    Args:
        added: the answer columns.
        ours: the cells as the journal has them.
        theirs: the cells as the file has them.

    Raises:
        UnfitError: the status is none.
    """
    if [*ours] == [*theirs]:
        return [*theirs]
    at = len(added.fields) + 1
    (answer, *fields), (status, error, *extras) = theirs[:at], theirs[at:]
    had, why = ours[at : at + 2]
    said, status = status, status.strip().lower()
    if status not in ("", had, *_STATUSES):
        raise UnfitError(f"column {added.status!r}: {short(said)} is none of {', '.join(_STATUSES)}")
    if status in ("", had):  # the person left it as it was
        is_given = [*theirs[:at]] != [*ours[:at]] and any(map(str.strip, theirs[:at]))
        status = Status.OK.value if is_given else had
    error = "" if status == Status.OK and error == why else error
    if not fields:
        return [answer, status, error, *extras]
    if fields != [*ours[1:at]]:  # a field that was corrected is a part of the answer
        answer = added.result_of([answer, *fields, status, error]).answer
    return [*map(writable, added.cells(answer, status, error, extras))]


class Known:
    """The rows of a chunk, if the input is there.

    Args:
        columns: of the input.
        added: the answer columns.
        rows: of the input.
        answers: the cells of their answer columns by the journal.
    """

    def __init__(
        self,
        columns: Sequence[str],
        added: AnswerColumns,
        rows: Sequence[Values],
        answers: Sequence[Sequence[str]],
    ) -> None:
        self.columns = [*columns, *added]
        self.added = added
        self.rows = len(rows)
        inputs = ([writable(cell(value)) for value in values] for values in rows)
        self._cells = [[*values, *ending] for values, ending in zip(inputs, answers, strict=True)]
        self._inputs = len(columns)

    def compared(self, sheet: Sheet, places: Sequence[int | None]) -> _Fit:
        """Compare a reading of the file with the rows.

        Args:
            sheet: the reading.
            places: where each of the columns is in it, or None.

        Raises:
            UnfitError: a row differs, or it is not certain which row is which.
        """
        columns = [Reformatting(sheet.encoding, sheet.separator) for _ in self.columns]
        lines, keys, reformatted, agreed, answered = [], [], set(), 0, 0
        for (number, found), original in zip(sheet.lines, self._cells, strict=False):
            line = []
            for place, (name, at, ours) in enumerate(zip(self.columns, places, original, strict=True)):
                is_input = place < self._inputs
                theirs = ours if at is None else found[at]
                if is_input:
                    likeness = columns[place].likeness(ours, theirs)
                    if not likeness:
                        raise self._other(sheet, number, name, (theirs, ours), agreed)
                else:
                    likeness = columns[place].text_likeness(ours, theirs)
                line.append(ours if likeness else theirs)
                agreed += at is not None and theirs == ours and not ours.isascii()
                if likeness and theirs != ours:
                    reformatted.add(name)
            lines.append(self._settled(number, original, line))
            answered += lines[-1] != line
            keys.append([found[at] for at in places[: self._inputs] if at is not None])
        self._check_number(sheet, agreed)
        if twins := first_twins(keys, (each[: self._inputs] for each in self._cells)):
            one, other = (sheet.lines[each][0] for each in twins)
            raise UnfitError(
                f"lines {one} and {other}: the columns that are left, as they are saved, are the same in both, so that"
                " it is not certain which row is which",
                agreed=agreed,
            )
        return _Fit(lines, sorted(reformatted, key=list(self.columns).index), agreed, answered)

    def _settled(self, number: int, original: Sequence[str], line: Sequence[str]) -> list[str]:
        with _in_line(number):
            ending = settled(self.added, original[self._inputs :], line[self._inputs :])
        return [*line[: self._inputs], *ending]

    def _other(self, sheet: Sheet, number: int, name: str, cells: tuple[str, str], agreed: int) -> UnfitError:
        if len(sheet.lines) != self.rows:
            said = f"{_other_number(sheet, self.rows)}; the first that is not in its place is in line {number}"
            return UnfitError(said, agreed=agreed)
        theirs, ours = map(short, cells)
        said = f"line {number}, column {name!r}: the file has {theirs}, the input has {ours}"
        return UnfitError(said, is_cell=True, agreed=agreed)

    def _check_number(self, sheet: Sheet, agreed: int) -> None:
        if len(sheet.lines) != self.rows:
            raise UnfitError(_other_number(sheet, self.rows), agreed=agreed)

    def corrections(self, lines: Sequence[Sequence[str]]) -> int:
        """Return how many rows have another answer than in the journal."""
        return sum(line != original for line, original in zip(lines, self._cells, strict=True))


class Marked:
    """The rows of a chunk of which only the marks are known: their cells cannot be made again.

    Args:
        columns: of the input.
        added: the answer columns.
        marks: makes the marks of the table.
        planned: the marks of the rows.
        answers: the cells of their answer columns by the journal.
    """

    def __init__(
        self,
        columns: Sequence[str],
        added: AnswerColumns,
        marks: Marks,
        planned: Sequence[bytes],
        answers: Sequence[list[str]],
    ) -> None:
        self.columns = [*columns, *added]
        self.added = added
        self.rows = len(planned)
        self._marks = marks
        self._planned = planned
        self._answers = answers

    def compared(self, sheet: Sheet, places: Sequence[int | None]) -> _Fit:
        """Compare a reading of the file with the rows, as `Known.compared` does."""
        inputs = len(self.columns) - len(self.added)
        if lost := [name for name, at in zip(self.columns[:inputs], places, strict=False) if at is None]:
            raise UnfitError(f"it has no column {lost[0]!r}; `batcher run`, which reads the input, may know its rows")
        if len(sheet.lines) != self.rows:
            raise UnfitError(_other_number(sheet, self.rows))
        lines, agreed, answered = [], 0, 0
        text = Reformatting(sheet.encoding, sheet.separator)
        for (number, found), planned, answer in zip(sheet.lines, self._planned, self._answers, strict=True):
            cells = [found[at] for at in places[:inputs] if at is not None]
            if differs := difference_by_marks(self._marks, planned, cells):
                said = f"line {number}, {differs}"
                raise UnfitError(said, is_cell=True, agreed=agreed)
            ending = [ours if at is None else found[at] for ours, at in zip(answer, places[inputs:], strict=True)]
            ending = [ours if text.text_likeness(ours, its) else its for ours, its in zip(answer, ending, strict=True)]
            with _in_line(number):
                meant = settled(self.added, answer, ending)
            answered += meant != ending
            agreed += sum(not each.isascii() for each in cells)
            agreed += sum(ours == its and not ours.isascii() for ours, its in zip(answer, ending, strict=True))
            lines.append([*cells, *meant])
        return _Fit(lines, (), agreed, answered)

    def corrections(self, lines: Sequence[Sequence[str]]) -> int:
        """Return how many rows have another answer than in the journal."""
        return sum(self.added.split(line)[1] != answer for line, answer in zip(lines, self._answers, strict=True))


@contextmanager
def _in_line(number: int) -> Iterator[None]:
    """Name the line in which a cell cannot be what it says."""
    try:
        yield
    except UnfitError as error:
        raise UnfitError(f"line {number}, {error}") from error


def read_edited(path: Path, originals: Known | Marked, *, is_own: bool) -> Edited:
    """Read a chunk file that was changed.

    Args:
        path: of the file.
        originals: the rows of the chunk.
        is_own: it has the format of the run's files, and columns of their types.

    Raises:
        UnfitError: it is not certain which corrections it holds.
    """
    try:
        sheets = sheets_of(path, originals.added)
    except OutputError as error:
        raise UnfitError(str(error)) from error
    except OSError as error:
        raise UnfitError(f"{error.strerror}") from error
    found: list[tuple[Sheet, _Fit]] = []
    unfit: list[UnfitError] = []
    for sheet in sheets:
        try:
            places = _places(sheet, originals.columns)
            found.append((sheet, originals.compared(_padded(sheet, places, originals.added), places)))
        except UnfitError as error:
            unfit.append(error)
    if not found:
        nearest = max(unfit, key=lambda each: each.agreed)
        if all(each.is_certain for each in sheets):
            raise nearest
        raise UnfitError(
            f"it is not UTF-8, and in no encoding that spreadsheets use are its cells the input's: {nearest}"
        ) from nearest
    sheet, fit = _surest(found)
    is_plain = is_own and _is_plain(path, originals, fit)
    how = "" if is_plain else ", ".join(_forms(sheet, originals.columns, fit)) or _rest(path)
    is_whole = set(originals.columns) <= set(sheet.header)
    return Edited(fit.lines, how, originals.corrections(fit.lines), is_whole)


def _anew() -> str:
    return f"or move the file away, and {verb('run')} writes it again from the journal"


def message(path: Path, error: UnfitError) -> str:
    """Return what people are told of a file that does not fit."""
    if error.is_cell:
        return f"{path}, {error}. In a chunk file only answers may be corrected: put the input's cells back, {_anew()}"
    return f"{path} cannot be read: {error}; put it right (in Excel, save as CSV UTF-8), {_anew()}"


def _other_number(sheet: Sheet, rows: int) -> str:
    return f"it has {counted(len(sheet.lines), 'row')}, and the chunk {rows:,}"


def _places(sheet: Sheet, columns: Sequence[str]) -> list[int | None]:
    """Return where each column of the run is in a file; its other columns are ignored."""
    for name in columns:
        if sheet.header.count(name) > 1:
            raise UnfitError(f"it has {sheet.header.count(name)} columns {name!r}")
    return [sheet.header.index(name) if name in sheet.header else None for name in columns]


def _padded(sheet: Sheet, places: Sequence[int | None], added: AnswerColumns) -> Sheet:
    """Return a reading whose lines are all as long as the header: programs leave out, or add, empty cells at the end.

    Raises:
        UnfitError: a line has cells too many, or lacks more than the last columns of the answers.
    """
    width = len(sheet.header)
    # Behind the status are only cells that are mostly empty.
    behind = 1 + len(added.extras)
    *needed, status = places[: len(places) - behind]
    lines = []
    for number, cells in sheet.lines:
        lacks_more = any(at is not None and at >= len(cells) for at in (*needed, status))
        # A line that is cut, or in which a cell was added, has no status in its place.
        is_moved = len(cells) != width and status is not None and not {*cells[status : status + 1]} & {*_STATUSES}
        if lacks_more or is_moved or any(cells[width:]):
            raise UnfitError(f"line {number}: {counted(len(cells), 'field')}, the header has {width}")
        lines.append((number, [*cells[:width], *[""] * (width - len(cells))]))
    return sheet._replace(lines=lines)


def _surest(found: Sequence[tuple[Sheet, _Fit]]) -> tuple[Sheet, _Fit]:
    """Return the reading that is certain: only the right encoding gives cells beyond ASCII as the originals have them.

    Args:
        found: the readings that fit.

    Raises:
        UnfitError: several are possible.
    """
    best = max(found, key=lambda each: each[1].agreed)
    sheet, fit = best
    others = [each for each in found if each[1].lines != fit.lines]
    is_sure = sheet.is_certain or fit.agreed
    if is_sure and all(other.agreed < fit.agreed for _, other in others):
        return best
    names = ", ".join(dict.fromkeys(each.encoding for each, _ in found))
    raise UnfitError(f"it is not UTF-8, and nothing shows in which encoding it is ({names})")


def _forms(sheet: Sheet, columns: Sequence[str], fit: _Fit) -> list[str]:
    """Return how a file differs from one of the run, in words."""
    said = ["as a workbook"] if sheet.separator == WORKBOOK else []
    said += [] if sheet.encoding.startswith("utf-8") else [f"in {sheet.encoding}"]
    said += [] if sheet.separator in {",", WORKBOOK} else [f"separated by {sheet.separator!r}"]
    there = [name for name in sheet.header if name in columns]
    lost = [name for name in columns if name not in there]
    more = [name for name in sheet.header if name not in columns and name]
    said += [f"without column {', '.join(map(repr, lost))}"] if lost else []
    said += [f"with another column {', '.join(map(repr, more))}"] if more else []
    said += ["with its columns in another order"] if there != [name for name in columns if name in there] else []
    said += [f"with column {', '.join(map(repr, fit.are_reformatted))} in another form"] if fit.are_reformatted else []
    said += [f"with answers in {counted(fit.answered, 'row')} whose status was not ok"] if fit.answered else []
    return said


def _rest(path: Path) -> str:
    """Return how a file differs if neither its form nor its cells do."""
    return "with columns of other types" if path.suffix == ".parquet" else "with other cells at the ends of its lines"


def _is_plain(path: Path, originals: Known | Marked, fit: _Fit) -> bool:
    """Return whether a file of the run's format can be joined as it is."""
    try:
        with closing(read_table(path, originals.added)) as lines:
            header = next(lines, (0, []))[1]
            return header == originals.columns and all(
                expected is not None and line is not None and line[1] == expected
                for line, expected in zip_longest(lines, fit.lines)
            )
    except OutputError:
        return False
