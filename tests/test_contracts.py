"""Each import contract fails on a planted violation, also in a new module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT

LAYERS = "Imports point down only"
HTTP = "Only calls and server know LangChain, OpenAI and HTTP"
CALLER = "Only what makes calls needs LangChain, OpenAI or HTTP"
READING = "Reports only read"
SQLITE = "Only journal knows SQLite"
PANDAS = "Only input and output know pandas and pyarrow"


def broken_by(folder: Path, module: str = "", line: str = "") -> set[str]:
    """Return the contracts that a copy of the package breaks, after a line was planted in one of its modules."""
    shutil.copytree(ROOT / "batcher", folder / "batcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if module:
        path = folder / "batcher" / module
        path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + f"\n{line}\n", encoding="utf-8")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    contracts = {each for each in (LAYERS, HTTP, CALLER, READING, SQLITE, PANDAS) if f"{each} BROKEN" in done.stdout}
    assert (done.returncode != 0) == bool(contracts), done.stdout + done.stderr
    return contracts


def test_the_package_breaks_no_contract(tmp_path: Path) -> None:
    assert broken_by(tmp_path) == set()


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("records.py", "import batcher.journal.schema", LAYERS),
        ("reports/planted.py", "import batcher.engine.stop", LAYERS),
        ("planted.py", "", LAYERS),  # a module at the root has to be given its place in the list
        ("engine/planted.py", "def call() -> None:\n    import httpx", HTTP),
        ("demo.py", "from langchain_core.messages import AIMessage", HTTP),
        ("calls/caller.py", "from langchain_core.messages import AIMessage", CALLER),
        ("calls/caller.py", "import batcher.calls.transport", CALLER),
        ("calls/retry.py", "import openai", CALLER),
        ("reports/planted.py", "from batcher.journal.writing import Journal", READING),
        (
            "planning/plan.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import batcher.engine.window",
            LAYERS,
        ),
        ("output/planted.py", "import sqlite3", SQLITE),
        ("engine/planted.py", "import pandas", PANDAS),
        ("records.py", "def frame() -> None:\n    import pyarrow.csv", PANDAS),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    assert broken_by(tmp_path, module, line) == {contract}
