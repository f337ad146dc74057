"""A run with a second endpoint that is killed at any moment yields the same bytes, and pays for no answer twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import LocalServer, call, local_server, started, table, write_table

ROWS = 120
FLIGHT = 4
# The local server is the less sure of a label the longer that is: of the third one less than 0.3.
LABELS = ["card", "loan", "transfer of money to another bank"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("server")
    with local_server("--latency", "0.05", cwd=folder) as running:
        yield running


def command(folder: Path, server: LocalServer) -> list[str]:
    folder.mkdir()
    write_table(folder / "t.csv", ["text"], [[f"Message {number}"] for number in range(ROWS)])
    options = [
        "--base-url",
        server.base_url,
        "--model",
        "cheap",
        "--then",
        "dear",
        "--threshold",
        "0.3",
        "--keyword",
        "k",
    ]
    options += ["--labels", ",".join(LABELS), "--chunk-size", "30", "-q", "--canary", "0"]
    return [
        "run",
        "t.csv",
        "--prompt",
        "Classify: {text}",
        "--keyword",
        "k",
        "--max-concurrency",
        str(FLIGHT),
        *options,
    ]


def test_kills_change_no_byte_and_no_answer_is_paid_twice(tmp_path: Path, server: LocalServer) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(*command(whole, server), cwd=whole).status == 0
    by = Counter(row["infer_by"] for row in table(whole / "output" / "all_k.csv"))
    assert {*by} == {"cheap", "dear"}
    needed = ROWS + by["dear"]
    assert server.books()["answered"] == needed
    server.reset()
    arguments = command(killed, server)
    for answered in (3, needed // 3, needed * 3 // 4):
        with started(*arguments, cwd=killed) as program:
            server.wait_for(answered, "answered")
            program.kill()
            program.wait()
    assert call(*arguments, cwd=killed).status == 0
    for name in (path.name for path in (whole / "output").glob("*_k.csv")):
        assert (whole / "output" / name).read_bytes() == (killed / "output" / name).read_bytes()
    # Only what was in flight at a kill may have been answered twice.
    assert server.books()["answered"] <= needed + 3 * 2 * FLIGHT
    assert call("verify", "k", "t.csv", cwd=killed).status == 0
    done = call("status", "k", "--json", cwd=killed)
    assert json.loads(done.stdout)["ok"] == ROWS


def test_it_can_be_rehearsed(tmp_path: Path, server: LocalServer) -> None:
    folder = tmp_path / "here"
    _, *arguments = command(folder, server)
    at = arguments.index("--threshold")
    arguments[at : at + 2] = ["--hold", "0.9"]
    done = call("rehearse", *arguments, "--json", cwd=folder)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
