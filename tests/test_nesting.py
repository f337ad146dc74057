"""JSON that is nested too deep is refused wherever it comes from, and brackets in texts are no levels."""

from __future__ import annotations

import json

import pytest

from batcher.endpoint import Endpoint
from batcher.errors import InputError, SettingsError
from batcher.input.cell import cell
from batcher.input.prompt import from_function, from_messages_column
from batcher.nesting import DEEPEST, is_too_deep
from batcher.settings import Settings


def lists(levels: int) -> str:
    return "[" * levels + "]" * levels


def nested(levels: int) -> list[object]:
    """Make the value of as many lists, which `json` could not read on a stack that is in use already."""
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("text", [lists(DEEPEST), '{"a": ' * DEEPEST + "1" + "}" * DEEPEST, "[]" * 1000])
def test_as_many_levels_as_are_allowed_are_not_too_deep(text: str) -> None:
    assert not is_too_deep(text)


@pytest.mark.parametrize("text", [lists(DEEPEST + 1), lists(980), lists(100_000), "[" * 100_000, '["a", ' * 201])
def test_one_level_more_is_too_deep_whether_it_is_closed_or_not(text: str) -> None:
    assert is_too_deep(text)


def test_brackets_in_a_text_are_no_levels() -> None:
    assert not is_too_deep(json.dumps({"text": '\\"[{' * 500}))


@pytest.mark.parametrize("levels", [DEEPEST + 1, 500, 980])
def test_a_cell_of_a_table_in_memory_is_refused_alike_wherever_it_is_written(levels: int) -> None:
    with pytest.raises(InputError, match="a value of type list cannot be written as text"):
        cell(nested(levels))


@pytest.mark.parametrize("levels", [DEEPEST + 1, 980, 100_000])
def test_messages_that_are_nested_too_deep_are_refused(levels: int) -> None:
    render = from_messages_column("m", ["m"])
    with pytest.raises(InputError, match="nested deeper than 200 levels"):
        render((lists(levels),))


def test_what_a_prompt_function_returns_is_refused_if_it_is_nested_too_deep() -> None:
    render = from_function(lambda _: [{"role": "user", "content": nested(500)}], ["m"])
    with pytest.raises(InputError, match="nested deeper than 200 levels"):
        render(("",))


@pytest.mark.parametrize("levels", [DEEPEST + 1, 980])
def test_parameters_that_are_nested_too_deep_are_refused(levels: int) -> None:
    params = {"a": nested(levels)}
    for make in (lambda: Settings(param=params), lambda: Endpoint("m", params=params)):
        with pytest.raises(SettingsError, match="the parameters cannot be written as JSON"):
            make()


def test_quotes_that_never_close_take_no_more_than_their_share() -> None:
    """It would take hours if each of them were followed to the end."""
    assert not is_too_deep("[]" * 201 + '"' + '\\"' * 500_000)
