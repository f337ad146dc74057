"""What a run has to do: everything checked, the input read once, and each row matched with the answer it may have.

Invariant: planning calls nobody, and until it has succeeded the journal says what it said before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batcher.config import Endpoint, Settings, check_keyword
from batcher.dataset import Dataset, open_dataset
from batcher.environment import endpoints_of, environment
from batcher.errors import ChangedError, InputError, SettingsError
from batcher.identity import keyer
from batcher.journal import Counts, Journal, LastRun
from batcher.prompt import (
    PromptFunction,
    Renderer,
    Template,
    from_column,
    from_function,
    from_messages_column,
    from_template,
    with_system,
)
from batcher.records import Message, Values
from batcher.store import Store

_ROWS_AT_ONCE = 1000


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
        question: what is asked and who is asked, in words, to explain a later change.
        endpoints: the pool to be.
        store: the output directory.
        is_same_for_all: templates without a hole ask every row the same.
    """

    settings: Settings
    keyword: str
    dataset: Dataset
    render: Renderer
    question: Mapping[str, Any]
    endpoints: tuple[Endpoint, ...]
    store: Store
    is_same_for_all: bool = False

    def messages(self, position: int, values: Values) -> list[Message]:
        """Make the messages of a row.

        Raises:
            InputError: the row gives none; the message names it.
        """
        try:
            return self.render(values)
        except InputError as error:
            raise InputError(f"{self.dataset.where(position)}: {error}") from error
        except Exception as error:  # a user's function may raise anything: it goes on its way, with the row's name
            error.add_note(f"This came up while the prompt was made of {self.dataset.where(position)}.")
            raise


class Plan(NamedTuple):
    """What is left to do.

    Attributes:
        givers: the journal's id of each endpoint's giver.
        counts: the rows by how they ended so far.
        in_flight: requests that were in flight when the last process ended.
    """

    givers: tuple[int, ...]
    counts: Counts
    in_flight: int


class _Source(NamedTuple):
    """Where prompts come from: what makes the messages, and its description for the journal."""

    render: Renderer
    described: str
    is_same_for_all: bool = False


def prepare(data: Any, prompt: str | PromptFunction | None, settings: Settings) -> Job:
    """Check everything that can be checked without reading the whole input.

    Args:
        data: a path, a DataFrame, a Series or a list of strings.
        prompt: a template or a function, or None where the settings name another source.
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
    source = _source(prompt, settings, dataset.columns, in_memory=not is_file)
    system = settings.system
    if settings.system_file is not None:
        system = _read_text(settings.system_file, "--system-file")
    if system is not None:
        source = source._replace(
            render=with_system(source.render, system, "--system", dataset.columns),
            is_same_for_all=source.is_same_for_all and not Template.parse(system, "--system").holes,
        )
    endpoints = endpoints_of(settings, environment())
    question = {
        "prompt": source.described,
        "system message": system,
        "parameters": dict(settings.params),
        "endpoints": sorted(" ".join(filter(None, giver)) for giver in {each.giver for each in endpoints}),
    }
    store = Store(Path(settings.output_dir), keyword, dataset.columns, settings.answer_columns)
    if is_file and Path(data).resolve() == store.all_path.resolve():
        raise SettingsError(f"{store.all_path} is the result of keyword {keyword!r} itself: choose another --keyword")
    return Job(settings, keyword, dataset, source.render, question, endpoints, store, source.is_same_for_all)


def _source(
    prompt: str | PromptFunction | None, settings: Settings, columns: tuple[str, ...], *, in_memory: bool
) -> _Source:
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
    if option == "--messages-column":
        return _Source(from_messages_column(value, columns), f"the messages in column {value}")
    if option == "--prompt-column":
        return _Source(from_column(value, columns), f"the text in column {value}")
    if callable(value):
        return _Source(from_function(value, columns), "a function")
    text = _read_text(value, option) if option == "--prompt-file" else value
    return _Source(from_template(text, option, columns), text, not Template.parse(text, option).holes)


def _read_text(path: str | os.PathLike[str], option: str) -> str:
    try:
        # The line break that editors put at a file's end is none of the prompt's.
        return Path(path).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{option} {os.fspath(path)} cannot be read: {error}") from error


def make(job: Job, journal: Journal, is_stopping: Callable[[], bool]) -> Plan:
    """Read the whole input, match its rows with the answers there are, and write that into the journal.

    Raises:
        InputError: a row is broken.
        ChangedError: rows have an answer to a different question.
        Stopped: `is_stopping` said so.
    """
    last = journal.last_run()
    with journal.planning():
        givers = journal.giver_ids([endpoint.giver for endpoint in job.endpoints])
        rows = 0
        for start, keys in _keys(job):
            if is_stopping():
                raise Stopped
            journal.plan_keys(start, keys)
            rows += len(keys)
        changed = journal.plan_end(rows, givers=set(givers), retry_failed=job.settings.retry_failed)
        if changed and job.settings.on_change == "reuse":
            journal.keep_changed()
        counts = journal.planned_counts()
        if changed and job.settings.on_change == "abort":
            raise ChangedError(_explained(job, last, counts, changed))
    return Plan(tuple(givers), counts, journal.in_flight(last.id) if last else 0)


def _keys(job: Job) -> Iterator[tuple[int, list[bytes]]]:
    """Return the keys of all rows, a slice at a time, each with the position of its first row."""
    key = keyer(job.settings.params)
    for start, rows in job.dataset.slices(_ROWS_AT_ONCE, job.settings.limit):
        yield start, [key(job.messages(start + offset, values)) for offset, values in enumerate(rows)]


def _explained(job: Job, last: LastRun | None, counts: Counts, changed: int) -> str:
    before = last.question if last else {}
    reasons = []
    for name, now in job.question.items():
        if name not in before or before[name] == now:
            continue
        if name in {"prompt", "system message"}:
            reasons.append(f"the {name} changed")
        else:
            reasons.append(f"the {name} were {_shown(before[name])}, are {_shown(now)}")
    return (
        f"{in_words(job.keyword, counts, changed)} ({'; '.join(reasons) or 'the text of the rows changed'}).\n"
        f"Nothing was sent. `--on-change redo` asks {changed:,} again, `--on-change reuse` keeps the old answers;"
        " or give the new question another --keyword. Every answer stays in the journal."
    )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def in_words(keyword: str, counts: Counts, changed: int = 0) -> str:
    """Say what there is to do, such as `reviews: 500 rows: 480 answered, 20 new`."""
    parts = [f"{counts.ok + counts.invalid:,} answered"] if counts.ok + counts.invalid else []
    parts += [f"{counts.error:,} failed before (--retry-failed sends them again)"] if counts.error else []
    parts += [f"{counts.left - changed:,} new"]
    parts += [f"{changed:,} answered to another question"] if changed else []
    return f"{keyword}: {counts.rows:,} rows: {', '.join(parts)}"
