"""A run that is ended in any way goes on where it stopped: real processes, real signals, the server's books."""

from __future__ import annotations

import json
import random
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from programs import LocalServer, call, expected_answer, finish, local_server, started, table, write_table

from batcher.server import simulated as sim

ROWS = 400
CONCURRENCY = 20


def write_numbers(folder: Path) -> Path:
    return write_table(folder / "numbers.csv", ["id", "text"], [[str(n), f"item {n:04}"] for n in range(ROWS)])


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return write_numbers(tmp_path)


def arguments(server: LocalServer, output: str) -> list[str]:
    options = {
        "--prompt": "Say something of {text}",
        "--base-url": server.base_url,
        "--model": "m",
        "--chunk-size": "50",
        "--max-concurrency": str(CONCURRENCY),
        "--output-dir": output,
    }
    return ["run", "numbers.csv", *(word for option in options.items() for word in option)]


def files_in(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("*.csv")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a run that nothing stopped; a server's latency is not to be seen in them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_numbers(folder)
    with local_server(cwd=folder) as server:
        assert call(*arguments(server, "output"), cwd=folder).status == 0
    return files_in(folder / "output")


def in_flight_when_it_ended(message: str) -> int:
    lines = [line for line in message.splitlines() if "in flight when" in line]
    return int(lines[0].split()[0].replace(",", "")) if lines else 0


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_run_goes_on_and_pays_only_for_what_was_in_flight(
    numbers: Path, tmp_path: Path, seed: int, uninterrupted: dict[str, bytes]
) -> None:
    moment = random.Random(seed).choice([1, 2, random.Random(seed).randint(3, ROWS)])
    with local_server("--latency", "0.03", cwd=tmp_path) as server:
        with started(*arguments(server, "output"), cwd=tmp_path) as program:
            server.wait_for(moment)
            program.kill()
            assert finish(program).status == -signal.SIGKILL

        resumed = call(*arguments(server, "output"), cwd=tmp_path)
        assert resumed.status == 0, resumed.stderr
        in_flight = in_flight_when_it_ended(resumed.stderr)
        assert in_flight <= CONCURRENCY
        books = server.books()
        assert books["requests"] <= ROWS + in_flight
        assert len(books["answered_by_prompt"]) == ROWS
    assert files_in(tmp_path / "output") == uninterrupted
    rows = table(tmp_path / "output" / "all_numbers.csv")
    assert [row["id"] for row in rows] == [str(n) for n in range(ROWS)]
    assert all(row["infer"] == expected_answer(f"Say something of {row['text']}") for row in rows)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_what_is_in_flight_arrive(
    numbers: Path, tmp_path: Path, number: signal.Signals, uninterrupted: dict[str, bytes]
) -> None:
    with local_server("--latency", "0.05", cwd=tmp_path) as server:
        with started(*arguments(server, "output"), cwd=tmp_path) as program:
            server.wait_for(60)
            program.send_signal(number)
            stopped = finish(program)
        assert stopped.status == 3
        assert stopped.stdout == ""
        assert "rows are saved, and the same command goes on" in stopped.stderr
        assert not (tmp_path / "output" / "all_numbers.csv").exists()
        before = server.books()
        assert before["requests"] == before["answered"]

        resumed = call(*arguments(server, "output"), cwd=tmp_path)
        assert resumed.status == 0
        assert "in flight" not in resumed.stderr
        assert server.books()["requests"] == ROWS
    assert files_in(tmp_path / "output") == uninterrupted


def test_a_second_signal_stops_at_once_and_loses_nothing_that_arrived(numbers: Path, tmp_path: Path) -> None:
    knobs = sim.Knobs(hang_rate=0.5)
    first = f"Say something of {table(numbers)[0]['text']}"
    seed = next(n for n in range(100) if sim.draw(replace(knobs, seed=n), first, 0)[0] is sim.Fate.ANSWER)
    with local_server("--hang-rate", "0.5", "--seed", str(seed), cwd=tmp_path) as server:
        with started(*arguments(server, "output"), "--timeout", "600", "--canary", "0", cwd=tmp_path) as program:
            assert program.stderr is not None
            # Then every slot is held by a request that will never be answered, and all other answers have arrived.
            server.wait_for(CONCURRENCY, "hung")
            program.send_signal(signal.SIGINT)
            while "Stopping" not in program.stderr.readline():
                pass
            program.send_signal(signal.SIGINT)
            assert finish(program).status == 3
        answered = server.books()["answered"]
    stopped = call("status", "numbers", "--json", cwd=tmp_path)
    assert json.loads(stopped.stdout)["ok"] == answered
    assert json.loads(stopped.stdout)["state"] == "stopped"


def test_status_tells_a_killed_run_from_a_running_one(numbers: Path, tmp_path: Path) -> None:
    with local_server("--latency", "0.05", cwd=tmp_path) as server:
        with started(*arguments(server, "output"), cwd=tmp_path) as program:
            server.wait_for(100)
            program.send_signal(signal.SIGSTOP)  # it must not end before it is looked at
            running = call("status", "numbers", cwd=tmp_path)
            program.kill()
            finish(program)
        killed = call("status", "numbers", cwd=tmp_path)
        assert call(*arguments(server, "output"), cwd=tmp_path).status == 0
        done = call("status", "numbers", cwd=tmp_path)
    assert running.stdout.startswith("numbers: running (")
    assert "rows/s" in running.stdout
    assert killed.stdout.startswith("numbers: killed (")
    assert re.search(r"  requests  \d+: \d+ answered, 0 failed, [1-9]\d* out\n", killed.stdout)
    assert re.search(r" 0 failed, [1-9]\d* out; by the latest process \d+\n", done.stdout)
    assert done.stdout.startswith("numbers: done (")
    assert f"{ROWS} of {ROWS} (100%)" in done.stdout


def test_a_finished_run_is_not_read_from_the_network(numbers: Path, tmp_path: Path) -> None:
    with local_server(cwd=tmp_path) as server:
        assert call(*arguments(server, "output"), cwd=tmp_path).status == 0
        first = (tmp_path / "output" / "all_numbers.csv").read_bytes()
        (tmp_path / "output" / "50_numbers.csv").unlink()
        again = call(*arguments(server, "output"), cwd=tmp_path)
        bigger = call(*arguments(server, "output"), "--chunk-size", "150", cwd=tmp_path)
        assert (again.status, bigger.status) == (0, 0)
        assert server.books()["requests"] == ROWS
    assert (tmp_path / "output" / "all_numbers.csv").read_bytes() == first
    assert sorted(int(path.name.split("_")[0]) for path in (tmp_path / "output").glob("[0-9]*.csv")) == [0, 150, 300]
