"""Messages spell an option as the reader would write it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from batcher.words import by_reader, command_line, option


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
