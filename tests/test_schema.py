"""The journal's tables agree with their description, in a file made by a run."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

from batcher.journal import schema
from batcher.journal.opening import open_journal


def described() -> dict[str, set[tuple[str, str]]]:
    """Read names and types of the columns of each table out of the description."""
    tables: dict[str, set[tuple[str, str]]] = {}
    columns: set[tuple[str, str]] = set()
    for line in (schema.__doc__ or "").splitlines():
        if table := re.match(r"(\w+): ", line):
            columns = tables.setdefault(table[1], set())
        elif column := re.match(r"    (\w+) +(INTEGER|REAL|TEXT|BLOB)\*? +\S", line):
            columns.add((column[1], column[2]))
    tables.pop("Invariant")
    return tables


def test_every_table_and_column_is_described_with_its_type(tmp_path: Path) -> None:
    path = tmp_path / "journal_x.sqlite"
    with open_journal(path) as journal:
        journal.start_run(500, {})
    there: dict[str, set[tuple[str, str]]] = {}
    with open_journal(path), contextlib.closing(sqlite3.connect(path)) as db:
        query = "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
        for table, column, kind in db.execute(query):
            there.setdefault(table, set()).add((column, kind))
    assert described() == there
