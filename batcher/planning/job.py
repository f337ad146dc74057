"""Prepares a run before it reads its input: checks the options, the source of the prompts and the endpoints.

Invariant: a `Job` that exists may run; making one writes nothing and sends nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batcher.answer.columns import AnswerColumns
from batcher.calls.endpoints import endpoints_of, environment
from batcher.endpoint import Endpoint
from batcher.errors import InputError, SettingsError
from batcher.input.dataset import Dataset
from batcher.input.opening import open_dataset
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
from batcher.money.tariff import NO_WORDING, Wording, is_bounded
from batcher.output.directory import Store
from batcher.planning.refusals import check_endpoints
from batcher.records import Message, Slice, Values
from batcher.settings import Settings, check_keyword
from batcher.words import option

T = TypeVar("T")

ROWS_AT_ONCE = 100
"""Rows of the input in memory during planning: prompts may be long, and ten times as many save at most 5% CPU."""


@dataclass(frozen=True)
class Job:
    """All that a run needs, checked.

    Attributes:
        settings: the options.
        keyword: names the run.
        dataset: the input.
        render: makes a row's messages.
        question: prompt, parameters and sources, to explain a later change and to verify the answers.
        endpoints: the future pool.
        store: the output directory.
        wording: what the prompts of all rows share.
        is_same_for_all: the templates have no hole, so that every row has the same question.
    """

    settings: Settings
    keyword: str
    dataset: Dataset
    render: Renderer
    question: dict[str, Any]
    endpoints: tuple[Endpoint, ...]
    store: Store
    wording: Wording = NO_WORDING
    is_same_for_all: bool = False

    def messages(self, position: int, values: Values) -> list[Message]:
        """Make the messages of a row.

        Raises:
            InputError: the row gives no messages, or the user's function failed on it; the message names the row.
        """
        try:
            return self._affordable(self.render(values))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's function may raise anything, even SystemExit
            raise failed_on(self.dataset.where(position), error) from error

    def of_rows(self, start: int, rows: Sequence[Values], make: Callable[[Values], T]) -> list[T]:
        """Apply a function to each row from a position on.

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
            raise InputError(
                f"the cost of images and audio cannot be bounded in advance: run without {option('budget')}"
            )
        return messages


class _Prompts(NamedTuple):
    """The source of the prompts.

    Attributes:
        render: makes the messages.
        option: the option of the source, as the journal records it.
        text: the template or the column's name; empty for a function.
        columns: the columns that it uses.
        system: the template of the system message, or None.
    """

    render: Renderer
    option: str
    text: str
    columns: tuple[str, ...]
    system: str | None = None


def prepare(data: Any, prompt: str | PromptFunction | None, settings: Settings) -> Job:
    """Check everything that can be checked without reading the whole input.

    Args:
        data: a path, a DataFrame, a Series or a list of strings.
        prompt: a template or a function, or None if the settings name another source of prompts.
        settings: the options.

    Raises:
        SettingsError: an option, the input or the prompt is wrong.
    """
    dataset = open_dataset(data)
    path = Path(data) if isinstance(data, (str, os.PathLike)) else None
    keyword = _keyword(settings, dataset, path)
    prompts = _with_system(_prompts(prompt, settings, dataset.columns, in_memory=path is None), settings, dataset)
    endpoints = endpoints_of(settings, environment())
    check_endpoints(endpoints, settings)
    if settings.id_column is not None:
        column_index(settings.id_column, dataset.columns, option("id_column"))
    return Job(
        settings,
        keyword,
        dataset,
        prompts.render,
        _question(prompts, settings, dataset, endpoints),
        endpoints,
        _store(settings, keyword, dataset, path),
        _wording(prompts),
        is_same_for_all=not prompts.columns,
    )


def _keyword(settings: Settings, dataset: Dataset, path: Path | None) -> str:
    """Return the name of the run: the option, or else the input file's name without its ending."""
    if settings.keyword is not None:
        return settings.keyword
    if path is None:
        raise SettingsError(f"{dataset.name} has no file name to name the run after: give keyword=")
    check_keyword(path.stem)
    return path.stem


def _store(settings: Settings, keyword: str, dataset: Dataset, path: Path | None) -> Store:
    """Return the output directory, unless the input is one of the files that the run writes in it."""
    directory = Path(settings.output_dir)
    if path is not None and Store(directory, keyword).is_ours(path):
        raise SettingsError(
            f"{path} is a file that the run {keyword!r} writes itself: choose another {option('keyword')} or"
            f" {option('output_dir')}"
        )
    return Store(directory, keyword, dataset.columns, AnswerColumns(settings.answer_column), settings.encoding)


def _question(prompts: _Prompts, settings: Settings, dataset: Dataset, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the run's question and sources as the journal stores them."""
    question: dict[str, Any] = {
        "prompt_option": prompts.option,
        "prompt": prompts.text,
        "system": prompts.system,
        "params": settings.params,
        "sources": sorted({each.source for each in endpoints}),
        "pool": [each.source for each in endpoints],
        "columns": tuple(dict.fromkeys(prompts.columns)),
        "table": dataset.columns,
        "answer_column": settings.answer_column,
        "limit": settings.limit,
    }
    if named := {(each.name, each.real_source.base_url) for each in endpoints if each.name is not None}:
        question["named"] = sorted(named)
    as_kept: dict[str, Any] = json.loads(json.dumps(question))
    return as_kept


def _wording(prompts: _Prompts) -> Wording:
    """Return what the prompts share by their templates; what a user's function adds to each is not known."""
    templates = [prompts.text] if prompts.option == "--prompt" else []
    templates += [prompts.system] if prompts.system is not None else []
    text = json.dumps([prompts.option, prompts.text, prompts.system])
    return Wording(text, sum(Template.parse(each, "").fixed_bytes for each in templates))


def _with_system(prompts: _Prompts, settings: Settings, dataset: Dataset) -> _Prompts:
    """Put the system message, if there is one, before the messages of each row."""
    system = settings.system
    if settings.system_file is not None:
        system = _read_text(settings.system_file, option("system_file"))
    if system is None:
        return prompts
    return prompts._replace(
        render=with_system(prompts.render, system, option("system"), dataset.columns),
        columns=(*prompts.columns, *Template.parse(system, option("system")).holes),
        system=system,
    )


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
    given = {name: value for name, value in given.items() if value is not None}
    if not given and in_memory and len(columns) == 1:
        given = {"--prompt-column": columns[0]}  # a Series or a list of texts holds the prompts itself
    if len(given) != 1:
        found = f"; given were {' and '.join(map(_spelled, given))}" if given else ""
        ways = [_spelled(name) for name in ("--prompt", "--prompt-file", "--prompt-column", "--messages-column")]
        raise SettingsError(f"give the prompt with one of {ways[0]}, {ways[1]}, {ways[2]} and {ways[3]}{found}")
    [(name, value)] = given.items()
    if callable(value):
        return _Prompts(from_function(value, columns), "function", "", columns)
    text = _read_text(value, _spelled(name)) if name == "--prompt-file" else value
    return prompts_of("--prompt" if name == "--prompt-file" else name, text, columns, _spelled(name))


def prompts_of(recorded: str, text: str, columns: tuple[str, ...], given: str = "") -> _Prompts:
    """Return a source of prompts that is not a function.

    Args:
        recorded: its option in the journal: `--prompt`, `--prompt-column` or `--messages-column`.
        text: the template, or the column's name.
        columns: of the table.
        given: the option that the user gave, for messages; default: the recorded one.
    """
    if recorded == "--messages-column":
        return _Prompts(from_messages_column(text, columns), recorded, text, (text,))
    if recorded == "--prompt-column":
        return _Prompts(from_column(text, columns), recorded, text, (text,))
    place = given or _spelled(recorded)
    return _Prompts(from_template(text, place, columns), recorded, text, Template.parse(text, place).holes)


def _spelled(recorded: str) -> str:
    """Return an option, given as the journal records it, as the reader would write it."""
    return option(recorded.removeprefix("--").replace("-", "_"))


def _read_text(path: str | os.PathLike[str], given: str) -> str:
    try:
        # Editors add a line break at a file's end, which is not part of the prompt.
        return Path(path).read_text(encoding="utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise SettingsError(f"{given} {os.fspath(path)}: byte 0x{byte:02x} is not UTF-8: save it as UTF-8") from error
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"{given} {os.fspath(path)} cannot be read: {said}") from error


def chunks_of(job: Job, starts: Collection[int]) -> Iterator[Slice]:
    """Read the input again as far as needed, and yield the chunks that begin at these rows.

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
