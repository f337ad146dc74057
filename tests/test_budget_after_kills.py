"""A budget after a kill: what was in flight is charged, and nearly all of the rest can still be spent."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections import Counter
from pathlib import Path

from programs import Done, LocalServer, call, finish, local_server, started, write_table

from batcher.server.answers import answer

ROWS = 5_000
CONCURRENCY = 256
ANSWERED = 2_000
"""The answers before the kill: enough for the concurrency limit to grow to its maximum."""
TEXTS = [f"item {number:04} was {'good' if number % 3 else 'bad'}" for number in range(ROWS)]
TEMPLATE = "Is this review good or bad? Answer with one of: good, bad. Review: {}"
# Dollars per million tokens. An answer has two tokens at most, and the server's answers have one.
IN, OUT = 1, 4


def cost(prompt: str) -> float:
    """Return what the local server's tokens of a prompt and its answer cost, in dollars: four characters a token."""
    said = answer({"model": "m", "messages": [{"role": "user", "content": prompt}]})
    return (-(-len(prompt) // 4) * IN + -(-len(said) // 4) * OUT) / 1e6


def arguments(server: LocalServer, budget: float) -> list[str]:
    options = {
        "--prompt": TEMPLATE.format("{text}"),
        "--base-url": server.base_url,
        "--model": "m",
        "--max-concurrency": str(CONCURRENCY),
        "--price-in": str(IN),
        "--price-out": str(OUT),
        "--param": "max_tokens=2",
        "--budget": f"{budget:.9f}",
    }
    return ["run", "reviews.csv", *(word for option in options.items() for word in option)]


def in_flight(folder: Path) -> int:
    """Return the number of requests that have no end in the journal."""
    path = folder / "output" / "journal_reviews.sqlite"
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as journal:
        [(count,)] = journal.execute("SELECT count(*) FROM requests WHERE ended IS NULL").fetchall()
    return int(count)


def kill_when_full(server: LocalServer, folder: Path, budget: float) -> int:
    """Kill a run when as many of its requests hang as may be in flight; return their number."""
    with started(*arguments(server, budget), cwd=folder) as program:
        server.wait_for(ANSWERED + CONCURRENCY)
        program.kill()
        assert finish(program).status == -signal.SIGKILL
    return in_flight(folder)


def billed(server: LocalServer) -> float:
    """Return what the service would charge for every request that it has seen, answered or not."""
    asked: Counter[str] = Counter(server.books()["requests_by_prompt"])
    return sum(cost(prompt) * times for prompt, times in asked.items())


def test_a_budget_for_all_rows_still_answers_nearly_all_of_them_after_a_kill(tmp_path: Path) -> None:
    write_table(tmp_path / "reviews.csv", ["text"], [[text] for text in TEXTS])
    budget = 1.01 * sum(cost(TEMPLATE.format(text)) for text in TEXTS)
    faults = tmp_path / "faults.toml"
    faults.write_text(f'[[fault]]\nrequests = "{ANSWERED + 1}-{ANSWERED + CONCURRENCY}"\ndo = "hang"\n')
    with local_server("--latency", "0.5", "--faults", str(faults), cwd=tmp_path) as server:
        assert kill_when_full(server, tmp_path, budget) == CONCURRENCY
        done: Done = call(*arguments(server, budget), cwd=tmp_path)
        assert done.status == 3, done.stderr
        assert "the budget is used up" in done.stderr
        assert billed(server) <= budget
        answered = len(server.books()["answered_by_prompt"])
    assert answered >= 0.85 * ROWS
