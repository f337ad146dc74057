"""The batches of a run are cancelled by hand: by the process that works on it, or by the verb itself."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, answer_to
from programs import call, finish, local_server, started, write_table
from virtual_time import run_virtually

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.engine.batching.cancelled import Cancellation
from batcher.engine.batching.cancelling import Wish, execute
from batcher.errors import BatcherError, BatchesOut, OutputError, RunStopped, SettingsError
from batcher.output.control import ControlFile
from batcher.output.control import Wish as ByHand
from batcher.output.directory import Store
from batcher.records import Completion, Failure
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, State
from batcher.server.faults import Fate, Reply

ROWS = [f"question {number}" for number in range(20)]
HALF_S = 3000.0  # into a batch that takes 6,000 s: half of its lines are answered


def service_of(
    *rules: BatchRule, instead: Callable[[Call], Completion | Failure | None] = lambda _call: None, **knobs: Any
) -> Service:
    made: dict[str, Any] = {"latency": 6000.0, "cancelling": 60.0} | knobs
    return Service(ROWS, instead=instead, batch_knobs=BatchKnobs(**made, rules=rules))


def submit(lab: Lab, service: Service, **options: Any) -> None:
    """Submit the table, and leave it at the service."""
    with pytest.raises(BatchesOut):
        lab.run(ROWS, service, via="batch", wait="no", **options)


def cancel(
    lab: Lab, service: Service, wait: float | str | None = None, *, forget: bool = False, **given: Any
) -> Cancellation:
    """Cancel by a process of its own."""
    options: Mapping[str, Any] = {"endpoints": [Endpoint("m")]} | given
    ids = [number for (number,) in lab.query("SELECT id FROM batches WHERE state NOT IN ('done', 'dropped')")]
    wish = Wish("k", wait, forget, options)
    return run_virtually(execute(wish, Store(lab.directory, "k"), ids, service))[0]


def states(lab: Lab) -> list[str]:
    return [state for (state,) in lab.query("SELECT state FROM batches ORDER BY id")]


def outcomes(lab: Lab) -> Counter[str]:
    return Counter(name for (name,) in lab.query("SELECT outcome FROM requests WHERE sent_in IS NOT NULL"))


def test_what_was_answered_is_fetched_and_the_next_run_asks_the_rest(lab: Lab) -> None:
    service = service_of()
    submit(lab, service)
    service.pass_by(HALF_S)

    found = cancel(lab, service)

    assert (found.batches, found.open, found.failed, found.lost) == (1, 0, 0, 0)
    assert (found.answered, found.cancelled) == (10, 10)
    assert found.left == 10
    assert states(lab) == ["done"]
    assert lab.query("SELECT kind, detail FROM events WHERE kind LIKE '%by hand'") == [
        ("cancelled by hand", "cancelling 1 batch with 20 rows")
    ]
    assert batcher.status("k", lab.directory).reason == "its batches were cancelled"
    lab.run(ROWS, service)
    assert [row["infer"] for row in lab.rows()] == [*map(answer_to, ROWS)]
    assert service.billed == Counter(ROWS)


def test_with_wait_no_the_next_run_fetches_what_was_cancelled(lab: Lab) -> None:
    service = service_of()
    submit(lab, service)
    service.pass_by(HALF_S)

    found = cancel(lab, service, "no")

    assert (found.open, found.answered) == (1, 0)
    assert "1 of 1 batch is being cancelled" in str(found)
    assert service.queue.batches()[0].state is State.CANCELLING
    service.pass_by(100)
    lab.run(ROWS, service)
    assert outcomes(lab) == {"answered": 10, "cancelled": 10}
    assert service.billed == Counter(ROWS)


def test_it_waits_no_longer_than_asked_and_can_be_called_again(lab: Lab) -> None:
    service = service_of(cancelling=600.0)
    submit(lab, service)

    assert cancel(lab, service, 30).open == 1
    assert cancel(lab, service).open == 0
    assert service.queue.books.made == 1


def test_a_batch_that_is_over_already_is_fetched(lab: Lab) -> None:
    service = service_of()
    submit(lab, service)
    service.pass_by(7000)

    found = cancel(lab, service)

    assert (found.answered, found.cancelled, found.left) == (20, 0, 0)


def test_labels_and_corrections_are_read_as_the_run_reads_them(lab: Lab) -> None:
    def label(call: Call) -> Completion:
        return Completion("Good." if call.prompt.startswith(f"{ROWS[0]}\n") else "so la la", "stop")

    service = service_of(instead=label)
    service.prompts = Anything()
    options: dict[str, Any] = {"labels": ["good", "bad"], "structured": "prompt", "repair": 1}
    submit(lab, service, **options)
    service.pass_by(7000)

    found = cancel(lab, service)

    assert lab.query("SELECT status, answer FROM results") == [("ok", "good")]
    assert outcomes(lab) == {"answered": 1, "unfit": 19}
    assert (found.answered, found.left) == (20, 19)
    assert lab.query("SELECT count(*) FROM readings") == [(1,)]


def test_of_several_answers_to_a_row_each_is_kept(lab: Lab) -> None:
    service = service_of()
    submit(lab, service, samples=2)
    service.pass_by(7000)

    cancel(lab, service)

    assert lab.query("SELECT count(*) FROM opinions") == [(40,)]
    lab.run(ROWS, service, samples=2)
    assert service.calls == []
    assert [row["infer_status"] for row in lab.rows()] == ["ok"] * 20


@pytest.mark.parametrize(
    ("state", "made"),
    [("made", False), ("uploading", False), ("uploaded", False), ("creating", False), ("creating", True)],
)
def test_a_batch_that_a_kill_left_half_way_is_dropped_or_found(lab: Lab, state: str, made: bool) -> None:
    service = service_of()
    submit(lab, service)
    lab.change(f"UPDATE batches SET state = '{state}', service_id = NULL")  # noqa: S608 - one of our own
    if not made:
        [batch] = service.queue.batches()
        batch.metadata.clear()
        lab.change("UPDATE batches SET input_file = NULL")

    found = cancel(lab, service)

    assert (found.open, found.cancelled) == (0, 20)
    assert states(lab) == ["done" if made else "dropped"]
    assert service.queue.books.made == 1
    assert (service.queue.batches()[0].state is State.CANCELLED) is made


def test_a_batch_that_its_service_does_not_know_says_what_to_do(lab: Lab) -> None:
    service = service_of()
    submit(lab, service)
    lab.change("UPDATE batches SET service_id = 'batch_gone'")

    with pytest.raises(BatcherError, match=r"(?s)batch_gone of 20 lines is not known.*forget=True"):
        cancel(lab, service)

    assert states(lab) == ["sent"]
    found = cancel(lab, service, forget=True)
    assert str(found).startswith("k: 1 batch given up\n")
    assert (found.open, found.lost, found.left) == (0, 20, 20)
    assert outcomes(lab) == {"lost": 20}


def test_a_wrong_key_is_said_at_once(lab: Lab) -> None:
    reply = Reply(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
    refuses = [BatchRule(at=place, does=Fate.ERROR, reply=reply, start=10) for place in (Place.LOOK, Place.CANCEL)]
    service = service_of(*refuses)
    submit(lab, service)
    service.pass_by(100)

    with pytest.raises(BatcherError, match="Incorrect API key"):
        cancel(lab, service)

    assert states(lab) == ["sent"]
    assert cancel(lab, service, forget=True).lost == 20


def test_a_service_that_is_down_for_a_while_is_asked_again(lab: Lab) -> None:
    service = service_of(
        BatchRule(at=Place.CANCEL, does=Fate.DROP, times=3), BatchRule(at=Place.CONTENT, does=Fate.DROP, times=2)
    )
    submit(lab, service)
    service.pass_by(HALF_S)

    assert cancel(lab, service).answered == 10


def test_one_batch_of_two_that_cannot_be_fetched_keeps_the_other_from_nothing(lab: Lab) -> None:
    service = service_of()
    with pytest.raises(BatchesOut):
        lab.run(ROWS, service, via="batch", wait="no", endpoints=[Endpoint("m")], limit=10)
    with pytest.raises(BatchesOut):
        lab.run(ROWS, service, via="batch", wait="no")
    lab.change("UPDATE batches SET service_id = 'batch_gone' WHERE id = 1")
    service.pass_by(7000)

    found = cancel(lab, service)

    assert (found.batches, found.open, found.answered) == (2, 1, 10)
    assert "batch_gone" in found.trouble
    assert "batch_gone" in str(found)


# -- Through the run at work


def test_a_run_at_work_cancels_its_batches_fetches_them_and_ends(lab: Lab) -> None:
    service = service_of()
    asks = ByHand("one", 1, "cancel", {})
    again = ByHand("two", 1, "cancel", {})
    file = ControlFile(lab.directory / "control_k.json")

    with pytest.raises(RunStopped) as stopped:
        lab.run(ROWS, service, via="batch", at={HALF_S: lambda: file.add(asks), HALF_S + 20: lambda: file.add(again)})

    report = stopped.value.report
    assert report.left == 20 - report.ok
    assert 9 <= report.ok <= 11
    assert report.by_hand == ("cancelling 1 batch with 20 rows",)
    assert outcomes(lab) == {"answered": report.ok, "cancelled": report.left}
    assert [kind for (kind,) in lab.query("SELECT kind FROM events WHERE kind LIKE '%by hand' ORDER BY id")] == [
        "cancelled by hand",
        "unchanged by hand",
    ]
    lab.run(ROWS, service, via="batch")
    assert service.billed == Counter(ROWS)


def test_a_run_without_batches_refuses(lab: Lab) -> None:
    service = service_of()
    file = ControlFile(lab.directory / "control_k.json")

    lab.run(
        ROWS, service, at={0.5: lambda: file.add(ByHand("one", 1, "cancel", {}))}, endpoints=[Endpoint("m", rpm=60)]
    )

    assert lab.query("SELECT kind FROM events WHERE kind LIKE '%by hand'") == [("refused by hand",)]


# -- The verb


def test_there_is_nothing_to_cancel(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run(ROWS, Service(ROWS))

    with pytest.raises(OutputError, match="'k' has no batch at a service: there is nothing to cancel"):
        batcher.cancel("k", output_dir=lab.directory)
    assert main(["cancel", "k", "--output-dir", str(lab.directory)]) == 2
    assert "nothing to cancel" in capsys.readouterr().err


def test_a_missing_key_is_named_by_its_variable(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("API_KEY", raising=False)
    submit(lab, service_of(), endpoints=[Endpoint("gpt-4.1-nano", "https://api.openai.com/v1")])

    assert main(["cancel", "k", "--output-dir", str(lab.directory)]) == 2

    assert "no API key for https://api.openai.com/v1: set OPENAI_API_KEY" in capsys.readouterr().err
    assert states(lab) == ["sent"]


def test_another_service_than_that_of_the_batches_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    submit(lab, service_of(), endpoints=[Endpoint("gpt-4.1-nano", "https://api.openai.com/v1")])
    monkeypatch.setenv("GROQ_API_KEY", "gsk-test-key-of-groq")

    with pytest.raises(SettingsError, match=r"that is https://api\.groq\.com/openai/v1, and a batch of this run is at"):
        batcher.cancel("k", provider="groq", output_dir=lab.directory)
    with pytest.raises(SettingsError, match=r"none of them is gpt-4\.1-nano at https://api\.openai\.com/v1"):
        batcher.cancel("k", endpoints=[Endpoint("m", "http://elsewhere/v1")], output_dir=lab.directory)


def test_the_result_is_also_json() -> None:
    found = Cancellation(
        keyword="k",
        batches=2,
        open=1,
        answered=3,
        failed=1,
        cancelled=4,
        lost=2,
        cost_usd=0.5,
        uncertain_usd=0.25,
        left=9,
    )

    assert json.loads(json.dumps(found.to_dict()))["answered"] == 3
    assert str(found) == (
        "k: 1 of 2 batches is being cancelled\n"
        "  rows      3 answered, 1 failed, 4 cancelled, 2 lost\n"
        "  money     $0.50 for answers, at most $0.25 without one\n"
        "  left      9 rows without a result"
    )


# -- Real processes


def test_the_verb_asks_the_run_at_work_or_cancels_by_itself(tmp_path: Path) -> None:
    data = write_table(tmp_path / "t.csv", ["text"], [[row] for row in ROWS])
    cancels = ("cancel", "t", "--json")
    with local_server("--batch-latency", "2h", cwd=tmp_path) as server:
        run = ("run", data, "-p", "{text}", "--via", "batch", "--model", "sim", "--base-url", server.base_url)
        with started(*run, cwd=tmp_path) as program:
            wait_for(lambda: "sent" in batch_states(tmp_path))
            first = call(*cancels, cwd=tmp_path)
            ended = finish(program)
        assert first.status == 0, first.stderr
        assert json.loads(first.stdout)["cancelled"] == 20
        assert ended.status == 3
        assert "the batches were cancelled" in ended.stderr

        with started(*run, cwd=tmp_path) as program:
            wait_for(lambda: "sent" in batch_states(tmp_path))
            program.kill()
            program.wait()
        second = call(*cancels, cwd=tmp_path)
        assert second.status == 0, second.stderr
        assert json.loads(second.stdout)["left"] == 20
        assert batch_states(tmp_path) == ["done", "done"]
        assert call(*cancels, cwd=tmp_path).status == 2


def batch_states(directory: Path) -> list[str]:
    path = directory / "output" / "journal_t.sqlite"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as journal:
        try:
            return [state for (state,) in journal.execute("SELECT state FROM batches ORDER BY id")]
        except sqlite3.OperationalError:  # it is being made
            return []


def wait_for(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.05)
