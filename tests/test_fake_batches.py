"""The fake service's batch API, which the other tests rely on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from fake_batches import URL, FakeBatches
from fake_service import Service, answer_to
from virtual_time import run_virtually

from batcher.calls.batch_service import BatchService, Remote, RemoteState
from batcher.endpoint import Endpoint
from batcher.records import Completion, Failure, Fault
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, State
from batcher.server.faults import Fate

PROMPTS = [f"row {number}" for number in range(10)]


def file_of(batches: FakeBatches, path: Path, prompts: list[str] = PROMPTS) -> Path:
    lines = [batches.line(f"line-{prompt}", [{"role": "user", "content": prompt}]) for prompt in prompts]
    path.write_bytes(b"".join(lines))
    return path


async def made(batches: FakeBatches, path: Path) -> Remote:
    file = await batches.upload(file_of(batches, path), "batch_k_0.jsonl")
    assert isinstance(file, str)
    remote = await batches.create(file, "0", URL, "k")
    assert isinstance(remote, Remote)
    return remote


async def at_its_end(batches: FakeBatches, batch: str) -> Remote:
    while True:
        remote = await batches.look(batch)
        assert isinstance(remote, Remote)
        if remote.state.is_over:
            return remote
        await asyncio.sleep(10)


def open_service(**options: object) -> tuple[Service, FakeBatches]:
    service = Service(PROMPTS, **options)  # type: ignore[arg-type]
    service()
    return service, service.batches(Endpoint("m"))


def test_a_batch_is_answered_after_its_time(tmp_path: Path) -> None:
    service, batches = open_service()
    there: BatchService = batches  # it is one

    async def work() -> Remote:
        remote = await made(batches, tmp_path / "in.jsonl")
        assert remote.state is RemoteState.VALIDATING
        end = await at_its_end(batches, remote.id)
        assert await there.download(end.output_file, tmp_path / "out.jsonl") is None
        return end

    end, seconds = run_virtually(work())
    assert (end.state, end.total, end.completed, end.failed) == (RemoteState.COMPLETED, 10, 10, 0)
    assert 600 <= seconds < 620
    answers = [batches.read(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    found = {each.custom_id: each.outcome for each in answers if each}
    assert {name: said.text for name, said in found.items() if isinstance(said, Completion)} == {
        f"line-{prompt}": answer_to(prompt) for prompt in PROMPTS
    }
    assert [each.custom_id for each in answers if each] != [f"line-{prompt}" for prompt in PROMPTS]
    assert service.billed == service.queue.books.billed_by_prompt == Counter(PROMPTS)


def test_a_batch_goes_on_between_two_runs(tmp_path: Path) -> None:
    service, batches = open_service()
    remote, _ = run_virtually(made(batches, tmp_path / "in.jsonl"))
    service.pass_by(3600)

    async def look() -> Remote | Failure:
        return await batches.look(remote.id)

    end, seconds = run_virtually(look())
    assert isinstance(end, Remote)
    assert end.state is RemoteState.COMPLETED
    assert seconds < 1


def test_an_expired_batch_has_the_lines_that_were_answered_and_names_the_others(tmp_path: Path) -> None:
    rule = BatchRule(end=State.EXPIRED, answered=0.8)
    service, batches = open_service(batch_knobs=BatchKnobs(latency=60, rules=(rule,)))

    async def work() -> Remote:
        remote = await made(batches, tmp_path / "in.jsonl")
        end = await at_its_end(batches, remote.id)
        assert await batches.download(end.output_file, tmp_path / "out.jsonl") is None
        assert await batches.download(end.error_file, tmp_path / "errors.jsonl") is None
        return end

    end, _ = run_virtually(work())
    assert (end.state, end.completed, end.failed) == (RemoteState.EXPIRED, 8, 2)
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 8
    errors = [batches.read(line) for line in (tmp_path / "errors.jsonl").read_bytes().splitlines()]
    assert [each.outcome.code for each in errors if each and isinstance(each.outcome, Failure)] == ["batch_expired"] * 2
    assert service.queue.books.billed == 8


@pytest.mark.parametrize("is_done", [True, False])
def test_a_create_whose_answer_is_lost_may_have_made_the_batch(tmp_path: Path, *, is_done: bool) -> None:
    rule = BatchRule(at=Place.CREATE, does=Fate.DROP, is_done=is_done, times=1)
    _, batches = open_service(batch_knobs=BatchKnobs(rules=(rule,)))

    async def work() -> list[Remote] | Failure:
        file = await batches.upload(file_of(batches, tmp_path / "in.jsonl"), "batch_k_0.jsonl")
        assert isinstance(file, str)
        said = await batches.create(file, "0", URL, "k")
        assert isinstance(said, Failure)
        assert said.fault is Fault.CONNECTION
        return await batches.find("0", file, batches.queue.now)

    found, _ = run_virtually(work())
    assert isinstance(found, list)
    assert [each.name for each in found] == ["0"] * is_done


def test_a_full_queue_refuses_the_batch_after_it_was_made(tmp_path: Path) -> None:
    _, batches = open_service(batch_knobs=BatchKnobs(latency=60, queue_requests=15))

    async def work() -> list[Remote]:
        remotes = [await made(batches, tmp_path / "in.jsonl") for _ in range(2)]
        return [await at_its_end(batches, remote.id) for remote in remotes]

    ends, _ = run_virtually(work())
    assert [end.state for end in ends] == [RemoteState.COMPLETED, RemoteState.FAILED]
    assert ends[1].errors[0].code == "request_limit_exceeded"
    assert not ends[1].output_file


def test_a_cancelled_batch_has_the_lines_that_were_answered(tmp_path: Path) -> None:
    service, batches = open_service(batch_knobs=BatchKnobs(latency=100, cancelling=30))

    async def work() -> Remote:
        remote = await made(batches, tmp_path / "in.jsonl")
        await asyncio.sleep(50)
        said = await batches.cancel(remote.id)
        assert isinstance(said, Remote)
        assert said.state is RemoteState.CANCELLING
        return await at_its_end(batches, remote.id)

    end, seconds = run_virtually(work())
    assert end.state is RemoteState.CANCELLED
    assert 80 <= seconds < 95
    assert end.completed == service.queue.books.billed == 5
    assert json.loads(b"".join(service.queue.files("batch_output")[0].parts()).splitlines()[0])["error"] is None
