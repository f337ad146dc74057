"""The errors are the tree that their module's docstring draws."""

from __future__ import annotations

import re

import pytest
from journals import figures

import batcher
from batcher import errors
from batcher.output.report import Report

REPORT = Report(status="stopped", output=None, **figures(rows=3, ok=1, requests=1))


def drawn() -> dict[str, str]:
    """Read from the docstring which error stands below which."""
    above: dict[int, str] = {}
    parents = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([ |]*)(?:\+- )?([A-Z]\w+)(?:  |$)", line):
            depth = len(found[1])
            parents[found[2]] = above[max(d for d in above if d < depth)] if depth else ""
            above = {d: name for d, name in above.items() if d < depth} | {depth: found[2]}
    return parents


def test_every_error_stands_in_the_tree_below_its_base() -> None:
    real = {
        name: each.__mro__[1].__name__
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, BaseException)
    }
    assert drawn() == real | {"BatcherError": "", "Interrupted": ""}


def test_every_error_is_offered_by_the_package_or_is_a_kind_of_one_that_says_what_to_do() -> None:
    names = set(drawn())
    offered = names & set(batcher.__all__)
    assert {"BatcherError", "Interrupted"} < offered
    for name in names - offered:
        assert getattr(errors, name).__base__.__name__ in offered - {"BatcherError"}, name


def test_ctrl_c_is_no_exception_that_a_loop_over_runs_would_swallow() -> None:
    assert issubclass(errors.Interrupted, KeyboardInterrupt)
    assert not issubclass(errors.Interrupted, Exception)


@pytest.mark.parametrize("kind", [errors.RunStopped, errors.EndpointsLost, errors.Interrupted])
def test_an_early_end_carries_what_was_done(kind: type[errors.RunStopped | errors.Interrupted]) -> None:
    stopped = kind("no endpoint is left", REPORT)
    assert (str(stopped), stopped.report) == ("no endpoint is left", REPORT)
