"""Rehearsals: real runs in processes of their own, really killed, against the local server with its faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from langchain_openai import ChatOpenAI
from programs import ROOT, call, finish, started, table, write_table

import batcher
from batcher.errors import KeywordBusy
from batcher.input.selection import draw
from batcher.journal.entries import Counts, EndpointTotals
from batcher.records import Result, Status
from batcher.rehearsal.check import Check
from batcher.rehearsal.child import moments_of, variables_with
from batcher.rehearsal.mishaps import default_batch_faults, default_faults
from batcher.rehearsal.scene import Scene, _dummies, _toml
from batcher.reports.verification.verify import Verification
from batcher.server.batch_rules import Place, Slip, State
from batcher.server.books import Books
from batcher.server.faults import Fate, Faults, unit
from batcher.settings import Settings

MINE = "sk-secret-0123456789"
ROWS = 60


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    texts = [["text", "note"], *([f"What is {number} + 1?", f"n{number}"] for number in range(ROWS))]
    return write_table(tmp_path / "rows.csv", texts[0], texts[1:])


def listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- whole rehearsals ---


def test_a_rehearsal_by_batch_is_killed_when_it_makes_one_and_each_row_is_billed_once(
    tmp_path: Path, rows: Path
) -> None:
    (tmp_path / "f.toml").write_text('[[fault]]\nmatch = "1 [+]"\nstatus = 500\ntimes = 1\n')
    (tmp_path / "b.toml").write_text(
        '[[fault]]\nlines = "drop"\ntimes = 1\n[[fault]]\nend = "failed"\nanswered = 0.5\ntimes = 1\n'
    )
    options = ("--via", "batch", "--limit", "12", "--kills", "1", "--faults", "f.toml", "--batch-faults", "b.toml")
    done = call("rehearse", rows, "--prompt", "{text}", *options, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["disagreements"] == found["findings"] == []
    assert (done.status, found["ok"], found["twice"], found["kills"], found["starts"]) == (0, 12, 0, 1, 2)
    assert [each["fault"] for each in found["faults"]][1:] == [
        "batches 1 lines: drop",
        "batches 2 failed, 0.5 of the lines answered",
    ]
    assert found["batches"]["completed"] >= 2
    assert found["batches"]["failed"] >= 2  # one of them for its size
    assert "at a request to make a batch" in done.stderr


def test_faults_of_batches_are_for_runs_by_batch(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "b.toml").write_text('[[fault]]\nend = "failed"\n')
    done = call("rehearse", rows, "--prompt", "{text}", "--batch-faults", "b.toml", cwd=tmp_path)
    assert (done.status, "--batch-faults is for --via batch" in done.stderr) == (2, True)


def test_the_moments_of_kills_by_batch_are_requests_of_each_kind() -> None:
    books = Books()
    moments = moments_of(100, 4, by_batch=True)
    for moment in moments:
        assert moment.place
        assert not moment.has_come(books, {})
        books.batches.by_call[moment.place] += 1
        assert moment.has_come(books, {})
        assert not moment.has_come(books, {moment.place: 1})
    assert len({moment.place for moment in moments}) == 4


def test_the_usual_faults_of_batches_do_not_last() -> None:
    rules = default_batch_faults()
    assert all(rule.times for rule in rules)
    assert {rule.at for rule in rules if rule.at} == {Place.CREATE, Place.UPLOAD, Place.LOOK, Place.CONTENT}
    assert {rule.lines for rule in rules if rule.lines} == {Slip.DROP, Slip.DOUBLE, Slip.FOREIGN}
    assert {rule.end for rule in rules if rule.end} == {State.EXPIRED}


def test_a_rehearsal_is_killed_goes_on_ends_in_verify_and_leaves_nothing_behind(tmp_path: Path, rows: Path) -> None:
    before = listed(tmp_path)
    done = call("rehearse", rows, "--prompt", "{text}", "--json", "--chunk-size", "10", cwd=tmp_path)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert found["verified"]
    assert (found["rows"], found["ok"], found["invalid"], found["error"]) == (ROWS, ROWS - 1, 0, 1)
    assert (found["kills"], found["kills_wanted"], found["starts"], found["stops"]) == (2, 2, 3, [])
    assert found["requests"] > ROWS
    assert found["faults"][0]["fault"] == "1 one row is refused"
    assert found["twice"] <= found["in_flight"]
    assert (found["findings"], found["disagreements"]) == ([], [])
    assert found["directory"] is None
    assert re.findall(r"^Killed \((\d) of 2\) after (\d+) answers; it starts again\.$", done.stderr, re.MULTILINE)
    assert listed(tmp_path) == before


def test_several_answers_to_a_row_are_rehearsed_and_rows_that_are_asked_once_more(tmp_path: Path, rows: Path) -> None:
    options = ("--prompt", "{text}", "--samples", "3", "--repeat-sample", "5", "--kills", "1", "--json")
    done = call("rehearse", rows, *options, cwd=tmp_path)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["passed"], found["verified"], found["ok"], found["error"]) == (True, True, ROWS - 1, 1)
    assert found["answered"] >= (ROWS - 1 + 5) * 3
    assert found["twice"] <= found["in_flight"]


def test_a_kept_rehearsal_used_no_key_no_proxy_and_no_other_server(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "faults.toml").write_text(
        '[[fault]]\nmatch = "What is 7 "\nservice = "openai"\ncase = "content"\n'
        '[[fault]]\nshare = 0.2\ntimes = 1\nstatus = 502\nbody = "<html>bad gateway</html>"\n',
        encoding="utf-8",
    )
    (tmp_path / ".env").write_text(f"API_KEY={MINE}-a,{MINE}-b\nBASE_URL=https://api.example.com/v1\nMODEL=m\n")
    options = (
        *("--prompt", "{text} {note}", "--system", "Be short.", "--param", "temperature=0", "--param", 'stop=["x"]'),
        *("--keyword", "labels", "--rps", "500", "--max-concurrency", "5", "--faults", "faults.toml", "--kills", "1"),
        *("--keep", "--header", f"X-Secret={MINE}-c", "--dedup", "--max-attempts", "4"),
    )
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    done = call("rehearse", rows, *options, cwd=tmp_path, **proxies)
    assert done.status == 0, done.stderr
    folder = tmp_path / "output" / "rehearsal_labels"
    result = table(folder / "all_labels.csv")
    assert [row["text"] for row in result] == [f"What is {number} + 1?" for number in range(ROWS)]
    assert [number for number, row in enumerate(result) if row["infer_status"] != "ok"] == [7]
    with contextlib.closing(sqlite3.connect(folder / "journal_labels.sqlite")) as journal:
        [(question,)] = journal.execute("SELECT DISTINCT question FROM runs")
        pools = journal.execute("SELECT count(DISTINCT id), count(DISTINCT endpoint) FROM requests").fetchone()
        urls = {url for (url,) in journal.execute("SELECT base_url FROM sources WHERE base_url <> ''")}
    asked = json.loads(question)
    assert (asked["prompt"], asked["system"], asked["params"]) == (
        "{text} {note}",
        "Be short.",
        {"temperature": 0, "stop": ["x"]},
    )
    assert pools[1] == 2, "as many endpoints as the real run has keys"
    assert [url.startswith("http://127.0.0.1:") for url in urls] == [True]
    endpoints = tomllib.loads((folder / "endpoints.toml").read_text(encoding="utf-8"))["endpoint"]
    assert [(each["model"], each["rps"], each["max_concurrency"]) for each in endpoints] == [("m", 500, 5)] * 2
    for path in folder.iterdir():
        assert MINE.encode() not in path.read_bytes(), path
    assert MINE not in done.stdout + done.stderr
    assert f"files     {Path('output') / 'rehearsal_labels'}" in done.stdout
    assert listed(tmp_path / "output") == {
        "rehearsal_labels",
        *(f"rehearsal_labels/{p.name}" for p in folder.iterdir()),
    }

    again = call("rehearse", rows, "--prompt", "{text}", "--keyword", "labels", "--limit", "3", "--kills", "0",
                 "--json", cwd=tmp_path)  # fmt: skip
    found = json.loads(again.stdout)
    assert (again.status, found["rows"], found["kills"], found["starts"]) == (0, 3, 0, 1)
    assert listed(tmp_path / "output") == set(), "the next one takes its place"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_any_table_and_any_source_of_prompts_can_be_rehearsed(tmp_path: Path, ending: str) -> None:
    texts = [f"What is {number} + 2?" for number in range(8)]
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"asked": texts}), path)
        source = ["--prompt-column", "asked"]
    else:
        messages = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts]
        path.write_text("".join(json.dumps({"talk": each}) + "\n" for each in messages), encoding="utf-8")
        source = ["--messages-column", "talk"]
    done = call("rehearse", path, *source, "--kills", "0", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.status, found["rows"], found["disagreements"]) == (0, 8, []), done.stderr


def test_a_frame_is_rehearsed_from_python_and_the_real_run_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"text": [f"What is {n} + 3?\r\n" for n in range(40)], "when": pd.Timestamp("2026-11-29")})
    done = batcher.rehearse(frame, "{text}\r\n{when}", keyword="frame", kills=1, limit=20, rps=50.0, quiet=True)
    assert done.passed, done
    assert (done.rows, done.kills, done.real_rows, done.directory) == (20, 1, 20, None)
    assert done.real_s == pytest.approx(done.requests / 50)
    assert str(done).startswith("frame: the rehearsal passed\n  rows      20: 19 ok, 0 invalid, 1 error\n")
    assert f"  real run  20 rows in {round(done.requests / 50)}s or more, by the limits\n" in str(done)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_is_an_answer_itself_does_not_fail_a_rehearsal(tmp_path: Path, rows: Path) -> None:
    message = '{ role = "assistant", content = "of the fault" }'
    usage = "{ prompt_tokens = 1, completion_tokens = 3, total_tokens = 4 }"
    (tmp_path / "faults.toml").write_text(
        f"[[fault]]\nshare = 0.5\nstatus = 200\n[fault.body]\nid = 'x'\nobject = 'chat.completion'\nmodel = 'm'\n"
        f"usage = {usage}\nchoices = [{{ index = 0, finish_reason = 'stop', message = {message} }}]\n",
        encoding="utf-8",
    )
    done = call(
        "rehearse", rows, "--prompt", "{text}", "--faults", "faults.toml", "--kills", "0", "--json", cwd=tmp_path
    )
    found = json.loads(done.stdout)
    assert (done.status, found["disagreements"], found["ok"]) == (0, [], ROWS), done.stderr
    assert 0 < found["answered"] < ROWS


def test_a_run_that_cannot_end_fails_the_rehearsal_and_its_files_stay(tmp_path: Path, rows: Path) -> None:
    money = ("--price-in", "1", "--price-out", "2", "--budget", "0.0008", "--param", "max_tokens=5", "--canary", "0")
    done = call("rehearse", rows, "--prompt", "{text}", *money, "--kills", "0", "--max-concurrency", "1", cwd=tmp_path)
    assert done.status == 1
    assert done.stdout.startswith("rows: the rehearsal FAILED\n")
    assert done.stdout.count("\n  stopped   the budget is used up: ") == 2, "it goes on only if it gets on"
    assert "\n  verify    NOT verified\n    no result yet" in done.stdout
    assert (tmp_path / "output" / "rehearsal_rows" / "run.log").exists()


def test_keys_that_are_not_set_yet_and_endpoints_with_keys_are_rehearsed_with_dummies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "endpoints.toml").write_text(
        '[[endpoint]]\nmodel = "a"\nbase_url = "https://api.deepseek.com/v1"\nrpm = 6000\n'
        '[[endpoint]]\nmodel = "b"\nbase_url = "https://api.example.com/v1"\napi_key_env = "NOT_SET"\n'
        "params = { top_k = 5 }\nprices = { in = 1.5, out = 2 }\n",
        encoding="utf-8",
    )
    scene = Scene.of(rows, "{text}", Settings(endpoints="endpoints.toml", keyword="k", limit=5), tmp_path)
    command = scene.command("http://127.0.0.1:1/v1")
    assert f"--endpoints={tmp_path / 'endpoints.toml'}" in command
    written = tomllib.loads((tmp_path / "endpoints.toml").read_text(encoding="utf-8"))["endpoint"]
    url = "http://127.0.0.1:1/v1"
    assert written == [
        {"model": "a", "base_url": url, "api_key_env": "BATCHER_REHEARSAL_KEY_1", "rpm": 6000, "max_concurrency": 256},
        {
            "model": "b",
            "base_url": url,
            "api_key_env": "BATCHER_REHEARSAL_KEY_2",
            "max_concurrency": 256,
            "params": {"extra_body": {"top_k": 5}},
            "prices": {"in": 1.5, "out": 2},
        },
    ]
    mine = batcher.Endpoint("m", api_key=MINE, headers={"X-Secret": MINE})
    scene = Scene.of(rows, "{text}", Settings(endpoints=[mine], keyword="k", limit=5), tmp_path)
    assert MINE not in " ".join(scene.command(url))
    assert MINE not in f"{[(each.api_key, each.headers) for each in scene.real]}"


def test_lines_that_a_server_refuses_by_itself_and_older_shapes_of_messages_are_known(tmp_path: Path) -> None:
    user = {"role": "user", "content": "What is 1 + 1?"}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    lines = [
        {"messages": [user]},
        {"messages": [user | {"content": "What is 2 + 2?"}], "n": 0},
        {"messages": [{"role": "user", "message": "What is 3 + 3?"}]},
        {"messages": [{"role": "assistant", "tool_calls": [call]}, user | {"content": "What is 4 + 4?"}]},
        {"prompt": ["What is 5 + 5?", "What is 6 + 6?"]},
        {"input": [[1, 2], [3]]},
        {"neither": 1},
    ]
    settings = Settings(requests=True, provider="offline", keyword="k")
    asked = Scene.of(lines, None, settings, tmp_path).asked
    assert asked[:4] == [("What is 1 + 1?",), (), ("What is 3 + 3?",), ("What is 4 + 4?",)]
    assert [len(texts) for texts in asked[4:]] == [2, 2, 0]


def test_a_fault_for_the_keys_of_a_variable_meets_the_requests_with_their_dummies_and_no_others(
    tmp_path: Path, rows: Path
) -> None:
    (tmp_path / "endpoints.toml").write_text(
        '[[endpoint]]\nmodel = "a"\nbase_url = "https://api.example.com/v1"\napi_key_env = "FIRST"\n'
        '[[endpoint]]\nmodel = "b"\nbase_url = "https://api.example.com/v1"\napi_key_env = "SECOND"\n'
        '[[endpoint]]\nmodel = "c"\nbase_url = "https://api.example.com/v1"\napi_key_env = "UNSET"\n',
        encoding="utf-8",
    )
    (tmp_path / "faults.toml").write_text(
        '[[fault]]\nmodel = "b"\napi_key_env = "FIRST"\nname = "none"\nstatus = 503\n'
        '[[fault]]\nmodel = "a"\napi_key_env = "AMONG_THEM"\nname = "set"\nstatus = 503\nrequests = "1-12"\n'
        '[[fault]]\nmodel = "c"\napi_key_env = "UNSET"\nname = "unset"\nstatus = 503\nrequests = "1-12"\n',
        encoding="utf-8",
    )
    keys = {"FIRST": f"{MINE}-a,{MINE}-b", "SECOND": f"{MINE}-c", "AMONG_THEM": f"{MINE}-b,{MINE}-a"}
    options = ("--endpoints", "endpoints.toml", "--faults", "faults.toml", "--kills", "0", "--json")
    done = call("rehearse", rows, "--prompt", "{text}", *options, cwd=tmp_path, **keys)
    assert done.status == 0, done.stdout + done.stderr
    assert [each["fault"] for each in json.loads(done.stdout)["faults"]] == ["2 set", "3 unset"]


def test_a_budget_is_rehearsed_with_the_prices_of_the_real_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", MINE)
    settings = Settings(provider="openai", model="gpt-4o-mini", keyword="k", budget=1.0, param={"max_tokens": 5})
    Scene.of(rows, "{text}", settings, tmp_path).command("http://127.0.0.1:1/v1")
    [written] = tomllib.loads((tmp_path / "endpoints.toml").read_text(encoding="utf-8"))["endpoint"]
    assert written["prices"] == pytest.approx({"in": 0.15, "out": 0.6, "batch": 0.5})


def test_a_sample_is_rehearsed_with_the_rows_of_the_real_run(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(3000)]
    path = write_table(tmp_path / "t.csv", ["text"], [[text] for text in texts])
    settings = Settings(provider="offline", keyword="k", sample=40, rpm=60)
    scene = Scene.of(path, "{text}", settings, tmp_path)
    assert scene.texts == [texts[place] for place in draw("k", 40, 3000)]
    command = scene.command("http://127.0.0.1:1/v1")
    assert "--sample=40" in command
    assert not any(each.startswith("--limit") for each in command)
    assert scene.real_run(50)[0] == 40


@pytest.mark.parametrize(("limits_per", "rate"), [("account", 2), ("key", 6)])
def test_keys_of_one_account_have_its_rate_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits_per: str, rate: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEY", f"{MINE}-a,{MINE}-b,{MINE}-c")
    path = write_table(tmp_path / "many.csv", ["text"], [[f"t{number}"] for number in range(1_200)])
    settings = Settings(base_url="https://api.example.com/v1", model="m", keyword="k", rpm=120, limits_per=limits_per)
    scene = Scene.of(path, "{text}", settings, tmp_path)
    assert len(scene.texts) == 60 * rate
    real_rows, real_s = scene.real_run(requests=60 * rate)
    assert real_rows == 1_200
    assert real_s == pytest.approx(1_200 / rate)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 1_000),
        ({"rpm": 60.0}, 100),
        ({"rpm": 300.0}, 300),
        ({"rps": 100.0}, 1_000),
        ({"rps": 4.0, "rpm": 120.0}, 120),
    ],
)
def test_without_a_limit_the_rows_are_what_a_minute_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], expected: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_table(tmp_path / "many.csv", ["text"], [[f"t{number}"] for number in range(1_200)])
    settings = Settings(base_url="https://api.example.com/v1", model="m", keyword="k", **limits)  # type: ignore[arg-type]
    scene = Scene.of(path, "{text}", settings, tmp_path)
    assert len(scene.texts) == expected
    real_rows, real_s = scene.real_run(requests=2 * expected)
    rate = min(limits.get("rps", 1e9), limits.get("rpm", 6e10) / 60)
    assert (real_rows, real_s) == ((1_200, pytest.approx(2_400 / rate)) if limits else (None, None))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_rehearsal_leaves_no_process_and_no_file(
    tmp_path: Path, rows: Path, number: signal.Signals
) -> None:
    (tmp_path / "faults.toml").write_text('[[fault]]\nrequests = "5-"\ndo = "hang"\n', encoding="utf-8")
    journal = tmp_path / "output" / "rehearsal_rows" / "journal_rows.sqlite"
    options = ("--prompt", "{text}", "--faults", "faults.toml")
    with started("rehearse", rows, *options, cwd=tmp_path) as program:
        child = 0
        while not child and program.poll() is None:
            child = _process_with_answers(journal)
        program.send_signal(number)
        done = finish(program)
    assert (done.status, done.stdout) == (3, ""), done.stderr
    assert "the rehearsal was interrupted; nothing left this machine" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not (tmp_path / "output").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
def test_a_rehearsal_that_is_killed_itself_leaves_no_process(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "faults.toml").write_text('[[fault]]\nrequests = "5-"\ndo = "hang"\n', encoding="utf-8")
    folder = tmp_path / "output" / "rehearsal_rows"
    options = ("--prompt", "{text}", "--faults", "faults.toml")
    with started("rehearse", rows, *options, cwd=tmp_path) as program:
        while not _process_with_answers(folder / "journal_rows.sqlite") and program.poll() is None:
            pass
        lock = FileLock(folder / ".journal_rows.lock")
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        program.kill()
        lock.acquire()  # waits for the end of the run, which holds it
    lock.release()
    (tmp_path / "faults.toml").write_text("fault = []\n", encoding="utf-8")
    again = call("rehearse", rows, *options, "--kills", "0", cwd=tmp_path)
    assert again.status == 0, "the next one takes its place"


def _process_with_answers(journal: Path) -> int:
    """Return the process that writes a journal, if it has an answer already, else 0."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db,
    ):
        found = db.execute("SELECT pid FROM runs WHERE EXISTS (SELECT 1 FROM results)").fetchone()
        if found:
            return int(found[0])
    time.sleep(0.01)  # leaves the processor to the programs
    return 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kills", "-1"], "--kills must be a whole number above 0, not -1"),
        (["--kills", "101"], "--kills must be 100 at most"),
        (["--faults", "missing.toml"], "--faults missing.toml: No such file"),
        (["--prompt-column", "zzz"], "give the prompt with one of .*given were --prompt and --prompt-column"),
        (["--limit", "0"], "--limit must be a whole number above 0"),
        (["--keyword", "a/b"], "--keyword 'a/b' cannot be part of a file name"),
        (["--provider", "nonsense"], "--provider 'nonsense' is not known"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path: Path, rows: Path, options: list[str], said: str
) -> None:
    before = listed(tmp_path)
    done = call("rehearse", rows, "--prompt", "{text}", *options, cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(done.stderr)
    assert listed(tmp_path) == before


def test_an_unknown_option_gets_advice_and_dry_run_is_none_of_them(tmp_path: Path, rows: Path) -> None:
    done = call("rehearse", rows, "--temperature", "0", cwd=tmp_path)
    assert done.status == 2
    assert "a request parameter goes into --param temperature=0" in done.stderr
    assert call("rehearse", rows, "--dry-run", cwd=tmp_path).status == 2


def test_a_row_without_a_prompt_is_named_and_nothing_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('{"talk": [{"role": "user", "content": "x"}]}\n{"talk": 5}\n', encoding="utf-8")
    done = call("rehearse", path, "--messages-column", "talk", cwd=tmp_path)
    assert done.status == 2
    assert "row 1" in done.stderr
    assert listed(tmp_path) == {"talks.jsonl"}


def test_what_cannot_go_to_another_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt: Any = lambda row: row["text"]  # noqa: E731 - it is what is refused
    with pytest.raises(batcher.SettingsError, match=r"a prompt function cannot go.*prompt_column"):
        batcher.rehearse(rows, prompt)
    model = batcher.Endpoint(llm=ChatOpenAI(model="m", api_key="k", max_retries=0))  # type: ignore[arg-type]
    with pytest.raises(batcher.SettingsError, match="a chat model cannot go"):
        batcher.rehearse(rows, "{text}", endpoints=[model])
    with pytest.raises(batcher.SettingsError, match="give keyword="):
        batcher.rehearse(pd.DataFrame({"text": ["a"]}), "{text}")
    with pytest.raises(batcher.InputError, match="has no rows to rehearse"):
        batcher.rehearse(pd.DataFrame({"text": pd.Series([], dtype=str)}), "{text}", keyword="k")
    unset = batcher.Endpoint("m", params={"stop": None})
    with pytest.raises(batcher.SettingsError, match="cannot be None in a rehearsal"):
        batcher.rehearse(rows, "{text}", endpoints=[unset])
    assert listed(tmp_path) == {"rows.csv"}


def test_a_directory_of_that_name_that_is_no_rehearsals_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "output" / "rehearsal_rows" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(batcher.OutputError, match="rehearsal_rows is not the directory of a rehearsal: move it away"):
        batcher.rehearse(rows, "{text}")
    assert listed(tmp_path / "output") == {"rehearsal_rows", "rehearsal_rows/thesis.txt"}


def test_a_second_rehearsal_of_the_keyword_is_refused_while_one_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    with FileLock(tmp_path / "output" / ".rehearsal_rows.lock"), pytest.raises(KeywordBusy, match="rehearses 'rows'"):
        batcher.rehearse(rows, "{text}")


# --- its parts ---


@given(st.lists(st.text(max_size=5), min_size=1, max_size=60), st.sampled_from([None, 1.0, 120.0]))
def test_of_the_faults_of_a_rehearsal_all_pass_but_those_of_one_row(prompts: list[str], idle_s: float | None) -> None:
    faults = Faults(default_faults(prompts, idle_s))
    refused: Counter[str] = Counter()
    for prompt in prompts:
        for _ in range(20):
            found = faults.meet(prompt)
            if found is None or found.rule.does is Fate.ANSWER:
                break
        else:
            refused[prompt] += 1
    seen = Counter(prompts)
    once = [prompt for prompt in prompts[len(prompts) // 2 :] if seen[prompt] == 1]
    assert refused.total() == (1 if once and len(prompts) > 3 else 0)


def test_the_refused_row_is_none_of_the_first_three() -> None:
    for count in range(1, 9):
        prompts = [f"p{number}" for number in range(count)]
        refused = [prompt for prompt in prompts if default_faults(prompts)[0].match == rf"\A{prompt}\Z"]
        assert refused == ([] if count < 4 else [f"p{count // 2}"])
        if count >= 6:
            assert prompts.index(refused[0]) >= 3


def test_the_environment_of_the_run_has_no_key_no_proxy_and_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "OPENAI_API_KEY", "DEEPSEEK_API_KEY", "HF_TOKEN", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, MINE)
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    variables = variables_with(["one", "two"])
    assert MINE not in variables.values()
    assert (variables["NO_PROXY"], variables["LANGSMITH_TRACING"]) == ("*", "false")
    assert [variables[f"BATCHER_REHEARSAL_KEY_{number}"] for number in (1, 2)] == ["one", "two"]


def test_the_process_of_the_run_has_none_of_the_secrets_of_the_real_run(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, pathlib\n"
        "if 'batcher.rehearsal.run' in sys.orig_argv:\n"
        "    pathlib.Path('seen.txt').write_text(repr(dict(os.environ)))\n",
        encoding="utf-8",
    )
    (tmp_path / "endpoints.toml").write_text(
        '[[endpoint]]\nmodel = "a"\nbase_url = "https://api.example.com/v1"\napi_key_env = "FIRST"\n'
        'headers = { X-Team = "env:TEAM" }\n'
        '[[endpoint]]\nmodel = "b"\nbase_url = "https://api.example.org/v1"\napi_key_env = "NOT_YET"\n',
        encoding="utf-8",
    )
    names = ("SECOND", "GROUP", "FIRST", "TEAM", "MY_PASSWORD", "GH_TOKEN", "API_KEY")
    secrets = {name: f"{MINE}-{name}" for name in names} | {"DATABASE": f"postgres://me:{MINE}@db.example.com/x"}
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    for options, left in (
        (("--endpoints", "endpoints.toml"), {"SECOND", "GROUP"}),
        (("--base-url", "https://api.example.com/v1", "--model", "m", "--api-key-env", "SECOND",
          "--header", "X-Group=env:GROUP"), {"FIRST", "TEAM"}),
    ):  # fmt: skip
        given = {name: value for name, value in secrets.items() if name not in left}
        done = call("rehearse", rows, "--prompt", "{text}", "--limit", "3", "--kills", "0", *options, cwd=tmp_path,
                    PLAIN="stays", PYTHONPATH=path, **given)  # fmt: skip
        assert done.status == 0, done.stdout + done.stderr
        seen = (tmp_path / "seen.txt").read_text(encoding="utf-8")
        assert "'PLAIN': 'stays'" in seen
        assert "'BATCHER_REHEARSAL_KEY_1': 'rehearsal-1'" in seen
        assert MINE not in seen


def test_a_variable_gives_as_many_dummies_as_it_holds_keys() -> None:
    known: dict[str, str] = {}
    assert _dummies("API_KEY", f"{MINE}, {MINE}x,", known) == "rehearsal-API_KEY-1,rehearsal-API_KEY-2"
    assert _dummies("OTHER", f"{MINE}y,{MINE}x", known) == "rehearsal-OTHER-1,rehearsal-API_KEY-2"


JSON = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), each, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_parameters_come_out_of_the_file_of_endpoints_as_they_went_in(value: Any) -> None:
    assert tomllib.loads(f"x = {_toml(value)}") == {"x": value}


def test_a_rehearsal_plays_how_a_service_treats_structured_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"Row {number} in JSON, one of: a, b" for number in range(60)]
    failing = [each for each in texts if unit("failed", 0, each) < 0.1]  # as the server draws them
    options: Any = {"param": {"response_format": {"type": "json_object"}}, "quiet": True, "kills": 0}
    (tmp_path / "none.toml").write_text("fault = []", encoding="utf-8")
    done = batcher.rehearse(texts, keyword="k", forms="one_in_ten", dressed=0.5, faults="none.toml", **options)
    assert done.passed, done
    assert (done.ok, done.error) == (60 - len(failing), len(failing))
    assert 0 < len(failing) < 20


# --- the server's books against the journal ---

OK, ERROR = Result(Status.OK, "a", ""), Result(Status.ERROR, "", "refused")

SENT = "and the server sent {}, lost {}, and sent {} of faults that may hold one"


def check(results: list[Result], totals: tuple[int, int, int], *asked: str, is_deduplicated: bool = False) -> Check:
    """Compare a journal's totals (sent, answered, without an end) with books of prompts and their ends."""
    books = Books()
    for prompt, end in map(str.split, asked):
        books.arrive(prompt, "")
        if end == "fault":
            books.meet("1 fault", prompt)
        if end == "lost":
            books.lose()
        if end == "form":
            books.refuse_form("json", prompt)
        if end == "prose":
            books.misfit(prompt)
            books.respond(200, prompt)
            continue
        if end == "reply":
            books.meet("1 fault", prompt)
            books.reply(200)
            continue
        books.respond(200 if end == "answer" else 500, prompt if end == "answer" else None)
    sent, answered, unended = totals
    of_all = EndpointTotals(0, "m", "", sent, answered, sent - answered - unended, unended, 0, 0, 0)
    found = Verification("k", Counts(len(results), 0, 0, 0), 1, (of_all,), (), ())
    prompts = [f"p{number}" for number in range(len(results))]
    return Check([[each] for each in prompts], results, books, found, is_deduplicated=is_deduplicated)


def test_books_and_journal_that_agree_are_told_so() -> None:
    assert list(check([OK, ERROR], (3, 1, 0), "p0 fault", "p0 answer", "p1 fault").disagreements()) == []


def test_an_answer_that_was_in_flight_at_a_kill_may_be_bought_twice_and_no_other() -> None:
    asked = ("p0 answer", "p0 answer")
    allowed, too_many = check([OK], (2, 1, 1), *asked), check([OK], (2, 1, 0), *asked)
    assert (allowed.twice, list(allowed.disagreements())) == (1, [])
    assert list(too_many.disagreements()) == ["1 answer bought twice, and only 0 rows were in flight at a kill"]


def test_an_answer_that_did_not_fit_may_be_bought_again_and_a_refused_form_is_a_reason_for_an_error() -> None:
    assert list(check([OK], (2, 2, 0), "p0 prose", "p0 answer").disagreements()) == []
    assert check([OK], (3, 3, 0), "p0 prose", "p0 answer", "p0 answer").twice == 1
    assert list(check([OK, ERROR], (2, 1, 0), "p0 answer", "p1 form").disagreements()) == []


def test_a_prompt_that_shows_a_schema_is_that_of_its_row() -> None:
    books = Books()
    books.arrive("p0\nBy this JSON Schema: {}", "")
    books.respond(200, "p0\nBy this JSON Schema: {}")
    found = Verification("k", Counts(1, 0, 0, 0), 1, (EndpointTotals(0, "m", "", 1, 1, 0, 0, 0, 0, 0),), (), ())
    assert list(Check([["p0"]], [OK], books, found, is_deduplicated=False).disagreements()) == []


@pytest.mark.parametrize(
    ("results", "totals", "asked", "said"),
    [
        ([OK], (1, 1, 0), ["p0 answer", "p0 refusal"], "the server received 2 requests, and the journal knows of 1"),
        ([OK], (2, 2, 0), ["p0 answer", "p0 refusal"], f"the journal has 2 answers, {SENT.format(1, 0, '0 replies')}"),
        (
            [OK],
            (4, 4, 0),
            ["p0 answer", "p0 lost", "p0 reply"],
            f"the journal has 4 answers, {SENT.format(1, 1, '1 reply')}",
        ),
        ([ERROR], (1, 0, 0), ["p0 refusal"], "row 0 ended as error without a fault: refused"),
        ([OK, OK], (2, 1, 0), ["p0 answer", "p0 refusal"], "row 1 has an answer that the server did not send"),
    ],
)
def test_what_does_not_fit_is_named(
    results: list[Result], totals: tuple[int, int, int], asked: list[str], said: str
) -> None:
    assert said in list(check(results, totals, *asked).disagreements())


def test_a_row_needs_as_many_answers_as_it_is_asked_for_and_those_of_a_repeat() -> None:
    books = Books()
    for _ in range(5):
        books.arrive("p", "")
        books.respond(200, "p")
    found = Verification("k", Counts(1, 0, 0, 0), 1, (), (), ())

    def twice(samples: int, repeated: Sequence[int] = ()) -> int:
        return Check([["p"]], [OK], books, found, is_deduplicated=False, samples=samples, repeated=repeated).twice

    assert (twice(1), twice(5), twice(4), twice(2), twice(2, [0])) == (4, 0, 1, 3, 1)


def test_equal_rows_need_an_answer_each_unless_they_share_one() -> None:
    def twice(*, is_deduplicated: bool) -> int:
        books = Books()
        for _ in range(2):
            books.arrive("p", "")
            books.respond(200, "p")
        found = Verification("k", Counts(2, 0, 0, 0), 1, (), (), ())
        return Check([["p"], ["p"]], [OK, OK], books, found, is_deduplicated=is_deduplicated).twice

    assert (twice(is_deduplicated=False), twice(is_deduplicated=True)) == (0, 1)
