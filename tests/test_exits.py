"""How the program ends: each exit status, what is said, and what is left behind, with the streams that it was given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_service import Service
from programs import ROOT, Done, LocalServer, call, environment, local_server, started, table, write_table

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.engine.runner import execute
from batcher.engine.stop import Stop
from batcher.errors import KeywordBusy
from batcher.server import simulated as sim
from batcher.settings import Settings

if TYPE_CHECKING:
    from conftest import Lab

OFFLINE = ("--provider", "offline")
RUN = ("run", "t.csv", "--prompt", "About {text}", *OFFLINE)
ENDPOINT = Endpoint("m", "http://127.0.0.1:9/v1")
KEY = "sk-0123456789abcdef"

# The disk is flushed by a function that fails in a way that is none of the disk's.
BROKEN_DISK = """
import os

flush, calls = os.fsync, []


def fail(descriptor):
    calls.append(descriptor)
    if len(calls) > {after}:
        raise ZeroDivisionError("flushed with {key} at https://user:secret@host/v1")
    flush(descriptor)


os.fsync = fail
"""


@pytest.fixture(autouse=True)
def texts(tmp_path: Path) -> Path:
    return write_table(tmp_path / "t.csv", ["text"], [[f"text {number}"] for number in range(20)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server(cwd=tmp_path_factory.mktemp("server")) as server:
        yield server


def shell(line: str, cwd: Path, **extra: str) -> Done:
    """Run a line of the shell in which `batcher` is the program."""
    program = f"{shlex.quote(sys.executable)} -m batcher"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("batcher", program, 1)],  # noqa: S607 - the system's
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


# -- 70


def test_a_fault_in_batcher_is_70_with_a_traceback_without_keys_and_all_that_arrived_is_saved(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(BROKEN_DISK.format(after=1, key=KEY), encoding="utf-8")
    path = os.pathsep.join([str(broken), str(ROOT)])
    with local_server(cwd=tmp_path) as server:
        options = ("--base-url", server.base_url, "--model", "m", "--chunk-size", "5", "--prompt", "About {text}")
        done = call("run", "t.csv", *options, cwd=tmp_path, PYTHONPATH=path, API_KEY=f"sk-another-0123, {KEY}")
        assert done.status == 70
        assert done.stdout == ""
        assert "Traceback (most recent call last)" in done.stderr
        assert "ZeroDivisionError: flushed with [API key] at https://host/v1" in done.stderr
        assert KEY not in done.stderr
        assert f"batcher {batcher.__version__} run, Python " in done.stderr
        assert "Please report it with the traceback above" in done.stderr
        asked = len(server.books()["requests_by_prompt"])
        assert call("run", "t.csv", *options, cwd=tmp_path).status == 0
        assert set(server.books()["requests_by_prompt"].values()) == {1}, "an answer was paid twice"
        assert asked > 0
    assert len(table(tmp_path / "output" / "all_t.csv")) == 20


def test_a_password_that_is_one_of_our_words_is_hidden_in_the_traceback_of_a_fault_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_DISK.format(after=0, key="fault"), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with local_server(cwd=tmp_path) as server:
        job = f'log_json = true\nbase_url = "{server.base_url}"\nmodel = "m"\nprompt = "About {{text}}"\n'
        (tmp_path / "job.toml").write_text(job, encoding="utf-8")
        options = ("run", "t.csv", "--config", "job.toml")
        done = call(*options, cwd=tmp_path, PYTHONPATH=path, ALL_PROXY="http://batcher:fault@127.0.0.1:1")
    assert done.status == 70
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()][-1] == "error"
    assert "ZeroDivisionError: flushed with [API key] at https://host/v1" in done.stderr
    assert (
        "batcher: this is a fault in batcher, not in your input. What the journal has recorded is saved." in done.stderr
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--api-key-env", "MINE"),
        ("--api-key-env=MINE",),
        ("--header", "X-Team-Key=env:MINE"),
        ("--header", f"X-Team-Key={KEY}"),
        ("--endpoints", "pool.toml"),
    ],
    ids=" ".join,
)
def test_a_key_is_hidden_however_it_was_given_and_reaches_no_file(
    tmp_path: Path, server: LocalServer, options: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_DISK.format(after=0, key=KEY), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    if "--endpoints" in options:
        table = f'[[endpoint]]\nmodel = "m"\nbase_url = "{server.base_url}"\napi_key_env = "MINE"\n'
        (tmp_path / "pool.toml").write_text(table, encoding="utf-8")
    else:
        options = (*options, "--base-url", server.base_url, "--model", "m")
    done = call("run", "t.csv", "--prompt", "{text}", *options, cwd=tmp_path, PYTHONPATH=path, MINE=KEY)
    assert done.status == 70
    assert "flushed with [API key]" in done.stderr
    assert KEY not in done.stderr + call("status", "t", cwd=tmp_path).stdout
    assert [each.name for each in (tmp_path / "output").iterdir() if KEY.encode() in each.read_bytes()] == []


# -- 4


def test_a_second_process_of_a_keyword_is_refused_with_4_and_the_first_is_named(tmp_path: Path) -> None:
    with local_server("--hang-rate", "1", cwd=tmp_path) as server:
        options = ("--prompt", "{text}", "--base-url", server.base_url, "--model", "m")
        with started("run", "t.csv", *options, cwd=tmp_path) as first:
            while not server.books()["requests"]:
                assert first.poll() is None
                time.sleep(0.02)  # leaves the processor to the programs
            done = call("run", "t.csv", *options, cwd=tmp_path)
            assert done.status == 4
            assert f"is being written by process {first.pid} on " in done.stderr
            assert "wait for its end, or stop it" in done.stderr


def test_a_journal_that_another_program_has_open_is_4(tmp_path: Path) -> None:
    assert call(*RUN, cwd=tmp_path).status == 0
    with sqlite3.connect(tmp_path / "output" / "journal_t.sqlite") as db:
        db.execute("BEGIN IMMEDIATE")
        done = call(*RUN, cwd=tmp_path)
        db.rollback()
    db.close()
    assert done.status == 4
    assert "is open in another program" in done.stderr


# -- Streams


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_reason_to_fail(tmp_path: Path, closed: str) -> None:
    done = shell(f"batcher {shlex.join(RUN)} {closed}", tmp_path)
    assert done.status == 0
    assert "Traceback" not in done.stderr
    assert len(table(tmp_path / "output" / "all_t.csv")) == 20
    assert done.stdout == ("" if ">&- " in f"{closed} ".replace("2>&- ", "") else "output/all_t.csv\n")
    assert call("verify", "t", "t.csv", cwd=tmp_path).status == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
@pytest.mark.parametrize("verb", ["plan t.csv --prompt {text} --provider offline", "status none", "--help"])
def test_other_verbs_keep_their_status_with_a_closed_stream(tmp_path: Path, verb: str, closed: str) -> None:
    expected = 2 if verb == "status none" else 0
    assert shell(f"batcher {verb} {closed}", tmp_path).status == expected


@pytest.mark.parametrize("option", ["", " --json"])
def test_a_reader_that_has_gone_costs_neither_the_run_nor_its_status(tmp_path: Path, option: str) -> None:
    done = shell(f"batcher {shlex.join(RUN)}{option} | true", tmp_path)
    assert done.status == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert len(table(tmp_path / "output" / "all_t.csv")) == 20


@pytest.mark.parametrize("verb", ["--help", "run --help", "plan t.csv --prompt {text} --provider offline"])
def test_a_reader_of_help_or_plan_that_has_gone_is_no_failure(tmp_path: Path, verb: str) -> None:
    done = shell(f"batcher {verb} | true", tmp_path)
    assert (done.status, done.stdout) == (0, "")
    assert "Exception" not in done.stderr


def test_a_reader_that_has_gone_hides_no_failed_row(tmp_path: Path) -> None:
    first = "text 0"  # it goes alone, and must be answered, or the run ends there
    knobs = (sim.Knobs(error_rate=0.5, seed=seed) for seed in range(100))
    seed = next(each.seed for each in knobs if sim.draw(each, first, 0)[0] is sim.Fate.ANSWER)
    with local_server("--error-rate", "0.5", "--seed", str(seed), cwd=tmp_path) as server:
        options = f"--prompt {{text}} --base-url {server.base_url} --model m --max-attempts 1"
        done = shell(f"batcher run t.csv {options} | true", tmp_path)
    assert done.status == 1, done.stderr


def test_a_reader_of_messages_that_has_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = shell(f"batcher {shlex.join(RUN)} 2> >(true)", tmp_path)
    assert done.status == 0
    assert len(table(tmp_path / "output" / "all_t.csv")) == 20


def test_a_script_without_streams_runs(tmp_path: Path) -> None:
    script = tmp_path / "windowless.py"
    script.write_text(
        "import sys\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"  # as pythonw has them
        "import batcher\n"
        "report = batcher.run('t.csv', 'About {text}', provider='offline')\n"
        "open('report.json', 'w').write(__import__('json').dumps(report.to_dict()))\n",
        encoding="utf-8",
    )
    assert call(script, cwd=tmp_path).status == 0
    assert json.loads((tmp_path / "report.json").read_text())["ok"] == 20


# -- 2


def nested(depth: int) -> str:
    return '{"text": ' + "[" * depth + "]" * depth + "}"


def rows_with(last: str) -> str:
    return "text\n" + "a\n" * 700 + last


FILES = {
    "broken.csv": rows_with("a,b\n"),
    "broken.jsonl": '{"text": "a"}\n' * 700 + '{"text": \n',
    "deep.jsonl": '{"text": "a"}\n' * 700 + nested(980) + "\n",
    "deeper.jsonl": nested(100_000) + "\n",
    "twice.jsonl": '{"text": "a"}\n{"text": "a", "text": "b"}\n',
    "messages.csv": 'text\n"[{""role"": ""user"", ""content"": ""a""}]"\n' + "[" * 100_000 + "\n",
    "ids.csv": "text,id\na,1\nb,1\n",
    "infer.csv": "text,infer\na,b\n",
}

REFUSALS = [
    (["missing.csv"], "missing.csv: there is no such file"),
    (["broken.csv"], "broken.csv, line 702"),
    (["broken.jsonl"], "broken.jsonl, line 701"),
    (["deep.jsonl"], "deep.jsonl, line 701"),
    (["deeper.jsonl"], "deeper.jsonl, line 1"),
    (["twice.jsonl"], "twice.jsonl, line 2"),
    (["messages.csv", "--messages-column", "text"], "messages.csv, row 1"),
    (["t.csv", "--param", "a=" + "[" * 100_000], "--param a: the value cannot be read as JSON"),
    (["t.csv", "--budget", "1"], "--budget: the price of m"),
    (["t.csv", "--budget", "1", "--price-in", "1", "--price-out", "1"], "--budget: nothing bounds how long an answer"),
    (["t.csv", "--max-concurrency", "900000000"], "files and connections may be open at once"),
    (["t.csv", "--keyword", "a/b"], "--keyword 'a/b'"),
    (["t.csv", "--answer-column", "text"], "the input has a column 'text' already"),
    (["infer.csv"], "the input has a column 'infer' already"),
    (["t.csv", "--id-column", "no"], "--id-column: the table has no column 'no'"),
    (["ids.csv", "--id-column", "id"], "--id-column: rows 0 and 1"),
    (["t.csv", "--prompt", "{no}"], "--prompt: the table has no column 'no'"),
    (["t.csv", "--output-dir", "t.csv"], "t.csv is not a directory"),
    (["t.csv", "--output-dir", "t.csv/x"], "t.csv is not a directory"),
]


def tree(directory: Path) -> dict[str, bytes | None]:
    """Return the content of each file below a directory, hidden ones included, and None for each directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the output directory of a finished run of the keyword `k`."""
    place = tmp_path_factory.mktemp("finished")
    write_table(place / "t.csv", ["text"], [[f"text {number}"] for number in range(20)])
    assert call(*RUN, "--keyword", "k", cwd=place).status == 0
    return place / "output"


@pytest.fixture(params=[False, True], ids=["new", "finished"])
def place(request: pytest.FixtureRequest, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which has a finished run of the keyword, or no output directory."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    if request.param:
        shutil.copytree(finished, tmp_path / "output")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("arguments", "said"), REFUSALS)
def test_what_is_refused_leaves_every_file_as_it_was_and_plan_refuses_the_same(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = tree(place)
    prompt = [] if {"--prompt", "--messages-column"} & set(arguments) else ["--prompt", "About {text}"]
    keyword = [] if "--keyword" in arguments else ["--keyword", "k"]
    options = [*arguments, *prompt, *keyword, "--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    ended = []
    for verb in ("run", "plan"):
        status = main([verb, *options, "--on-change", "redo"])
        ended.append((status, *capsys.readouterr()))
    assert ended[0] == ended[1]
    status, stdout, stderr = ended[0]
    assert (status, stdout) == (2, "")
    assert stderr.startswith("batcher: ")
    assert said in stderr
    assert tree(place) == before


def test_a_refusal_is_exit_2_of_the_real_program(tmp_path: Path) -> None:
    (tmp_path / "deep.jsonl").write_text(FILES["deep.jsonl"], encoding="utf-8")
    before = tree(tmp_path)
    done = call("run", "deep.jsonl", "--prompt", "{text}", *OFFLINE, cwd=tmp_path)
    assert done == Done(2, "", done.stderr)
    assert "deep.jsonl, line 701: the JSON cannot be read: it is nested deeper than 200 levels" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == before


TEXTS = [str(number) for number in range(800)]


@pytest.mark.parametrize(
    ("prompt", "endpoint", "proxy", "said"),
    [
        (lambda row: row["no"], {}, "", r"failed on the list, row 0 \(counted from 0\): KeyError: 'no'"),
        (
            lambda row: row["no" if row["text"] == "777" else "text"],
            {},
            "",
            r"failed on the list, row 777 \(counted from 0\): KeyError: 'no'",
        ),
        ("{text}", {"llm": "gpt"}, "", r"Endpoint\(llm=...\) takes a LangChain chat model, not str"),
        ("{text}", {"model": "m"}, "socks5://127.0.0.1:9", "HTTPS_PROXY names a socks5 proxy"),
    ],
)
def test_a_refused_call_leaves_every_file_as_it_was_and_plan_refuses_the_same(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    prompt: Any,
    endpoint: dict[str, Any],
    proxy: str,
    said: str,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    before = tree(place)
    endpoints = [batcher.Endpoint(**(endpoint or {"model": "m"}))]
    messages = set()
    for verb in (batcher.run, batcher.plan):
        with pytest.raises(batcher.SettingsError, match=said) as caught:
            verb(TEXTS, prompt, keyword="k", endpoints=endpoints, on_change="redo")
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert tree(place) == before


@pytest.mark.parametrize("place", [True], indirect=True)
def test_rows_that_changed_stop_a_run_with_2_and_every_file_stays_as_it_was(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(place)
    assert main(["run", "t.csv", "--prompt", "Of {text}", *OFFLINE, "--keyword", "k"]) == 2
    assert "20 answered to another question (the prompt changed)" in capsys.readouterr().err
    assert tree(place) == before


def test_a_refused_run_leaves_a_directory_that_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "broken.csv").write_text(FILES["broken.csv"], encoding="utf-8")
    assert main(["run", "broken.csv", "--prompt", "{text}", *OFFLINE]) == 2
    assert list((tmp_path / "output").iterdir()) == []


def test_a_refused_run_removes_only_the_directories_that_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "broken.csv").write_text(FILES["broken.csv"], encoding="utf-8")
    assert main(["run", "broken.csv", "--prompt", "{text}", *OFFLINE, "--output-dir", "some/where/else"]) == 2
    assert tree(tmp_path / "some") == {}


def test_a_refused_run_leaves_what_a_killed_one_left_half_written(place: Path) -> None:
    (place / "output").mkdir(exist_ok=True)
    (place / "output" / ".0_k.csv.tmp").write_text("half")
    before = tree(place)
    assert main(["run", "broken.csv", "--prompt", "{text}", *OFFLINE, "--keyword", "k", "--on-change", "redo"]) == 2
    assert tree(place) == before


@pytest.mark.skipif(os.name != "posix", reason="only POSIX bounds the size of files")
@pytest.mark.parametrize("kilobytes", [1, 8, 24, 80, 160])
def test_a_run_that_finds_no_room_for_its_plan_leaves_nothing(tmp_path: Path, kilobytes: int) -> None:
    (tmp_path / "big.csv").write_text("text\n" + "".join(f"row {n} with more text in it\n" for n in range(3000)))
    before = tree(tmp_path)
    program = f"ulimit -f {kilobytes}; exec {shlex.quote(sys.executable)} -m batcher run big.csv --prompt '{{text}}'"
    done = subprocess.run(
        ["/bin/bash", "-c", f"{program} --provider offline --output-dir some/where"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "disk I/O error" in done.stderr
    assert tree(tmp_path) == before


async def test_a_second_run_in_the_same_process_is_told_to_await_or_cancel_the_first(lab: Lab) -> None:
    is_asked = asyncio.Event()

    def never(_: object) -> float:
        is_asked.set()
        return 1e6

    options = {"keyword": "k", "output_dir": lab.directory, "quiet": True, "endpoints": [ENDPOINT], "grace": 0}
    settings = Settings.of(options)
    first = asyncio.create_task(execute(TEXTS[:3], None, settings, Stop(), callers=Service(TEXTS[:3], never)))
    await is_asked.wait()
    said = "journal_k.sqlite: another run in this process has it: await it or cancel it$"
    with pytest.raises(KeywordBusy, match=said):
        await batcher.arun(TEXTS[:3], keyword="k", output_dir=lab.directory, endpoints=[ENDPOINT], quiet=True)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
