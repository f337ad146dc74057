"""The import contracts hold what they say: each of them names the violations that are planted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from programs import ROOT

LAYERS = "Imports point down only"
HTTP = "Only calls and server know LangChain, OpenAI and HTTP"
CALLER = "Only what makes calls needs LangChain, OpenAI or HTTP"
READING = "Reports only read"
SQLITE = "Only journal knows SQLite"
NUMPY = "Figures need numpy alone"
PANDAS = "Only input and output know pandas and pyarrow"

# The contract, the module and the line to plant in it, and the import that has to be named.
PLANTED = [
    (LAYERS, "records.py", "import batcher.journal.schema", "batcher.records -> batcher.journal.schema"),
    (LAYERS, "reports/planted.py", "import batcher.engine.stop", "batcher.reports.planted -> batcher.engine.stop"),
    (
        LAYERS,
        "planning/plan.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import batcher.engine.window",
        "batcher.planning.plan -> batcher.engine.window",
    ),
    (HTTP, "engine/planted.py", "def call() -> None:\n    import httpx", "batcher.engine.planted -> httpx"),
    (HTTP, "demo.py", "from langchain_core.messages import AIMessage", "batcher.demo -> langchain_core"),
    (
        CALLER,
        "calls/caller.py",
        "from langchain_core.messages import AIMessage",
        "batcher.calls.caller -> langchain_core",
    ),
    (CALLER, "calls/fate.py", "import openai", "batcher.calls.fate -> openai"),
    (
        READING,
        "reports/writing.py",
        "from batcher.journal.writing import Journal",
        "batcher.reports.writing -> batcher.journal.writing",
    ),
    (SQLITE, "output/planted.py", "import sqlite3", "batcher.output.planted -> sqlite3"),
    (NUMPY, "quality/planted.py", "from scipy import stats", "batcher.quality.planted -> scipy"),
    (PANDAS, "pool/planted.py", "import pandas", "batcher.pool.planted -> pandas"),
    (PANDAS, "errors.py", "def frame() -> None:\n    import pyarrow.csv", "batcher.errors -> pyarrow"),
]


def checked(folder: Path) -> tuple[int, dict[str, str]]:
    """Check a copy of the package; return the exit status, and what is said of each contract that is broken."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    _, _, details = done.stdout.partition("Broken contracts\n")
    sections = re.split(r"\n(.+)\n-{5,}\n", details)
    return done.returncode, dict(zip(sections[1::2], sections[2::2], strict=True))


def copied(folder: Path) -> Path:
    shutil.copytree(ROOT / "batcher", folder / "batcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_package_breaks_no_contract(tmp_path: Path) -> None:
    assert checked(copied(tmp_path)) == (0, {})


def test_every_planted_violation_is_named_under_its_contract(tmp_path: Path) -> None:
    copied(tmp_path)
    for _, module, line, _ in PLANTED:
        path = tmp_path / "batcher" / module
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(f"{text}\n{line}\n", encoding="utf-8")
    status, broken = checked(tmp_path)
    assert (status, set(broken)) == (1, {contract for contract, *_ in PLANTED})
    for contract, _, _, named in PLANTED:
        assert named in broken[contract], contract


def test_a_module_at_the_root_has_to_be_given_its_place_in_the_list(tmp_path: Path) -> None:
    (copied(tmp_path) / "batcher" / "planted.py").touch()
    status, broken = checked(tmp_path)
    assert (status, set(broken)) == (1, {LAYERS})
    assert "planted" in broken[LAYERS]
