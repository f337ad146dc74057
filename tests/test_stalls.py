"""A process that stands still for longer than its timeout keeps every answer that arrived meanwhile, and asks only
once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_service import Service
from hostile_server import Ask, Step, answer_to, answered, hostile
from programs import finish, started, table, write_table
from virtual_time import VirtualLoop

import batcher

if TYPE_CHECKING:
    from conftest import Lab

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


@pytest.mark.parametrize("requests", [1, 2])
def test_what_came_in_a_stall_after_a_request_to_stop_is_saved(lab: Lab, requests: int) -> None:
    """The second request, at once, still reads what has arrived; the answers come a moment after the last one."""

    def stand_still() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.move_on(3600)

    service = Service(PROMPTS, latency=lambda call: 1.0 if call.prompt == "row 0" else 10.0)
    at: dict[float, Callable[[], object]] = {10.9 + wish / 100: lab.request_stop for wish in range(requests)}
    with pytest.raises(batcher.Interrupted) as stopped:
        lab.run(PROMPTS, service, at={**at, 10.95: stand_still}, endpoints=[batcher.Endpoint("m", max_concurrency=20)])
    assert stopped.value.report.ok == len(service.calls) == 1 + WIDTH
    assert not service.cut


def test_a_prompt_function_that_blocks_is_not_the_servers_silence(tmp_path: Path) -> None:
    def prompt(row: dict[str, Any]) -> str:
        if row["text"] in {"row 45", "row 55"}:
            time.sleep(1.5 * TIMEOUT_S)
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
