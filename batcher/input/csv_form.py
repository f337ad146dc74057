r"""The form of a CSV file: its separator, its line ends, and the quotes that CSV readers disagree about.

Invariant: a form is found only if the beginning of the file leaves no doubt; what readers disagree about is refused.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from batcher.errors import InputError
from batcher.words import by_reader, option

LONE = "\udc0d"
"""Stands for a carriage return that ends no line while the csv module reads it; decoded text has no such character."""

TAB = "\t"
SEPARATORS = f",;{TAB}|"
"""What a header is searched for, to find the separator."""

_SHOWN = 40  # characters of a line in a message
_SAMPLE = 100  # records that must agree with the header
_LONE_RETURN = re.compile(r"\r(?!\n|\Z)")
_FROM_EXCEL = re.compile(r"""sep=([^\r\n\w" ])(?=\r?\n|\r|\Z)""", re.IGNORECASE)


class Form(NamedTuple):
    """The form of a CSV file.

    Attributes:
        separator: between the fields.
        line_end: how lines end: a line feed, which a carriage return may precede, or a lone carriage return.
        has_line_above: Excel's `sep=;` stands above the header.
    """

    separator: str
    line_end: str
    has_line_above: bool

    def with_lone(self, block: str) -> str:
        r"""Replace each `\r` that ends no line by `LONE`."""
        if self.line_end == "\n" and "\r" in block and _LONE_RETURN.search(block):
            return _LONE_RETURN.sub(LONE, block)
        return block

    def lines(self, block: str) -> list[str]:
        """Cut a text at its line ends."""
        if self.line_end == "\n":
            return io.StringIO(block, newline="\n").readlines()
        *lines, last = block.split("\r")
        return [line + "\r" for line in lines] + ([last] if last else [])


def form_of(name: str, text: str, *, is_whole: bool, kind: str, separator: str | None, is_wide: bool) -> Form:
    """Find the form of a CSV file.

    Args:
        name: of the file, for messages.
        text: its beginning.
        is_whole: that is all of it.
        kind: the ending that files of its kind have: `.csv`, `.tsv` or `.txt`.
        separator: that the user gives, if any.
        is_wide: it is UTF-16, as Excel writes it, with tabs.

    Raises:
        InputError: the beginning leaves a doubt.
    """
    outside = _quoted(separator or "").sub('""', text)
    line_end = "\r" if "\r" in outside and "\n" not in outside else "\n"
    first = _FROM_EXCEL.match(text)
    header = _header(outside[first.end() if first else 0 :], line_end)
    if "\r" in header.rstrip("\r"):
        raise InputError(
            f"{name}: the header has a carriage return (\\r) outside quotes: do some lines end in \\r, and others in"
            " \\n? Let all lines end in \\n"
        )
    form = Form(first.group(1) if first else ",", line_end, first is not None)
    if separator or first:
        return form._replace(separator=separator or form.separator)
    if kind == ".tsv" or (is_wide and "\t" in header):
        return form._replace(separator="\t")
    found = [each for each in SEPARATORS if each in header]
    if kind == ".txt" and "\t" in found:
        found = ["\t"]
    if len(found) == 1 and found != [","] and _agrees(form._replace(separator=found[0]), text, is_whole=is_whole):
        return form._replace(separator=found[0])
    if kind == ".txt" and header.strip("\r\n") and (found != [","] or _is_prose(form, text)):
        raise InputError(
            f"{name}: it is not certain which character separates the columns: add {option('separator', 'CHAR')}, or"
            f" let the file's name end in .csv or .tsv{_as_texts(name, header)}"
        )
    return form


def _quoted(separator: str) -> re.Pattern[str]:
    """Return the pattern of a quoted cell, which may be cut off at the end of the text."""
    return re.compile(rf'(?<![^\r\n{re.escape(SEPARATORS + separator)}])"[^"]*(?:""[^"]*)*(?:"|\Z)')


def _header(outside: str, line_end: str) -> str:
    return next((line for line in outside.split(line_end) if line.strip("\r\n")), "")


def _agrees(form: Form, text: str, *, is_whole: bool) -> bool:
    """Return whether the rows have as many fields as the header; there must be a row."""
    lines = form.lines(form.with_lone(text))
    if not is_whole:
        del lines[-1:]
    widths: list[int] = []
    try:
        for fields in csv.reader(lines, delimiter=form.separator, strict=True):
            if fields:
                widths.append(len(fields))
            if len(widths) > _SAMPLE:
                break
    except csv.Error as error:
        if is_whole or "end of data" not in str(error):
            return False
    return len(widths) > 1 and len(set(widths)) == 1


def _is_prose(form: Form, text: str) -> bool:
    """Return whether the first row has another number of fields than the header: then commas are those of sentences."""
    lines = (line for line in form.lines(form.with_lone(text)) if line.strip("\r\n"))
    with contextlib.suppress(csv.Error):
        widths = [len(fields) for fields in islice(csv.reader(lines, strict=True), 2)]
        return len(widths) == 2 and widths[0] != widths[1]
    return False


def _as_texts(name: str, header: str) -> str:
    """Return what to do about a file of one text a line, whose first line is a text, too, or names the column."""
    path, first = Path(name), header.strip("\r\n")
    written = path.with_suffix(".jsonl") if path.suffix else Path("rows.jsonl")
    way = by_reader(
        command_line=f"jq -Rc '{{text: .}}' {name} > {written}, and the column is called text",
        python=f"give open({name!r}, encoding='utf-8').read().splitlines(), and the column is called text",
    )
    short = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}..."
    return f". If each line is a text, also the first, {short!r}: {way}"


class Quotes:
    """Finds quotes that CSV readers disagree about.

    Args:
        separator: between the fields.
    """

    def __init__(self, separator: str) -> None:
        here = re.escape(separator)
        # A quoted cell may hold `, ""so""`: a doubled quote and then a text is no sign of a fault.
        # It begins with plain characters, which is ten times as fast to search for as the rest.
        self._perhaps = re.compile(rf' "(?!"[^"{here}\r\n])')
        self._after_space = re.compile(rf'[{here}\n\r] +"(?!"[^"{here}\r\n])')
        self._escaped = re.compile(r'\\"(?!")')
        self._escaped_at_end = re.compile(rf'\\""(?=[{here}\r\n]|\Z)')
        self._fields = re.compile(rf'("[^"]*(?:""[^"]*)*")?([^{here}]*)(?:{here}|\Z)')

    def may_be_in(self, block: str) -> bool:
        """Return whether a block of lines may have such quotes; it is quick, and often wrong."""
        if '"' not in block:
            return False
        if self._perhaps.search(block) and (block[0] == " " or self._after_space.search(block)):
            return True
        return "\\" in block and self._escaped.search(block) is not None

    def trouble(self, record: str, *, is_broken: bool) -> str | None:
        """Return what readers disagree about in a record, in words, or None.

        Args:
            record: as it stands in the file.
            is_broken: it cannot be read by the rules of CSV.
        """
        is_escaped = self._escaped.search(record) or (is_broken and self._escaped_at_end.search(record))
        for field in self._fields.finditer(record.rstrip("\r\n")):
            quoted, rest = field.groups()
            if quoted is None and rest[:1] == " " and rest.lstrip(" ").startswith('"'):
                return (
                    "there is a space before a quote. Some readers skip it; by the rules of CSV the quotes would be"
                    " part of the cell. Remove the spaces behind the separators" + _anew("skipinitialspace=True")
                )
            if is_escaped and '"' in rest:
                return (
                    'a quote is written as \\". By the rules of CSV a quote in a quoted cell is doubled (""), and the'
                    " backslash would be part of the cell. Double the quotes" + _anew(r"escapechar='\\'")
                )
        return None


def _anew(how: str) -> str:
    return f", or write the file anew with pandas.read_csv(path, {how}, dtype=str, keep_default_na=False).to_csv(...)"


def separator_shown(char: str) -> str:
    """Return the option that names a separator, as the reader would write it."""
    word = "tab" if char == TAB else char
    shown = word if word == "tab" else repr(word)
    return by_reader(command_line=f"--separator {shown}", python=option("separator", word))


def with_names(names: Sequence[str]) -> list[str]:
    """Name the columns without a name before the first that has one, as pandas does when it reads its own index.

    `DataFrame.to_csv` writes the index there. A name that is taken gets a number more.
    """
    named = next((place for place, name in enumerate(names) if name), len(names))
    if named == len(names):
        return list(names)
    made = [f"Unnamed: {place}" for place in range(named)]
    for place, name in enumerate(made):
        number, free = 0, name
        while free in names:
            number += 1
            free = f"{name}.{number}"
        made[place] = free
    return [*made, *names[named:]]
