"""Finds columns by the names that a user gives.

Invariant: a name stands for the column that is spelled exactly so, or for none; then the message says which one was
probably meant.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

from batcher.errors import InputError
from batcher.input.csv_form import SEPARATORS, TAB, separator_shown

_MOST_SHOWN = 20  # columns in a message
_MOST_MEANT = 3
_NEAR = 0.6
"""How alike two names are (`difflib`, from 0 to 1) if one may be a slip for the other."""


def column_index(name: str, columns: Sequence[str], source: str) -> int:
    """Return the index of a column.

    Args:
        name: as the user gives it.
        columns: of the table.
        source: the option that names it, for the message.

    Raises:
        InputError: there is no such column; the message has the one that is probably meant, and lists the columns.
    """
    if name in columns:
        return list(columns).index(name)
    raise InputError(f"{source}: the table has no column {name!r}{meant(name, columns)}{_hint(name)}")


def meant(name: str, columns: Sequence[str]) -> str:
    """Return the end of a message about a missing column: the one that is probably meant, and those that there are."""
    found = like(name, columns)[:_MOST_MEANT] or _near(name, columns)
    asked = f" (did you mean {' or '.join(map(repr, found))}?{_unseen(name, found)})" if found else ""
    return f"{asked}; {shown(name, columns)}"


def like(name: str, columns: Sequence[str]) -> list[str]:
    """Return the columns whose names differ from this one at most in spaces, case, width, marks and code points."""
    folded = _folded(name)
    return [column for column in columns if _folded(column) == folded]


def shown(name: str, columns: Sequence[str]) -> str:
    """List the columns of a table, in quotes: first the names similar to the missing one, then the others in order."""
    if len(columns) == 1:
        [only] = columns
        return f"its only column is {only!r}{_separator_hint(columns, only)}"
    similar = [*like(name, columns), *difflib.get_close_matches(name, columns, _MOST_SHOWN, cutoff=0.5)]
    nearest = list(dict.fromkeys([*similar, *columns]))
    more = f" and {len(columns) - _MOST_SHOWN:,} more" if len(columns) > _MOST_SHOWN else ""
    names = ", ".join(map(repr, nearest[:_MOST_SHOWN])) or "none"
    return f"its columns are: {names}{more}{_separator_hint(columns, name)}"


def _separator_hint(columns: Sequence[str], name: str) -> str:
    """Return advice about the separator of a CSV file, if a name is between others in the name of a column."""
    for char in SEPARATORS:
        if any(name in column.split(char) for column in columns if char in column) or (
            char in name and len(columns) == 1
        ):
            return f": if {'a tab' if char == TAB else repr(char)} separates the columns, add {separator_shown(char)}"
    return ""


def _folded(name: str) -> str:
    """Return a name without what the eye may miss: spaces, case, full or half width, marks such as the BOM's."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in plain if not char.isspace() and unicodedata.category(char) != "Cf")


def _near(name: str, columns: Sequence[str]) -> list[str]:
    """Return the column whose name is most like this one; a hole may have a format or an attribute behind it."""
    if head := like(re.split(r"[:!|.\[]", name, maxsplit=1)[0], columns):
        return head[:1]
    folded = {_folded(column): column for column in reversed(columns)}
    near = difflib.get_close_matches(_folded(name), folded, 1, _NEAR)
    return [folded[each] for each in near]


def _unseen(name: str, found: Sequence[str]) -> str:
    """Return the difference between two names that look the same."""
    composed = unicodedata.normalize("NFC", name)
    if not any(unicodedata.normalize("NFC", each) == composed for each in found):
        return ""
    return " It looks the same and has other code points (Unicode's NFC and NFD): copy it from the header"


def _hint(name: str) -> str:
    if name[:1] == name[-1:] == "%":
        return "; {% ... %} is Jinja, which is not read here"
    return "; write {{ and }} for braces that are no holes" if re.search(r'["\':\n]', name) else ""
