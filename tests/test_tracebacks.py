"""An error that batcher raises on purpose shows the user's frames, not batcher's; a fault shows all."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import batcher
from batcher.errors import BatcherError, InputError, Interrupted, SettingsError, outermost
from batcher.tracebacks import rendered

OFFLINE: dict[str, Any] = {"keyword": "k", "provider": "offline", "quiet": True}


def functions(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def wrong_arun() -> object:
    return await batcher.arun(["a"], **OFFLINE, rpm=0)


WRONG: dict[str, Callable[[], object]] = {
    "run": lambda: batcher.run(["a"], **OFFLINE, rpm=0),
    "plan": lambda: batcher.plan("nothing.csv", "{text}", **OFFLINE),
    "rehearse": lambda: batcher.rehearse("nothing.csv", "{text}", **OFFLINE),
    "status": lambda: batcher.status("nothing"),
    "verify": lambda: batcher.verify("nothing"),
    "merge": lambda: batcher.merge("nothing"),
    "sample": lambda: batcher.sample("nothing", 5),
    "limit": lambda: batcher.limit("nothing", rpm=0),
    "pause": lambda: batcher.pause("nothing"),
    "resume": lambda: batcher.resume("nothing"),
    "Endpoint": lambda: batcher.Endpoint("m", rpm=0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_traceback_ends_in_the_function_that_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BatcherError) as caught:
        WRONG[name]()
    here = ["test_a_traceback_ends_in_the_function_that_was_called", "<lambda>"]
    assert functions(caught.value) == [*here, "called"]


async def test_so_does_that_of_arun() -> None:
    with pytest.raises(SettingsError) as caught:
        await wrong_arun()
    assert functions(caught.value)[-2:] == ["wrong_arun", "awaited"]


def failing(row: dict[str, Any]) -> str:
    return f"{row['none']}"


def test_a_cause_is_kept_and_shows_where_the_users_own_function_failed() -> None:
    with pytest.raises(InputError) as caught:
        batcher.plan(pd.DataFrame({"text": ["a"]}), failing, **OFFLINE)
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert functions(cause) == ["failing"]


def test_a_fault_keeps_all_its_frames() -> None:
    def inner() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        outermost(inner)()
    assert functions(caught.value)[-1] == "inner"


def test_an_error_caused_by_another_of_batchers_keeps_its_message_alone() -> None:
    def first() -> None:
        raise SettingsError("first")

    def inner() -> None:
        try:
            first()
        except SettingsError as error:
            raise InputError("second") from error

    with pytest.raises(InputError) as caught:
        outermost(inner)()
    assert functions(caught.value)[-1] == "called"
    assert str(caught.value.__cause__) == "first"
    assert functions(caught.value.__cause__ or caught.value) == []


def test_without_ipython_there_is_the_message_alone() -> None:
    assert rendered(SettingsError("wrong")) == ["SettingsError: wrong"]
    assert SettingsError("wrong")._render_traceback_() == ["SettingsError: wrong"]
    assert callable(Interrupted._render_traceback_)
