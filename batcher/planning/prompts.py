"""Prepares the prompts of a run: their source, the system message, the examples, and what they share.

Invariant: a source of prompts is parsed and checked against the table's columns once, before anything is sent.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import InputError, SettingsError
from batcher.input import slips
from batcher.input.dataset import Dataset
from batcher.input.encodings import decoded
from batcher.input.examples import Examples
from batcher.input.images import Images
from batcher.input.prompt import (
    PromptFunction,
    Renderer,
    Template,
    from_column,
    from_function,
    from_messages_column,
    from_template,
    with_system,
)
from batcher.input.request_line import ASKED, question_of
from batcher.input.requests_file import looks_like_requests
from batcher.input.stating import ANY, Stating
from batcher.money.tariff import Wording
from batcher.planning.examples import Renderers, examples_of
from batcher.planning.requests import as_it_stands
from batcher.settings import Settings
from batcher.visible import on_one_line
from batcher.words import as_given, blamed, escape_hint, option


class Prompts(NamedTuple):
    """The source of the prompts.

    Attributes:
        render: makes the messages.
        option: the option of the source, as the journal records it.
        text: the template or the column's name, as the user gave it; empty for a function.
        columns: the columns that it uses.
        system: the template of the system message, or None.
        given: the options that the user gave it with, by the templates.
        filled: the template as it is sent, with the labels or the schema; empty if it is none.
    """

    render: Renderer
    option: str
    text: str
    columns: tuple[str, ...]
    system: str | None = None
    given: tuple[tuple[str, str], ...] = ()
    filled: str = ""


OF_REQUESTS = Prompts(lambda values: question_of(values).messages, "--requests", "", ASKED)


def source_of(
    prompt: str | PromptFunction | None, settings: Settings, dataset: Dataset, stating: Stating, system: str | None
) -> Prompts:
    """Choose the one source of prompts that was given."""
    columns = dataset.columns
    named: dict[str, Any] = {
        "--prompt": prompt,
        "--prompt-file": settings.prompt_file,
        "--prompt-column": settings.prompt_column,
        "--messages-column": settings.messages_column,
    }
    named = {name: value for name, value in named.items() if value is not None}
    if not named and not dataset.paths and len(columns) == 1 and settings.image_column is None:
        named = {"--prompt-column": columns[0]}  # a Series or a list of texts holds the prompts itself
    if len(named) != 1:
        found = f"; given were {' and '.join(as_given(_named(name)) for name in named)}" if named else ""
        ways = [option(_named(name)) for name in ("--prompt", "--prompt-file", "--prompt-column", "--messages-column")]
        known = f"; {dataset.name} looks like a requests file: {as_it_stands()}" if looks_like_requests(dataset) else ""
        raise SettingsError(f"give the prompt with one of {ways[0]}, {ways[1]}, {ways[2]} and {ways[3]}{found}{known}")
    [(name, value)] = named.items()
    if prompt is not None and not callable(prompt) and not isinstance(prompt, str):
        raise SettingsError(f"prompt must be a text or a function, not of type {type(prompt).__qualname__}")
    if callable(value):
        render = from_function(value, columns, settings.gold)
        used = tuple(name for name in columns if name != settings.gold)
        return Prompts(stating.completing(render, system), "function", "", used)
    text = _read_text(value, _spelled(name), settings.input_encoding) if name == "--prompt-file" else value
    recorded = "--prompt" if name == "--prompt-file" else name
    made = prompts_of(recorded, text, dataset, stating, system=system, source=_spelled(name))
    return made._replace(given=((_named(name), text),)) if made.option == "--prompt" else made


def prompts_of(
    recorded: str, text: str, dataset: Dataset, stating: Stating = ANY, *, system: str | None = None, source: str = ""
) -> Prompts:
    """Return a source of prompts that is not a function.

    Args:
        recorded: its option in the journal: `--prompt`, `--prompt-column` or `--messages-column`.
        text: the template, or the column's name.
        dataset: the input.
        stating: how the prompts say what answers must be.
        system: the template of the system message.
        source: the option that the user gave, for messages; default: the recorded one.
    """
    columns = dataset.columns
    if recorded == "--messages-column":
        render = from_messages_column(text, columns, drops_nulls=dataset.may_hold_added_nulls)
        return Prompts(stating.completing(render, system), recorded, text, (text,))
    if recorded == "--prompt-column":
        return Prompts(stating.completing(from_column(text, columns), system), recorded, text, (text,))
    place = source or _spelled(recorded)
    holes = Template.parse(text, place).holes  # an error shows the user's own text
    stating.check(holes, place)
    filled = stating.completed(stating.filled(text), stating.filled(system or ""))
    holes = tuple(hole for hole in holes if hole != stating.hole)
    return Prompts(from_template(filled, place, columns), recorded, text, holes, filled=filled)


def system_of(settings: Settings) -> str | None:
    """Return the template of the system message, if there is one."""
    if settings.system_file is None:
        return settings.system
    return _read_text(settings.system_file, blamed("system_file"), settings.input_encoding)


def with_system_message(
    prompts: Prompts, system: str | None, settings: Settings, dataset: Dataset, stating: Stating
) -> Prompts:
    """Put the system message, if there is one, before the messages of each row."""
    if system is None:
        return prompts
    name = "system" if settings.system_file is None else "system_file"
    stating.check(Template.parse(system, blamed(name)).holes, blamed(name))
    return prompts._replace(
        render=with_system(prompts.render, stating.filled(system), blamed(name), dataset.columns),
        columns=(*prompts.columns, *Template.parse(stating.filled(system), blamed(name)).holes),
        system=system,
        given=(*prompts.given, (name, system)),
    )


def examples_for(
    prompt: str | PromptFunction | None,
    prompts: Prompts,
    settings: Settings,
    stating: Stating,
    system: str | None,
) -> Examples | None:
    """Return the examples, if there are any, with prompts like those of the rows."""

    def renderers(table: Dataset) -> Renderers:
        if callable(prompt):
            render = from_function(prompt, table.columns)
            return Renderers(render, stating.completing(render, system))
        text = stating.filled(prompts.text) if prompts.filled else prompts.text
        asked = prompts_of(prompts.option, prompts.text, table, stating, system=system)
        return Renderers(prompts_of(prompts.option, text, table).render, asked.render)

    return examples_of(settings, None if callable(prompt) else prompts.columns, stating.shape, renderers)


def wording_of(prompts: Prompts, examples: Examples | None) -> Wording:
    """Return what the prompts share by their templates; what a user's function adds to each is not known."""
    templates = [each for each in (prompts.filled, prompts.system) if each]
    shared = [prompts.option, prompts.filled or prompts.text, prompts.system]
    text = json.dumps(shared if examples is None else [*shared, examples.recorded])
    fixed = sum(Template.parse(each, "").fixed_bytes for each in templates)
    if examples is None:
        return Wording(text, fixed)
    return Wording(text, fixed + examples.fixed_bytes, examples.largest_bytes)


def check_holes(prompts: Prompts, settings: Settings, dataset: Dataset) -> None:
    """Refuse templates without a hole for a table of more than one row: each row would pay for the same question.

    Raises:
        InputError: the message has the likely slip; or the first rows cannot be read.
    """
    differs = prompts.columns or settings.param_columns or settings.requests  # an image column is as good as a hole
    if differs or settings.same_prompt or not _has_two_rows(dataset, settings):
        return
    raise InputError(
        f"{blamed(prompts.given[0][0])} has no hole, so every row would ask the same:"
        f" {slips.advice(prompts.given, dataset.columns)}."
        f" If every row shall ask the same, add {option('same_prompt', value=True)}"
    )


def _has_two_rows(dataset: Dataset, settings: Settings) -> bool:
    most = min(each for each in (settings.limit, settings.sample, 2) if each is not None)
    return any(len(part.rows) > 1 for part in dataset.slices(2, most))


def oddities_of(prompts: Prompts, stating: Stating, images: Images | None) -> tuple[str, ...]:
    """Return what is odd about templates that have holes."""
    if not prompts.columns:
        return ()
    holes, columns = prompts.columns, stating.columns
    found = [(name, each) for name, text in prompts.given for each in slips.notes(text, columns, holes, name)]
    all_holes = [hole for _, text in prompts.given for hole in Template.parse(text, "").holes]
    found += [(name, each) for name, _ in prompts.given[:1] for each in stating.oddities(all_holes)]
    if images is not None and images.column in all_holes:
        said = f"{{{images.column}}} writes the cell into the prompt; the image itself is sent without a hole"
        found += [(name, said) for name, _ in prompts.given[:1]]
    return tuple(f"Note: {as_given(name)}: {each}." for name, each in found)


def _spelled(recorded: str) -> str:
    """Return an option, given as the journal records it, as the reader would write it."""
    return blamed(_named(recorded))


def _named(recorded: str) -> str:
    return recorded.removeprefix("--").replace("-", "_")


def _read_text(path: str | os.PathLike[str], source: str, encoding: str | None) -> str:
    """Read a prompt's file.

    Args:
        path: of the file.
        source: the option that names it.
        encoding: of the input, if the user gives it.
    """
    name = on_one_line(os.fspath(path))
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"{source} {name} cannot be read: {said}{escape_hint(os.fspath(path))}") from error
    text = decoded(f"{source} {name}", content, encoding)
    # Editors add a line break at a file's end, which is not part of the prompt.
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
