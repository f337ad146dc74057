"""Bad nights with real parts: the local server's faults over loopback, and its books against ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import LocalServer, call, expected_answer, local_server, table, write_table

ROWS = 400


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return write_table(tmp_path / "numbers.csv", ["text"], [[f"item {n:04}"] for n in range(ROWS)])


def run(server: LocalServer, cwd: Path, *options: str) -> dict[str, Any]:
    """Run the table and return the report; every row must have its own answer."""
    arguments = ("run", "numbers.csv", "--prompt-column", "text", "--base-url", server.base_url, "--model", "m")
    done = call(*arguments, "--timeout", "2", "--json", *options, cwd=cwd)
    assert done.status == 0, done.stderr
    rows = table(cwd / "output" / "all_numbers.csv")
    assert [row["infer"] for row in rows] == [expected_answer(f"item {n:04}") for n in range(ROWS)]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(
    ("knobs", "counted"),
    [
        (("--hang-rate", "0.01"), "hung"),
        (("--cut-rate", "0.01"), "dropped"),
        (("--drop-rate", "0.01"), "dropped"),
        (("--hang-rate", "0.01", "--cut-rate", "0.01", "--error-rate", "0.02", "--latency", "0.02"), "hung"),
    ],
)
def test_sockets_that_hang_or_are_cut_cost_no_row(
    numbers: Path, tmp_path: Path, knobs: tuple[str, ...], counted: str
) -> None:
    with local_server(*knobs, cwd=tmp_path) as server:
        report = run(server, tmp_path)
        books = server.books()
    assert books[counted] > 0
    # A connection that is cut may be tried once more below us, unseen; nothing is answered twice.
    assert report["requests"] <= books["requests"] + books["hung"]
    assert set(books["answered_by_prompt"].values()) == {1}
    assert report["retries"] >= books["hung"] + books["by_status"].get("500", 0)


def test_a_limit_that_nobody_told_us_of_costs_few_refusals(numbers: Path, tmp_path: Path) -> None:
    with local_server("--max-in-flight", "20", "--latency", "0.05", cwd=tmp_path) as server:
        run(server, tmp_path)
        books = server.books()
    assert books["answered"] == ROWS
    assert books["by_status"]["429"] < ROWS / 2


def test_one_dead_endpoint_of_two_costs_no_row(numbers: Path, tmp_path: Path) -> None:
    with (
        local_server("--error-rate", "1", cwd=tmp_path) as dead,
        local_server("--latency", "0.02", cwd=tmp_path) as alive,
    ):
        (tmp_path / "pool.toml").write_text(
            "".join(f'[[endpoint]]\nmodel = "m"\nbase_url = "{each.base_url}"\n' for each in (alive, dead))
        )
        arguments = ("run", "numbers.csv", "--prompt-column", "text", "--endpoints", "pool.toml", "--json")
        done = call(*arguments, cwd=tmp_path)
        assert done.status == 0, done.stderr
        assert alive.books()["answered"] == ROWS
        assert dead.books()["requests"] < ROWS / 4
    assert json.loads(done.stdout)["ok"] == ROWS
