"""The sample on the page: rows are shown blind, and labelled one by one.

Invariant: before a person asks for the result, nothing that it returns depends on what the model said of a row. A label
that was acknowledged is in the journal; what people wrote into the sample's file is there before a label of the page,
and before the file is written again, so that neither is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from batcher.answer.gold import Golds, NoGold, is_known
from batcher.engine.sampling import notes_on_older, sample, write_file
from batcher.errors import BatcherError, KeywordBusy, OutputError, SettingsError
from batcher.input.dataset import Dataset
from batcher.journal.comparing import last_request
from batcher.journal.corrections import REVIEW
from batcher.journal.entries import LastRun
from batcher.journal.locking import Work, holder_of
from batcher.journal.looking import Looks, RowReader
from batcher.journal.opening import read_samples
from batcher.journal.sampling import Draw, DrawnRow, Gold, RowNow
from batcher.output.directory import Store
from batcher.output.hand_labels import HandLabels, Source
from batcher.output.opening import PastRun
from batcher.output.sample_file import Line
from batcher.output.so_far import input_of
from batcher.place import version_of
from batcher.records import Task
from batcher.reports.quality.answers import is_same
from batcher.reports.quality.estimate import estimate
from batcher.reports.quality.estimated_page import html_of
from batcher.reports.quality.labelled import LabelledRun
from batcher.reports.quality.narrowing import Narrowing, Widths, how_many_more
from batcher.reports.quality.texts import title_of
from batcher.reviewing.deciding import Decisions
from batcher.reviewing.prompts import Prompt, Prompts
from batcher.words import counted

MOST_ROWS = 100
"""Rows that are sent at once."""
_MOST_DISAGREEMENTS = 500
_LONGEST_NOTE = 10_000  # characters
_MOST_FIELDS = 8  # of a schema, whose widths are taken
_WRITE_AFTER_S = 2.0  # without a lock, or after a label: the file is written once for several labels
_GONE = "this row was drawn, and is in the table no more"
_NO_CELLS = "the cells of this row are not to be had: the input has changed or is gone, and no chunk file has the row"


class _Key(NamedTuple):
    """What decides which rows the sample has, and where they are: the latest process, draw and drawn row, and rows."""

    run: int
    draw: int
    drawn: int
    rows: int


@dataclass(frozen=True)
class _Sample:
    """The sample, as it was read.

    Attributes:
        key: of what was read.
        stamp: of the journal, when the labels were read.
        last: the run.
        rows: that could be drawn.
        draws, drawn, places: as the journal and `HandLabels` have them.
        lines: the rows with their cells; None: they are not read yet, which may take seconds.
        hand: knows columns and labels; its journal is closed.
        prompts: makes the prompts again.
        gold: the hand labels.
    """

    key: _Key
    stamp: tuple[object, ...]
    last: LastRun
    rows: int
    draws: list[Draw]
    drawn: list[DrawnRow]
    places: dict[int, RowNow]
    lines: dict[int, Line] | None
    hand: HandLabels
    prompts: Prompts
    gold: dict[int, Gold]

    @property
    def open(self) -> list[int]:
        """The rows that can be labelled."""
        return [each.id for each in self.drawn if self.why_not(each.id) == ""]

    def why_not(self, number: int) -> str:
        """Return why a row cannot be labelled; empty if it can, as far as that is known."""
        if number not in self.places:
            return _GONE
        return _NO_CELLS if self.lines is not None and self.lines[number].cells is None else ""

    @property
    def whole(self) -> dict[int, Line]:
        """The rows with their cells; none before these are read."""
        return {} if self.lines is None else self.lines

    def is_done(self, number: int) -> bool:
        gold = self.gold.get(number)
        return gold is not None and len(self.hand.by_field(gold.text)) == len(self.hand.file.fields)

    def labelled(self) -> dict[int, str]:
        """Return the hand labels of the rows that are done, the first one given first."""
        done = sorted((number for number in self.places if self.is_done(number)), key=lambda each: self.gold[each].at)
        return {number: self.gold[number].text for number in done}

    def gold_of(self, number: int) -> dict[str, Any]:
        gold = self.gold.get(number, Gold(number, "", ""))
        fields = self.hand.golds.fields
        return {
            "gold": gold.text,
            "golds": {name: Golds.of_field(gold.text, name) for name in fields} if fields else None,
            "note": gold.note,
            "who": gold.who,
        }


@dataclass
class _File:
    """What is known of the sample's file.

    Attributes:
        seen: its version when it was read or written last; None: it was not there, or was not looked at yet.
        is_behind: the journal has labels that it lacks.
        problem: why it cannot be read or written now; empty if it can.
        notes: what else to know about it.
    """

    seen: tuple[int, ...] | None = None
    is_behind: bool = False
    problem: str = ""
    notes: dict[str, None] = field(default_factory=dict)


class Desk:
    """Shows the rows of a sample, and takes their labels.

    Args:
        store: the files of the run.
        looks: at its journal.
        decisions: bring labels into the journal.
        tell: is called with an event and its values, for all tabs.
        data: the input, if the user gave it.
    """

    def __init__(
        self,
        store: Store,
        looks: Looks,
        decisions: Decisions,
        *,
        tell: Callable[[str, dict[str, Any]], None] = lambda _event, _values: None,
        data: Any = None,
    ) -> None:
        self._store, self._looks, self._decisions = store, looks, decisions
        self._tell, self._data = tell, data
        self._turn, self._looking = asyncio.Lock(), asyncio.Lock()
        self._sample: _Sample | None = None
        self._file = _File()
        self._closing = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._widths = Widths()
        self._parts: tuple[object, list[Narrowing]] = (None, [])
        self._measuring: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._result: tuple[object, str | None, dict[str, Any]] | None = None

    # -- What it shows

    async def overview(self) -> dict[str, Any]:
        """Return the sample: its rows in their order, what is done, and how wide the interval is by now.

        Raises:
            OutputError: the journal cannot be read.
        """
        async with self._turn:
            try:
                found = await self._in_step()
            except KeywordBusy as error:  # what is in the file is read later
                self._file.problem = str(error)
                found = await self._present()
        self._measure(found)
        if found.draws and found.lines is None and (self._reading is None or self._reading.done()):
            self._reading = asyncio.get_running_loop().create_task(self._with_cells(found))
        return self._shown(found)

    def _shown(self, found: _Sample) -> dict[str, Any]:
        open_ = found.open
        golds, done = found.hand.golds, sum(map(found.is_done, open_))
        why = _why_no_draw(found.last)
        rows = [
            {
                "drawn": each.id,
                "is_done": found.is_done(each.id),
                "is_here": not found.why_not(each.id),
                "has_note": bool(found.gold[each.id].note) if each.id in found.gold else False,
            }
            for each in found.drawn
        ]
        return {
            "exists": bool(found.draws),
            "population": found.draws[-1].population if found.draws else found.rows,
            "seed": found.draws[0].seed if found.draws else None,
            "design": found.draws[-1].design if found.draws else "",
            "labels": [*golds.labels] or None,
            "fields": [*golds.fields],
            "can_draw": not why,
            "why": why,
            "can_draw_per_label": bool(golds.labels),
            "rows": rows,
            "total": len(open_),
            "done": done,
            "todo": len(open_) - done,
            "problem": self._file.problem,
            "notes": [*self._file.notes],
            **self._narrowed(found),
        }

    def _narrowed(self, found: _Sample) -> dict[str, Any]:
        open_ = found.open
        population = found.draws[-1].population if found.draws else found.rows
        said, halves = how_many_more(sum(map(found.is_done, open_)), len(open_), population, len(found.drawn))
        series = self._widths.series
        at, width = series[-1] if series else (None, None)
        return {
            "width": width,
            "width_at": at,
            "widths": [[*each] for each in series],
            "how_many_more": said if open_ else "",
            "halves": None if halves is None else {"labels": halves[0], "draw": halves[1]},
        }

    async def rows(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Return rows of the sample, without anything that the model said.

        Args:
            numbers: `DrawnRow.id` of each.

        Raises:
            SettingsError: the sample has no such row.
        """
        found = await self._whole()
        for each in numbers:
            _check_row(found, each)
        return {"rows": await asyncio.to_thread(lambda: [self._row(found, each) for each in numbers])}

    def _row(self, found: _Sample, number: int) -> dict[str, Any]:
        place, why, line = found.places.get(number), found.why_not(number), found.whole[number]
        prompt = Prompt(None, why)
        if place is not None:
            prompt = found.prompts.of(found.hand.table, line.cells, place.key)
        return {
            "drawn": number,
            "position": None if place is None else place.position,
            "cells": [] if why else [[*each] for each in found.hand.file.shown(line)],
            "is_here": not why,
            "why": why,
            "prompt": prompt.messages,
            "prompt_why": prompt.why,
            "at": found.gold[number].at if number in found.gold else None,
            **found.gold_of(number),
        }

    # -- Labels

    async def label(self, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Record the label of a row, or a note about it.

        Args:
            number: `DrawnRow.id` of the row.
            given: `gold`, a text (empty: the label is taken back), or `golds`, by field; and `note`. What is left out
                stays.

        Raises:
            SettingsError: it is no label, or the sample has no such row.
            KeywordBusy: the journal cannot be written now.
        """
        async with self._turn:
            found = await self._in_step()
            _check_row(found, number)
            if number not in found.places:
                raise SettingsError(f"row {number} of the sample: {_GONE}")
            before, earlier = found.gold.get(number, Gold(number, "", "")), found.gold_of(number)
            after = Gold(number, _text_of(found.hand.golds, given, before.text), REVIEW, note=_note_of(given, before))
            via, said = "", "nothing changed"
            if (after.text, after.note) != (before.text, before.note):
                decided = await self._decisions.label([after])
                via, said = decided.via, decided.said
                found = await self._present()
                self._write_soon()
        if via:
            self._tell("sample", {"drawn": number})
        self._measure(found)
        done = sum(map(found.is_done, found.open))
        return {
            "drawn": number,
            **found.gold_of(number),
            "earlier": earlier,
            "done": done,
            "todo": len(found.open) - done,
            **self._narrowed(found),
            "via": via,
            "said": said,
        }

    async def draw(self, n: int, *, per_label: bool) -> dict[str, Any]:
        """Draw rows, as `batcher sample` does.

        Raises:
            SettingsError, InputError, OutputError, KeywordBusy: as `batcher sample`.
        """
        async with self._turn:
            await self._in_step()
            # Drawn as by whoever drew first: without a seed it is that of the first draw.
            call = functools.partial(sample, self._store.keyword, n, per_label=per_label, data=self._data)
            made = await asyncio.to_thread(call, output_dir=self._store.directory)
            self._file = _File(_version(self._store.sample_path), notes=dict.fromkeys(made.notes))
        self._tell("sample", {"drawn": 0})
        return await self.overview()

    # -- The result, when the person asks for it

    async def result(self, field_name: str | None) -> dict[str, Any]:
        """Return the estimate, and the rows that people have labelled otherwise than the model.

        Args:
            field_name: of the schema; None: the first, if there are several.

        Raises:
            SettingsError: there is no such field.
            OutputError: the journal cannot be read.
        """
        async with self._turn:
            with contextlib.suppress(KeywordBusy):  # what is in the file counts all the same
                await self._in_step()
        found = await self._whole()
        fields = found.hand.golds.fields
        name = field_name or (fields[0] if len(fields) > 1 else None)
        if self._result is None or self._result[:2] != (found.stamp, name):
            self._result = found.stamp, name, await asyncio.to_thread(self._resulting, found, name)
        return self._result[2]

    def _resulting(self, found: _Sample, name: str | None) -> dict[str, Any]:
        made = estimate(self._store.keyword, self._store.directory, field=name, data=self._data)
        of_label, places = self._looks.look(
            lambda journal: (
                self._reads(journal, found.last, name).label_of,
                self._hand(journal, found.last).places(found.drawn),  # with the labels that the model has given by now
            )
        )
        differing = []
        for number, place in sorted(places.items()):
            gold = Golds.of_field(found.gold[number].text, made.field) if number in found.gold else ""
            model = of_label(place.label)
            if gold and (model is None or not is_same(model, gold, made.kind)):
                note, line = found.gold[number].note, found.whole[number]
                cells = [] if line.cells is None else [[*each] for each in found.hand.file.shown(line)]
                said = {"model": model, "gold": gold, "note": note}
                differing.append({"drawn": number, "position": place.position, "cells": cells, **said})
        return {
            "title": title_of(made),
            "estimate": html_of(made, can_draw=True),
            "field": made.field,
            "fields": [*found.hand.golds.fields],
            "disagreements": differing[:_MOST_DISAGREEMENTS],
            "total": len(differing),
        }

    # -- Reading the journal

    async def _present(self) -> _Sample:
        """Return the sample as it is now; what has not changed is not read again."""
        async with self._looking:
            found = self._sample
            if found is None or found.stamp != self._looks.stamp():
                found = self._sample = await asyncio.to_thread(self._looks.look, self._read)
            return found

    def _read(self, journal: RowReader) -> _Sample:
        stamp = self._looks.stamp()
        with journal.snapshot():
            last = PastRun(self._store, journal).last()
            key, old = _Key(last.id, *journal.last_ids(), journal.scope()), self._sample
            if old is not None and old.key == key:
                return replace(old, stamp=stamp, gold=journal.gold())
            hand = self._hand(journal, last)
            draws, drawn = journal.draws(), journal.drawn()
            places, rows = hand.places(drawn), journal.size(hand.without)
            prompts = Prompts(journal.questions())
            return _Sample(key, stamp, last, rows, draws, drawn, places, None, hand, prompts, journal.gold())

    async def _whole(self) -> _Sample:
        """Return the sample with the cells of its rows."""
        found = await self._present()
        if found.lines is None:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.get_running_loop().create_task(self._with_cells(found))
            await asyncio.shield(self._reading)
            found = await self._present()
            return found if found.lines is not None else await self._whole()  # another plan has come meanwhile
        return found

    async def _with_cells(self, found: _Sample) -> None:
        def look(journal: RowReader) -> dict[int, Line]:
            return self._hand(journal, found.last).lines(found.drawn, found.places)

        lines = await asyncio.to_thread(self._looks.look, look)
        await self._present()
        if self._sample is not None and self._sample.key == found.key:
            self._sample = replace(self._sample, lines=lines)

    def _hand(self, journal: RowReader, last: LastRun) -> HandLabels:
        return HandLabels(self._store, journal, last, self._dataset(last))

    def _reads(self, journal: RowReader, last: LastRun, name: str | None) -> LabelledRun:
        return LabelledRun(PastRun(self._store, journal), name, self._dataset(last))

    def _dataset(self, last: LastRun) -> Dataset | None:
        return None if self._data is None else input_of(last.question, self._data)

    # -- The sample's file

    async def _in_step(self) -> _Sample:
        """Return the sample, after what people have written into its file is in the journal.

        Raises:
            KeywordBusy: there are new labels in the file, and the journal cannot be written now.
        """
        found = await self._present()
        version = _version(self._store.sample_path)
        if version in {None, self._file.seen} or not found.draws:
            return found
        try:
            changes: list[Gold] = []
            if not await asyncio.to_thread(found.hand.is_read, found.gold):
                found = await self._whole()
                changes, _ = await asyncio.to_thread(self._changes, found)
        except BatcherError as error:
            # It stays as it is, and is read when somebody has mended it: labels of the page are in the journal.
            self._file.seen, self._file.problem = version, str(error)
            return found
        if changes:
            await self._decisions.label(changes)
            for each in changes:
                self._tell("sample", {"drawn": each.drawn})
            found = await self._present()
        self._file.seen, self._file.problem = version, ""
        return found

    def _changes(self, found: _Sample) -> tuple[list[Gold], Source | None]:
        """Read the file; return the labels that the journal does not have, and what the file says."""

        def look(journal: RowReader) -> tuple[list[Gold], Source | None]:
            hand = self._hand(journal, found.last)
            own = hand.own(found.whole)
            changes = [] if own is None else hand.changes([own], found.gold)
            self._file.notes |= dict.fromkeys(notes_on_older(hand))
            return changes, own

        return self._looks.look(look)

    def _write_soon(self) -> None:
        """Write the file, once for the labels of the next moment."""
        self._file.is_behind = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_later())

    async def _write_later(self) -> None:
        while self._file.is_behind and not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _WRITE_AFTER_S)
            with contextlib.suppress(KeywordBusy):  # another process reads or writes the sample just now
                await self.write()

    async def write(self) -> None:
        """Write the file anew, if the journal has labels that it lacks.

        Raises:
            KeywordBusy: another process has the sample just now.
        """
        async with self._turn:
            if not self._file.is_behind:
                return
            try:
                await self._in_step()
                found = await self._whole()
                if not self._file.problem:
                    await asyncio.to_thread(self._written, found)
            except KeywordBusy:
                raise
            except BatcherError as error:
                self._file.problem = str(error)
            self._file.is_behind = False

    def _written(self, found: _Sample) -> None:
        path = self._store.sample_path
        with ExitStack() as stack:
            try:
                stack.enter_context(read_samples(self._store.journal_path, alone=True))
            except KeywordBusy:
                # While a run plans or works, no `batcher sample` does.
                if (holder := holder_of(self._store.journal_path)) and holder.work is Work.READS:
                    raise
            version = _version(path)
            changes, own = self._changes(found)
            if changes or _version(path) != version:
                raise KeywordBusy(f"{path} has changed just now: it is read first")
            encoding = found.last.question.get("encoding", "utf-8")
            said = None if own is None else own.found
            notes = write_file(self._store, found.hand, found.whole, found.gold, own=said, encoding=encoding)
            self._file.notes |= dict.fromkeys(notes)
            self._file.seen = _version(path)

    async def close(self) -> str:
        """Write the file, and end what works beside; return what to know about it, or an empty text."""
        self._closing.set()
        for task in (self._measuring, self._reading):
            if task is not None:
                task.cancel()
        tasks = [task for task in (self._writing, self._measuring, self._reading) if task is not None]
        if tasks:
            await asyncio.wait(tasks)  # what is being written is written
        try:
            await self.write()
        except BatcherError as error:
            self._file.problem = str(error)
        if self._file.problem:
            return f"{self._store.sample_path} is not written again ({self._file.problem}); the journal has the labels"
        return ""

    # -- The width of the interval

    def _measure(self, found: _Sample) -> asyncio.Task[None] | None:
        """Take the widths that are due, beside all else; return the task, if there is one."""
        if self._measuring is not None and not self._measuring.done():
            return self._measuring
        labels = found.labelled()
        if not found.draws or not self._widths.is_due(len(labels), len(found.places)):
            return None
        self._measuring = asyncio.get_running_loop().create_task(self._measured(found, labels))
        return self._measuring

    async def _measured(self, found: _Sample, labels: Mapping[int, str]) -> None:
        try:
            await asyncio.to_thread(self._looks.look, lambda journal: self._taken(journal, found, labels))
        except OutputError as error:
            self._file.notes |= {f"the width of the interval is not known: {error}": None}
            return
        self._tell("width", self._narrowed(found))

    def _taken(self, journal: RowReader, found: _Sample, labels: Mapping[int, str]) -> None:
        made, parts = self._parts
        if made != (now := (found.key, last_request(journal))):
            fields: Sequence[str | None] = found.hand.golds.fields[:_MOST_FIELDS] or (None,)
            with journal.snapshot():
                # The model's labels, which may be newer than those that were read with the sample.
                places = self._hand(journal, found.last).places(found.drawn)
                reads = [self._reads(journal, found.last, each) for each in fields]
                parts = [Narrowing(each, found.draws, found.drawn, places) for each in reads]
            self._parts = now, parts
        self._widths.take(parts, labels, len(found.places))


def _check_row(found: _Sample, number: int) -> None:
    if all(each.id != number for each in found.drawn):
        raise SettingsError(f"the sample has no row {number}: it has {counted(len(found.drawn), 'row')}")


def _text_of(golds: Golds, given: Mapping[str, Any], before: str) -> str:
    """Return the hand label that a person gives, as the journal has it.

    Raises:
        SettingsError: it is none.
    """
    whole, parts = given.get("gold"), given.get("golds")
    if whole is None and parts is None:
        return before
    try:
        if golds.fields and isinstance(parts, dict):
            return golds.read_whole(json.dumps(parts))
        if isinstance(whole, str):
            return golds.read_whole(whole) if is_known(whole) else ""
    except NoGold as error:
        raise SettingsError(str(error)) from error
    raise SettingsError("give the label as `gold`, a text; with a schema as `golds`, a text for each field")


def _note_of(given: Mapping[str, Any], before: Gold) -> str:
    note = given.get("note", before.note)
    if not isinstance(note, str) or len(note) > _LONGEST_NOTE:
        raise SettingsError(f"a note is a text of at most {_LONGEST_NOTE:,} characters")
    return note.strip()


def _why_no_draw(last: LastRun) -> str:
    """Return why no sample can be drawn of a run; empty if one can."""
    if last.question.get("task") == Task.EMBEDDING:
        return "the answers of this run are vectors, which cannot be labelled by hand"
    if not last.question.get("table"):
        return "an older batcher wrote the journal: run its command once, which asks nothing anew"
    return ""


def _version(path: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        return version_of(path)
    return None
