"""A journal that no run has open, held for a moment in which people's decisions are written.

Invariant: what is written together is written as a whole or not at all, and is on disk when the call returns.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batcher.journal.committing import Statement
from batcher.journal.corrections import LOWEST, correcting, deciding, having_read
from batcher.journal.entries import DECIDED, Chunk, Correction, Decision, Workbook
from batcher.journal.sampling import Gold, SampleReader, labelling
from batcher.journal.schema import as_output_errors, raise_generation


class Pen(SampleReader):
    """A journal that this process alone writes; `opening.open_to_decide` opens it.

    Every method raises `OutputError` if the journal cannot be written.

    Args:
        path: of the journal.
        connection: for reading and writing.
        resources: are closed with it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, resources: contextlib.ExitStack) -> None:
        super().__init__(path, connection, resources)

    def decide(self, decision: Decision) -> int:
        """Record what a person has decided about a row; return the id of its new result.

        Raises:
            Overtaken: the row has another result than the person saw.
            SettingsError: see `corrections.deciding`.
        """
        number, statements = deciding(self._all, decision)
        self.write(statements)
        return number

    def label(self, golds: Iterable[Gold]) -> None:
        """Record hand labels."""
        self.write(labelling(golds))

    def done_by(self, run: int, request: str) -> str | None:
        """Return what a run has recorded about a request to it (`DECIDED`); None if it has not done it."""
        found = self._all(
            "SELECT detail FROM events WHERE run = ? AND kind = ? AND subject = ?", (run, DECIDED, request)
        )
        return str(found[0][0]) if found else None

    def correct(self, corrections: Sequence[Correction], run: int) -> None:
        """Give rows the answers that people gave them in a chunk file."""
        [(lowest,)] = self._all(LOWEST)
        self.write(correcting(corrections, lowest, run))

    def read(self, workbook: Workbook, run: int) -> None:
        """Record a workbook whose corrections are in the journal."""
        self.write([having_read(workbook, run)])

    def chunk_written(self, start: int, chunk: Chunk) -> None:
        """Record that a chunk file is in its place."""
        self.write(
            [("INSERT OR REPLACE INTO chunks (start, rows, origin, sha256) VALUES (?, ?, ?, ?)", (start, *chunk))]
        )

    def files_have(self, run: int, question: Mapping[str, Any]) -> None:
        """Record what the files of a run hold beside the answers."""
        self.write([("UPDATE runs SET question = ? WHERE id = ?", (json.dumps(question), run))])

    def write(self, statements: Iterable[Statement]) -> None:
        """Write statements, all or none."""
        with self._reading, as_output_errors(self.path, "written"):
            db = self._reader
            try:
                db.execute("BEGIN IMMEDIATE")
                raise_generation(db)
                for statement, values in statements:
                    db.execute(statement, values)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.rollback()
