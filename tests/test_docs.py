"""What the docs say of the code is so."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from programs import ROOT, call

from batcher.calls.services import SERVICES
from batcher.cli import VERBS, help_of
from batcher.settings import Options

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
# A package in the tree of the design: its path, its role, and its modules, which may take several lines.
_PACKAGE = re.compile(r"^(batcher\S*)\n {4}(\S.*)\n((?: {8}.*\n)+)", re.MULTILINE)


def arguments_of(verb: str) -> str:
    """Return the part of a verb's help that lists its arguments and options."""
    return help_of(verb).partition("\npositional arguments:\n")[2]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "plan"])
def test_the_docs_hold_the_help_of_every_verb(tmp_path: Path, verb: str) -> None:
    assert f"## batcher {verb}\n\n```\n{help_of(verb)}```\n" in CLI
    assert call(verb, "--help", cwd=tmp_path).stdout == help_of(verb)


def test_plan_takes_the_options_of_run_and_the_docs_say_so_instead_of_repeating_them() -> None:
    assert arguments_of("plan") == arguments_of("run") != ""
    [said] = re.findall(r"## batcher plan\n(.*?)\n## ", CLI, re.DOTALL)
    assert "the options of `batcher run`" in said
    assert "--" not in said


def test_the_verbs_of_the_command_line_are_those_of_the_docs() -> None:
    assert re.findall(r"^## batcher (\w+)$", CLI, re.MULTILINE) == list(VERBS)


def test_help_fits_a_terminal_of_80_columns() -> None:
    for verb in VERBS:
        assert max(map(len, help_of(verb).splitlines())) <= 80


def test_the_command_line_has_the_options_of_python() -> None:
    flags = set(re.findall(r"--([a-z-]+)", help_of("run"))) - {"help", "json", "prompt", "dry-run", "config"}
    flags.remove("no-dedup")  # named once for all switches
    assert {flag.replace("-", "_") for flag in flags} == {name.rstrip("_") for name in Options.__annotations__}


def test_every_guarantee_names_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    assert len(named) > 20
    for module, test in named:
        assert f"def {test}(" in (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"), f"{module}::{test}"


def test_no_merge_has_left_its_marks() -> None:
    git = ["git", "ls-files", "-z"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in filter(None, listed.split("\0")):
        text = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        assert not re.search(rb"^(<{7} |>{7} |={7}$)", text, re.MULTILINE), name


def test_every_dependency_has_a_lower_bound_that_is_tested_and_ends_before_the_next_major() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [re.fullmatch(r"([a-z-]+)>=([\d.]+),<(\d+)", each) for each in project["dependencies"]]
    pins = re.findall(
        r"^([a-z-]+)==([\d.]+)$", (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    declared = {bound.group(1) for bound in bounds if bound}
    assert [(bound.group(1), bound.group(2)) for bound in bounds if bound] == [
        pin for pin in pins if pin[0] in declared
    ]
    for name, _, limit in (bound.groups() for bound in bounds if bound):
        assert int(version(name).partition(".")[0]) < int(limit), name


def test_the_design_draws_the_layers_that_the_check_holds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [layers, *_] = project["tool"]["importlinter"]["contracts"]
    drawn = re.search(r"```text\n(__main__ > .*?)```", DESIGN, re.DOTALL)
    assert drawn
    assert " ".join(drawn.group(1).split()) == " > ".join(layers["layers"])


def test_the_design_names_every_package_with_the_role_in_its_docstring_and_every_module() -> None:
    drawn = re.search(r"```text\n(batcher/\n.*?)```", DESIGN, re.DOTALL)
    assert drawn
    shown = {name: (role, modules) for name, role, modules in _PACKAGE.findall(drawn.group(1))}
    packages = [path.parent for path in (ROOT / "batcher").rglob("__init__.py")]
    assert len(shown) == len(packages)
    for package in packages:
        role, modules = shown[f"{package.relative_to(ROOT).as_posix()}/"]
        docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
        assert docstring
        assert role == docstring.splitlines()[0]
        assert {*modules.replace(",", " ").split(), "__init__"} == {path.stem for path in package.glob("*.py")}


def test_the_services_page_has_a_row_for_each_service() -> None:
    page = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\S+)` \| (.*?) \| .+ \|$", page, re.MULTILINE)
    assert [(name, url, re.findall(r"`(\w+)`", keys)) for name, url, keys in rows] == [
        (service.name, service.base_url, list(service.key_variables)) for service in SERVICES.values()
    ]


def test_one_row_goes_its_way_in_ten_lines() -> None:
    [way] = re.findall(r"## One row's way\n\n(.*?)\n\n", DESIGN, re.DOTALL)
    assert [line.partition(".")[0] for line in way.splitlines()] == [str(number) for number in range(1, 11)]
