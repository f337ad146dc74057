"""`help`, editors and notebooks show the options of the public functions by name."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest
from test_init import said_by

import batcher
from batcher.settings import OPTIONS, Settings

FUNCTIONS: dict[str, Any] = {name: getattr(batcher, name) for name in ("run", "arun", "plan", "rehearse")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_shows_every_option_with_its_type_and_its_default(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert list(parameters)[:2] == ["data", "prompt"]
    assert list(parameters)[-len(OPTIONS) :] == list(OPTIONS)
    for option in OPTIONS.values():
        parameter = parameters[option.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert (parameter.default, str(parameter.annotation)) == (getattr(Settings(), option.name), option.type)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_lists_every_option_with_its_help(name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(FUNCTIONS[name]))
    words = " ".join(text.split())
    for option in OPTIONS.values():
        assert f" {option.name}: {option.in_python}" in words
    assert "chunk_size: int = 500" in text
    assert "keyword: str | None = None" in text
    assert "-- " not in words
    assert "first four" not in words
    listed = text.partition("Options:")[2].splitlines()
    assert max(map(len, listed)) <= 80


def test_no_library_is_loaded_to_show_them() -> None:
    heavy = ("langchain_core", "openai", "pandas", "pyarrow", "fastapi", "IPython", "tqdm")
    program = f"import sys, batcher; batcher.run; print([name for name in {heavy} if name in sys.modules])"
    assert said_by(program) == "[]"


def test_arun_is_still_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(batcher.arun)
