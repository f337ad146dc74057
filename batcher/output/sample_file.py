"""The file in which people label a sample by hand: writes it, and reads it back as spreadsheets save it.

Invariant: a hand label is read only if the cells of its line are those of the row that the line names; a file is read
as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.answer.gold import Golds, NoGold, is_known
from batcher.errors import OutputError
from batcher.input.cell import writable
from batcher.input.marks import Marks
from batcher.output.cells import short
from batcher.output.csv_file import csv_line, read_csv
from batcher.output.edited import UnfitError
from batcher.output.spreadsheet import WORKBOOK, Reformatting, Sheet, sheets_of
from batcher.words import counted

ID, GOLD = "sample_row", "gold"
"""The columns that a sample's file has beside the input's, unless the input has one of this name."""
_WITH_COMMA = re.compile(r"[+-]?\d+,\d+")
_MOST_WRONG = 5  # lines that a message names
_ADVICE = "sort whole lines, and leave the input's cells as they are"


class Line(NamedTuple):
    """A row of the sample.

    Attributes:
        id: its number in the sample.
        cells: the input's, as a file holds them; None: they are not known any more.
        marks: of the cells that the row had when it was drawn.
        made_by: what made the marks; None: that is not known any more.
        is_gone: the row is in the table no more.
    """

    id: int
    cells: Sequence[str] | None
    marks: bytes
    made_by: Marks | None
    is_gone: bool = False


@dataclass(frozen=True)
class Found:
    """What a file says.

    Attributes:
        gold: the right answers by the row's number in the sample; of a schema by field, else under "". An empty text
            stands for an empty cell, `?` for a row of which the answer is not known.
        lines: the number of each row's line in the file.
        more: its further columns.
    """

    gold: dict[int, dict[str, str]] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)
    more: tuple[str, ...] = ()


class SampleFile:
    """The file of a sample.

    Args:
        columns: of the input, in its order.
        golds: reads the hand labels.
        hidden: the column that is left out, because it holds right answers.
    """

    def __init__(self, columns: Sequence[str], golds: Golds, hidden: str | None = None) -> None:
        self._places = [place for place, name in enumerate(columns) if name != hidden]
        self._golds = golds
        self.columns = [writable(columns[place]) for place in self._places]
        self.id_column = self._free(ID)
        self.fields = {self._free(f"{GOLD}_{name}"): name for name in golds.fields} or {self._free(GOLD): ""}
        self.header = [self.id_column, *self.columns, *self.fields]

    def _free(self, name: str) -> str:
        while name in self.columns:
            name += "_"
        return name

    def shown(self, line: Line) -> list[tuple[str, str]]:
        """Return the columns of the input with the cells of a row whose cells are known."""
        return [(name, (line.cells or ())[place]) for name, place in zip(self.columns, self._places, strict=True)]

    def content(self, lines: Sequence[Line], gold: Mapping[int, Mapping[str, str]], encoding: str) -> bytes:
        """Return the file.

        Args:
            lines: its rows, whose cells are known.
            gold: what is labelled, by row, and of a schema by field.
            encoding: of the file.
        """
        texts = [csv_line(self.header)]
        for each in lines:
            inputs = [text for _, text in self.shown(each)]
            own = gold.get(each.id, {})
            labels = [writable(own.get(name, "")) for name in self.fields.values()]
            texts.append(csv_line([str(each.id), *inputs, *labels]))
        return "".join(f"{text}\n" for text in texts).encode(encoding)

    def as_written(self, path: Path) -> dict[int, dict[str, str]] | None:
        """Read the hand labels of a file that has the form of the run's, and check nothing.

        Returns:
            The labels of each row; None if there is no file, and a label of a row 0 if its form is another.
        """
        if not path.exists():
            return None
        read: dict[int, dict[str, str]] = {}
        with contextlib.suppress(OutputError, ValueError), closing(read_csv(path)) as found:
            _, header = next(found, (0, []))
            places = [header.index(name) for name in (self.id_column, *self.fields)]
            for _, line in found:
                number, *texts = (line[place].strip() for place in places)
                named = zip(self.fields.values(), texts, strict=True)
                read[int(number)] = {name: text for name, text in named if is_known(text)}
            return read
        return {0: {"": ""}}

    def read(self, path: Path, lines: Mapping[int, Line]) -> Found:
        """Read a file that somebody has filled in.

        Args:
            path: of the file.
            lines: the rows of the sample, by their numbers.

        Raises:
            OutputError: it cannot be read; a line is no row of the sample, or another one than it says; or a hand label
                cannot be an answer. The message names the line.
        """
        try:
            sheets = sheets_of(path, AnswerColumns(self.id_column))
        except OutputError as error:
            raise OutputError(f"{path} cannot be read: {error}") from error
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}") from error
        fits: list[_Fit] = []
        unfit: list[UnfitError] = []
        for sheet in sheets:
            try:
                fits.append(self._fit(sheet, lines))
            except UnfitError as error:
                unfit.append(error)
        if not fits:
            raise OutputError(f"{path}: {max(unfit, key=lambda each: each.agreed)}")
        fit = _surest(path, fits)
        if fit.wrong:
            said = "; ".join(fit.wrong[:_MOST_WRONG])
            rest = len(fit.wrong) - _MOST_WRONG
            more = f"; and {counted(rest, 'other line')}" if rest > 0 else ""
            end = "" if f"{said}{more}".endswith("?") else "."
            raise OutputError(f"{path}: {said}{more}{end} Nothing was read: put it right, or leave the cell empty")
        return fit.found

    def _fit(self, sheet: Sheet, lines: Mapping[int, Line]) -> _Fit:
        """Compare a reading of the file with the rows.

        Raises:
            UnfitError: it is no file of the sample, or a line is another row than it says.
        """
        places = self._places_in(sheet)
        inputs = [(own, places[name]) for own, name in enumerate(self.columns) if name in places]
        columns = {own: Reformatting(sheet.encoding, sheet.separator) for own, _ in inputs}
        fit = _Fit(sheet, Found(more=tuple(name for name in sheet.header if name and name not in self.header)))
        width = len(sheet.header)
        for number, found in sheet.lines:
            if any(found[width:]):
                raise UnfitError(f"line {number}: {counted(len(found), 'field')}, the header has {width}")
            cells = [*found[:width], *[""] * (width - len(found))]
            line = self._line(number, cells[places[self.id_column]], lines, fit)
            self._compare(number, line, [(own, cells[at]) for own, at in inputs], columns, fit)
            fit.found.lines[line.id] = number
            named = {column: cells[places[column]] for column in self.fields if column in places}
            fit.found.gold[line.id] = self._gold(number, named, fit)
        return fit

    def _places_in(self, sheet: Sheet) -> dict[str, int]:
        for name in self.header:
            if sheet.header.count(name) > 1:
                raise UnfitError(f"it has {sheet.header.count(name)} columns {name!r}")
        places = {name: place for place, name in enumerate(sheet.header)}
        if not any(name in places for name in self.fields):
            has = ", ".join(map(repr, filter(None, sheet.header)))
            raise UnfitError(f"it has no column {' or '.join(map(repr, self.fields))}; its columns are {has}")
        return places

    def _line(self, number: int, text: str, lines: Mapping[int, Line], fit: _Fit) -> Line:
        """Return the row that a line is about."""
        said = text.strip().removesuffix(".0").removesuffix(",0")
        line = lines.get(int(said)) if said.isascii() and said.isdecimal() else None
        if line is None:
            what = f"the sample has no row {said}" if said else f"its {self.id_column!r} is empty"
            raise UnfitError(f"line {number}: {what}, so it is not known which row it is", agreed=fit.agreed)
        if before := fit.found.lines.get(line.id):
            raise UnfitError(f"lines {before} and {number} are both row {said} of the sample", agreed=fit.agreed)
        return line

    def _compare(
        self,
        number: int,
        line: Line,
        found: Sequence[tuple[int, str]],
        columns: Mapping[int, Reformatting],
        fit: _Fit,
    ) -> None:
        """Check that the cells of a line are those of its row, as they are now or as they were when it was drawn."""
        for own, theirs in found:
            ours = None if line.cells is None else line.cells[self._places[own]]
            is_like = ours is not None and bool(columns[own].likeness(ours, theirs))
            if not is_like and not self._was(line, self.columns[own], theirs):
                has = "another cell" if ours is None else short(ours)
                advice = "delete the line, for the row is in the table no more" if line.is_gone else _ADVICE
                raise UnfitError(
                    f"line {number} is not row {line.id} of the sample, as it says: in column {self.columns[own]!r} it"
                    f" has {short(theirs)}, and that row {has}; {advice}",
                    is_cell=True,
                    agreed=fit.agreed,
                )
            fit.agreed += theirs == ours and not theirs.isascii()

    @staticmethod
    def _was(line: Line, name: str, theirs: str) -> bool:
        """Return whether a row had a cell when it was drawn, as far as its marks tell."""
        if line.made_by is None or name not in line.made_by.alone:
            return line.cells is None
        one = Marks([name])
        return one.of((theirs,)).removeprefix(one.tag) == line.made_by.cut(line.marks, [name])

    def _gold(self, number: int, cells: Mapping[str, str], fit: _Fit) -> dict[str, str]:
        """Read the hand labels of a line."""
        gold = {}
        for column, text in cells.items():
            name = self.fields[column]
            gold[name] = text.strip()
            if not is_known(text):
                continue
            is_decimal = fit.sheet.separator not in {",", WORKBOOK} and _WITH_COMMA.fullmatch(text.strip())
            try:
                gold[name] = self._golds.read(text.replace(",", ".") if is_decimal else text, name or None)
            except NoGold as error:
                fit.wrong.append(f"line {number}, column {column!r}: {error}")
        return gold


@dataclass
class _Fit:
    """A reading of a file that fits.

    Attributes:
        sheet: the reading.
        found: what it says.
        agreed: the cells with characters beyond ASCII that agreed.
        wrong: the hand labels that cannot be answers, with their lines.
    """

    sheet: Sheet
    found: Found
    agreed: int = 0
    wrong: list[str] = field(default_factory=list)


def _surest(path: Path, fits: Sequence[_Fit]) -> _Fit:
    """Return the reading whose encoding is right: cells beyond ASCII agree there, and hand labels are labels.

    Raises:
        OutputError: several are possible.
    """
    best = max(fits, key=lambda each: (each.agreed, -len(each.wrong)))
    rank = best.agreed, len(best.wrong)
    others = [each for each in fits if (each.agreed, len(each.wrong)) == rank and each.found.gold != best.found.gold]
    if others and not best.sheet.is_certain:
        names = ", ".join(dict.fromkeys(each.sheet.encoding for each in fits))
        raise OutputError(
            f"{path}: it is not UTF-8, and nothing shows in which encoding it is ({names}): save it as CSV UTF-8"
        )
    return best
