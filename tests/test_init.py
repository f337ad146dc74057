"""`import batcher` costs next to nothing, and every name it offers is there."""

from __future__ import annotations

import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import batcher

HEAVY = ("langchain_core", "langchain_openai", "openai", "pandas", "pyarrow", "numpy", "aiohttp", "fastapi", "asyncio")


def said_by(program: str) -> str:
    """Run a program in a fresh interpreter."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("program", ["import batcher", "import batcher; batcher.Endpoint('m'); batcher.SettingsError"])
def test_importing_batcher_loads_no_library(program: str) -> None:
    assert said_by(f"{program}\nimport sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_a_caller_of_another_kind_can_be_written_without_langchain() -> None:
    program = "import batcher.calls.caller, batcher.calls.failures"
    said = said_by(f"{program}\nimport sys; print([name for name in {HEAVY[:-1]} if name in sys.modules])")
    assert said == "[]"


@pytest.mark.parametrize("name", batcher.__all__)
def test_every_name_that_is_offered_resolves_to_its_own_thing(name: str) -> None:
    assert getattr(batcher, name).__name__ == name


def test_the_names_are_listed_once_and_in_order() -> None:
    assert sorted(set(batcher.__all__)) == batcher.__all__ == dir(batcher)


FIRST = [
    "from batcher import *",
    "batcher.status",
    "import batcher.reports.status",
    "from batcher.reports import status",
    "from batcher.reports.status import RunStatus",
    "import batcher.cli",
    "import batcher.planning.plan, batcher.planning.forecast",
    "import batcher.reports.verification.verify, batcher.output.joining",
]


@pytest.mark.parametrize("first", FIRST)
def test_the_functions_are_functions_whatever_is_imported_first(first: str) -> None:
    names = ["run", "arun", "plan", "status", "verify", "merge"]
    kinds = f"print(*(type(getattr(batcher, name)).__name__ for name in {names}))"
    assert said_by(f"import batcher; {first}\n{kinds}") == " ".join(["function"] * len(names))


def test_no_module_has_the_name_of_something_that_is_offered() -> None:
    modules = {each.name for each in pkgutil.iter_modules(batcher.__path__)}
    assert "reports" in modules
    assert modules & {*batcher.__all__} == set()


def test_at_most_twenty_five_names_are_offered() -> None:
    assert len(batcher.__all__) <= 25


def test_what_the_docstring_of_the_package_names_is_there() -> None:
    named = re.findall(r"`(batcher\.[\w.]+)`", batcher.__doc__ or "")
    assert "batcher.errors" in named
    assert all(callable(pkgutil.resolve_name(name)) or inspect.ismodule(pkgutil.resolve_name(name)) for name in named)


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'batcher' has no attribute 'rnu'$"):
        batcher.rnu  # noqa: B018 - looking it up is the test
