"""What rows have of their own besides their prompts: request parameters, and models to ask.

Invariant: a row that is not asked as it says is named before the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from batcher.calls.forms import PARAMS
from batcher.endpoint import Endpoint
from batcher.errors import InputError, SettingsError
from batcher.input.dataset import Dataset
from batcher.input.prompt import failed_on
from batcher.input.requests_file import MOST_MODELS, Survey, surveyed
from batcher.input.row_params import RowParams
from batcher.input.selection import Selection
from batcher.planning.requests import check_survey, notes_on
from batcher.records import Task, Terms, Values
from batcher.settings import Settings
from batcher.words import as_given, counted, option

_AT_ONCE = 100  # rows of the input in memory
_MOST_MODELS = 5  # that are named one by one


class Own(NamedTuple):
    """What rows have of their own, besides their prompts.

    Attributes:
        has_any: they may have request parameters.
        terms: makes the terms of a row of a table; None: it has none.
        survey: what the lines of a requests file are.
        counts: how many rows of a table name each model; `""`: how many name none.
    """

    has_any: bool = False
    terms: Callable[[Values], Terms] | None = None
    survey: Survey | None = None
    counts: Mapping[str, int] = MappingProxyType({})

    @property
    def models(self) -> tuple[str, ...]:
        """The models that rows name, `""` first if rows name none."""
        return tuple(sorted(self.survey.models if self.survey else self.counts, key=bool))

    def notes(self, endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        if self.survey is not None:
            return (*notes_on(self.survey), *_notes_on_models(self.survey.models, endpoints, "line"))
        return _notes_on_models(self.counts, endpoints, "row")

    @classmethod
    def of(cls, settings: Settings, dataset: Dataset, selection: Selection) -> Own:
        """Look at what rows have of their own; reads the rows if they may name models.

        Raises:
            InputError: a column is missing, or a cell holds no parameters; the message names the row.
        """
        is_named = settings.model is not None or settings.endpoints is not None
        if settings.requests:
            survey = surveyed(part.rows for part in selection.slices(_AT_ONCE))
            check_survey(survey, dataset)
            if not is_named:
                _check_number(survey.models)
            return cls(has_any=True, survey=survey)
        if not settings.param_columns:
            return cls()
        if settings.task == Task.EMBEDDING:
            raise SettingsError(
                f"{as_given('params_column')} cannot be used with {as_given('task', settings.task)}: many rows share a"
                f" request, and so its parameters, which {option('param')} gives"
            )
        params = row_params(settings.param_columns, dataset, _excluded(settings))
        counts: Counter[str] = Counter()
        for start, rows in selection.slices(_AT_ONCE) if params.may_name_model else ():
            for position, values in enumerate(rows, start):
                try:
                    counts[params.terms(values).model] += 1
                except InputError as error:
                    raise failed_on(selection.where(position), error) from error
            if not is_named:
                _check_number(counts)
        return cls(has_any=True, terms=params.terms, counts=counts)


def row_params(names: Sequence[str], dataset: Dataset, excluded: Mapping[str, str] | None = None) -> RowParams:
    """Return what makes the terms of the rows of a table."""
    return RowParams(names, dataset.columns, excluded, drops_nulls=dataset.may_hold_added_nulls)


def _excluded(settings: Settings) -> dict[str, str]:
    """Return the parameters that no row may set, each with the option that has batcher set it."""
    name = next((name for name in ("labels", "schema") if getattr(settings, name) is not None), None)
    return dict.fromkeys((*PARAMS, "n"), as_given(name)) if name else {}


def _notes_on_models(models: Mapping[str, int], endpoints: Sequence[Endpoint], noun: str) -> tuple[str, ...]:
    """Return which rows are not asked at the model that they name.

    Args:
        models: how many rows name each model; `""`: how many name none.
        endpoints: of the pool.
        noun: of a row.
    """
    own = list(dict.fromkeys(each.real_source.model for each in endpoints))
    at = own[0] if len(own) == 1 else f"any of {', '.join(own[:_MOST_MODELS])}{', ...' * (len(own) > _MOST_MODELS)}"
    strange = {model: count for model, count in models.items() if model and model not in own}
    found = []
    for model, count in list(strange.items())[:_MOST_MODELS]:
        name, it = (f"{noun} names", "it is") if count == 1 else (f"{noun}s name", "they are")
        found.append(f"Note: {count:,} {name} the model {model}, which no endpoint has: {it} asked at {at}.")
    if rest := sum(list(strange.values())[_MOST_MODELS:]):
        found.append(f"Note: {counted(rest, noun)} more with other models that no endpoint has: asked at {at} as well.")
    if (count := models.get("", 0)) and len(own) > 1:
        name, it = (f"{noun} names", "it is") if count == 1 else (f"{noun}s name", "they are")
        found.append(f"Note: {count:,} {name} no model: {it} asked at {at}.")
    return tuple(found)


def _check_number(models: Collection[str]) -> None:
    """Refuse a table whose rows name too many models for each to be an endpoint.

    Raises:
        InputError: the message names the options that choose.
    """
    if len(models) > MOST_MODELS:
        raise InputError(
            f"the rows name more than {MOST_MODELS} models: {option('model')} names the one to ask, and"
            f" {option('endpoints')} several"
        )
