"""`verify`: proves each row's answer from the run's journal, its files and, if it is given, its input.

Invariant: it only reads; journal, chunk files and result are each checked against independent evidence. Every
contradiction is reported, a row's with the first check that it fails; a note names checks that were not possible.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batcher.answer.columns import AnswerColumns
from batcher.errors import OutputError, outermost
from batcher.input.cell import writable
from batcher.input.narrowed import narrowed
from batcher.input.opening import Reading, open_dataset
from batcher.input.prompt import PromptFunction
from batcher.input.types import Types
from batcher.journal.entries import BatchCounts, Counts, EndpointTotals, LastRun
from batcher.journal.evidence import Evidence
from batcher.journal.locking import is_at_work
from batcher.journal.opening import read_evidence
from batcher.money.prices import NANO
from batcher.output.directory import Store
from batcher.output.opening import opened
from batcher.output.shards import gaps, unmerged
from batcher.output.so_far import facts_of
from batcher.reports.verification.batches import as_dict, check_batches, lines_of, notes_on
from batcher.reports.verification.chunk_files import ChunkFiles
from batcher.reports.verification.corrections import CorrectedFile, Corrections
from batcher.reports.verification.findings import Finding, Found, Kind
from batcher.reports.verification.inputs import Inputs
from batcher.reports.verification.kept import KeptAnswers
from batcher.reports.verification.questions import Asked
from batcher.reports.verification.requests import Requests
from batcher.reports.verification.responses_file import check_responses
from batcher.reports.verification.result_file import ResultCells, check_result, check_vectors
from batcher.reports.verification.results import Results
from batcher.reports.verification.rows import checked, read_rows
from batcher.reports.verification.thoughts import Thoughts
from batcher.reports.verification.votes import VotesOfRows
from batcher.settings import OPTIONS
from batcher.shards import Part
from batcher.tables import Described, Line
from batcher.words import by_reader, counted, dollars

if TYPE_CHECKING:
    from batcher.input.opening import Data


_FILES_SHOWN = 5


@dataclass(frozen=True)
class Verification(Described):
    """The outcome of `verify`.

    Attributes:
        keyword: of the run.
        counts: the rows by status.
        chunks: the number of chunk files that were compared.
        corrected: the chunk files with answers that people corrected, which is no finding.
        endpoints: the totals of the requests of each endpoint.
        findings: all contradictions, and rows without a result.
        notes: checks that were not possible, and other facts.
        batches: what became of the requests in each batch.
    """

    keyword: str
    counts: Counts
    chunks: int
    endpoints: tuple[EndpointTotals, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    corrected: tuple[CorrectedFile, ...] = ()
    batches: tuple[BatchCounts, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as a dictionary that JSON can hold; money in US dollars."""
        return {
            "keyword": self.keyword,
            "ok": self.ok,
            "counts": {**self.counts._asdict(), "left": self.counts.left},
            "chunks": self.chunks,
            "corrected": [each._asdict() for each in self.corrected],
            "endpoints": [_totals_as_dict(each) for each in self.endpoints],
            "batches": [as_dict(each) for each in self.batches],
            "findings": [finding._asdict() for finding in self.findings],
            "notes": list(self.notes),
        }

    def _verdict(self) -> str:
        if self.ok:
            return "everything fits"
        found = [each for each in self.findings if each.kind != Kind.LEFT.slug]
        left = sum(last - first + 1 for each in self.findings if each not in found for first, last in each.rows)
        parts = [counted(left, "row has", "rows have") + " no result yet"] if left else []
        parts += [counted(len(found), "finding")] if found else []
        return f"NOT verified: {', and '.join(parts)}"

    def _title(self) -> str:
        return f"{self.keyword}: {self._verdict()}"

    def _corrections(self) -> str:
        rows, cells = (sum(getattr(each, name) for each in self.corrected) for name in ("rows", "cells"))
        files = [f"{each.path} ({each.rows:,})" for each in self.corrected[:_FILES_SHOWN]]
        more = len(self.corrected) - len(files)
        files += [f"{more:,} more files"] if more else []
        return f"{counted(rows, 'answer')} by hand ({counted(cells, 'cell')}): {', '.join(files)}"

    def _lines(self) -> Iterator[Line]:
        counts = self.counts
        sent, answered, failed, in_flight = (
            sum(getattr(each, name) for each in self.endpoints) for name in ("sent", "answered", "failed", "in_flight")
        )
        ended = f"{counts.ok:,} ok, {counts.invalid:,} invalid, {counts.error:,} error, {counts.left:,} left"
        overtaken = sum(each.hedged for each in self.endpoints)
        requests = f"{sent:,} sent = {answered:,} answered + {failed:,} failed + {in_flight:,} without an end"
        requests += f" + {overtaken:,} overtaken by a second request" if overtaken else ""
        lost = sum(each.worker_lost for each in self.endpoints)
        requests += f" + {lost:,} at workers that were lost" if lost else ""
        yield Line("rows", f"{counts.rows:,}: {ended}")
        yield Line("files", f"{counted(self.chunks, 'chunk file')} compared")
        if self.corrected:
            yield Line("corrected", self._corrections())
        yield Line("requests", requests)
        yield from (Line("", _totals_in_words(each), is_part=True) for each in self.endpoints)
        yield from lines_of(self.batches)
        yield from (Line("found", str(finding)) for finding in self.findings)
        yield from (Line("note", note) for note in self.notes)


def _totals_as_dict(totals: EndpointTotals) -> dict[str, Any]:
    values = totals._asdict()
    values["cost_usd"], values["uncertain_usd"] = values.pop("cost") / NANO, values.pop("uncertain") / NANO
    return values


def _totals_in_words(totals: EndpointTotals) -> str:
    at = f" at {totals.base_url}" if totals.base_url else ""
    money = [f"{dollars(totals.cost)} for answers"] if totals.cost else []
    money += [f"at most {dollars(totals.uncertain)} without one"] if totals.uncertain else []
    return (
        f"endpoint {totals.endpoint + 1}, {totals.model}{at}: {totals.sent:,} = {totals.answered:,}"
        f" + {totals.failed:,} + {totals.in_flight:,}"
        + (f" + {totals.hedged:,}" if totals.hedged else "")
        + (f" + {totals.worker_lost:,}" if totals.worker_lost else "")
        + "".join(f"; {each}" for each in money)
    )


@outermost
def verify(
    keyword: str,
    data: Data | None = None,
    prompt: str | PromptFunction | None = None,
    *,
    output_dir: str | os.PathLike[str] = "output",
    input_encoding: str | None = None,
    separator: str | None = None,
    sheet: str | None = None,
) -> Verification:
    """Prove that every row is in the result once, in order, and with the answer to its own prompt.

    Args:
        keyword: names the run.
        data: its input, as for `run`. With it each row's question is made again and compared; without it the journal
            and the files are compared with each other.
        prompt: the function that made the prompts, if a function did: the journal cannot hold it.
        output_dir: the run's output directory.
        input_encoding: of a text file, if it is not the run's.
        separator: of a CSV file, if it is not the run's.
        sheet: of a workbook, if it is not the run's.

    Raises:
        SettingsError: the keyword is invalid, or the input cannot be read, lacks a column, or has a row on which the
            prompt function fails.
        OutputError: there is no journal, or it cannot be read.
    """
    given = {"input_encoding": input_encoding, "separator": separator, "sheet": sheet}
    if shards := unmerged(output_dir, keyword):
        return _of_shards(keyword, shards, lambda each: _verify_run(keyword, data, prompt, each, given))
    return _verify_run(keyword, data, prompt, output_dir, given)


def _of_shards(keyword: str, shards: Sequence[Path], verify_one: Callable[[Path], Verification]) -> Verification:
    """Verify each shard as a run, and that they are the whole table together."""
    counts, chunks, parts = Counts(0, 0, 0, 0), 0, []
    whole, readable = gaps(shards, keyword)
    findings = [Finding(Kind.SHARDS.slug, Kind.SHARDS.in_words(), places=tuple(whole))] if whole else []
    notes = ["The shards are not merged yet. Rows and requests are counted within each shard."]
    for path in readable:
        try:
            found = verify_one(path)
        except OutputError as error:  # more of it is read than before
            findings.append(Finding(Kind.SHARDS.slug, f"shard {path.name}", places=(str(error),)))
            continue
        counts, chunks = Counts(*map(sum, zip(counts, found.counts, strict=True))), chunks + found.chunks
        findings += [each._replace(what=f"shard {path.name}: {each.what}") for each in found.findings]
        notes += [f"Shard {path.name}: {note}" for note in found.notes]
        parts.append(found)
    return Verification(
        keyword,
        counts,
        chunks,
        tuple(each for found in parts for each in found.endpoints),
        tuple(findings),
        tuple(notes),
        tuple(each for found in parts for each in found.corrected),
        tuple(each for found in parts for each in found.batches),
    )


def _verify_run(
    keyword: str,
    data: Data | None,
    prompt: str | PromptFunction | None,
    output_dir: str | os.PathLike[str],
    given: Mapping[str, str | None],
) -> Verification:
    with opened(keyword, output_dir, read_evidence) as run, run.journal.snapshot():
        if damage := run.journal.damage():
            finding = Finding(Kind.DAMAGED.slug, Kind.DAMAGED.in_words(), places=(str(run.journal.path), *damage))
            return Verification(keyword, Counts(0, 0, 0, 0), 0, (), (finding,), ())
        last = run.last()
        asked = None
        if data is not None:
            dataset = narrowed(open_dataset(data, _reading(given, last)), last.question.get("table", ()))
            asked = Asked(dataset, prompt, last, keyword)
        return _verified(run.store, run.journal, last, asked)


def _reading(given: Mapping[str, str | None], last: LastRun) -> Reading:
    """Return how to read INPUT: as the run did, if the user does not say otherwise."""
    for name, value in given.items():
        if value is not None:
            OPTIONS[name].check(value)
    said = {name: value for name, value in given.items() if value is not None}
    return Reading.recorded_in({**last.question, **said})


def _verified(store: Store, journal: Evidence, last: LastRun, asked: Asked | None) -> Verification:
    """Check the requests, then each row with its line of INPUT and of the files, all read once and together."""
    found = Found()
    scope, is_finished = journal.scope(), not journal.left()
    chunks, starts = journal.chunks(), range(0, scope, last.chunk_size)
    store = _with_columns(store, last, [start for start in starts if start in chunks], asked)
    requests = Requests(journal, found)
    kept = KeptAnswers(journal, asked.dataset if asked else None)
    results = Results(journal, last, requests, kept)
    cells = None if asked else ResultCells(store, scope)
    corrections = Corrections(journal, results, store.answer_columns)
    files = ChunkFiles(store, chunks, starts, cells, found, corrections=corrections, is_finished=is_finished)
    votes = VotesOfRows(journal, last)
    checks = [
        results.check,
        *([votes.check] if votes.are_there else []),
        Thoughts(journal).check,
        requests.check,
        *([Inputs(kept).check] if asked else []),
    ]
    rows = checked(read_rows(journal, scope, asked, found, store.answer_columns), checks, found)
    to_be = files.compared_rows(rows)
    if is_finished:
        files.name_others()
        is_read = asked is not None and not files.are_as_written()
        check_result(to_be, store, starts, found, is_read=is_read, facts_of=partial(facts_of, journal, store))
        if last.question.get("requests"):
            check_responses(store, journal, last, scope, found)
        if last.question.get("npy"):
            check_vectors(store, found)
    deque(to_be, maxlen=0)  # rows that are not compared with a result
    deque(rows, maxlen=0)  # INPUT may have rows after the last one
    requests.end()
    batches = check_batches(journal, found)
    for place in journal.sample_faults():
        found.place(Kind.SAMPLE_OTHER, place)
    for place in journal.correction_faults():
        found.place(Kind.CORRECTION_OTHER, place)
    return Verification(
        store.keyword,
        results.counts(scope),
        files.compared,
        tuple(journal.endpoint_totals()),
        found.findings(),
        (
            *_notes(store, journal, last, asked, is_finished=is_finished),
            *kept.notes(),
            *results.notes(),
            *files.notes(),
            *notes_on(batches),
        ),
        corrections.files(),
        batches,
    )


def _with_columns(store: Store, last: LastRun, starts: list[int], asked: Asked | None) -> Store:
    """Return the files with their expected columns: the input's, or else the columns that they have."""
    answer = last.question.get("answer_column")
    as_found = store.as_found(starts, answer)
    types = Types.recorded_in(last.question)
    names = AnswerColumns.recorded_in(last.question) if answer else as_found.answer_columns
    if asked is None and types is None:
        is_same = names.in_files(writable) == as_found.answer_columns  # but for what reads the fields
        names = names if is_same else as_found.answer_columns
        return Store(store.directory, store.keyword, as_found.columns, names, as_found.encoding)
    columns = last.question["table"] if asked is None else asked.columns
    return Store(store.directory, store.keyword, columns, names, as_found.encoding, types=types)


def _named(journal: Evidence) -> dict[str, list[str]]:
    """Return the base URLs that each name of an endpoint has stood for, in the order of their first use."""
    found: dict[str, dict[str, None]] = {}
    for question in reversed(journal.questions()):
        for name, url in question.get("named", ()):
            found.setdefault(name, {})[url] = None
    return {name: list(urls) for name, urls in found.items()}


def _notes(store: Store, journal: Evidence, last: LastRun, asked: Asked | None, *, is_finished: bool) -> Iterator[str]:
    at_work = is_at_work(store.journal_path, last)
    if at_work is not False:
        is_so = "A run is at work" if at_work else "A run may be at work, which cannot be known on this machine,"
        yield f"{is_so} and may still write what is missing here. Verify again when it has ended."
    if asked is None:
        given = by_reader(command_line="INPUT", python="`data`")
        yield f"{given} was not given: journal and files were compared with each other, but not with the table."
    elif asked.question is None:
        yield (
            "The prompts were made by a function, and the journal cannot hold a function: each row's cells were"
            " compared with the cells of its prompt, but no prompt was made again. In Python, give prompt=."
        )
    if examples := last.question.get("examples"):
        shown, keys = counted(len(examples["instead"]), "example"), examples["keys"]
        among = f"; {counted(len(keys), 'question')} of the table {'is' if len(keys) == 1 else 'are'} among them"
        yield f"The prompts begin with {shown} from {examples['source']}{among if keys else ''}."
    if mark := last.question.get("shard"):
        yield f"The run is {Part.recorded_in(mark).in_words()}. Rows are counted within the shard."
    if drawn := last.question.get("sample"):
        yield (
            f"The run is about {counted(drawn['rows'], 'row')} drawn at random from {drawn['of']:,}. Rows are counted"
            " within the sample, in the order of the table."
        )
    for name, urls in sorted(_named(journal).items()):
        yield f"The endpoint named {name} was at {', '.join(urls)}."
    if not is_finished and store.all_path.exists():
        yield f"{store.all_path} is from an earlier state and was not compared; the end of the run replaces it."
