"""The limits of a run are changed while it works, and it pauses and goes on, as people ask from another process."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from programs import Done, call, local_server, started, write_table

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.output.control import ControlFile, Wish
from batcher.pool.blame import GIVES_UP_S, LEAVES_S
from batcher.pool.limiter import Limiter
from batcher.records import Usage

MINUTE, HOUR = 60.0, 3600.0


def rows(number: int) -> list[str]:
    return [f"row {position}" for position in range(number)]


def wish(lab: Lab, verb: str, run: int = 1, **values: Any) -> Callable[[], None]:
    """Ask for something in the control file, as the verbs do."""
    name = f"{verb} {json.dumps(values)} {random.random()}"
    return lambda: ControlFile(lab.directory / "control_k.json").add(Wish(name, run, verb, values))


def events(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.query("SELECT kind, detail FROM events WHERE kind LIKE '%by hand' ORDER BY id")


def most_in(window_s: float, times: list[float]) -> int:
    """Return the most calls in any window that begins at one of them."""
    return max(sum(start <= at < start + window_s for at in times) for start in times)


# -- Limits, in virtual time


@pytest.mark.parametrize(("old", "new"), [(600, 300), (300, 600), (600, 60), (60, 1200)])
def test_from_the_change_on_the_new_limit_holds_evenly(lab: Lab, old: float, new: float) -> None:
    prompts = rows(900)
    service = Service(prompts)
    at: dict[float, Any] = {90: wish(lab, "limit", rpm=new)}
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", rpm=old)])
    before = [each for each in service.times() if each < 90]
    after = [each for each in service.times() if each > 91.1]
    assert most_in(MINUTE, before) <= old
    assert most_in(MINUTE, after) <= new
    gaps = [later - earlier for earlier, later in pairwise(after)]
    assert max(gaps) < 1.1 * MINUTE / new + 0.2
    assert min(gaps[1:]) > 0
    around = [each for each in service.times() if 85 < each < 95]
    assert min(later - earlier for earlier, later in pairwise(around)) > 0.9 * MINUTE / max(old, new)
    assert after[0] < 91.1 + MINUTE / new + 0.2, "there is no pause at the change"
    assert (report.ok, report.by_hand) == (900, (f"rpm {old} -> {new:,}",))
    assert events(lab) == [("limited by hand", f"rpm {old} -> {new:,}")]
    assert f"by hand: rpm {old} -> {new:,}" in str(report)


def test_changes_one_after_another_let_no_burst_through(lab: Lab) -> None:
    prompts = rows(600)
    service = Service(prompts)
    changes = {20 + 2.0 * number: wish(lab, "limit", rps=4 if number % 2 else 5) for number in range(30)}
    lab.run(prompts, service, at=changes, endpoints=[Endpoint("m", rps=5)])
    assert most_in(1, service.times()) <= 5
    assert len(events(lab)) == 30


def test_tokens_that_are_owed_are_owed_under_the_new_limit_too(lab: Lab) -> None:
    prompts = rows(60)
    service = Service(prompts, usage=lambda _call: Usage(80, 20))
    at: dict[float, Any] = {61: wish(lab, "limit", rpm=600), 90: wish(lab, "limit", tpm=500)}
    lab.run(prompts, service, at=at, endpoints=[Endpoint("m", tpm=1000)])
    assert most_in(MINUTE, service.times()[1:]) <= 11
    assert most_in(MINUTE, [each for each in service.times() if each > 91]) <= 5


def test_the_requests_in_flight_go_up_and_down_and_none_is_cut(lab: Lab) -> None:
    prompts = rows(400)
    seen: dict[int, int] = {}
    service = Service(prompts, lambda _call: 5.0)
    at: dict[float, Any] = {
        52: wish(lab, "limit", max_concurrency=20),
        102: wish(lab, "limit", max_concurrency=2),
        **{moment: lambda moment=moment: seen.setdefault(moment, service.in_flight) for moment in (50, 100, 104, 110)},
    }
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", max_concurrency=4)])
    assert (seen[50], seen[100], seen[110]) == (4, 20, 2)
    assert seen[104] > 2, "what was in flight went on"
    assert (report.ok, service.cut.total()) == (400, 0)


def test_one_endpoint_of_several_gets_another_limit(lab: Lab) -> None:
    prompts = rows(300)
    service = Service(prompts)
    endpoints = [Endpoint("one", rps=2), Endpoint("two", rps=2)]
    report = lab.run(prompts, service, at={30: wish(lab, "limit", rps=1, endpoint=2)}, endpoints=endpoints)
    assert report.by_hand == ("endpoint 2: rps 2 -> 1",)
    assert most_in(1, service.times("one")) == 2
    assert most_in(1, [each for each in service.times("two") if each > 32]) == 1


def test_a_limit_where_there_was_none_and_of_all_accounts(lab: Lab) -> None:
    prompts = rows(300)
    service = Service(prompts)
    endpoints = [Endpoint(name, max_concurrency=2) for name in ("one", "two")]
    report = lab.run(prompts, service, at={20: wish(lab, "limit", rpm=60)}, endpoints=endpoints)
    assert report.by_hand == ("rpm none -> 60 (each of 2 accounts)",)
    for name in ("one", "two"):
        assert most_in(MINUTE, [each for each in service.times(name) if each > 21.1]) <= 60


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rpm": -1}, "rpm must be a number above 0, not -1"),
        ({"max_concurrency": 0}, "max_concurrency must be a whole number above 0"),
        ({"max_concurrency": 10**8}, "lower max_concurrency"),
        ({"rpm": 5, "endpoint": 7}, "endpoint: there are 1 endpoint, not 7"),
        ({"timeout": 5}, "this run has no limit 'timeout'"),
    ],
)
def test_a_run_refuses_what_it_cannot_do_and_goes_on(lab: Lab, values: dict[str, Any], said: str) -> None:
    prompts = rows(40)
    report = lab.run(
        prompts, Service(prompts), at={3.5: wish(lab, "limit", **values)}, endpoints=[Endpoint("m", rps=4)]
    )
    [(kind, why)] = events(lab)
    assert kind == "refused by hand"
    assert said in why
    assert (report.ok, report.by_hand) == (40, ())


# -- Pauses, in virtual time


def test_a_paused_run_sends_nothing_and_what_is_in_flight_arrives(lab: Lab) -> None:
    prompts = rows(40)
    service = Service(prompts, lambda _call: 5.0)
    seen: list[Any] = []
    at: dict[float, Any] = {
        11.5: wish(lab, "pause"),
        500: lambda: seen.append(batcher.status("k", lab.directory)),
        1000.5: wish(lab, "resume"),
    }
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", max_concurrency=4)])
    assert not [each for each in service.times() if 12.1 < each < 1000.5]
    [during] = seen
    assert (during.state, during.out_now) == ("paused", 0)
    assert during.ok == sum(each < 12.1 for each in service.times()) > 0
    assert during.by_hand[0].endswith(" paused")
    assert report.ok == 40
    assert report.by_hand == ("paused", "resumed after 16m 29s")
    assert [kind for kind, _ in events(lab)] == ["paused by hand", "resumed by hand"]
    assert not (lab.directory / "control_k.json").exists()


@pytest.mark.parametrize(
    ("why", "most_s"), [(refusal(403), LEAVES_S), (refusal(429), GIVES_UP_S), (refusal(503), 600.0)]
)
def test_no_rule_counts_the_pause(lab: Lab, why: Any, most_s: float) -> None:
    """An endpoint refuses all rows for a while, and the run pauses in the middle for longer than any rule allows."""
    prompts = rows(60)
    fresh = most_s == 600.0
    begin = 0.0 if fresh else 20.0

    def instead(call: Call) -> Any:
        return why if begin <= call.at < 10 * HOUR + 90 else None

    service = Service(prompts, instead=instead)
    at: dict[float, Any] = {begin + 60: wish(lab, "pause"), 10 * HOUR: wish(lab, "resume")}
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", rps=1, max_concurrency=4)])
    assert (report.ok, report.error) == (60, 0)


def test_after_a_pause_that_is_longer_than_the_window_no_window_has_more(lab: Lab) -> None:
    prompts = rows(500)
    service = Service(prompts)
    at: dict[float, Any] = {3.3: wish(lab, "pause"), 6.3: wish(lab, "resume")}
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", rps=50)])
    assert report.ok == 500
    assert [each.partition(" ")[0] for each in report.by_hand] == ["paused", "resumed"]
    assert most_in(1, service.times()) <= 50


def test_a_request_to_stop_ends_a_paused_run(lab: Lab) -> None:
    prompts = rows(40)
    at: dict[float, Any] = {5: wish(lab, "pause"), 100: lab.request_stop}
    service = Service(prompts)
    with pytest.raises(batcher.Interrupted) as stopped:
        lab.run(prompts, service, at=at, endpoints=[Endpoint("m", max_concurrency=2)])
    assert 100 <= lab.seconds < 101
    assert 0 < stopped.value.report.ok == service.answered.total() < 40
    assert batcher.status("k", lab.directory).state == "stopped"
    assert lab.run(prompts, Service(prompts)).ok == 40


def test_asking_twice_changes_nothing_the_second_time(lab: Lab) -> None:
    prompts = rows(40)
    at: dict[float, Any] = {
        5: wish(lab, "resume"),
        7: wish(lab, "pause"),
        9: wish(lab, "pause"),
        20: wish(lab, "resume"),
    }
    report = lab.run(prompts, Service(prompts), at=at, endpoints=[Endpoint("m", max_concurrency=2)])
    assert report.by_hand == ("paused", "resumed after 13s")
    assert [(kind, said) for kind, said in events(lab) if kind == "unchanged by hand"] == [
        ("unchanged by hand", "was not paused: nothing changed"),
        ("unchanged by hand", "paused already: nothing changed"),
    ]


def test_a_limit_set_by_hand_is_taken_off_and_the_one_of_the_start_holds_again(lab: Lab) -> None:
    prompts = rows(300)
    service = Service(prompts)
    at: dict[float, Any] = {
        10: wish(lab, "limit", rps=1, tpm=10**6, max_concurrency=3),
        60: wish(lab, "limit", rps="none", tpm="none", max_concurrency="none"),
        70: wish(lab, "limit", rps="none"),
        80: wish(lab, "limit", rps=4, max_concurrency=8),
    }
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", rps=4, max_concurrency=8)])
    assert report.by_hand == (
        "rps 4 -> 1, tpm none -> 1,000,000, max_concurrency 8 -> 3",
        "rps 1 -> 4, tpm 1,000,000 -> none, max_concurrency 3 -> 8",
    )
    assert [said for kind, said in events(lab) if kind == "unchanged by hand"][:1] == [
        "rps is 4 already: nothing changed"
    ]
    assert most_in(1, [each for each in service.times() if 12 < each < 60]) == 1
    assert most_in(1, [each for each in service.times() if each > 62]) == 4
    found = batcher.status("k", lab.directory)
    assert [each.partition(" ")[2] for each in found.by_hand] == list(report.by_hand)
    assert batcher.verify("k", prompts, output_dir=lab.directory).ok


def test_without_a_limit_of_the_start_none_is_no_limit_at_all(lab: Lab) -> None:
    prompts = rows(200)
    service = Service(prompts)
    at: dict[float, Any] = {5: wish(lab, "limit", rpm=6), 60: wish(lab, "limit", rpm="none")}
    report = lab.run(prompts, service, at=at, endpoints=[Endpoint("m", max_concurrency=1)])
    assert report.by_hand[0] == "rpm none -> 6"
    assert report.by_hand[1].startswith("rpm 6 -> none")
    assert lab.seconds < 400


@pytest.mark.parametrize(
    ("endpoints", "values", "said"),
    [
        ([Endpoint("m", rpm=60, rps=2)], {"rpm": 600}, "rpm 60 -> 600; rps 2 still binds"),
        ([Endpoint("m", rps=2, tpm=600)], {"rps": 20}, "rps 2 -> 20; tpm 600 still binds"),
        ([Endpoint("m", rpm=60, rps=2)], {"rpm": 100}, "rpm 60 -> 100"),
        (
            [Endpoint("m", rpm=60), Endpoint("n", rpm=60, rps=2)],
            {"rpm": 600},
            "rpm 60 -> 600 (each of 2 accounts); rps 2 of endpoint 2 still binds",
        ),
        (
            [Endpoint("m", max_concurrency=1), Endpoint("n", rpm=60, rps=2)],
            {"rpm": 600, "endpoint": 2},
            "rps 2 of endpoint 2 still binds",
        ),
    ],
)
def test_what_binds_still_is_said(lab: Lab, endpoints: list[Endpoint], values: dict[str, Any], said: str) -> None:
    prompts = rows(120)
    service = Service(prompts, usage=lambda _call: Usage(20, 10))
    report = lab.run(prompts, service, at={20: wish(lab, "limit", **values)}, endpoints=endpoints)
    assert report.by_hand[0].endswith(said)


# -- Whose request it is


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', '[{"id": "a", "run": "x", "verb": "pause"}]'])
def test_a_file_that_says_nothing_is_removed_and_harms_nothing(lab: Lab, content: str) -> None:
    prompts = rows(20)
    at: dict[float, Any] = {2: lambda: (lab.directory / "control_k.json").write_text(content)}
    assert lab.run(prompts, Service(prompts), at=at, endpoints=[Endpoint("m", max_concurrency=2)]).ok == 20
    assert not (lab.directory / "control_k.json").exists()


def test_what_was_asked_of_a_run_that_is_gone_is_not_done_by_the_next_one(lab: Lab) -> None:
    prompts = rows(20)
    service = Service(prompts)
    with pytest.raises(asyncio.CancelledError):
        lab.run(prompts, service, at={2.5: lab.cancel}, endpoints=[Endpoint("m", max_concurrency=2)])
    wish(lab, "pause", run=1)()
    report = lab.run(prompts, service)
    assert (report.ok, report.by_hand, events(lab)) == (20, (), [])
    assert not (lab.directory / "control_k.json").exists()


def test_a_request_that_another_verb_wrote_over_is_put_back(tmp_path: Path) -> None:
    file = ControlFile(tmp_path / "control_k.json")
    first, second, other = (Wish(name, run, "pause", {}) for name, run in (("a", 2), ("b", 2), ("c", 1)))
    file.add(other)
    file.add(first)
    file.add(second)
    file.add(second)
    assert file.read() == [first, second], "one to another run is dropped"
    file.withdraw(first)
    assert file.read() == [second]
    file.withdraw(second)
    assert not file.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_while_a_request_is_taken_is_taken_next(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader(io.StringIO):
        """Asks for something else as soon as it reads that a change was made."""

        def write(self, text: str) -> int:
            if "240 -> 60" in text:
                wish(lab, "limit", rpm=600)()
            return super().write(text)

    monkeypatch.setattr("sys.stderr", Reader())
    prompts = rows(80)
    at: dict[float, Any] = {2.5: wish(lab, "limit", rpm=60)}
    report = lab.run(prompts, Service(prompts), at=at, quiet=False, endpoints=[Endpoint("m", rpm=240)])
    assert report.by_hand == ("rpm 240 -> 60", "rpm 60 -> 600")
    assert not [path.name for path in lab.directory.iterdir() if "control" in path.name]


def test_a_file_system_that_cannot_say_for_a_while_is_told_once_and_ends_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, real = [False], os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if broken[0] and str(path).endswith("control_k.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, **options)

    monkeypatch.setattr("os.stat", stat)
    prompts = rows(80)
    at: dict[float, Any] = {
        2.5: lambda: broken.__setitem__(0, True),
        8.5: wish(lab, "limit", rpm=60),
        12.5: lambda: broken.__setitem__(0, False),
    }
    report = lab.run(prompts, Service(prompts), at=at, quiet=False, endpoints=[Endpoint("m", rpm=240)])
    assert (report.ok, report.by_hand) == (80, ("rpm 240 -> 60",))
    assert capsys.readouterr().err.count("cannot be read now (OSError") == 1


# -- The limiter alone


async def test_a_limiter_without_limits_becomes_one_with_them() -> None:
    limiter = Limiter()
    await limiter.ready()
    limiter.change(rps=5, tpm=100)
    await limiter.ready()
    limiter.reserve(10).leave()
    assert limiter.wait(95) > 0


# -- The verbs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["limit", "k"], "give at least one of --rpm, --rps, --tpm, --max-concurrency"),
        (["limit", "k", "--rpm", "0"], "--rpm must be a number above 0, not 0.0"),
        (["limit", "k", "--max-concurrency", "-1"], "--max-concurrency must be a whole number above 0, not -1"),
        (["limit", "k", "--rpm", "5", "--endpoint", "0"], "--endpoint must be a whole number above 0, not 0"),
        (["limit", "k", "--rps", "1e-9"], "--rps must be a number of at least 0.000001, not 1e-09"),
        (["limit", "k", "--rpm", "5"], "no process runs 'k' in"),
        (["pause", "k"], "no process runs 'k' in"),
        (["resume", "k"], "no process runs 'k' in"),
        (["pause", "other"], "there is no run 'other' in"),
        (["pause", "a/b"], "--keyword 'a/b' cannot be part of a file name"),
    ],
)
def test_without_a_running_process_or_with_a_wrong_value_it_is_exit_2(
    lab: Lab, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    lab.run(rows(3), Service(rows(3)))
    before = sorted(lab.directory.iterdir())
    assert main([*arguments, "--output-dir", str(lab.directory)]) == 2
    assert said in capsys.readouterr().err
    assert sorted(lab.directory.iterdir()) == before


def test_the_verbs_change_a_run_of_another_process_and_say_that_it_took_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said_by(*arguments: str) -> str:
        assert main([*arguments, "--output-dir", str(tmp_path / "output")]) == 0
        return capsys.readouterr().out

    write_table(tmp_path / "t.csv", ["text"], [[f"text {number}"] for number in range(3000)])
    with local_server(cwd=tmp_path) as server:
        options = ("--prompt", "{text}", "--base-url", server.base_url, "--model", "m", "--rpm", "600", "--json")
        with started("run", "t.csv", *options, cwd=tmp_path) as run:
            while server.books()["requests"] < 3:
                assert run.poll() is None
            done = call("limit", "t", "--rpm", "300", cwd=tmp_path)
            assert done == Done(0, "t: rpm 600 -> 300 (running process took it)\n", "")
            assert main(["limit", "t", "--rpm", "5", "--endpoint", "2", "--output-dir", str(tmp_path / "output")]) == 2
            assert "--endpoint: the run has 1 endpoint, not 2" in capsys.readouterr().err
            said = said_by("limit", "t", "--max-concurrency", "20", "--rps", "4.5")
            assert said == "t: rps none -> 4.5, max_concurrency 256 -> 20 (running process took it)\n"
            assert said_by("limit", "t", "--rpm", "300") == "t: rpm is 300 already: nothing changed\n"
            assert said_by("limit", "t", "--rpm", "none").startswith("t: rpm 300 -> 600; rps 4.5 still binds (running")
            assert said_by("pause", "t") == "t: paused (running process took it)\n"
            found = json.loads(said_by("status", "t", "--json"))
            assert found["state"] == "paused"
            assert [each.partition(" ")[2] for each in found["by_hand"]] == [
                "rpm 600 -> 300",
                "rps none -> 4.5, max_concurrency 256 -> 20",
                "rpm 300 -> 600; rps 4.5 still binds",
                "paused",
            ]
            assert "resumed after" in said_by("resume", "t")
            assert json.loads(said_by("status", "t", "--json"))["state"] == "running"
            said_by("pause", "t")
            run.send_signal(signal.SIGINT)
            out, said = run.communicate()
    assert run.returncode == 3
    assert json.loads(out)["by_hand"][0] == "rpm 600 -> 300"
    assert "Changed by hand: rpm 600 -> 300." in said
    assert "`batcher resume t` goes on" in said
    assert not (tmp_path / "output" / "control_t.json").exists()


def test_a_process_that_stands_still_does_not_answer_and_takes_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[f"text {number}"] for number in range(200)])
    monkeypatch.setattr("batcher.engine.by_hand._PATIENCE_S", 0.5)
    with local_server(cwd=tmp_path) as server:
        options = ("--prompt", "{text}", "--base-url", server.base_url, "--model", "m", "--rpm", "6000")
        with started("run", "t.csv", *options, cwd=tmp_path) as run:
            while server.books()["requests"] < 3:
                assert run.poll() is None
            os.kill(run.pid, signal.SIGSTOP)
            with pytest.raises(batcher.BatcherError, match=f"process {run.pid} on .* has not taken the change"):
                batcher.pause("t", tmp_path / "output")
            os.kill(run.pid, signal.SIGCONT)
            assert run.wait() == 0


async def test_from_a_loop_beside_which_the_run_works_nothing_is_waited_for(lab: Lab) -> None:
    from batcher.server.serve import embedded  # noqa: PLC0415 - uvicorn is for this test
    from batcher.server.simulated import Knobs  # noqa: PLC0415

    with embedded(Knobs(latency=0.05)) as server:
        endpoint = Endpoint("m", server.base_url, max_concurrency=2)
        options: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "quiet": True, "endpoints": [endpoint]}
        run = asyncio.create_task(batcher.arun(rows(60), **options))
        while server.books.requests < 3:  # noqa: ASYNC110 - the server is a thread
            await asyncio.sleep(0.01)
        change = batcher.limit("k", max_concurrency=20, output_dir=lab.directory)
        assert str(change) == "k: max_concurrency 20 (the run takes it within a second or two)"
        report = await run
    assert report.by_hand == ("max_concurrency 2 -> 20",)


def test_a_run_in_a_thread_answers(lab: Lab) -> None:
    program = (
        "import batcher, threading, sys, time\n"
        "def work():\n"
        "    batcher.run([f'row {n}' for n in range(400)], keyword='k', provider='offline', rps=20, quiet=True)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "while True:\n"
        "    try:\n"
        "        print(batcher.limit('k', rps=400)); break\n"
        "    except batcher.OutputError: time.sleep(0.05)\n"
        "thread.join()\n"
    )
    lab.directory.mkdir()
    (lab.directory / "script.py").write_text(program)
    done = call("script.py", cwd=lab.directory)
    assert (done.status, done.stdout) == (0, "k: rps 20 -> 400 (running process took it)\n"), done.stderr
