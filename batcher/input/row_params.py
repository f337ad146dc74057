"""Reads the request parameters of a row from columns of its table.

Invariant: a value has the type that the parameter has in JSON, whatever kind of table it stands in; what a service
could only refuse, or ignore, is an error that names the column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from batcher.equality import plain
from batcher.errors import InputError, SettingsError
from batcher.input.cell import cell
from batcher.input.column_names import column_index
from batcher.params import PARAMS, REQUEST_PARAMS, check_params, holds_value, param_of, unfolded
from batcher.records import NO_PARAMS, NO_TERMS, Terms, Values
from batcher.scalars import is_missing, without_numpy
from batcher.words import blamed

MODEL = "model"
_MOST_KNOWN = 4096
"""Values that are remembered with what they mean: most columns have a few, over and over."""


class RowParams:
    """Makes the terms of rows.

    Args:
        names: of the columns.
        columns: of the table.
        excluded: parameters that batcher sets itself, and the option that has it do so.
        drops_nulls: leave out names without a value: Arrow gives each object all names of all objects.

    Raises:
        InputError: the table lacks a column.
    """

    def __init__(
        self,
        names: Sequence[str],
        columns: Sequence[str],
        excluded: Mapping[str, str] | None = None,
        *,
        drops_nulls: bool = False,
    ) -> None:
        where = blamed("params_column")
        self._places = [(name, column_index(name, columns, where)) for name in names]
        self._excluded = excluded or {}
        self._drops_nulls = drops_nulls
        self._known: dict[tuple[str, type, str], dict[str, Any]] = {}

    @property
    def may_name_model(self) -> bool:
        """Whether a column may hold the model to ask."""
        return any(name == MODEL or name not in REQUEST_PARAMS for name, _ in self._places)

    def terms(self, values: Values) -> Terms:
        """Return the terms of a row.

        Raises:
            InputError: a cell holds no parameters; the message names the column.
        """
        found: dict[str, Any] = {}
        for name, place in self._places:
            for param, value in self._params_in(name, values[place]).items():
                if param in found:
                    raise InputError(f"column {name!r}: another column gives {param}, too: leave one of them out")
                found[param] = value
        if not found:
            return NO_TERMS
        model = found.pop(MODEL, "")
        return Terms(model=model, params=found or NO_PARAMS)

    def _params_in(self, name: str, value: object) -> dict[str, Any]:
        value = without_numpy(value)
        if value is None or is_missing(value) or (isinstance(value, float) and math.isnan(value)):
            return {}
        text = cell(value)
        if not text.strip():
            return {}
        key = name, type(value), text
        found = self._known.get(key)
        if found is None:
            found = self._read(name, value, text)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _read(self, name: str, value: object, text: str) -> dict[str, Any]:
        """Return the parameters in a cell that is not empty.

        Raises:
            InputError: there are none in it.
        """
        where = f"column {name!r}"
        try:
            if name == MODEL:
                return {MODEL: _model(text, where)}
            if name in REQUEST_PARAMS:
                return self._checked({name: _value(name, value, text, where)}, where)
            return self._object(value, text, where)
        except SettingsError as error:
            raise InputError(str(error)) from error

    def _object(self, value: object, text: str, where: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            example = '{"temperature": 0.2}'
            raise InputError(
                f"{where}: it has not the name of a request parameter, so each cell must hold an object of parameters,"
                f" as in {example}: {error}"
            ) from error
        if not isinstance(found, dict):
            raise InputError(f"{where}: a cell must hold an object of parameters, not {text:.80}")
        if self._drops_nulls and not isinstance(value, str):
            found = {name: each for name, each in found.items() if each is not None}
        model = found.pop(MODEL, None)
        named = {} if model is None else {MODEL: _model(model, where)}
        return {**named, **self._checked(found, where)}

    def _checked(self, params: dict[str, Any], where: str) -> dict[str, Any]:
        check_params(params, where)
        checked: dict[str, Any] = plain(dict(unfolded(params, where)))
        for name, value in checked.items():
            if name in self._excluded and value != 1:
                raise InputError(f"{where}: {name} and {self._excluded[name]} exclude each other")
        return checked


def _value(name: str, value: object, text: str, where: str) -> Any:
    """Return the value of a parameter; a text is read as on the command line, JSON or else a text."""
    if not isinstance(value, str):
        return json.loads(text) if isinstance(value, list | tuple | dict) else value
    found = param_of(name, text, where)
    return found if holds_value(name, found) or not holds_value(name, text) else text


def _model(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InputError(f"{where}: it must be the name of a model, not {str(value)[:80]!r}")
    return value.strip()


def named_like_params(columns: Sequence[str], used: Collection[str]) -> list[str]:
    """Return the columns of a table that are named like request parameters, and are not used."""
    return [name for name in columns if name in _TELLING and name not in used]


_TELLING = {"model", "temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "seed", "response_format"}
_TELLING |= {"frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs"}
_TELLING |= {"tools", "tool_choice", "enable_thinking", "reasoning_effort", "thinking_budget", "stop"}
_TELLING &= {*PARAMS, MODEL}
