"""The page tells of a run as it works, and pauses it; what it tells costs no pass over the table."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, refusal
from page_client import Client, page_of
from programs import ROOT, LocalServer, local_server, started, write_table

import batcher
from batcher.endpoint import Endpoint
from batcher.journal.following import Followed, Follower
from batcher.journal.opening import read_journal
from batcher.records import Completion, Failure, Usage

_PATIENCE_S = 90


class Stream:
    """The events of a page, as a tab of a browser gets them."""

    def __init__(self, client: Client) -> None:
        self._connection = http.client.HTTPConnection(client.place, timeout=_PATIENCE_S)
        self._connection.request("GET", f"/{client.token}/api/live")
        self._response = self._connection.getresponse()
        assert self._response.getheader("content-type") == "text/event-stream"

    def next(self) -> tuple[str, Any]:
        """Return the next event; its name is empty at the end of the stream."""
        try:
            name = self._response.readline()
            data = self._response.readline()
            self._response.readline()
        except (ConnectionError, http.client.HTTPException):
            return "", None
        if not name:
            return "", None
        return name.decode().partition(": ")[2].strip(), json.loads(data.decode().partition(": ")[2])

    def until(self, name: str, is_it: Callable[[Any], bool] = lambda _values: True) -> Any:
        """Return the first event of a name that is as expected."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            found, values = self.next()
            assert found, "the stream has ended"
            assert time.monotonic() < end, values
            if found == name and is_it(values):
                return values

    def close(self) -> None:
        self._connection.close()


@contextmanager
def stream_of(client: Client) -> Iterator[Stream]:
    with contextlib.closing(Stream(client)) as stream:
        yield stream


def answering(call: Call) -> Completion | Failure | None:
    """Return an error for some rows, and an answer that is no label for others."""
    number = int(call.prompt.split()[1])
    if number % 11 == 3:
        return refusal(400)
    return Completion("neither" if number % 7 == 2 else "good", "stop", Usage(prompt_tokens=10, completion_tokens=1))


def service() -> Service:
    made = Service([], latency=lambda call: 1.0 + int(call.prompt.split()[1]) % 5, instead=answering)
    made.prompts = Anything()
    return made


# -- What is added up


class Watcher:
    """Looks at the journal of a run again and again, with one follower, and each time with one that knows nothing."""

    def __init__(self, lab: Lab) -> None:
        self._path = lab.directory / "journal_k.sqlite"
        self._follower = Follower()
        self.seen: list[Followed] = []

    def look(self) -> None:
        with read_journal(self._path) as journal, journal.snapshot():
            last = journal.last_run()
            assert last is not None
            found = self._follower.look(journal, last.id, last.started, time.time())
            fresh = Follower().look(journal, last.id, last.started, time.time())
            assert (found.counts, found.in_flight, found.cost) == (fresh.counts, fresh.in_flight, fresh.cost)
            assert found.counts == journal.counts()
        self.seen.append(found)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dedup": True},
        {"samples": 3},
        {"retries": True},
        {"endpoints": [Endpoint("m", max_concurrency=7, prices={"in": 1.0, "out": 2.0})]},
    ],
    ids=["plain", "dedup", "samples", "retries", "priced"],
)
def test_what_is_new_adds_up_to_what_there_is(lab: Lab, options: dict[str, Any]) -> None:
    rows = [f"row {number % 40 if 'dedup' in options else number}" for number in range(80)]
    watcher = Watcher(lab)
    given: dict[str, Any] = {"labels": ["good", "bad"], "endpoints": [Endpoint("m", max_concurrency=7)], **options}
    again = given.pop("retries", False)
    looks = {1.5 + 2 * number: watcher.look for number in range(12)}
    report = lab.run(rows, service(), "{text}", at=looks, **given)
    watcher.look()
    if again:
        lab.run(rows, service(), "{text}", at=looks, retry_failed=True, **given)
        watcher.look()
    counts = watcher.seen[-1].counts
    assert (counts.ok, counts.invalid, counts.error) == (report.ok, report.invalid, report.error)
    assert len({each.counts for each in watcher.seen}) > 3, "it was looked at while it worked"
    assert any(each.in_flight for each in watcher.seen)
    assert not watcher.seen[-1].in_flight
    assert (watcher.seen[-1].cost is not None) == (report.cost_usd is not None)


def test_a_correction_moves_a_row_from_one_status_to_another(lab: Lab) -> None:
    lab.run([f"row {number}" for number in range(20)], service(), "{text}", labels=["good", "bad"], chunk_size=20)
    watcher = Watcher(lab)
    watcher.look()
    before = watcher.seen[-1].counts
    rows = lab.rows(0)
    [*_, changed] = [row for row in rows if row["infer_status"] == "invalid"]
    text = lab.path(0).read_text(encoding="utf-8")
    assert text.count("neither") >= 1
    changed_row = next(line for line in text.splitlines() if line.startswith(f"{changed['text']},"))
    fixed = changed_row.replace("neither", "bad").replace("invalid", "ok")
    lab.path(0).write_text(text.replace(changed_row, fixed), encoding="utf-8")
    os.utime(lab.path(0), (time.time() + 5,) * 2)
    batcher.merge("k", lab.directory)
    lab.run([f"row {number}" for number in range(20)], service(), "{text}", labels=["good", "bad"], chunk_size=20)
    watcher.look()
    after = watcher.seen[-1].counts
    assert (after.ok, after.invalid, after.error) == (before.ok + 1, before.invalid - 1, before.error)


# -- A run beside the page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server("--latency", "0.02", cwd=tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, server: LocalServer) -> Path:
    server.reset()
    write_table(tmp_path / "t.csv", ["text"], [[f"row {number}"] for number in range(400)])
    return tmp_path


def run_a_part(folder: Path, server: LocalServer) -> None:
    """Run the first three rows of the table."""
    given: dict[str, Any] = {"base_url": server.base_url, "model": "m", "keyword": "k", "quiet": True}
    assert batcher.run(folder / "t.csv", "{text}", limit=3, output_dir=folder / "output", **given).ok == 3


def slowly(server: LocalServer) -> list[str]:
    """Return the command that runs the table, ten rows a second."""
    words = ["run", "t.csv", "--prompt", "{text}", "--base-url", server.base_url, "--model", "m", "--keyword", "k"]
    return [*words, "--rpm", "600", "--quiet"]


def test_a_run_that_begins_after_the_page_is_shown_paused_and_resumed(folder: Path, server: LocalServer) -> None:
    run_a_part(folder, server)
    with page_of(folder / "output") as (client, _), stream_of(client) as stream:
        rest = stream.until("live")
        assert (rest["at_work"], rest["state"], rest["rows"], rest["left"]) == (False, "done", 3, 0)
        assert rest["rate"] == rest["in_flight"] == 0
        with started(*slowly(server), cwd=folder) as run:
            begun = stream.until("live", lambda found: found["at_work"] and found["done"] > 10)
            assert (begun["state"], begun["rows"]) == ("running", 400)
            later = stream.until("live", lambda found: found["done"] > begun["done"])
            assert later["rate"] > 0
            assert later["left_s"] > 0
            assert "400 rows" in later["said"]
            assert client.post("api/pause").json["said"].startswith("k: paused")
            paused = stream.until("live", lambda found: found["paused"])
            assert (paused["at_work"], paused["state"], paused["left_s"]) == (True, "paused", None)
            assert "already" in client.post("api/pause").json["said"]
            assert client.post("api/resume").json["said"].startswith("k: resumed")
            assert not stream.until("live", lambda found: not found["paused"])["paused"]
            batcher.limit("k", rpm=60_000, output_dir=folder / "output")
            assert run.wait() == 0
            over = stream.until("live", lambda found: not found["at_work"])
    assert (over["state"], over["done"], over["left"], over["in_flight"]) == ("done", 400, 0, 0)


def test_nothing_is_paused_if_nothing_works(lab: Lab) -> None:
    lab.run(["row 0"], service(), "{text}")
    with page_of(lab.directory) as (client, _):
        reply = client.post("api/pause")
    assert reply.status == 400
    assert "no process runs 'k'" in reply.json["error"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system kills otherwise")
def test_a_run_that_was_killed_is_not_at_work(folder: Path, server: LocalServer) -> None:
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(started(*slowly(server), cwd=folder))
        server.wait_for(20)
        client, _ = stack.enter_context(page_of(folder / "output"))
        stream = stack.enter_context(stream_of(client))
        assert stream.until("live")["at_work"]
        run.kill()
        run.wait()
        found = stream.until("live", lambda found: found["state"] != "running")
    assert (found["at_work"], found["state"], found["in_flight"], found["rate"]) == (False, "killed", 0, 0)
    assert "killed" in found["said"]
    assert 0 < found["done"] < 400


# -- Tabs


def test_a_tab_hears_of_what_another_has_labelled(lab: Lab) -> None:
    lab.run([f"row {number}" for number in range(20)], service(), "{text}", labels=["good", "bad"])
    batcher.sample("k", 5, output_dir=lab.directory)
    with page_of(lab.directory) as (client, _), stream_of(client) as one, stream_of(client) as two:
        for stream in (one, two):
            stream.until("live")
        assert client.post("api/sample/label", drawn=3, gold="good").status == 200
        assert [stream.until("sample")["drawn"] for stream in (one, two)] == [3, 3]


def test_a_tab_that_goes_away_leaves_nothing_behind(lab: Lab) -> None:
    lab.run(["row 0"], service(), "{text}")
    with page_of(lab.directory) as (client, served):
        streams = [Stream(client) for _ in range(5)]
        for stream in streams:
            stream.until("live")
        assert served.page.live.pages == 5
        for stream in streams:
            stream.close()
        end = time.monotonic() + _PATIENCE_S
        while served.page.live.pages:
            assert time.monotonic() < end
            client.get("api/run")
        with stream_of(client) as stream:
            assert stream.until("live")["rows"] == 1


def test_the_end_of_the_page_ends_its_streams(lab: Lab) -> None:
    lab.run(["row 0"], service(), "{text}")
    with page_of(lab.directory) as (client, _):
        stream = Stream(client)
        stream.until("live")
    assert stream.next() == ("", None)
    stream.close()


# -- Labels beside a run


def test_labels_are_given_while_a_run_works_and_it_writes_them_into_the_journal(
    folder: Path, server: LocalServer
) -> None:
    run_a_part(folder, server)
    with contextlib.ExitStack() as stack:
        batcher.sample("k", 3, output_dir=folder / "output")
        client, _ = stack.enter_context(page_of(folder / "output"))
        stream = stack.enter_context(stream_of(client))
        run = stack.enter_context(started(*slowly(server), cwd=folder))
        stream.until("live", lambda found: found["at_work"])
        reply = client.post("api/sample/label", drawn=2, gold="what a person says", note="beside the run")
        assert reply.status == 200, reply.json
        assert (reply.json["via"], reply.json["done"]) == ("run", 1)
        assert stream.until("sample")["drawn"] == 2
        busy = client.post("api/sample/draw", n=5, per_label=False)
        assert (busy.status, busy.json["kind"]) == (423, "busy")
        run.send_signal(signal.SIGINT)
        assert run.wait() == 3
        assert client.post("api/sample/label", drawn=1, gold="afterwards").json["via"] == "journal"
    made = batcher.sample("k", output_dir=folder / "output")
    assert (made.labelled, made.read) == (2, 0)
    with (folder / "output" / "sample_k.csv").open(encoding="utf-8", newline="") as file:
        golds = {row["sample_row"]: row["gold"] for row in csv.DictReader(file)}
    assert golds == {"1": "afterwards", "2": "what a person says", "3": ""}


SLOW = """
import pathlib, sys, time
import batcher

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "batcher.calls.factory":
            pathlib.Path("loading").touch()
            while not pathlib.Path("go").exists():
                time.sleep(0.05)

sys.meta_path.insert(0, Slow())
batcher.run("t.csv", "{text}", keyword="k", model="m", base_url=sys.argv[1], quiet=True)
"""


def test_a_run_records_labels_before_it_has_loaded_what_it_asks_with(folder: Path, server: LocalServer) -> None:
    run_a_part(folder, server)
    (folder / "slow.py").write_text(SLOW, encoding="utf-8")
    with contextlib.ExitStack() as stack:
        batcher.sample("k", 2, output_dir=folder / "output")
        client, _ = stack.enter_context(page_of(folder / "output"))
        new = {"PYTHONPATH": str(ROOT)}  # a new interpreter: a fork has it loaded
        run = stack.enter_context(started(folder / "slow.py", server.base_url, cwd=folder, **new))
        while not (folder / "loading").exists():
            assert run.poll() is None
            client.get("api/run")
        reply = client.post("api/sample/label", drawn=1, gold="a", note="")
        assert reply.status == 200, reply.json
        assert (reply.json["via"], reply.json["done"]) == ("run", 1)
        (folder / "go").touch()
        assert run.wait() == 0
    assert batcher.sample("k", output_dir=folder / "output").labelled == 1
