"""A process that stands still for longer than its timeout keeps every answer that came meanwhile, and asks once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_server import Ask, Step, answer_to, answered, hostile
from programs import finish, started, table, write_table

import batcher

ROWS = 60
WIDTH = 20
TIMEOUT_S = 1.0
STALL_S = 2.5
PROMPTS = [f"row {number}" for number in range(ROWS)]


def after_a_moment(ask: Ask) -> Iterator[Step]:
    yield TIMEOUT_S / 4
    yield answered(ask)


def options(base_url: str, folder: Path) -> dict[str, Any]:
    endpoint = batcher.Endpoint("m", base_url=base_url, max_concurrency=WIDTH)
    return {"keyword": "k", "output_dir": folder, "endpoints": [endpoint], "timeout": TIMEOUT_S, "quiet": True}


def check(path: Path, asked: Counter[str]) -> None:
    assert [row["infer"] for row in table(path)] == [answer_to(prompt) for prompt in PROMPTS]
    assert asked == Counter(PROMPTS)


def test_a_stopped_process_reads_what_came_while_it_was_stopped(tmp_path: Path) -> None:
    write_table(tmp_path / "k.csv", ["text"], [[prompt] for prompt in PROMPTS])
    with hostile(after_a_moment) as server:
        arguments = ("run", "k.csv", "--prompt", "{text}", "--model", "m", "--base-url", server.base_url)
        limits = ("--timeout", str(TIMEOUT_S), "--max-concurrency", str(WIDTH))
        with started(*arguments, *limits, cwd=tmp_path) as program:
            for moment in (1, 1 + WIDTH):
                server.wait_for(moment)
                program.send_signal(signal.SIGSTOP)
                time.sleep(STALL_S)
                program.send_signal(signal.SIGCONT)
            done = finish(program)
        assert done.status == 0, done.stderr
        check(tmp_path / "output" / "all_k.csv", server.asked)


def test_after_a_wish_to_stop_a_stopped_process_reads_what_came_as_well(tmp_path: Path) -> None:
    """At once, as the second Ctrl-C asks for it, still means that what has arrived is saved."""
    write_table(tmp_path / "k.csv", ["text"], [[prompt] for prompt in PROMPTS])
    with hostile(after_a_moment) as server:
        arguments = ("run", "k.csv", "--prompt", "{text}", "--model", "m", "--base-url", server.base_url)
        with started(*arguments, "--max-concurrency", str(WIDTH), cwd=tmp_path) as program:
            server.wait_for(1 + WIDTH)
            program.send_signal(signal.SIGINT)
            program.send_signal(signal.SIGTERM)
            program.send_signal(signal.SIGSTOP)
            time.sleep(STALL_S)
            program.send_signal(signal.SIGCONT)
            assert finish(program).status == 3
        came = len(server.asks)
        with started(*arguments, cwd=tmp_path) as program:
            assert finish(program).status == 0
        assert came >= 1 + WIDTH
        check(tmp_path / "output" / "all_k.csv", server.asked)


def test_a_prompt_function_that_blocks_is_not_the_servers_silence(tmp_path: Path) -> None:
    def prompt(row: dict[str, Any]) -> str:
        if row["text"] == "row 30":
            time.sleep(STALL_S)
        return str(row["text"])

    with hostile(after_a_moment) as server:
        report = batcher.run(PROMPTS, prompt, **options(server.base_url, tmp_path))
        assert (report.ok, report.retries) == (ROWS, 0)
        check(tmp_path / "all_k.csv", server.asked)


async def test_a_loop_that_others_block_is_not_the_servers_silence(tmp_path: Path) -> None:
    over = False

    async def block() -> None:
        while not over:
            await asyncio.sleep(0.01)
            time.sleep(STALL_S / 2)  # noqa: ASYNC251 - it blocks

    with hostile(after_a_moment) as server:
        blocking = asyncio.create_task(block())
        report = await batcher.arun(PROMPTS, **options(server.base_url, tmp_path))
        over = True
        await blocking
        assert (report.ok, report.retries) == (ROWS, 0)
        check(tmp_path / "all_k.csv", server.asked)
