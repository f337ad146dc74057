"""Folds the journals of a run's shards into one journal, as if one process had written it.

Invariant: a journal is folded whole or not at all: it is made under another name, and renamed when it is on the disk.
What shards wrote is copied with its ids and positions shifted, so that none clash; their own journals stay as they are.

Memory is constant: SQLite copies from file to file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import OutputError
from batcher.journal.access import open_to_read
from batcher.journal.entries import (
    CORRECTED,
    DECIDED,
    JOINED,
    OVERTAKEN,
    READ,
    RESERVED,
    Chunk,
    kept,
    lacking,
)
from batcher.journal.reading import Reader
from batcher.journal.schema import (
    VERSION,
    as_output_errors,
    bring_up_to_date,
    check_whole,
    connect,
    give_generation,
    version_of,
)
from batcher.journal.scratch import SET_ASIDE
from batcher.records import RowState

FOLDED = "folded"
"""The kind of the event that says from what the journal was folded."""

_NUMBER = re.compile(r"(?:0|[1-9][0-9]*)(?=_)")

# `moved` shifts an id, `placed` a position, `renamed` the number in a chunk file's name.
_FOLD = """
INSERT OR IGNORE INTO sources (model, base_url, params) SELECT model, base_url, params FROM shard.sources ORDER BY id;
INSERT OR IGNORE INTO readings (shape, reader) SELECT shape, reader FROM shard.readings ORDER BY id;
INSERT INTO temp.source_of SELECT old.id, new.id FROM shard.sources old
    JOIN sources new USING (model, base_url, params);
INSERT INTO temp.reading_of SELECT old.id, new.id FROM shard.readings old JOIN readings new USING (shape, reader);
INSERT INTO runs SELECT id + :runs, host, pid, started, ended, outcome, chunk_size, question FROM shard.runs;
INSERT INTO rows SELECT placed(position), key, moved(result), cells, bound(is_kept, key, result) FROM shard.rows;
INSERT INTO same SELECT placed(position), placed(leader) FROM shard.same;
INSERT INTO results SELECT moved(id), key, (SELECT new FROM temp.source_of WHERE old = source), status, answer, error,
    seal, (SELECT new FROM temp.reading_of WHERE old = reading) FROM shard.results;
INSERT INTO rereads SELECT moved(id), moved(root), moved(before) FROM shard.rereads;
INSERT INTO corrections SELECT moved(c.id), at, who, why, file_of(origin), is_undo,
    bound(was_kept, (SELECT key FROM shard.results r WHERE r.id = c.id),
        (SELECT before FROM shard.rereads r WHERE r.id = c.id)) FROM shard.corrections c;
INSERT INTO responses SELECT moved(id), finish_reason, is_cut, model, reasoning, body, text, form, request_id,
    confidence, tier FROM shard.responses;
INSERT INTO opinions SELECT moved(id), key, placed(position), (SELECT new FROM temp.source_of WHERE old = source),
    status, answer, error, round, moved(result) FROM shard.opinions;
INSERT INTO votes SELECT moved(id), answers, for_it, is_tied, confidence FROM shard.votes;
INSERT INTO partials SELECT moved(id), at, why, text, reasoning, characters, prompt_tokens, completion_tokens
    FROM shard.partials;
INSERT INTO requests (id, run, endpoint, source, position, key, sent, ended, outcome, prompt_tokens, completion_tokens,
    cached_tokens, reasoning_tokens, cost, prompt_most, answer_cost, batch, sent_in)
    SELECT moved(id), run + :runs, endpoint, (SELECT new FROM temp.source_of WHERE old = source), placed(position), key,
    sent, ended, outcome, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, prompt_most,
    answer_cost, moved(batch), sent_in + :batches FROM shard.requests;
INSERT INTO batches SELECT id + :batches, run + :runs, endpoint, (SELECT new FROM temp.source_of WHERE old = source),
    name, made, state, url, form, requests, bytes, tokens, sha256, input_file, service_id, service_state, submitted,
    expires, ended, completed, failed, output_file, error_file, why FROM shard.batches;
INSERT INTO events SELECT id + :events, run + :runs, at, kind, about(kind, subject), detailed(kind, detail)
    FROM shard.events WHERE kind <> :joined;
DELETE FROM temp.source_of;
DELETE FROM temp.reading_of;
"""


class ShardJournal(NamedTuple):
    """The journal of a shard.

    Attributes:
        name: for people.
        path: of its journal.
        start: the place of its first row in the whole table.
    """

    name: str
    path: Path
    start: int


class _Shifts(NamedTuple):
    """What is added to the ids and positions of a shard: all that the shards before it used."""

    above: int = 0
    below: int = 0
    runs: int = 0
    batches: int = 0
    events: int = 0
    aside: int = 0


_COUNTED = ("runs", "requests", "results", "opinions", "corrections", "draws", "gold", "batches")
_STATE = ", ".join(f"(SELECT count(*) FROM {table})" for table in _COUNTED)
_BESIDE = "SELECT coalesce(max(position) + 1 - ?, 0) FROM shard.rows WHERE position >= ? AND position < ?"
_CHUNKS = "SELECT start, rows, origin, sha256 FROM shard.chunks WHERE start < (SELECT rows FROM shard.scope)"

OriginOf = Callable[[int, int, Chunk, Sequence[RowState], Sequence[RowState]], bytes]
"""Returns the origin of a chunk file in the folded journal, from the place of its shard among those to fold, its first
row there, its record there, and the states of its rows there and here."""


def fold(  # noqa: PLR0917 - in the order in which they come to stand
    shards: Sequence[ShardJournal],
    path: Path,
    question: dict[str, Any],
    origin: OriginOf,
    said: dict[str, Any],
    results: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the journal of all shards to a new file, on the disk when this returns.

    Args:
        shards: all, without gaps among their rows; the last one's latest run becomes that of the new journal. Nobody
            writes them meanwhile.
        path: of the new file; a file that is there is replaced.
        question: of that run, about the whole table.
        origin: makes the origins of chunk files.
        said: what the event `FOLDED` holds.
        results: as `results_of` returned them of the journal that is replaced.

    Raises:
        OutputError: a shard's journal cannot be read, is damaged or has another version, or the file cannot be written.
    """
    path.unlink(missing_ok=True)
    with as_output_errors(path, "written"), closing(connect(path, "mode=rwc")) as db:
        bring_up_to_date(db, 0)
        give_generation(db)
        db.execute("PRAGMA journal_mode = OFF")  # the file counts once it is renamed
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TEMP TABLE source_of (old INTEGER PRIMARY KEY, new INTEGER)")
        db.execute("CREATE TEMP TABLE reading_of (old INTEGER PRIMARY KEY, new INTEGER)")
        rows, shifts = 0, _Shifts()
        for number, shard in enumerate(shards):
            with _attached(db, shard):
                rows += int(db.execute("SELECT rows FROM shard.scope").fetchone()[0])
                shifts = _fold_one(db, shard, shifts, lambda *of, number=number: origin(number, *of))
        db.execute("BEGIN")
        db.execute("UPDATE scope SET rows = ?", (rows,))
        db.execute("UPDATE runs SET question = ? WHERE id = (SELECT max(id) FROM runs)", (json.dumps(question),))
        state = dict(zip(_COUNTED, db.execute(f"SELECT {_STATE}").fetchone(), strict=True))
        note = "INSERT INTO events (run, at, kind, subject, detail) SELECT max(id), max(started), ?, ?, ? FROM runs"
        db.execute(note, (FOLDED, "", json.dumps({**said, "state": state})))
        db.executemany(note, ((JOINED, *each) for each in results))
        db.execute("COMMIT")
    with as_output_errors(path, "written"), path.open("rb") as file:
        os.fsync(file.fileno())


def state_of(journal: Reader) -> dict[str, int]:
    """Return numbers that change if a run, or a person, adds anything to a journal."""
    [found] = journal.stream(f"SELECT {_STATE}")
    return dict(zip(_COUNTED, found, strict=True))


def folded_from(journal: Reader) -> dict[str, Any] | None:
    """Return what was said when a journal was folded, and its `state` then; None if it was not folded."""
    found = [*journal.stream("SELECT detail FROM events WHERE kind = ? ORDER BY id DESC LIMIT 1", (FOLDED,))]
    made: dict[str, Any] | None = json.loads(found[0][0]) if found else None
    return made


def results_of(journal: Reader) -> list[tuple[str, str]]:
    """Return the names of the results that were joined, with the SHA-256 of each in hexadecimal digits."""
    return [(name, sha) for name, sha in journal.stream("SELECT subject, detail FROM events WHERE kind = ?", (JOINED,))]


def is_sampled(journal: Reader) -> bool:
    """Return whether a sample was drawn to be labelled by hand."""
    [(found,)] = journal.stream("SELECT EXISTS (SELECT 1 FROM draws)")
    return bool(found)


@contextlib.contextmanager
def _attached(db: sqlite3.Connection, shard: ShardJournal) -> Iterator[None]:
    """Attach a shard's journal as `shard`.

    Raises:
        OutputError: it is damaged, or has another version.
    """
    with contextlib.ExitStack() as stack:
        opened = open_to_read(shard.path, stack)
        if version_of(opened.db, shard.path) != VERSION:
            raise OutputError(
                f"{shard.name}: {shard.path} was written by an older batcher: run the shard once to bring it up to date"
            )
        check_whole(opened.db, shard.path)
        db.execute("ATTACH ? AS shard", (opened.uri,))
        try:
            yield
        finally:
            if not db.in_transaction:
                db.execute("DETACH shard")


class _Move:
    """Where what a shard's journal holds comes to stand; its methods are functions of SQL in `_FOLD`.

    Args:
        start: the place of the shard's first row in the whole table.
        by: the shard's shifts.
        scope: the number of its rows.
        beside: how many positions behind those its journal has, below 2^40.
    """

    def __init__(self, start: int, by: _Shifts, scope: int, beside: int) -> None:
        self._start, self._by, self._scope, self._beside = start, by, scope, beside

    def moved(self, number: int | None) -> int | None:
        return None if number is None else number + (self._by.above if number > 0 else self._by.below)

    def placed(self, position: int) -> int:
        if position < self._scope:
            return position + self._start
        # What is not among the rows of the last run is set aside, behind what was set aside before.
        behind = position - self._scope if position < SET_ASIDE else self._beside + position - SET_ASIDE
        return SET_ASIDE + self._by.aside + behind

    def bound(self, value: object, key: bytes | None, result: int | None) -> object:
        if isinstance(value, bytes) and key is not None and result is not None:
            proof = value[:1].decode("latin-1")
            # A value that does not bind them stays one that does not, so that `verify` still finds it.
            if value == kept(proof, key, result):
                return kept(proof, key, self.moved(result) or 0)
        return value

    def file_of(self, name: Any) -> Any:
        return _NUMBER.sub(lambda found: str(int(found[0]) + self._start), name, count=1) if _is_file(name) else name

    def about(self, kind: str, subject: Any) -> Any:
        if kind == RESERVED:
            return "-".join(str(self.moved(int(each))) for each in subject.split("-"))
        if kind == READ:
            return self.file_of(subject)
        return str(self.moved(int(subject))) if kind == CORRECTED else subject

    def detailed(self, kind: str, detail: Any) -> Any:
        return str(self.moved(int(detail))) if kind in {CORRECTED, DECIDED, OVERTAKEN} and detail else detail


def _fold_one(
    db: sqlite3.Connection, shard: ShardJournal, by: _Shifts, origin: Callable[[int, Chunk, Any, Any], bytes]
) -> _Shifts:
    """Copy what a shard's journal holds; return the shifts of the next shard."""
    scope = int(db.execute("SELECT rows FROM shard.scope").fetchone()[0])
    beside = int(db.execute(_BESIDE, (scope, scope, SET_ASIDE)).fetchone()[0])
    move = _Move(shard.start, by, scope, beside)
    functions: list[Callable[..., Any]] = [
        *(move.moved, move.placed, move.bound, move.file_of, move.about, move.detailed),
    ]
    for function in functions:
        db.create_function(function.__name__, -1, function)
    values = {"runs": by.runs, "batches": by.batches, "events": by.events, "joined": JOINED}
    db.execute("BEGIN")
    for statement in _FOLD.split(";\n"):
        if statement.strip():
            db.execute(statement, {name: value for name, value in values.items() if f":{name}" in statement})
    _fold_chunks(db, shard, move.moved, origin)
    shifts = _next(db, by.aside + beside)
    db.execute("COMMIT")
    return shifts


def _is_file(name: object) -> bool:
    return isinstance(name, str) and _NUMBER.match(name) is not None


def _fold_chunks(
    db: sqlite3.Connection,
    shard: ShardJournal,
    moved: Callable[[int | None], int | None],
    origin: Callable[[int, Chunk, Any, Any], bytes],
) -> None:
    for start, rows, made, sha256 in db.execute(_CHUNKS).fetchall():
        within = "SELECT key, result FROM shard.rows WHERE position >= ? AND position < ? ORDER BY position"
        before = [RowState(*state) for state in db.execute(within, (start, start + rows))]
        after = [state._replace(result=moved(state.result)) for state in before]
        chunk = Chunk(rows, made, sha256)
        new = origin(start, chunk, before, after)
        if chunk.lacks is not None:
            new = new[:16] + lacking(moved(chunk.lacks) or 0)
        db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", (start + shard.start, rows, new, sha256))


def _next(db: sqlite3.Connection, aside: int) -> _Shifts:
    """Return the shifts behind all that is folded so far."""
    [above, below, runs, batches, events, more] = db.execute(
        "SELECT max((SELECT coalesce(max(id), 0) FROM requests), (SELECT coalesce(max(id), 0) FROM results),"
        " (SELECT coalesce(max(cast(substr(subject, instr(subject, '-') + 1) AS INTEGER)), 0) FROM events"
        " WHERE kind = ?)),"
        " min((SELECT coalesce(min(id), 0) FROM results), (SELECT coalesce(min(id), 0) FROM opinions),"
        " (SELECT coalesce(min(id), 0) FROM rereads)),"
        " (SELECT coalesce(max(id), 0) FROM runs), (SELECT coalesce(max(id), 0) FROM batches),"
        " (SELECT coalesce(max(id), 0) FROM events),"
        " (SELECT coalesce(max(position) + 1 - ?, 0) FROM shard.rows WHERE position >= ?)",
        (RESERVED, SET_ASIDE, SET_ASIDE),
    ).fetchone()
    return _Shifts(above, below, runs, batches, events, aside + more)
