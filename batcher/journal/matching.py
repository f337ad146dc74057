"""Matches rows with answers: a plan, made in the journal.

Invariant: a plan takes effect as a whole or not at all, and never changes or removes an answer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.answer.reading import is_cut
from batcher.answer.shape import ReadAs
from batcher.input.marks import EMPTY, Comparison
from batcher.journal import rereading
from batcher.journal import rules as rule
from batcher.journal.access import Opened
from batcher.journal.corrections import LOWEST, correcting, having_read
from batcher.journal.entries import UNWRITTEN, Chunk, Correction, Counts, Workbook, kept, seal
from batcher.journal.pairing import pair, pair_lines
from batcher.journal.reading import Reader, corrected, counts
from batcher.journal.rules import Rules
from batcher.journal.schema import IN_SCOPE, as_output_errors, bound, waiting
from batcher.journal.scratch import BARE, OUT, has_bare_rows, scratch
from batcher.journal.statements import Statements
from batcher.records import Completion, Result, RowState, Source, Status


class Matched(NamedTuple):
    """The outcome of matching rows and answers.

    Attributes:
        changed: the number of rows that had an answer, and now have a different question or source: counted by the
            columns that changed, as a bit mask in the order of the columns that the prompt uses; 0 if no column
            changed.
        own: those of them whose earlier answer is provably their own, so that `reuse` keeps it.
        gone: answered rows that are gone; each may be one of the new rows, edited.
        adopted: rows whose result was found in a chunk file.
        same: rows without a result that have the same question as another row.
        reread: rows whose result changes because their answer was read again.
        corrections_lost: where the rows stood whose answer by hand no row has got, while rows are asked.
        few: rows that have answers and no result, because they should have more (`--samples`), or not certain enough
            ones (`--then`).
        enough: those of them that have as many answers as they should.
        missing: the answers that these rows lack.
        out: rows that have no result yet, and are in batches that are not over.
        batches: the number of these batches.
        changed_out: of the rows that are `changed`, those whose answer is still to come, with such a batch.
        own_out: those of them whose answer will provably be their own.
    """

    changed: dict[int, int]
    own: int
    gone: int
    adopted: int
    same: int
    reread: int
    corrections_lost: tuple[int, ...] = ()
    few: int = 0
    enough: int = 0
    missing: int = 0
    out: int = 0
    batches: int = 0
    changed_out: int = 0
    own_out: int = 0


class Cause(NamedTuple):
    """Rows that have an answer to another question, or from a source that left, for one cause.

    Attributes:
        run: the process whose question the answers answer; None: the last one, of adopted and of kept answers.
        is_same_question: the question is the same, and the source has left.
        columns: the columns that changed; see `Matched.changed`.
        still_asks: other rows still ask the question of that process, so that it has not changed as a whole.
    """

    run: int | None
    is_same_question: bool
    columns: int
    still_asks: bool


class Matching:
    """Matches the rows of a table with the journal's answers; made by `Planner.planning`.

    First all rows are added, slice by slice (`add_rows`, `add_found`, `add_file`); then `finish` gives each row its
    answer.

    Args:
        db: the plan's connection, which has the tables of `scratch`.
        comparison: tells rows from one another, and what of them changed.
        texts: the table that has the results' texts.
        lines: the table that has the lines of batches without an end.
    """

    def __init__(self, db: Statements, comparison: Comparison, texts: str = "results", lines: str = "requests") -> None:
        self._db = db
        self._comparison = comparison
        self._texts = texts
        self._lines = lines
        self._has_lines = rule.note_lines(db, lines)

    def source_ids(self, sources: Sequence[Source]) -> list[int]:
        """Return the id of each source; a new source gets a new id."""
        return [rule.source_id(self._db, source) for source in sources]

    # -- Rows and answers

    def set_aside(self, rows: int, *, is_all: bool) -> None:
        """Set the first rows aside, before any row is added: the plan's rows there are other rows of the table.

        Args:
            rows: how many at least: those whose positions a sample takes.
            is_all: all rows of the last plan at least, because they are a sample.
        """
        rule.set_aside(self._db, rows, is_all=is_all)

    def add_rows(self, start: int, keys: Sequence[bytes], cells: Sequence[bytes]) -> None:
        """Record the questions of the rows from `start` on. A row with a different question loses its result for now.

        Args:
            start: the position of the first.
            keys: of their questions.
            cells: the marks of the rows.
        """
        known = self._db.do(
            "SELECT position, key, cells, is_kept, result FROM rows WHERE position >= ? AND position < ?",
            (start, start + len(keys)),
        )
        old = {position: (key, cells or b"", is_kept, result) for position, key, cells, is_kept, result in known}
        moved, renewed, noted, others = [], [], [], []
        for position, key, cell in zip(itertools.count(start), keys, cells, strict=False):
            had = old.get(position)
            # Rows with equal questions may keep answers to earlier questions, which were not equal.
            if had is None or had[0] != key or (had[2] is not None and not self._comparison.may_keep(had[1], cell)):
                renewed.append((position, key, cell))
                if had is not None:
                    moved.append((position,))
            elif had[1] != cell:
                noted.append((cell, position))
                if (had[3] or 0) < 0:  # an answer by hand goes with its row, not with its question alone
                    others.append((position,))
        self._db.do_many(
            "INSERT INTO moved SELECT position, result, key, cells, is_kept FROM rows"
            " WHERE position = ? AND result IS NOT NULL",
            [*moved, *others],
        )
        self._db.do_many("UPDATE rows SET result = NULL, is_kept = NULL WHERE position = ?", others)
        self._db.do_many("INSERT INTO renewed VALUES (?)", moved)
        self._db.do_many("INSERT INTO open SELECT key FROM rows WHERE position = ? AND result IS NULL", moved)
        if self._has_lines:
            rule.note_left_out(self._db, "position = ?", moved)
        self._db.do_many("INSERT OR REPLACE INTO rows (position, key, cells) VALUES (?, ?, ?)", renewed)
        self._db.do_many("UPDATE rows SET cells = ? WHERE position = ?", noted)

    def add_found(self, found: Iterable[tuple[int, bytes, Result]]) -> None:
        """Record the results that chunk files hold: position, key and result of each.

        They are for rows that never had a result: for the others, the journal is more reliable than a file.
        """
        values = (
            (position, result.status.value, bound(result.answer), bound(result.error), seal(key, result), position)
            for position, key, result in found
        )
        self._db.do_many(
            "INSERT INTO found SELECT ?, ?, ?, ?, ?, NULL WHERE EXISTS (SELECT 1 FROM rows LEFT JOIN moved m"
            " USING (position) WHERE position = ? AND rows.result IS NULL AND m.result IS NULL)",
            values,
        )

    def lacks_results(self) -> bool:
        """Return whether a row has no result yet; call it after all rows were added."""
        return self._db.is_any("SELECT 1 FROM rows WHERE result IS NULL LIMIT 1")

    def add_offered(self, offered: Iterable[tuple[bytes, Completion]]) -> None:
        """Record answers that stand elsewhere, each with the key of its question; each is for one row without a result.

        Args:
            offered: the answers, in order.
        """
        values = (
            (
                key,
                bound(came.text or ""),
                seal(key, Result(Status.OK, came.text or "", "")),
                came.finish_reason,
                is_cut(came),
                came.model,
                zlib.compress(came.raw),
                came.id,
            )
            for key, came in offered
        )
        self._db.do_many(
            "INSERT INTO offered (key, answer, seal, finish_reason, is_cut, model, body, request_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def add_file(self, start: int, rows: int, sha256: bytes) -> None:
        """Record a chunk file that the journal does not know, and that was adopted as it is."""
        self._db.do("INSERT OR IGNORE INTO chunks VALUES (?, ?, x'', ?)", (start, rows, sha256))

    def take_in(self, start: int, corrections: Sequence[Correction], run: int) -> list[RowState]:
        """Give rows the answers that people gave them in a chunk file; return the states of the chunk's rows then.

        Args:
            start: of the chunk.
            corrections: its answers by hand.
            run: the latest process.
        """
        for statement in correcting(corrections, self._db.one(LOWEST)[0], run):
            self._db.do(*statement)
        [rows] = self._db.one("SELECT max(rows) FROM chunks WHERE start = ?", (start,))
        return self.states(start, start + (rows or 0))

    def set_chunk(self, start: int, chunk: Chunk) -> None:
        """Record a chunk file whose corrections are in the journal.

        Args:
            start: of the chunk.
            chunk: the file; if its SHA-256 is empty, the file is written again and a copy of it is kept.
        """
        self._db.do("UPDATE chunks SET rows = ?, origin = ?, sha256 = ? WHERE start = ?", (*chunk, start))

    def note_workbook(self, workbook: Workbook, run: int) -> None:
        """Record a workbook whose corrections are in the journal."""
        self._db.do(*having_read(workbook, run))

    def give_up(self, positions: Iterable[int]) -> list[int]:
        """Let a copy be kept of the chunk files that hold rows whose corrections are lost; return their starts."""
        starts: dict[int, None] = {}
        for position in positions:
            found = self._db.do(
                "SELECT start FROM chunks WHERE start <= ? AND start + rows > ? AND sha256 <> x''", (position, position)
            )
            starts.update((start, None) for (start,) in found)
        for start in starts:
            self.set_chunk(start, UNWRITTEN)
        return sorted(starts)

    def twins(self, rows: int, mark: str) -> tuple[int, int] | None:
        """Return the positions of two rows that have the same mark, or None; empty cells do not count.

        Args:
            rows: how many rows there are now.
            mark: the SQL expression of the mark, from a row's `cells`.
        """
        found = self._db.do(
            f"SELECT min(position), max(position) FROM rows WHERE position < ? AND {mark} <> x'{EMPTY.hex()}'"
            f" GROUP BY {mark} HAVING count(*) > 1 ORDER BY 1 LIMIT 1",
            (rows,),
        ).fetchone()
        return found and (int(found[0]), int(found[1]))

    # -- Giving answers to rows

    def reading_id(self, reading: ReadAs | None) -> int | None:
        """Return the id of what answers are read as; a new one gets a new id. None: they stay as they come."""
        return rereading.reading_id(self._db, reading)

    def read_again(self, readers: rereading.Readers) -> None:
        """Read all answers that were read as something else again, after all rows were added and before `finish`."""
        rereading.read_again(self._db, readers, self._texts)

    def add_former(self, questions: Iterable[tuple[bytes, bytes]]) -> None:
        """Record that rows ask what answers wait for others to, but for the labels or the schema.

        Args:
            questions: the key of each question as it was, if it was asked, and as it is.
        """
        self._db.do_many(
            "INSERT OR IGNORE INTO former SELECT ?, ?"
            " WHERE EXISTS (SELECT 1 FROM opinions WHERE key = ? AND result IS NULL AND round = 0)",
            ((was, now, was) for was, now in questions),
        )

    def read_waiting_again(self, readers: rereading.Readers) -> None:
        """Read the answers to former questions again that wait for others, after all rows were added (`add_former`)."""
        rereading.read_waiting_again(self._db, readers, self._texts)

    def finish(self, rows: int, rules: Rules, reading: int | None = None) -> Matched:
        """Give every row the answer to its question, if there is one that the rules allow.

        Args:
            rows: how many rows there are now.
            rules: decide which answers they may have.
            reading: the id of what answers are read as.
        """
        db = self._db
        asked_again = self._take(rows, rules)
        adopted = self._give(rules, reading)
        if self._has_lines:
            rule.follow_rows(db, rules, self._lines)
        # Finally, pair the remaining rows and answers.
        paired = pair(db, self._comparison)
        if rules.on_change == "reuse":
            rule.keep_own_answers(db)
        if rules.dedup:
            rule.prefer_ok_answers(db, rules)
        asked_again += rule.lost_corrections(db)
        rule.forget_set_aside(db)
        rule.choose_who_asks(db, dedup=rules.dedup)
        [same] = db.one(f"SELECT count(*) - count(DISTINCT key) FROM rows WHERE {BARE}")
        few = rule.few_answers(db, rules)
        found = Matched(*paired, adopted, int(same), rereading.changed_rows(db), tuple(asked_again), *few)
        return self._with_lines(found) if self._has_lines else found

    def _with_lines(self, found: Matched) -> Matched:
        """Return the outcome with the lines of batches that have no end."""
        changed = pair_lines(self._db, self._comparison)
        out = f"SELECT position FROM rows WHERE {BARE} AND position IN {OUT}"
        [rows, batches] = self._db.one(
            f"SELECT (SELECT count(*) FROM ({out})), count(DISTINCT q.sent_in) FROM lines l"
            f" JOIN {self._lines} q USING (id) WHERE l.at IN ({out})"
        )
        both = Counter(found.changed)
        both.update(changed.changed)
        return found._replace(
            changed=dict(both),
            own=found.own + changed.own,
            out=int(rows),
            batches=int(batches),
            changed_out=sum(changed.changed.values()),
            own_out=changed.own,
        )

    def _take(self, rows: int, rules: Rules) -> list[int]:
        """Take results from rows; return where the rows stood to which a person gave a failure that is asked again."""
        db = self._db
        rule.plan_for(db, rows)
        if not rules.is_limited:
            rule.remove_rows_behind(db, rows)
        asked_again = rule.retry_failed(db) if rules.retry_failed else []
        rule.ask_for_more(db, rules)
        rule.ask_beyond(db, rules)
        rule.drop_answers_of_sources_that_left(db, rules)
        if rules.on_change == "redo":
            rule.redo_kept_answers(db)
        rule.clear_dropped(db)
        return asked_again

    def _give(self, rules: Rules, reading: int | None) -> int:
        """Give rows the results that answer their questions; return how many come from chunk files."""
        db = self._db
        if has_bare_rows(db):
            rule.return_corrections(db, self._comparison)
            rule.reuse_by_key(db, rules)
            if rules.on_change != "redo":
                rule.move_kept_answers(db, self._comparison, rules)
        rule.place_offered(db)
        if adopted := rule.adopt_from_files(db, reading):
            rule.ask_for_more(db, rules)
        if rules.retry_failed:
            rule.retry_failed(db)  # also rows that were adopted with such a status
        if rules.dedup:
            rule.share_answers(db, rules)
        return adopted

    # -- The outcome

    def causes(self) -> list[Cause]:
        """Return why rows are `Matched.changed`, after `finish`."""
        # A row that keeps an answer to an earlier question, and was edited since, has changed since its last question.
        found = self._db.do(
            """
            SELECT DISTINCT iif(l.is_kept IS NULL OR l.key = r.key, q.run, NULL), coalesce(a.key, q.key) = r.key,
                p.columns
            FROM pairs p JOIN lost l ON l.id = p.lost LEFT JOIN results a ON a.id = l.result JOIN rows r
            ON r.position = p.position LEFT JOIN requests q ON q.id = l.result ORDER BY 1, 2, 3
            """
        ).fetchall()
        asked = {run: self._is_still_asked(run) for run in {run for run, *_ in found} if run is not None}
        return [Cause(run, bool(same), columns, asked.get(run, False)) for run, same, columns in found]

    def _is_still_asked(self, run: int) -> bool:
        """Return whether a row has an answer of this process to the question that it asks now."""
        return self._db.is_any(
            f"SELECT 1 FROM rows JOIN results a ON a.id = rows.result AND a.key = rows.key JOIN requests q USING (id)"
            f" WHERE q.run = {run:d} AND rows.is_kept IS NULL AND rows.{IN_SCOPE}"
        )

    def counts(self) -> Counts:
        """Count the rows by how they ended, as far as the plan has been made."""
        with as_output_errors(self._db.path, "read"):
            return counts(self._db.connection)

    def waiting(self) -> int:
        """Count the `ok` answers that wait for others, or for a second endpoint, as far as the plan has been made."""
        [found] = self._db.one(f"SELECT count(*) FROM opinions p WHERE {waiting('p')} AND round = 0 AND status = 'ok'")
        return int(found)

    def corrected(self) -> int:
        """Count the rows whose answer a person gave, as far as the plan has been made."""
        with as_output_errors(self._db.path, "read"):
            return corrected(self._db.connection)

    def states(self, start: int, stop: int) -> list[RowState]:
        """Return the key and the result of each row in a range of positions, as far as the plan has been made."""
        query = "SELECT key, result FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        return [RowState(key, result) for key, result in self._db.do(query, (start, stop))]


class Planner(Reader):
    """A journal in which a plan can be made: a run's journal, or a copy.

    Args:
        path: of the journal.
        connection: for making plans; no other thread uses it meanwhile.
        reader: a connection for reading what is committed; may be the same one.
        resources: are closed with it.
        opened: how the file was opened, if nothing keeps others from writing it.

    Attributes:
        reading: the id of what the run reads answers as; None: they stay as they come.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        resources: contextlib.ExitStack,
        *,
        opened: Opened | None = None,
    ) -> None:
        super().__init__(path, reader, resources, opened=opened)
        self.reading: int | None = None
        self._db = Statements(path, connection)
        self._run = 0

    @contextlib.contextmanager
    def planning(self, comparison: Comparison) -> Iterator[Matching]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all.

        Args:
            comparison: tells rows from one another, and what of them changed.
        """
        db = self._db.connection
        db.create_function("differing", 2, comparison.differing, deterministic=True)
        db.create_function("kept", 3, kept, deterministic=True)
        run = self._run
        with scratch(self._db):
            self._db.do("BEGIN IMMEDIATE")
            try:
                yield Matching(self._db, comparison, self._texts, self._lines)
                self._db.do("COMMIT")
            except BaseException:
                self._run = run  # one that was started in the block is not in the file
                raise
            finally:
                if db.in_transaction:
                    db.rollback()

    def start_run(self, chunk_size: int, question: Mapping[str, Any]) -> None:
        """Record that this process begins to work; call it in a plan's block, so that both are committed together."""
        started = (socket.gethostname(), os.getpid(), time.time(), chunk_size, json.dumps(question))
        statement = "INSERT INTO runs (host, pid, started, chunk_size, question) VALUES (?, ?, ?, ?, ?)"
        self._run = int(self._db.do(statement, started).lastrowid or 0)


class Rehearsal(Planner):
    """A copy of a journal, in which the texts of results are only those that were recalled."""

    _texts = "original.results"
    _lines = "main.requests"

    def recall(self, start: int, stop: int) -> None:
        self._db.do(
            "UPDATE main.results SET answer = o.answer, error = o.error FROM original.results o WHERE o.id = results.id"
            " AND results.id IN (SELECT result FROM rows WHERE position >= ? AND position < ?)",
            (start, stop),
        )
