"""The conditions that the tests rely on hold for every way of starting them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs import environment

START = """
import signal, subprocess, sys

signal.signal(signal.{name}, signal.SIG_IGN)
{setup}
subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(signal.{name}) == signal.SIG_IGN)"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
@pytest.mark.parametrize(("setup", "is_ignored"), [("", "True"), ("import conftest", "False")])
def test_a_program_that_a_test_starts_hears_a_signal_that_the_tests_were_started_to_ignore(
    name: str, setup: str, is_ignored: str
) -> None:
    code = START.format(name=name, setup=setup)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == f"{is_ignored}\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_tests_under_nohup_outlive_their_terminal() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); import conftest; signal.raise_signal(1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment(), check=False)
    assert done.returncode == 0
