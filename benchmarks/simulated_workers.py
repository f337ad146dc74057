"""Workers that make no calls: each answers at the pace of a real one, in a process of their own.

They get what real workers get and tell what real ones tell, through a socket. A call takes its worker as long as a real
one's does, but by the clock: as no processor is busy meanwhile, one machine stands for many.

    python benchmarks/simulated_workers.py PORT WORKERS SECONDS_PER_CALL LATENCY_S

Invariant: each frame is the number of its worker, its length, and a group or news as `batcher.calls.workers.wire` packs
them.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from itertools import count

from batcher.calls.workers.wire import Unpacker, pack_news
from batcher.records import Completion, Usage

HEAD = struct.Struct(">II")
GATHER_S = 0.02


class Simulated:
    """One worker.

    Args:
        number: of it.
        call_s: seconds that each call takes it.
        latency_s: seconds that the service takes.
        writer: tells what becomes of calls.
    """

    def __init__(self, number: int, call_s: float, latency_s: float, writer: asyncio.StreamWriter) -> None:
        self._number = number
        self._call_s = call_s
        self._latency_s = latency_s
        self._writer = writer
        self._unpacker = Unpacker()
        self._loop = asyncio.get_running_loop()
        self._free_at = 0.0
        self._out: list[tuple[float, int, str]] = []
        self._departed: list[int] = []
        self._is_telling = False

    def take(self, group: bytes) -> None:
        now = self._loop.time()
        for call in self._unpacker.unpack(group).calls:
            self._free_at = max(self._free_at, now) + self._call_s
            self._departed.append(call.id)
            self._out.append((self._free_at + self._latency_s, call.id, call.messages[-1]["content"].split(" ", 3)[2]))
        self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            self._loop.call_later(GATHER_S, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        now = self._loop.time()
        done = next((place for place, (at, _, _) in enumerate(self._out) if at > now), len(self._out))
        ended = [(call_id, completion_to(number)) for _, call_id, number in self._out[:done]]
        del self._out[:done]
        departed, self._departed = self._departed, []
        news = pack_news(departed, ended)
        self._writer.write(HEAD.pack(self._number, len(news)) + news)
        if self._out:
            self._tell_soon()


def completion_to(number: str) -> Completion:
    """Return an answer with all that services send along."""
    raw = (
        f'{{"id":"chatcmpl-{number}","object":"chat.completion","created":1,"model":"bench","choices":[{{"index":0,'
        f'"message":{{"role":"assistant","content":"{number}"}},"finish_reason":"stop","logprobs":null}}],'
        '"usage":{"prompt_tokens":50,"completion_tokens":8,"total_tokens":58}}'
    )
    return Completion(number, "stop", Usage(50, 8), id=f"chatcmpl-{number}", model="bench", raw=raw.encode())


async def main() -> None:
    port, workers, call_s, latency_s = sys.argv[1:]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    made = [Simulated(number, float(call_s), float(latency_s), writer) for number in range(int(workers))]
    try:
        for _ in count():
            number, length = HEAD.unpack(await reader.readexactly(HEAD.size))
            made[number].take(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return


if __name__ == "__main__":
    asyncio.run(main())
