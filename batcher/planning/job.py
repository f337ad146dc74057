"""Prepares a run before it reads its input: checks the options, the source of the prompts and the endpoints.

Invariant: a `Job` that exists may run; making one writes nothing and sends nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batcher.answer.columns import PARQUET, AnswerColumns
from batcher.answer.labels import Labels
from batcher.answer.reading import read
from batcher.answer.schema import Schema
from batcher.answer.shape import READER, ReadAs, Shape
from batcher.calls.batches import Size, size_at
from batcher.calls.endpoints import endpoints_of, environment
from batcher.calls.forms import PARAMS, Wire, ladder_for
from batcher.endpoint import Endpoint
from batcher.errors import InputError, SettingsError
from batcher.input import slips
from batcher.input.column_names import column_index
from batcher.input.dataset import Dataset
from batcher.input.encodings import decoded
from batcher.input.examples import Examples
from batcher.input.images import Images
from batcher.input.key import Keyer, keyer
from batcher.input.opening import Reading, as_arguments, default_keyword, open_dataset
from batcher.input.prompt import (
    PromptFunction,
    Renderer,
    Template,
    failed_on,
    from_column,
    from_function,
    from_messages_column,
    from_template,
    with_system,
)
from batcher.input.question import asking
from batcher.input.request_line import ASKED, asking_with, question_of
from batcher.input.requests_file import looks_like_requests
from batcher.input.selection import Selection
from batcher.input.stating import ANY, Stating
from batcher.money.tariff import NO_WORDING, Tariff, Wording, distinct, is_bounded
from batcher.money.tokens import most_completion_tokens
from batcher.money.vision import Vision
from batcher.output.directory import Store
from batcher.planning.examples import Renderers, examples_of
from batcher.planning.own import Own
from batcher.planning.refusals import check_endpoints
from batcher.planning.requests import as_it_stands, check_alone, check_without, notes_on_columns, older_results
from batcher.planning.tasks import check_params_of_endpoints, check_task
from batcher.records import NO_TERMS, Completion, Question, Result, Slice, Status, Task, Terms, Values
from batcher.settings import OPTIONS, Settings, check_keyword
from batcher.visible import on_one_line
from batcher.words import as_given, blamed, by_reader, escape_hint, option

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
        selection: the rows of the input that the run is about.
        ask: makes a row's question, without examples.
        question: prompt, parameters and sources, to explain a later change and to verify the answers.
        endpoints: the future pool.
        store: the output directory.
        wording: what the prompts of all rows share.
        shape: what answers must be; None: any text will do.
        is_stated: the templates hold the labels or the schema.
        is_same_for_all: the templates have no hole, so that every row has the same question.
        oddities: what is odd about the templates, in words.
        examples: that stand before each row's question; None: there are none.
        images: puts the rows' images into their questions, which so takes a while; None: there are none.
        lengths: the tariffs that must bound the answer to each row, because rows have parameters of their own.
        older: the results files of older scripts whose answers are taken over.
    """

    settings: Settings
    keyword: str
    dataset: Dataset
    selection: Selection
    ask: Callable[[Values], Question]
    question: dict[str, Any]
    endpoints: tuple[Endpoint, ...]
    store: Store
    wording: Wording = NO_WORDING
    shape: Shape | None = None
    is_stated: bool = False
    is_same_for_all: bool = False
    oddities: tuple[str, ...] = ()
    examples: Examples | None = None
    images: Images | None = None
    lengths: tuple[Tariff, ...] = ()
    older: tuple[Path, ...] = ()

    def keyer(self, params: Mapping[str, Any]) -> Keyer:
        """Return what makes the key of a row of its question.

        Args:
            params: the request parameters, spelled as in the keys of earlier runs.
        """
        if self.settings.requests:  # they are in the terms of each row
            params = {}
        return keyer(params, self.question.get("shape"), self.examples.messages if self.examples else ())

    @property
    def task(self) -> Task:
        """What the model is to do with each row."""
        return Task(self.settings.task)

    @property
    def terms(self) -> Terms:
        """How every row asks."""
        return NO_TERMS if self.task is Task.CHAT else Terms(self.task)

    def bounds_length(self, endpoint: Endpoint) -> bool:
        """Return whether the requests to an endpoint say how many tokens an answer may have."""
        return most_completion_tokens({**self.settings.params, **endpoint.params}, None) is not None

    def size_at(self, endpoint: Endpoint) -> Size:
        """Return the most that one request to an endpoint may hold: one row, if the task is not embeddings."""
        return size_at(endpoint, self.settings.inputs_per_request) if self.task is Task.EMBEDDING else Size()

    @property
    def reading(self) -> ReadAs | None:
        """What answers are read as; None: they stay as they come."""
        return None if self.shape is None else ReadAs.of(self.shape)

    def ladder(self, endpoint: Endpoint) -> tuple[Wire, ...]:
        """Return the forms in which an endpoint may be asked for labels or fields; none if any text will do."""
        if self.shape is None:
            return ()
        structured = self.settings.structured if self.task is Task.CHAT else "prompt"
        return ladder_for(endpoint, self.shape, structured, is_stated=self.is_stated)

    def read(self, completion: Completion) -> Result:
        """Return the result of a row to which this came."""
        if self.settings.requests:  # what counts is the body of the response
            return Result(Status.OK, completion.text or "", "")
        return read(completion, self.shape)

    def question_of(self, position: int, values: Values) -> Question:
        """Make the question of a row.

        Raises:
            InputError: the row gives no messages, or the user's function failed on it; the message names the row.
        """
        return self.stated(position, values)[0]

    def stated(self, position: int, values: Values) -> tuple[Question, bool]:
        """Make the question of a row; return it, and whether an example asks the same.

        Raises:
            InputError: as for `question_of`.
        """
        try:
            question = self.ask(values)
            self._check_affordable(question)
            if self.examples is None:
                return question, False
            messages, is_example = self.examples.stated(question.messages)
            return question._replace(messages=messages), is_example
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's function may raise anything, even SystemExit
            raise failed_on(self.selection.where(position), error) from error

    def look_ahead(self, rows: Sequence[Values]) -> None:
        """Read what the questions of rows need besides the table, so that making them takes no time."""
        if self.images is not None:
            self.images.look_ahead(rows)

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
                raise failed_on(self.selection.where(position), error) from error
        return made

    def _check_affordable(self, question: Question) -> None:
        if self.settings.budget is None or question.fault:
            return
        if not is_bounded(question.messages, self._visions):
            raise InputError(
                "the cost of audio, and of an image whose size is not known, cannot be bounded in advance: run without"
                f" {as_given('budget')}"
            )
        for tariff in self.lengths:
            if question.terms.params.get("service_tier", "default") not in {None, "default"}:
                raise InputError(
                    f"the price of a service_tier of its own is not known: run without {as_given('budget')}, or give"
                    f" {option('param', {'service_tier': '...'})} for all"
                )
            if tariff.on(question.terms, question.messages).completion_tokens is None:
                raise InputError(
                    "nothing bounds how long its answer may be, so it may cost anything: give it max_tokens, or"
                    f" {option('param', {'max_tokens': 'N'})} for all that have none, or run without"
                    f" {as_given('budget')}"
                )

    @cached_property
    def _visions(self) -> list[Vision]:
        """How the models count images; that of a free one does not matter."""
        tariffs = [Tariff.of(endpoint, self.settings.params) for endpoint in self.endpoints]
        return [tariff.vision for tariff in tariffs if not tariff.is_free]


class _Prompts(NamedTuple):
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


_REQUESTS = _Prompts(lambda values: question_of(values).messages, "--requests", "", ASKED)


def prepare(data: Any, prompt: str | PromptFunction | None, settings: Settings, *, needs_keys: bool = True) -> Job:
    """Check everything that can be checked without reading the whole input.

    Args:
        data: the input, as `open_dataset` takes it.
        prompt: a template or a function, or None if the settings name another source of prompts.
        settings: the options.
        needs_keys: refuse to go on without an API key that a run would need.

    Raises:
        SettingsError: an option, the input or the prompt is wrong.
    """
    if settings.requests:
        check_alone(prompt, settings)
    else:
        check_without(settings)
    check_task(settings)
    reading = Reading.of(settings.input_encoding, settings.separator, settings.sheet, requests=settings.requests)
    dataset = open_dataset(data, reading)
    if settings.sheet is not None and dataset.sheet is None:
        raise SettingsError(f"{blamed('sheet')}: {dataset.name} is no workbook: leave the option out")
    keyword = _keyword(settings, dataset, data)
    shape = shape_of(settings)
    stating = Stating(shape, dataset.columns)
    system = _system(settings)
    prompts = _REQUESTS if settings.requests else _prompts(prompt, settings, dataset, stating, system)
    examples = _examples(prompt, prompts, settings, stating, system)
    prompts = _with_system(prompts, system, settings, dataset, stating)
    images = Images.of(settings, dataset)
    if images is not None:
        prompts = prompts._replace(columns=(*prompts.columns, images.column))
    _check_holes(prompts, settings, dataset)
    selection = Selection(dataset, keyword, limit=settings.limit, sample=settings.sample)
    own = Own.of(settings, dataset, selection)
    endpoints = _endpoints(settings, own, needs_keys=needs_keys)
    if settings.id_column is not None:
        column_index(settings.id_column, dataset.columns, blamed("id_column"))
    store = _store(settings, keyword, dataset, shape)
    return Job(
        settings,
        keyword,
        dataset,
        selection,
        asking_with(settings.params)
        if settings.requests
        else asking(prompts.render, own.terms, task=Task(settings.task), images=images),
        _question(prompts, settings, dataset, endpoints, data)
        | _own_question(settings)
        | _answers_question(shape, examples)
        | ({} if images is None else {"images": images.recorded})
        | _types_question(store),
        endpoints,
        store,
        _wording(prompts, examples),
        shape,
        stating.is_stated(prompts.filled, stating.filled(system or "")),
        is_same_for_all=not (prompts.columns or settings.param_columns),
        oddities=(
            *_oddities(prompts, stating, images),
            *own.notes(endpoints),
            *(() if settings.requests else notes_on_columns(dataset, prompts.columns, settings)),
        ),
        examples=examples,
        lengths=_lengths(endpoints, settings) if own.has_any else (),
        older=older_results(settings, dataset, store) if settings.requests else (),
        images=images,
    )


def _endpoints(settings: Settings, own: Own, *, needs_keys: bool) -> tuple[Endpoint, ...]:
    """Return the endpoints that rows may be asked at.

    Raises:
        SettingsError: an endpoint cannot be used, or its parameters do not fit the options.
    """
    endpoints = endpoints_of(settings, environment(), needs_keys=needs_keys, models=own.models)
    check_endpoints(endpoints, settings, by_row=own.has_any)
    check_params_of_endpoints(endpoints, settings)
    if settings.labels is not None or settings.schema is not None:
        for endpoint in endpoints:
            _check_form_params(endpoint.params, settings, "params of an endpoint")
    return endpoints


def _lengths(endpoints: Sequence[Endpoint], settings: Settings) -> tuple[Tariff, ...]:
    """Return the tariffs that must bound the answer to each row."""
    if settings.budget is None:
        return ()
    tariffs = (Tariff.of(each, settings.params) for each in endpoints)
    return tuple(distinct([each for each in tariffs if not each.is_free]))


def _check_holes(prompts: _Prompts, settings: Settings, dataset: Dataset) -> None:
    """Refuse templates without a hole for a table of more than one row: each row would pay for the same question.

    Raises:
        InputError: the message has the likely slip; or the first rows cannot be read.
    """
    if (
        prompts.columns
        or settings.same_prompt
        or settings.requests
        or settings.param_columns
        or not _has_two_rows(dataset, settings)
    ):
        return  # an image column is as good as a hole
    raise InputError(
        f"{blamed(prompts.given[0][0])} has no hole, so every row would ask the same:"
        f" {slips.advice(prompts.given, dataset.columns)}."
        f" If every row shall ask the same, add {option('same_prompt', value=True)}"
    )


def _has_two_rows(dataset: Dataset, settings: Settings) -> bool:
    most = min(each for each in (settings.limit, settings.sample, 2) if each is not None)
    return any(len(part.rows) > 1 for part in dataset.slices(2, most))


def _oddities(prompts: _Prompts, stating: Stating, images: Images | None) -> tuple[str, ...]:
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


def _keyword(settings: Settings, dataset: Dataset, data: object) -> str:
    """Return the name of the run: the option, or else the input's name without its endings."""
    keyword = settings.keyword or default_keyword(data)
    if keyword is None:
        give = by_reader(command_line="give --keyword", python="give keyword=")
        raise SettingsError(f"{dataset.name} has no file name to name the run after: {give}")
    check_keyword(keyword)
    return keyword


def _store(settings: Settings, keyword: str, dataset: Dataset, shape: Shape | None) -> Store:
    """Return the output directory, unless the input is, or would be, one of the files that the run writes in it."""
    directory = Path(settings.output_dir)
    # First without columns: a file of the run has all of them, and that is not what is wrong with it.
    for path in filter(Store(directory, keyword).is_ours, dataset.paths):
        raise SettingsError(
            f"{path} is a file that the run {keyword!r} writes itself: choose another {as_given('keyword')} or"
            f" {as_given('output_dir')}"
        )
    added, types = _columns(settings, shape), dataset.types() if settings.file_format == PARQUET else None
    store = Store(directory, keyword, dataset.columns, added, settings.encoding, types=types)
    if dataset.would_take(store.all_path) or dataset.would_take(store.responses_path):
        raise SettingsError(
            f"the files of the run would become a part of the input {dataset.name}: choose another"
            f" {as_given('output_dir')}"
        )
    return store


def _columns(settings: Settings, shape: Shape | None) -> AnswerColumns:
    return AnswerColumns.of(
        settings.answer_column,
        settings.extras,
        shape,
        is_typed=settings.file_format == PARQUET,
        is_vector=settings.task == Task.EMBEDDING,
    )


def shape_of(settings: Settings) -> Shape | None:
    """Return what answers must be by the options; None: any text will do.

    Raises:
        SettingsError: the labels or the schema cannot be used, or a request parameter contradicts them.
    """
    if settings.labels is None and settings.schema is None:
        for name in ("structured", "repair"):
            if getattr(settings, name) != OPTIONS[name].default:
                raise SettingsError(f"{blamed(name)} needs {option('labels')} or {option('schema')}")
        return None
    name = "labels" if settings.schema is None else "schema"
    if name == "schema" and settings.structured == "choice":
        raise SettingsError(
            f"{as_given('structured', 'choice')} needs {option('labels')}: a schema has no list of choices"
        )
    _check_form_params(settings.params, settings, as_given("param"))
    if name == "schema":
        return Schema.of(settings.schema, blamed("schema"))
    return Labels.of(settings.labels, blamed("labels"))


def _check_form_params(params: Mapping[str, Any], settings: Settings, where: str) -> None:
    """Refuse request parameters that say themselves in which form the answer comes, or that several come.

    Raises:
        SettingsError: the message names the parameter.
    """
    given = {**params, **(params.get("extra_body") or {})}
    name = "labels" if settings.schema is None else "schema"
    for param in (*PARAMS, "n"):
        if given.get(param, 1) != 1:
            raise SettingsError(
                f"{where}: {param} and {as_given(name)} exclude each other: batcher asks for the form itself"
                f" ({option('structured')}), and for one answer"
            )


def _question(
    prompts: _Prompts,
    settings: Settings,
    dataset: Dataset,
    endpoints: Sequence[Endpoint],
    data: Any,
) -> dict[str, Any]:
    """Return the run's question and sources as the journal stores them; the selection of rows is recorded later."""
    question: dict[str, Any] = {
        "prompt_option": prompts.option,
        "prompt": prompts.text,
        "system": prompts.system,
        "params": settings.params,
        "sources": sorted({each.source for each in endpoints}),
        "pool": [each.source for each in endpoints],
        "columns": tuple(dict.fromkeys((*prompts.columns, *settings.param_columns))),
        "table": dataset.columns,
        "answer_column": settings.answer_column,
        "with": settings.extras,
        "encoding": settings.encoding,
        "input": as_arguments(data),
        "sheet": dataset.sheet,
        "input_encoding": settings.input_encoding,
        "separator": settings.separator,
    }
    if settings.task != Task.CHAT:
        question["task"] = settings.task
    if settings.writes_npy:
        question["npy"] = True
    if named := {(each.name, each.real_source.base_url) for each in endpoints if each.name is not None}:
        question["named"] = sorted(named)
    as_kept: dict[str, Any] = json.loads(json.dumps(question))
    return as_kept


def _own_question(settings: Settings) -> dict[str, Any]:
    """Return what the journal stores of what rows have of their own."""
    question: dict[str, Any] = {"requests": True} if settings.requests else {}
    return question | ({"params_column": [*settings.param_columns]} if settings.param_columns else {})


def _types_question(store: Store) -> dict[str, Any]:
    """Return what the journal stores of the types in the files."""
    return {} if store.types is None else {"format": PARQUET, "types": store.types.recorded}


def _answers_question(shape: Shape | None, examples: Examples | None) -> dict[str, Any]:
    """Return what the journal stores of the shape of answers and of the examples."""
    question: dict[str, Any] = {} if shape is None else {"shape": shape.recorded, "reader": READER}
    if examples is not None:
        question["examples"] = examples.recorded
    as_kept: dict[str, Any] = json.loads(json.dumps(question))
    return as_kept


def _wording(prompts: _Prompts, examples: Examples | None) -> Wording:
    """Return what the prompts share by their templates; what a user's function adds to each is not known."""
    templates = [each for each in (prompts.filled, prompts.system) if each]
    shared = [prompts.option, prompts.filled or prompts.text, prompts.system]
    text = json.dumps(shared if examples is None else [*shared, examples.recorded])
    fixed = sum(Template.parse(each, "").fixed_bytes for each in templates)
    if examples is None:
        return Wording(text, fixed)
    return Wording(text, fixed + examples.fixed_bytes, examples.largest_bytes)


def _system(settings: Settings) -> str | None:
    """Return the template of the system message, if there is one."""
    if settings.system_file is None:
        return settings.system
    return _read_text(settings.system_file, blamed("system_file"), settings.input_encoding)


def _with_system(
    prompts: _Prompts, system: str | None, settings: Settings, dataset: Dataset, stating: Stating
) -> _Prompts:
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


def _prompts(
    prompt: str | PromptFunction | None, settings: Settings, dataset: Dataset, stating: Stating, system: str | None
) -> _Prompts:
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
        return _Prompts(stating.completing(from_function(value, columns), system), "function", "", columns)
    text = _read_text(value, _spelled(name), settings.input_encoding) if name == "--prompt-file" else value
    recorded = "--prompt" if name == "--prompt-file" else name
    made = prompts_of(recorded, text, dataset, stating, system=system, source=_spelled(name))
    return made._replace(given=((_named(name), text),)) if made.option == "--prompt" else made


def _examples(
    prompt: str | PromptFunction | None,
    prompts: _Prompts,
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


def prompts_of(
    recorded: str, text: str, dataset: Dataset, stating: Stating = ANY, *, system: str | None = None, source: str = ""
) -> _Prompts:
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
        return _Prompts(stating.completing(render, system), recorded, text, (text,))
    if recorded == "--prompt-column":
        return _Prompts(stating.completing(from_column(text, columns), system), recorded, text, (text,))
    place = source or _spelled(recorded)
    holes = Template.parse(text, place).holes  # an error shows the user's own text
    stating.check(holes, place)
    filled = stating.completed(stating.filled(text), stating.filled(system or ""))
    holes = tuple(hole for hole in holes if hole != stating.hole)
    return _Prompts(from_template(filled, place, columns), recorded, text, holes, filled=filled)


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


def chunks_of(job: Job, starts: Collection[int]) -> Iterator[Slice]:
    """Read the input again as far as needed, and yield the chunks that begin at these rows.

    Raises:
        InputError: it cannot be read.
    """
    last = max(starts, default=-1)
    if last >= 0:
        for part in job.selection.slices(job.settings.chunk_size):
            if part.start in starts:
                yield part
            if part.start >= last:
                return
