"""Numbers read as people write them, and options as their reader would write them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from batcher.words import by_reader, command_line, counted, duration, elapsed, option


@pytest.mark.parametrize(
    ("name", "value", "python", "shell"),
    [
        ("chunk_size", None, "chunk_size", "--chunk-size"),
        ("chunk_size", 20, "chunk_size=20", "--chunk-size 20"),
        ("on_change", "redo", 'on_change="redo"', "--on-change redo"),
        ("retry_failed", True, "retry_failed=True", "--retry-failed"),
        ("id_column", "COLUMN", "id_column=COLUMN", "--id-column COLUMN"),
        ("param", {"max_tokens": "N"}, 'param={"max_tokens": N}', "--param max_tokens=N"),
        ("param", {"n": 1, "seed": 2}, 'param={"n": 1, "seed": 2}', "--param n=1 --param seed=2"),
    ],
)
def test_an_option_is_spelled_for_its_reader(
    name: str, value: str | float | Mapping[str, object] | None, python: str, shell: str
) -> None:
    assert option(name, value) == python
    with command_line():
        assert option(name, value) == shell
    assert option(name, value) == python


def test_the_threads_of_the_command_line_speak_as_it_does() -> None:
    said: list[str] = []
    with command_line():
        thread = threading.Thread(target=lambda: said.append(by_reader(command_line="shell", python="Python")))
        thread.start()
        thread.join()
    assert [*said, by_reader(command_line="shell", python="Python")] == ["shell", "Python"]


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "row", "", "0 rows"),
        (1, "row", "", "1 row"),
        (2, "row", "", "2 rows"),
        (1_234_567, "request", "", "1,234,567 requests"),
        (2, "entry", "entries", "2 entries"),
        (1, "entry", "entries", "1 entry"),
    ],
)
def test_a_number_agrees_with_its_noun(number: int, noun: str, plural: str, text: str) -> None:
    assert counted(number, noun, plural) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (725, "12m 05s"), (3599.6, "1h 00m"), (31_285.4, "8h 41m")],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (0.84, "0.8 s"), (59.94, "59.9 s"), (60, "1m 00s")])
def test_what_took_less_than_a_minute_is_told_in_tenths(seconds: float, text: str) -> None:
    assert elapsed(seconds) == text
