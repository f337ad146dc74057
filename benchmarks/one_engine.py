"""One run of the engine in this process, whose calls simulated workers make: the seconds that it takes, by thread.

    python benchmarks/one_engine.py TABLE OUTPUT WORKERS CONCURRENCY       prints what it found as JSON

With 0 workers the calls are answered in this process, at no cost. `scaleout.py` runs this.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import TEMPLATE
from simulated_workers import HEAD, completion_to

from batcher.calls.batch_service import BatchService
from batcher.calls.workers.callers import WorkerCallers
from batcher.calls.workers.crew import Crew
from batcher.calls.workers.setup import Setup
from batcher.calls.workers.wire import pack_news
from batcher.calls.workers.worker import Link, Watcher
from batcher.endpoint import Endpoint
from batcher.engine.runner import execute
from batcher.engine.stop import Stop
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Message
from batcher.settings import Settings

CALL_S = 0.00013
"""CPU seconds of a real call (docs/performance.md)."""

LATENCY_S = 0.05


class SimulatedLink:
    """A worker behind the socket."""

    room = 100_000

    def __init__(self, number: int, writer: asyncio.StreamWriter) -> None:
        self.name = f"worker {number + 1}"
        self._number = number
        self._writer = writer
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()

    def send(self, group: bytes) -> None:
        self._writer.write(HEAD.pack(self._number, len(group)) + group)

    async def news(self, gather_s: float) -> bytes:
        del gather_s  # the workers gather by themselves
        try:
            async with asyncio.timeout(1):
                return await self.arrived.get()
        except TimeoutError:
            return pack_news([], [])

    def kill(self) -> None:
        """It ends with its program."""


class SimulatedCluster:
    """Workers in a program of their own."""

    name = "simulated"

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._links: list[SimulatedLink] = []

    async def start(self, setup: Setup, watcher: Watcher) -> None:
        del setup
        connected = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._links = [SimulatedLink(number, writer) for number in range(self._workers)]
            connected.set()
            try:
                while True:
                    number, length = HEAD.unpack(await reader.readexactly(HEAD.size))
                    self._links[number].arrived.put_nowait(await reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                writer.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        program = Path(__file__).with_name("simulated_workers.py")
        arguments = [str(program), str(port), str(self._workers), str(CALL_S), str(LATENCY_S)]
        self._program = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        await connected.wait()
        for link in self._links:
            watcher.joined(link)

    def released(self, link: Link) -> None:
        raise AssertionError(link)

    async def close(self) -> None:
        self._server.close()
        self._program.kill()
        await self._program.wait()


class Free:
    """Answers calls in this process, at no cost."""

    def caller(self, endpoint: Endpoint) -> Free:
        del endpoint
        return self

    def batches(self, endpoint: Endpoint) -> BatchService:
        raise NotImplementedError(endpoint)

    async def close(self) -> None:
        """Nothing is open."""

    async def call(
        self, messages: Sequence[Message], timeout_s: float, params: Any = NO_PARAMS, terms: Any = NO_TERMS
    ) -> Completion:
        del timeout_s, params, terms
        await asyncio.sleep(LATENCY_S)
        return completion_to(messages[-1]["content"].split(" ", 3)[2])


def clocks() -> dict[str, float]:
    """Return the seconds of the clock, of the loop's thread, and of the whole process."""
    loop = time.clock_gettime(time.pthread_getcpuclockid(threading.main_thread().ident or 0))
    return {"wall_s": time.perf_counter(), "loop_s": loop, "process_s": time.process_time()}


async def measured(table: Path, output: Path, workers: int, concurrency: int) -> dict[str, Any]:
    endpoint = Endpoint("bench", "http://127.0.0.1:9/v1", "sk-bench", max_concurrency=concurrency)
    settings = Settings.of({"keyword": "bench", "output_dir": output, "quiet": True, "endpoints": [endpoint]})
    marks: list[dict[str, float]] = []
    make: Callable[[], Any] = Free
    if workers:
        crew = Crew(SimulatedCluster(workers))
        setup = Setup((endpoint,), {})
        await crew.start(setup)

        def make() -> WorkerCallers:
            return WorkerCallers(crew, setup)

    def began() -> Any:
        marks.append(clocks())
        return make()

    ended = await execute(table, TEMPLATE, settings, Stop(), callers=began)
    marks.append(clocks())
    report = ended.report_or_raise()
    return {"rows": report.ok, **{name: marks[1][name] - marks[0][name] for name in marks[0]}}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measured(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])))))
