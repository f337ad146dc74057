"""One contender: reads the table, asks about every row in its library's way, writes the answers.

    python benchmarks/contenders.py NAME TABLE RESULT --base-url URL --concurrency N

Invariant: each does as little as its library allows beside the calls, so that what is measured is the library; and each
keeps N requests in flight at most.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from harness import TEMPLATE

NOT_INSTALLED = 69  # EX_UNAVAILABLE of sysexits.h

Prompts = list[str]
Contender = Callable[[Prompts, str, int], Coroutine[Any, Any, list[str]]]


async def aiohttp(prompts: Prompts, base_url: str, concurrency: int) -> list[str]:
    """The ceiling: an HTTP client that knows nothing of models, and asks and reads the least that is needed."""
    import aiohttp as http  # noqa: PLC0415 - each contender loads its own library alone

    answers = [""] * len(prompts)
    rows = iter(enumerate(prompts))
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-bench"}

    async def work(session: http.ClientSession) -> None:
        for position, prompt in rows:
            body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": prompt}]}).encode()
            async with session.post(f"{base_url}/chat/completions", data=body, headers=headers) as response:
                answer = json.loads(await response.read())
            answers[position] = answer["choices"][0]["message"]["content"]

    async with http.ClientSession(connector=http.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(concurrency)))
    return answers


def _chat_openai(base_url: str) -> Any:
    from langchain_openai import ChatOpenAI  # noqa: PLC0415
    from pydantic import SecretStr  # noqa: PLC0415

    return ChatOpenAI(model="bench", base_url=base_url, api_key=SecretStr("sk-bench"))


async def gather(prompts: Prompts, base_url: str, concurrency: int) -> list[str]:
    """The cookbook's loop: a `gather` over `ChatOpenAI.agenerate`, chunk after chunk."""
    from langchain_core.messages import HumanMessage  # noqa: PLC0415

    llm = _chat_openai(base_url)
    answers: list[str] = []
    for start in range(0, len(prompts), concurrency):
        chunk = prompts[start : start + concurrency]
        results = await asyncio.gather(*(llm.agenerate([[HumanMessage(prompt)]]) for prompt in chunk))
        answers += [result.generations[0][0].text for result in results]
    return answers


async def abatch(prompts: Prompts, base_url: str, concurrency: int) -> list[str]:
    """LangChain's own way to ask about many."""
    messages = await _chat_openai(base_url).abatch(prompts, config={"max_concurrency": concurrency})
    return [message.text for message in messages]


async def async_batch_llm(prompts: Prompts, base_url: str, concurrency: int) -> list[str]:
    from async_batch_llm import llm, process_prompts  # noqa: PLC0415

    strategy = llm("openai-compatible:bench", base_url=base_url, api_key="sk-bench", max_connections=concurrency)
    batch = await process_prompts(strategy, prompts, concurrency=concurrency, preserve_order=True)
    return [str(result.output) for result in batch.results]


async def saturate(prompts: Prompts, base_url: str, concurrency: int) -> list[str]:
    """Its `pump`, which writes Parquet; it starts a loop of its own."""
    from saturate import Fixed, pump, read_output  # noqa: PLC0415

    def request(row: dict[str, Any]) -> dict[str, Any]:
        return {"model": "bench", "messages": [{"role": "user", "content": row["prompt"]}]}

    def parse(row: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
        return {"position": row["position"], "answer": response["choices"][0]["message"]["content"]}

    rows = [{"position": position, "prompt": prompt} for position, prompt in enumerate(prompts)]
    with tempfile.TemporaryDirectory() as output:
        options = {"window": Fixed(concurrency), "flush_every": 500, "id_key": "position", "signal_source": "none"}
        await asyncio.to_thread(pump, rows, request, parse, base_url, output, **options)
        answers = {row["position"]: row["answer"] for _, row in read_output(output)}
    return [answers[position] for position in range(len(prompts))]


async def litellm(prompts: Prompts, base_url: str, concurrency: int) -> list[str]:
    from litellm import acompletion  # noqa: PLC0415

    slots = asyncio.Semaphore(concurrency)

    async def ask(prompt: str) -> str:
        async with slots:
            messages = [{"role": "user", "content": prompt}]
            response = await acompletion(model="openai/bench", messages=messages, base_url=base_url, api_key="sk-bench")
        return str(response.choices[0].message.content)

    return await asyncio.gather(*map(ask, prompts))


CONTENDERS: dict[str, Contender] = {
    "aiohttp": aiohttp,
    "gather": gather,
    "abatch": abatch,
    "async-batch-llm": async_batch_llm,
    "saturate": saturate,
    "litellm": litellm,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("table", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    given = parser.parse_args()
    with given.table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    prompts = [TEMPLATE.format(**row) for row in rows]
    try:
        answers = asyncio.run(CONTENDERS[given.name](prompts, given.base_url, given.concurrency))
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        return NOT_INSTALLED
    with given.result.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "text", "infer"])
        writer.writerows((row["id"], row["text"], answer) for row, answer in zip(rows, answers, strict=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
