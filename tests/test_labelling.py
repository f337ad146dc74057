"""A sample is labelled in a terminal, row after row; each label is saved at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import Lab
from programs import environment
from test_sampling import TABLE, found, run, sample, write

from batcher.answer.gold import Golds, NoGold
from batcher.answer.labels import Labels
from batcher.cli import main
from batcher.engine.labelling import _Choice

pty = pytest.importorskip("pty", reason="this system has no terminals of this kind")

MANY = ["card arrival", "card linking", "top up", "top up failed", "lost", "age limit", "refund", "fee", "cash", "pin"]
_PATIENCE_S = 60


class Terminal:
    """A terminal in which `batcher sample k --label` runs."""

    def __init__(self, lab: Lab, *arguments: str) -> None:
        self._own, other = pty.openpty()
        self.program = subprocess.Popen(
            [sys.executable, "-m", "batcher", "sample", "k", "--label", "--output-dir", str(lab.directory), *arguments],
            stdin=other,
            stdout=subprocess.PIPE,
            stderr=other,
            env=environment(),
            start_new_session=True,
        )
        os.close(other)
        self.shown = ""

    def until(self, text: str) -> str:
        """Read until a text is shown; return what was shown before it."""
        end = time.monotonic() + _PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            try:
                self.shown += os.read(self._own, 4096).decode("utf-8", "replace").replace("\r\n", "\n")
            except OSError as error:  # the program has ended
                raise AssertionError(self.shown) from error
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def end(self) -> tuple[int, str]:
        """Return the exit status and stdout."""
        with contextlib.suppress(OSError):
            while part := os.read(self._own, 4096):
                self.shown += part.decode("utf-8", "replace")
        out, _ = self.program.communicate(timeout=_PATIENCE_S)
        return self.program.returncode, out.decode()

    def close(self) -> None:
        self.program.kill()
        self.program.communicate()
        os.close(self._own)


@contextlib.contextmanager
def terminal(lab: Lab, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(lab, *arguments)
    try:
        yield opened
    finally:
        opened.close()


def labels_in(lab: Lab) -> list[str]:
    return [row["gold"] for row in lab.rows("sample")]


@pytest.fixture
def drawn(lab: Lab, tmp_path: Path) -> Lab:
    run(lab, write(tmp_path / "table.csv", TABLE))
    sample(lab, 4)
    return lab


def saved(lab: Lab) -> list[tuple[int, str]]:
    return lab.query("SELECT drawn, gold FROM gold ORDER BY id")


def test_one_key_labels_a_row_and_shows_the_next_without_the_models_label(drawn: Lab) -> None:
    texts = [row["text"] for row in drawn.rows("sample")]
    with terminal(drawn) as at:
        for number, (text, key) in enumerate(zip(texts, "132s", strict=True)):
            shown = at.until("q quits)")
            assert f"-- {number + 1} of 4 ({number} labelled)" in shown
            assert f"text: {text}" in shown
            assert "infer" not in shown
            assert "[1] good   [2] bad   [3] ugly" in shown
            at.type(key)
        at.until("That was the last of 4 rows")
        status, out = at.end()
    assert (status, out.strip()) == (0, str(drawn.path("sample")))
    assert "3 by hand, 1 to do" in at.shown
    assert labels_in(drawn) == ["good", "ugly", "bad", ""]
    assert drawn.query("SELECT DISTINCT origin FROM gold") == [("keyboard",)]


def test_a_label_is_saved_before_the_next_row_is_shown_even_if_the_program_is_killed(drawn: Lab) -> None:
    with terminal(drawn) as at:
        at.until("q quits)")
        at.type("2")
        at.until("q quits)")
        assert saved(drawn) == [(1, "bad")]
        at.program.kill()
        at.program.wait()
    assert found(drawn).gold == 1
    with terminal(drawn) as at:
        assert "-- 1 of 3 (0 labelled)" in at.until("q quits)")
        at.program.send_signal(signal.SIGINT)
        assert at.end()[0] == 0
    assert labels_in(drawn) == ["bad", "", "", ""]


def test_a_label_can_be_undone(drawn: Lab) -> None:
    with terminal(drawn) as at:
        for keys in ("u", "1", "2", "u", "3", "u"):
            at.until("q quits)")
            at.type(keys)
        at.until("q quits)")
        at.type("9")
        at.until("'9' is no key of a label")
        at.type("q")
        assert at.end()[0] == 0
    assert saved(drawn) == [(1, "good"), (2, "bad"), (2, ""), (2, "ugly"), (2, "")]
    assert labels_in(drawn) == ["good", "", "", ""]


def test_many_labels_are_typed_by_their_beginnings(lab: Lab, tmp_path: Path) -> None:
    run(lab, write(tmp_path / "table.csv", TABLE), labels=MANY)
    with terminal(lab, "-n", "3") as at:
        at.until("label> ")
        at.type("card\n")
        at.until("which one? 'card arrival', 'card linking'")
        at.type("card l\n")
        at.until("= card linking")
        at.until("label> ")
        at.type("xyzzy\n")
        at.until("'xyzzy' is none of the labels")
        at.type("5\n")
        at.until("= lost")
        at.until("label> ")
        at.type("\x04")
        assert at.end()[0] == 0
    assert labels_in(lab) == ["card linking", "lost", ""]


def test_the_fields_of_a_schema_are_asked_one_after_the_other(lab: Lab, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["up", "down"]}, "n": {"type": "integer"}}}
    run(lab, write(tmp_path / "table.csv", TABLE), labels=None, schema=schema)
    with terminal(lab, "-n", "2") as at:
        at.until("mood> ")
        at.type("UP\n")
        at.until("n> ")
        at.type("many\n")
        at.until("'many' cannot be 'n'")
        at.type("7\n")
        at.until("mood> ")
        at.type("\n")
        at.until("n> ")
        at.type(":q\n")
        assert at.end()[0] == 0
    assert [(row["gold_mood"], row["gold_n"]) for row in lab.rows("sample")] == [("up", "7"), ("", "")]


def test_a_terminal_is_needed(drawn: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "k", "--label", "--output-dir", str(drawn.directory)]) == 2
    assert "--label needs a terminal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "label"),
    [("lost", "lost"), ("LOS", "lost"), ("top up", "top up"), ("2", "card linking"), ("failed", "top up failed")],
)
def test_as_much_of_a_label_as_is_its_alone_is_enough(typed: str, label: str) -> None:
    assert _Choice(Golds(Labels.of(MANY, "--labels"))).meant(typed) == label


@pytest.mark.parametrize(("labels", "typed"), [(MANY, "card"), (MANY, "zzz"), (MANY, "99"), (["a", "b"], "c")])
def test_what_may_be_several_labels_or_none_is_asked_again(labels: Sequence[str], typed: str) -> None:
    with pytest.raises(NoGold):
        _Choice(Golds(Labels.of([*labels], "--labels"))).meant(typed)
