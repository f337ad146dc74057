"""Prepares a run before it reads its input: checks the options, the source of the prompts and the endpoints.

Invariant: a `Job` that exists may run; making one writes nothing and sends nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from batcher.answer.columns import PARQUET, AnswerColumns
from batcher.answer.labels import Labels
from batcher.answer.reading import read
from batcher.answer.schema import Schema
from batcher.answer.shape import READER, ReadAs, Shape
from batcher.calls.batches import Size, size_at
from batcher.calls.endpoints import Tiers, endpoints_of, environment, tiers_of
from batcher.calls.forms import PARAMS, Wire, ladder_for
from batcher.calls.services import check_batches
from batcher.endpoint import Endpoint
from batcher.errors import InputError, OutputError, SettingsError
from batcher.input.column_names import column_index
from batcher.input.dataset import Dataset
from batcher.input.examples import Examples
from batcher.input.images import Images
from batcher.input.key import Keyer, keyer
from batcher.input.opening import Reading, as_arguments, default_keyword, open_dataset
from batcher.input.prompt import (
    PromptFunction,
    failed_on,
)
from batcher.input.question import asking
from batcher.input.request_line import asking_with
from batcher.input.selection import Selection
from batcher.input.stating import Stating
from batcher.journal.opening import read_journal
from batcher.money.tariff import NO_WORDING, Tariff, Wording, distinct, is_bounded
from batcher.money.tokens import most_completion_tokens
from batcher.money.vision import Vision
from batcher.output.directory import Store
from batcher.output.so_far import with_by
from batcher.planning.batches import check_batch_options
from batcher.planning.due import Due, due_of
from batcher.planning.gold import check_gold
from batcher.planning.opinions import check_samples, check_samples_at, notes_on_samples
from batcher.planning.own import Own
from batcher.planning.prompts import (
    OF_REQUESTS,
    Prompts,
    check_holes,
    examples_for,
    oddities_of,
    source_of,
    system_of,
    with_system_message,
    wording_of,
)
from batcher.planning.refusals import check_endpoints
from batcher.planning.requests import check_requests, notes_on_columns, older_results, read_body
from batcher.planning.service_tiers import AskedIn, asked_in, check_tier
from batcher.planning.shares import check_shards, with_share_of_budget, with_shares
from batcher.planning.tasks import check_params_of_endpoints, check_task
from batcher.planning.ways import takes_batches, with_flex
from batcher.records import NO_TERMS, Completion, Question, Result, Slice, Task, Terms, Values
from batcher.settings import OPTIONS, Settings, check_keyword
from batcher.shards import Part
from batcher.words import as_given, blamed, by_reader, option

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
        seconds: how many of the endpoints, the last ones, are asked only about rows whose answers at the others are not
            certain enough (`--then`).
        function: of the user's, that makes the prompts; None: a template or a column does.
        due: when the run shall be finished; None: that is not given.
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
    seconds: int = 0
    function: PromptFunction | None = None
    due: Due | None = None

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
    def tiers(self) -> Tiers:
        """The endpoints that are asked about every row, and those that are asked then."""
        return Tiers(
            self.endpoints[: len(self.endpoints) - self.seconds], self.endpoints[-self.seconds :] * bool(self.seconds)
        )

    @cached_property
    def in_batches(self) -> bool:
        """Whether rows are asked through the batch API of a service: it was asked for, or is cheaper in time."""
        if self.due is None:
            return self.settings.in_batches
        return any(takes_batches(each, self.settings) for each in self.tiers.first)

    def tier_of(self, place: int) -> int:
        """Return the tier of the endpoint at a place in the pool."""
        return int(place >= len(self.endpoints) - self.seconds)

    def asked_in(self, endpoint: Endpoint) -> AskedIn:
        """Return the service tiers that the requests to an endpoint ask for."""
        is_second = endpoint in self.tiers.second
        found = asked_in(endpoint, self.settings, is_second=is_second)
        return found if self.due is None or is_second else with_flex(endpoint, self.settings, found)

    @property
    def goes_by_confidence(self) -> bool:
        """Whether the confidence of an answer, and not the agreement of several, says how certain it is."""
        return self.settings.samples == 1

    @property
    def scores(self) -> bool:
        """Whether requests ask for the log-probabilities of their answers."""
        is_wanted = "confidence" in self.settings.extras or (self.seconds > 0 and self.goes_by_confidence)
        return is_wanted and isinstance(self.shape, Labels)

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
        return read_body(completion) if self.settings.requests else read(completion, self.shape)

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
    settings = with_share_of_budget(settings)
    check_requests(prompt, settings)
    check_task(settings)
    check_samples(settings)
    check_batch_options(settings)
    dataset = _opened(data, settings)
    keyword = _keyword(settings, dataset, data)
    shape = shape_of(settings)
    stating = Stating(shape, dataset.columns)
    system = system_of(settings)
    prompts = OF_REQUESTS if settings.requests else source_of(prompt, settings, dataset, stating, system)
    examples = examples_for(prompt, prompts, settings, stating, system)
    prompts = with_system_message(prompts, system, settings, dataset, stating)
    images = Images.of(settings, dataset)
    if images is not None:
        prompts = prompts._replace(columns=(*prompts.columns, images.column))
    check_holes(prompts, settings, dataset)
    selection = _selection(settings, dataset, keyword)
    own = Own.of(settings, dataset, selection)
    tiers = _endpoints(settings, own, needs_keys=needs_keys)
    endpoints = (*tiers.first, *tiers.second)
    if settings.id_column is not None:
        column_index(settings.id_column, dataset.columns, blamed("id_column"))
    check_gold(settings, dataset.columns, (*prompts.columns, *settings.param_columns))
    store, note_of_by = _reviewed(_store(settings, keyword, dataset, shape))
    return Job(
        settings,
        keyword,
        dataset,
        selection,
        asking_with(settings.params)
        if settings.requests
        else asking(prompts.render, own.terms, task=Task(settings.task), images=images),
        _question(prompts, settings, dataset, endpoints, data, extras=store.answer_columns.extras)
        | _own_question(settings, images)
        | _answers_question(shape, examples)
        | _types_question(store),
        endpoints,
        store,
        wording_of(prompts, examples),
        shape,
        stating.is_stated(prompts.filled, stating.filled(system or "")),
        is_same_for_all=not (prompts.columns or settings.param_columns),
        oddities=(
            *oddities_of(prompts, stating, images),
            *note_of_by,
            *own.notes(endpoints),
            *notes_on_samples(settings, endpoints),
            *(() if settings.requests else notes_on_columns(dataset, prompts.columns, settings)),
        ),
        examples=examples,
        lengths=_lengths(endpoints, settings) if own.has_any else (),
        older=older_results(settings, dataset, store) if settings.requests else (),
        images=images,
        seconds=len(tiers.second),
        function=prompt if callable(prompt) else None,
        due=due_of(settings, store.journal_path),
    )


def _opened(data: Any, settings: Settings) -> Dataset:
    """Open the input.

    Raises:
        SettingsError: an option does not fit it.
    """
    reading = Reading.of(settings.input_encoding, settings.separator, settings.sheet, requests=settings.requests)
    dataset = open_dataset(data, reading)
    if settings.sheet is not None and dataset.sheet is None:
        raise SettingsError(f"{blamed('sheet')}: {dataset.name} is no workbook: leave the option out")
    return dataset


def _selection(settings: Settings, dataset: Dataset, keyword: str) -> Selection:
    """Return the rows of the table that the run is about."""
    part = None if settings.part is None else partial(Part.of, settings.part, settings.chunk_size)
    return Selection(dataset, keyword, limit=settings.limit, sample=settings.sample, part=part)


def _endpoints(settings: Settings, own: Own, *, needs_keys: bool) -> Tiers:
    """Return the endpoints that rows may be asked at.

    Raises:
        SettingsError: an endpoint cannot be used, or its parameters do not fit the options.
    """
    if settings.then is not None and any(own.models):
        raise SettingsError(
            f"{blamed('then')}: rows name their models ({as_given('params_column')}), and each is asked at its own:"
            " leave one of the two out"
        )
    env = environment()
    found = endpoints_of(settings, env, needs_keys=needs_keys, models=own.models)
    tiers = with_shares(tiers_of(settings, found, env, needs_keys=needs_keys), settings)
    endpoints = (*tiers.first, *tiers.second)
    check_tier(tiers.first, settings)
    check_endpoints(endpoints, settings, by_row=own.has_any, second=tiers.second)
    check_params_of_endpoints(endpoints, settings)
    check_samples_at(endpoints, settings)
    if settings.in_batches:
        for endpoint in tiers.first:
            check_batches(endpoint, Task(settings.task))
    if settings.labels is not None or settings.schema is not None:
        for endpoint in endpoints:
            _check_form_params(endpoint.params, settings, "params of an endpoint")
    return tiers


def _lengths(endpoints: Sequence[Endpoint], settings: Settings) -> tuple[Tariff, ...]:
    """Return the tariffs that must bound the answer to each row."""
    if settings.budget is None:
        return ()
    tariffs = (Tariff.of(each, settings.params) for each in endpoints)
    return tuple(distinct([each for each in tariffs if not each.is_free]))


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
    directory, shard = Path(settings.output_dir), settings.part
    check_shards(directory, keyword, shard)
    ours = [directory] if shard is None else [directory, shard.directory(directory, keyword)]
    # First without columns: a file of the run has all of them, and that is not what is wrong with it.
    for path in (path for path in dataset.paths if any(Store(each, keyword).is_ours(path) for each in ours)):
        raise SettingsError(
            f"{path} is a file that the run {keyword!r} writes itself: choose another {as_given('keyword')} or"
            f" {as_given('output_dir')}"
        )
    added, types = _columns(settings, shape), dataset.types() if settings.file_format == PARQUET else None
    store = Store(ours[-1], keyword, dataset.columns, added, settings.encoding, types=types)
    if dataset.would_take(store.all_path) or dataset.would_take(store.responses_path):
        raise SettingsError(
            f"the files of the run would become a part of the input {dataset.name}: choose another"
            f" {as_given('output_dir')}"
        )
    return store


def _reviewed(store: Store) -> tuple[Store, list[str]]:
    """Return the output directory with the column that people's decisions on the page bring, and why it has none."""
    if not store.journal_path.exists():
        return store, []
    with contextlib.suppress(OutputError), read_journal(store.journal_path) as journal:
        found, clash = with_by(store, journal)
        return found, [clash] if clash else []
    return store, []  # opening the journal for the run says what is wrong with it


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
    prompts: Prompts,
    settings: Settings,
    dataset: Dataset,
    endpoints: Sequence[Endpoint],
    data: Any,
    *,
    extras: Sequence[str],
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
        "with": extras,
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
    if settings.samples > 1:
        question["samples"] = settings.samples
    if settings.tiers:
        question["tier"] = settings.tiers
    if named := {(each.name, each.real_source.base_url) for each in endpoints if each.name is not None}:
        question["named"] = sorted(named)
    as_kept: dict[str, Any] = json.loads(json.dumps(question))
    return as_kept


def _own_question(settings: Settings, images: Images | None) -> dict[str, Any]:
    """Return what the journal stores of what rows have of their own."""
    question: dict[str, Any] = {"requests": True} if settings.requests else {}
    if settings.param_columns:
        question["params_column"] = [*settings.param_columns]
    if images is not None:
        question["images"] = images.recorded
    return question


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
