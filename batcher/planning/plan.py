"""What a run has to do: everything checked, the input read once, and each row matched with the answer it may have.

Invariant: planning calls nobody, and until it has succeeded the journal says what it said before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batcher.answer.columns import AnswerColumns
from batcher.calls.endpoints import endpoints_of, environment
from batcher.chat_model import retries_of
from batcher.endpoint import Endpoint
from batcher.errors import ChangedError, InputError, SettingsError
from batcher.input.dataset import Dataset, open_dataset
from batcher.input.key import keyer
from batcher.input.marks import Comparison, Marks
from batcher.input.prompt import (
    PromptFunction,
    Renderer,
    Template,
    column_index,
    failed_on,
    from_column,
    from_function,
    from_messages_column,
    from_template,
    with_system,
)
from batcher.journal.journal import Counts, InFlight, Journal, LastRun, Usual
from batcher.journal.schema import ADOPTED
from batcher.money.account import is_bounded
from batcher.money.prices import dollars
from batcher.output.adoption import Adoption
from batcher.output.directory import Store
from batcher.records import Message, Slice, Values
from batcher.settings import Settings, check_keyword

T = TypeVar("T")

ROWS_AT_ONCE = 100
"""Rows of the input in memory while it is planned: prompts may be long, and ten times as many save 5% CPU at most."""


class Stopped(Exception):
    """The user wants to stop while the plan is being made."""


@dataclass(frozen=True)
class Job:
    """All that a run needs, checked.

    Attributes:
        settings: the options.
        keyword: names the run.
        dataset: the input.
        render: makes a row's messages.
        question: what is asked and who is asked, to explain a later change and to verify the answers.
        endpoints: the pool to be.
        store: the output directory.
        is_same_for_all: templates without a hole ask every row the same.
    """

    settings: Settings
    keyword: str
    dataset: Dataset
    render: Renderer
    question: dict[str, Any]
    endpoints: tuple[Endpoint, ...]
    store: Store
    is_same_for_all: bool = False

    def messages(self, position: int, values: Values) -> list[Message]:
        """Make the messages of a row.

        Raises:
            InputError: the row gives none, or the user's function failed on it; the message names it.
        """
        try:
            return self._affordable(self.render(values))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's function may raise anything, what would stop a loop or thread too
            raise failed_on(self.dataset.where(position), error) from error

    def of_rows(self, start: int, rows: Sequence[Values], make: Callable[[Values], T]) -> list[T]:
        """Make something of each row from a position on.

        Raises:
            InputError: a value has no text; the message names its row.
        """
        made: list[T] = []
        for position, values in enumerate(rows, start):
            try:
                made.append(make(values))
            except InputError as error:
                raise failed_on(self.dataset.where(position), error) from error
        return made

    def _affordable(self, messages: list[Message]) -> list[Message]:
        if self.settings.budget is not None and not is_bounded(messages):
            raise InputError("nobody knows before what an image or a sound costs: leave out --budget")
        return messages


class Plan(NamedTuple):
    """What is left to do.

    Attributes:
        sources: the journal's id of each endpoint's source.
        counts: the rows by how they ended so far.
        changed: rows that are left, and have an answer to another question.
        own: those of them whose earlier answer is provably their own, so that `reuse` keeps it.
        gone: answered rows that are gone while there are new ones, which may be the same rows, edited.
        reasons: what changed, in words.
        adopted: rows whose result was found in a chunk file.
        same: rows that are left and ask what another one asks.
        in_flight: requests that were in flight when the last process ended.
        has_marks: the journal can tell which rows are the same; an older batcher did not note it.
        intact: the chunk files that are as they were written, by their first row.
    """

    sources: tuple[int, ...]
    counts: Counts
    changed: int
    own: int
    gone: int
    reasons: tuple[str, ...]
    adopted: int
    same: int
    in_flight: InFlight
    has_marks: bool
    intact: frozenset[int]


class _Prompts(NamedTuple):
    """Where prompts come from: what makes the messages; its option, its text or column, and the columns it reads."""

    render: Renderer
    option: str
    text: str
    columns: tuple[str, ...]


def prepare(data: Any, prompt: str | PromptFunction | None, settings: Settings) -> Job:
    """Check everything that can be checked without reading the whole input.

    Args:
        data: a path, a DataFrame, a Series or a list of strings.
        prompt: a template or a function, or None where the settings name another source of prompts.
        settings: the options.

    Raises:
        SettingsError: an option, the input or the prompt is wrong.
    """
    dataset = open_dataset(data)
    is_file = isinstance(data, (str, os.PathLike))
    keyword = settings.keyword
    if keyword is None:
        if not is_file:
            raise SettingsError(f"{dataset.name} has no file name to name the run after: give keyword=")
        keyword = Path(data).stem
        check_keyword(keyword)
    prompts = _prompts(prompt, settings, dataset.columns, in_memory=not is_file)
    system = settings.system
    if settings.system_file is not None:
        system = _read_text(settings.system_file, "--system-file")
    if system is not None:
        prompts = prompts._replace(
            render=with_system(prompts.render, system, "--system", dataset.columns),
            columns=(*prompts.columns, *Template.parse(system, "--system").holes),
        )
    endpoints = endpoints_of(settings, environment())
    columns = tuple(dict.fromkeys(prompts.columns))
    question = {
        "prompt_option": prompts.option,
        "prompt": prompts.text,
        "system": system,
        "params": settings.params,
        "sources": sorted({each.source for each in endpoints}),
        "pool": [each.source for each in endpoints],
        "columns": columns,
        "table": dataset.columns,
        "answer_column": settings.answer_column,
        "limit": settings.limit,
    }
    question = json.loads(json.dumps(question))  # as the journal will give it back
    if settings.id_column is not None:
        column_index(settings.id_column, dataset.columns, "--id-column")
    directory = Path(settings.output_dir)
    if is_file and Store(directory, keyword).is_ours(Path(data)):
        raise SettingsError(
            f"{os.fspath(data)} is a file that the run {keyword!r} writes itself: choose another --keyword or"
            " --output-dir"
        )
    store = Store(directory, keyword, dataset.columns, AnswerColumns(settings.answer_column), settings.encoding)
    return Job(settings, keyword, dataset, prompts.render, question, endpoints, store, is_same_for_all=not columns)


def _prompts(
    prompt: str | PromptFunction | None, settings: Settings, columns: tuple[str, ...], *, in_memory: bool
) -> _Prompts:
    """Choose the one source of prompts that was given."""
    given: dict[str, Any] = {
        "--prompt": prompt,
        "--prompt-file": settings.prompt_file,
        "--prompt-column": settings.prompt_column,
        "--messages-column": settings.messages_column,
    }
    given = {option: value for option, value in given.items() if value is not None}
    if not given and in_memory and len(columns) == 1:
        given = {"--prompt-column": columns[0]}  # a Series or a list of texts is its own prompt
    if len(given) != 1:
        found = f"; given were {' and '.join(given)}" if given else ""
        raise SettingsError(
            "say what to ask with one of --prompt, --prompt-file, --prompt-column and --messages-column" + found
        )
    [(option, value)] = given.items()
    if callable(value):
        return _Prompts(from_function(value, columns), "function", "", columns)
    text = _read_text(value, option) if option == "--prompt-file" else value
    return prompts_of("--prompt" if option == "--prompt-file" else option, text, columns, option)


def prompts_of(option: str, text: str, columns: tuple[str, ...], said: str = "") -> _Prompts:
    """Return a source of prompts that is not a function.

    Args:
        option: `--prompt`, `--prompt-column` or `--messages-column`.
        text: the template, or the column's name.
        columns: of the table.
        said: where the user gave it, if not in that option.
    """
    if option == "--messages-column":
        return _Prompts(from_messages_column(text, columns), option, text, (text,))
    if option == "--prompt-column":
        return _Prompts(from_column(text, columns), option, text, (text,))
    place = said or option
    return _Prompts(from_template(text, place, columns), option, text, Template.parse(text, place).holes)


def _read_text(path: str | os.PathLike[str], option: str) -> str:
    try:
        # The line break that editors put at a file's end is none of the prompt's.
        return Path(path).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{option} {os.fspath(path)} cannot be read: {error}") from error


def make(job: Job, journal: Journal, is_stopping: Callable[[], bool], *, is_rehearsal: bool = False) -> Plan:
    """Read the whole input, match its rows with the answers there are, and write that into the journal.

    A rehearsal, on a copy of the journal, does not mind rows that have an answer to a different question.

    Raises:
        InputError: a row is broken.
        OutputError: a chunk file that the journal does not know does not fit the input, or cells of the input were
            changed in one.
        ChangedError: rows have an answer to a different question.
        Stopped: `is_stopping` said so.
    """
    settings = job.settings
    last = journal.last_run()
    comparison = _comparison(job, journal, last)
    with journal.planning(comparison):
        sources = journal.source_ids([*(endpoint.source for endpoint in job.endpoints), ADOPTED])
        known = journal.chunk_starts()
        with closing(Adoption(job.store, known, settings.chunk_size, is_strict=last is None)) as adoption:
            rows = _plan_rows(job, journal, adoption, is_stopping)
            adoption.end(rows)
        if job.settings.id_column is not None:
            _check_ids(job, journal, rows, comparison)
        matched = journal.plan_end(
            rows,
            sources=set(sources),
            is_limited=settings.limit is not None,
            retry_failed=settings.retry_failed,
            redo=settings.on_change == "redo",
            reuse=settings.on_change == "reuse",
            dedup=settings.dedup,
        )
        changed, gone = sum(matched.changed.values()), matched.gone
        if settings.on_change == "reuse":
            changed, gone = 0, gone + changed - matched.own
        reasons = _reasons(last.question if last else {}, job.question, matched.changed)
        plan = Plan(
            tuple(sources[:-1]),
            journal.planned_counts(),
            changed,
            matched.own,
            gone,
            reasons,
            matched.adopted,
            matched.same,
            journal.in_flight(last.id) if last else InFlight(0, 0),
            last is None or comparison.before is not None,
            _checked_files(job, journal),
        )
        if is_rehearsal:
            return plan
        is_asked_first = settings.on_change == "abort" or (settings.on_change == "reuse" and not plan.has_marks)
        if (plan.changed or plan.gone) and is_asked_first:
            raise ChangedError(_explained(job, plan, journal.usual()))
        # With the plan, or none of both: `verify` reads from here what the rows ask.
        journal.start_run(settings.chunk_size, job.question)
    return plan


def _plan_rows(job: Job, journal: Journal, adoption: Adoption, is_stopping: Callable[[], bool]) -> int:
    """Tell the journal what each row asks, and what chunk files hold for it; return how many rows there are."""
    key = keyer(job.settings.params)
    marks = Marks(job.dataset.columns)
    end = 0
    for start, rows in job.dataset.slices(ROWS_AT_ONCE, job.settings.limit):
        if is_stopping():
            raise Stopped
        keys = [key(job.messages(start + offset, values)) for offset, values in enumerate(rows)]
        journal.plan_keys(start, keys, job.of_rows(start, rows, marks.of))
        journal.plan_found((start + offset, keys[offset], result) for offset, result in adoption.results(start, rows))
        end = start + len(rows)
    if adoption.is_strict:
        for file in adoption.files:
            journal.plan_file(file.start, file.rows, file.sha256)
    return end


def _checked_files(job: Job, journal: Journal) -> frozenset[int]:
    """Return which chunk files are as they were written, after a look at the input's cells in the others.

    A file that has to be made anew anyway, because rows or answers have changed since, is left alone.

    Raises:
        OutputError: a changed file would go into the result, and its cells are not the input's.
    """
    intact, changed = set(), {}
    for start, chunk in journal.chunks().items():
        sha256 = job.store.sha256(start)
        if sha256 == chunk.sha256:
            intact.add(start)
        elif sha256 is not None:
            changed[start] = chunk
    for start, rows in chunks_of(job, changed):
        states = journal.planned_states(start, start + len(rows))
        if changed[start].origin == job.store.origin(job.store.lines(rows), states):
            job.store.check_cells(start, rows)
    return frozenset(intact)


def chunks_of(job: Job, starts: Collection[int]) -> Iterator[Slice]:
    """Read the input once more as far as needed, and yield the chunks that begin at these rows.

    Raises:
        InputError: it cannot be read.
    """
    last = max(starts, default=-1)
    if last >= 0:
        for part in job.dataset.slices(job.settings.chunk_size, job.settings.limit):
            if part.start in starts:
                yield part
            if part.start >= last:
                return


def _comparison(job: Job, journal: Journal, last: LastRun | None) -> Comparison:
    """Return how the rows are compared with those of the last run."""
    before = last.question if last else {}
    ever = (name for question in journal.questions() for name in question.get("columns", ()))
    table = before.get("table")
    return Comparison(
        Marks(job.dataset.columns),
        tuple(job.question["columns"]),
        None if table is None else Marks(table),
        tuple(before.get("columns", ())),
        tuple(sorted(set(ever))),
        job.settings.id_column,
    )


def _check_ids(job: Job, journal: Journal, rows: int, comparison: Comparison) -> None:
    """Refuse an id column in which two rows have the same id.

    Raises:
        InputError: they are named.
    """
    name = job.settings.id_column or ""
    if twins := journal.planned_twins(rows, comparison.sql([name])):
        first, second = twins
        raise InputError(
            f"--id-column: rows {first} and {second} of {job.dataset.name} (counted from 0) have the same {name!r}:"
            " name a column whose values are unique"
        )


def _reasons(before: Mapping[str, Any], now: Mapping[str, Any], changed: Mapping[int, int]) -> tuple[str, ...]:
    """Say what changed since the last run, as far as it explains that rows ask something else."""
    reasons = []
    prompt = ("prompt_option", "prompt")
    if "prompt_option" in before and [before[name] for name in prompt] != [now[name] for name in prompt]:
        reasons.append("the prompt changed")
    if before.get("system", now["system"]) != now["system"]:
        reasons.append("the system message changed")
    reasons += _changes(before.get("params", now["params"]), now["params"])
    reasons += _source_changes(before.get("sources", now["sources"]), now["sources"])
    is_comparable = before.get("columns") == now["columns"]
    if changed and not reasons and (0 in changed or not is_comparable):
        is_function = now["prompt_option"] == "function"
        reasons.append("the prompt function returns something else" if is_function else "the rows changed")
    return (*reasons, *(_column_changes(now["columns"], changed) if is_comparable else ()))


def _column_changes(columns: Sequence[str], changed: Mapping[int, int]) -> list[str]:
    """Say which columns of the changed rows hold something else."""
    found = []
    for bit, name in enumerate(columns):
        count = sum(count for mask, count in changed.items() if mask >> bit & 1)
        if count:
            rows = f" in {count:,} row{'s' if count > 1 else ''}" if count < sum(changed.values()) else ""
            found.append(f"column {name} changed{rows}")
    return found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which request parameters changed."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name not in before:
            found.append(f"{name} is new")
        elif name not in now:
            found.append(f"{name} is gone")
        elif before[name] != now[name]:
            is_short = not isinstance(before[name], (dict, list)) and not isinstance(now[name], (dict, list))
            found.append(f"{name} was {before[name]}, is {now[name]}" if is_short else f"{name} changed")
    return found


def _source_changes(before: list[list[str]], now: list[list[str]]) -> list[str]:
    """Say whose answers are no longer wanted."""
    gone, new = [source for source in before if source not in now], [source for source in now if source not in before]
    if len(gone) == len(new) == 1:
        names = ("model", "base URL", "endpoint's parameters")
        pairs = zip(names, gone[0], new[0], strict=True)
        return [f"{name} was {was or 'none'}, is {is_now or 'none'}" for name, was, is_now in pairs if was != is_now]
    return [f"{model} at {base_url or 'its own place'} is not in the pool" for model, base_url, _ in gone]


def _explained(job: Job, plan: Plan, usual: Usual | None) -> str:
    new = plan.counts.left - plan.changed
    count, estimate = plan.changed or new, ""
    if usual and usual.cost:
        estimate = f" (about {dollars(round(usual.cost * count))})"
    elif usual:
        estimate = f" (about {(usual.prompt_tokens + usual.completion_tokens) * count:,.0f} model tokens)"
    redo = f"asks {count:,} again" if plan.changed else f"asks the {_rows(new, 'new row')}"
    said = in_words(job.keyword, plan)
    return (
        f"{said}{'' if said.endswith('?') else '.'}\n"
        f"Nothing was sent. `--on-change redo` {redo}{estimate}, {_reuse_explained(job, plan)} Or give the new question"
        " another --keyword. Every answer stays in the journal."
    )


def _reuse_explained(job: Job, plan: Plan) -> str:
    if not plan.has_marks:
        return (
            "`--on-change reuse` cannot be used yet: an older batcher wrote this journal. Run the earlier command once:"
            " it sends nothing, and notes what tells the rows apart."
        )
    if plan.own == plan.changed and not plan.gone:
        return "`--on-change reuse` keeps the old answers."
    keeps = f"`reuse` keeps {_rows(plan.own, 'answer')} and asks the others" if plan.own else "and so does `reuse`"
    because = f"{keeps}, because the place of a row does not tell which answer is its own."
    if job.settings.id_column:
        return because
    return f"{because} If a column identifies the rows, `--on-change reuse --id-column COLUMN` keeps their answers."


def _rows(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def notes(job: Job, plan: Plan) -> list[str]:
    """Say what else the user should know before the first call."""
    found = []
    if plan.in_flight.requests:
        bill = "they" if plan.in_flight.most is None else f"at most {dollars(plan.in_flight.most)}"
        count = plan.in_flight.requests
        requests = "1 request was" if count == 1 else f"{count:,} requests were"
        found.append(f"{requests} in flight when the last process ended; {bill} may be billed twice.")
    retrying = [each for each in job.endpoints if each.llm is not None and retries_of(each.llm)]
    if retrying and plan.counts.left:
        found.append(
            f"Note: the chat model {retrying[0].source.model} sends failed requests again by itself, and neither counts"
            " nor journal see that: make it with max_retries=0; batcher tries again."
        )
    if job.is_same_for_all and plan.counts.left > 1:
        found.append("Note: the prompt has no {column} hole, so every row asks the same question.")
    elif plan.same:
        done = "are sent once" if job.settings.dedup else "could be sent once (--dedup)"
        found.append(f"{plan.same:,} rows ask what another row asks: those {done}.")
    if plan.gone and job.settings.on_change == "reuse" and not job.settings.id_column:
        found.append(
            "The new rows are asked: the place of a row does not tell whether it is one of those that are gone. If a"
            " column identifies the rows, --id-column COLUMN keeps their answers."
        )
    return found


def in_words(keyword: str, plan: Plan) -> str:
    """Say what there is to do, such as `reviews: 500 rows: 480 answered, 20 new`."""
    counts, changed = plan.counts, plan.changed
    answered = counts.ok + counts.invalid
    adopted = f" ({plan.adopted:,} rows adopted from chunk files without a journal)" if plan.adopted else ""
    parts = [f"{answered:,} answered{adopted}"] if answered or adopted else []
    parts += [f"{counts.error:,} failed before (--retry-failed sends them again)"] if counts.error else []
    gone = f", and {_rows(plan.gone, 'answered row')} {'is' if plan.gone == 1 else 'are'} gone: edited?"
    parts += [f"{counts.left - changed:,} new{gone if plan.gone else ''}"]
    parts += [f"{changed:,} answered to another question ({'; '.join(plan.reasons)})"] if changed else []
    return f"{keyword}: {counts.rows:,} rows: {', '.join(parts)}"
