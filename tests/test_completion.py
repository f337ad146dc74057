"""The completion scripts, in the shells themselves: what a tab offers after a line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from programs import call

from batcher.cli import VERBS
from batcher.cli.completion import script
from batcher.cli.parser import SHELLS, verbs_of

_BASH = r"""
source "$0"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_batcher
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data.csv", "my data.csv", "output/journal_tone.sqlite", "output/journal_数学.sqlite"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "journal_far.sqlite").touch()
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script(shell), encoding="utf-8")
    return tmp_path


def said_by(folder: Path, *command: str) -> list[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


CASES = [
    ("ru", ["run"]),
    ("run --provi", ["--provider"]),
    ("run --provider off", ["offline"]),
    ("plan x.csv --on-change re", ["redo", "reuse"]),
    ("run da", ["data.csv"]),
    ("run --prompt-file da", ["data.csv"]),
    ("status to", ["tone"]),
    ("status 数", ["数学"]),
    ("merge -o other ", ["far"]),
    ("run --keyword to", ["tone"]),
    ("verify tone da", ["data.csv"]),
    ("completion f", ["fish"]),
    ("run --model g", []),
    ("run x.csv --with re", ["reasoning", "request_id"]),
    ("run x.csv --with model,fin", ["model,finish"]),
    ("run --no-de", ["--no-dedup"]),
    ("rehearse --no-k", ["--no-keep", "--no-keep-thinking"]),
    ("run x.csv --with model --provi", ["--provider"]),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("line", "offered"), [*CASES, ("run --provider = off", ["offline"]), ("-", ["--help", "--version"])]
)
def test_bash_completes(folder: Path, line: str, offered: list[str]) -> None:
    found = said_by(folder, "bash", "--norc", "-c", _BASH, "script.bash", "batcher", *line.split(" "))
    assert sorted(filter(None, found)) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_bash_offers_every_verb_and_every_long_option(folder: Path) -> None:
    start = ("bash", "--norc", "-c", _BASH, "script.bash", "batcher")
    assert said_by(folder, *start, "") == list(VERBS)
    for verb in verbs_of():
        flags = [flag for action in verb.actions for flag in action.option_strings if flag.startswith("--")]
        assert said_by(folder, *start, verb.name, "--") == flags


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
@pytest.mark.parametrize(("line", "offered"), CASES)
def test_fish_completes(folder: Path, line: str, offered: list[str]) -> None:
    found = said_by(folder, "fish", "-N", "-c", f"source script.fish; complete -C 'batcher {line}'")
    assert sorted({each.partition("\t")[0] for each in found}) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not here")
def test_zsh_can_read_its_script(folder: Path) -> None:
    assert said_by(folder, "zsh", "-n", "script.zsh") == []


def test_the_script_is_printed_and_nothing_else_happens(tmp_path: Path) -> None:
    for shell in SHELLS:
        done = call("completion", shell, cwd=tmp_path)
        assert (done.status, done.stdout, done.stderr) == (0, script(shell) + "\n", "")
    assert list(tmp_path.iterdir()) == []
    wrong = call("completion", "fisch", cwd=tmp_path)
    assert (wrong.status, wrong.stdout) == (2, "")
    assert "did you mean fish?" in wrong.stderr
