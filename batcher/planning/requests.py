"""What a requests file means for a run: which options it has, and what people should know of it.

Invariant: an option that a requests file makes meaningless is refused, and a line that is not asked as it stands is
named before the run.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from batcher.calls.embeddings import NO_VECTOR
from batcher.errors import InputError, SettingsError
from batcher.input.dataset import Dataset
from batcher.input.file import ending_of, keyword_of
from batcher.input.requests_file import Survey, looks_like_requests
from batcher.input.row_params import named_like_params
from batcher.output.directory import Store
from batcher.records import Completion, Result, Status
from batcher.settings import OPTIONS, Group, Settings
from batcher.words import as_given, blamed, by_reader, counted, option

_ALLOWED = {"param", "requests", "adopt", "canary", "yes"}
"""The options on prompts and answers that a requests file leaves a meaning."""
_OTHERS = ("sheet", "separator", "stream")  # a stream has no body that could be kept
_TABLES = {".csv", ".tsv", ".tab"}


def read_body(completion: Completion) -> Result:
    """Return the result of a line of a requests file: what counts is the body of the response."""
    if not all(completion.vectors):
        return Result(Status.INVALID, completion.text or "", NO_VECTOR)
    return Result(Status.OK, completion.text or "", "")


def check_requests(prompt: object, settings: Settings) -> None:
    """Refuse options that make no sense for a requests file, and without one what only such a file has.

    Raises:
        SettingsError: the message names the option.
    """
    if not settings.requests:
        if settings.adopt is not None:
            raise SettingsError(f"{blamed('adopt')} needs {option('requests', value=True)}")
        return
    of_prompts = [each.name for each in OPTIONS.values() if each.group in {Group.PROMPT, Group.ANSWERS}]
    given = [name for name in (*of_prompts, *_OTHERS) if getattr(settings, name) != OPTIONS[name].default]
    refused = [*(["prompt"] if prompt is not None else []), *(name for name in given if name not in _ALLOWED)]
    if refused:
        raise SettingsError(
            f"{as_given(refused[0])} and {as_given('requests')} exclude each other: each line of a requests file is"
            " asked as it stands"
        )
    if settings.params.get("stream"):
        raise SettingsError(
            f"{as_given('param')} stream and {as_given('requests')} exclude each other: the whole response of each line"
            " is kept"
        )
    if settings.asks_chat_model:
        raise SettingsError(
            f"{as_given('requests')} needs endpoints with a model and a base URL: a chat model in llm= makes requests"
            " of its own"
        )


def check_survey(survey: Survey, dataset: Dataset) -> None:
    """Refuse a file of another kind, whose lines would all end as errors.

    Raises:
        InputError: the message says how to give what is in it.
    """
    if survey.is_array:
        advice = by_reader(
            command_line="`jq -c '.[]' FILE > requests.jsonl` writes each on a line", python="give the list itself"
        )
        raise InputError(f"{dataset.name} is one JSON array, and a requests file has a request on each line: {advice}")
    if survey.broken == survey.rows and all(_is_csv(path) for path in dataset.paths or [Path()]):
        raise InputError(
            f"{dataset.name} is a table, and a requests file has a JSON object on each line: leave out"
            f" {as_given('requests')}, and give a prompt"
        )


def _is_csv(path: Path) -> bool:
    return ending_of(path).lower() in _TABLES


def older_results(settings: Settings, dataset: Dataset, store: Store) -> tuple[Path, ...]:
    """Return the results files of older scripts whose answers the run takes over.

    Args:
        settings: the options.
        dataset: the input.
        store: the output directory; a result of batcher's own there that lost its journal is one, too.

    Raises:
        SettingsError: one that is given is no file.
    """
    own = [store.responses_path] if store.responses_path.is_file() and not store.journal_path.exists() else []
    if settings.adopt is None:
        found = [
            folder / name
            for path in dataset.paths
            if (name := _older_name(path)) is not None
            for folder in dict.fromkeys((path.parent, store.directory))
        ]
        return (*own, *(each for each in dict.fromkeys(found) if each.is_file()))
    given = settings.adopt if isinstance(settings.adopt, list | tuple) else [settings.adopt]
    paths = tuple(Path(os.fsdecode(each)).expanduser() for each in given)  # type: ignore[arg-type]
    for path in paths:
        if not path.is_file():
            raise SettingsError(f"{blamed('adopt')}: {path} is no file")
    return (*own, *paths)


def _older_name(path: Path) -> str | None:
    """Return the name that the older script gives to the results of a file, if its user gives none."""
    if (stem := keyword_of(path)) is None:
        return None
    return f"{stem}_results{ending_of(path)}"


def notes_on(survey: Survey) -> tuple[str, ...]:
    """Return what people should know before the first request."""
    found = []
    if survey.broken:
        which = counted(survey.broken, "line is broken, and ends", "lines are broken, and end")
        if survey.broken == survey.rows > 1:
            which = f"none of the {survey.rows:,} lines is a request: they end"
        found.append(f"Note: {which} as error, without a request: {survey.first_broken}.")
    if survey.streamed:
        found.append(
            f"Note: {counted(survey.streamed, 'line asks', 'lines ask')} for a stream; the request is sent without"
            " stream and stream_options, because the whole response is kept."
        )
    return tuple(found)


def as_it_stands() -> str:
    """Return what to do about a table that is a requests file."""
    return f"{option('requests', value=True)} asks each line as it stands"


def notes_on_columns(dataset: Dataset, used: Collection[str], settings: Settings) -> tuple[str, ...]:
    """Return which columns of a table look as if they were to be sent, and are not.

    Args:
        dataset: the table.
        used: the columns that prompts use.
        settings: the options.
    """
    names = named_like_params(dataset.columns, {*used, *settings.param_columns, settings.id_column or ""})
    is_requests = looks_like_requests(dataset)
    if not names and not is_requests:
        return ()
    them = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
    have, sent, it = ("has", "is", "it") if len(names) == 1 else ("have", "are", "them")
    noun, kind = ("column", "name of a request parameter")
    if len(names) > 1:
        noun, kind = ("columns", "names of request parameters")
    send = f"{option('params_column', ','.join(names))} sends {it}"
    said = [f"the {noun} {them} {have} the {kind}, and {sent} not sent: {send}"] if names else []
    if is_requests:
        said.append(f"{dataset.name} looks like a requests file: {as_it_stands()}")
    return (f"Note: {'; '.join(said)}.",)
