"""The command line from outside: what it prints, writes, refuses and returns."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import SHARED, LocalServer, call, expected_answer, local_server, table, write_table

from batcher.__main__ import main
from batcher.server import simulated as sim

ODD = [
    "NA",
    "None",
    "007",
    'say "hi"',
    "a,b",
    "two\nlines",
    "a\rb",
    "\r\n",
    "😀",
    "数学计算",
    " spaces ",
    "",
    "null",
    "=1+1",
]
OFFLINE = ("--provider", "offline")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return write_table(tmp_path / "odd.csv", ["text"], [[text] for text in ODD])


@pytest.fixture(scope="module")
def unasked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Start a server that no test has a reason to ask."""
    with local_server(cwd=tmp_path_factory.mktemp("server")) as server:
        yield server


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real tables are not here")
@pytest.mark.parametrize(
    ("name", "column", "rows"), [("banking77_test.csv", "text", 3080), ("gsm8k_test.jsonl", "question", 1319)]
)
def test_a_real_table_comes_out_in_order_each_row_with_the_answer_to_its_own_text(
    tmp_path: Path, name: str, column: str, rows: int
) -> None:
    done = call(
        "run", SHARED / name, "--prompt", f"Which intent: {{{column}}}", "--keyword", "k", *OFFLINE, cwd=tmp_path
    )
    assert done.status == 0, done.stderr
    assert done.stdout == "output/all_k.csv\n"
    result = table(tmp_path / "output" / "all_k.csv")
    source = table(SHARED / name) if name.endswith(".csv") else lines_of(SHARED / name)
    assert [row[column] for row in result] == [row[column] for row in source]
    assert len(result) == rows
    assert all(row["infer"] == expected_answer(f"Which intent: {row[column]}") for row in result)
    assert {row["infer_status"] for row in result} == {"ok"}


def test_a_parquet_copy_gives_the_same_result_as_its_csv(odd: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ODD}), tmp_path / "copy.parquet")
    prompt = ("--prompt", "About {text}", *OFFLINE)
    assert call("run", "odd.csv", *prompt, cwd=tmp_path).status == 0
    assert call("run", "copy.parquet", *prompt, cwd=tmp_path).status == 0
    output = tmp_path / "output"
    assert (output / "all_odd.csv").read_bytes() == (output / "all_copy.csv").read_bytes()


def test_odd_texts_come_through_prompt_answer_journal_and_files_intact(odd: Path, tmp_path: Path) -> None:
    with local_server(cwd=tmp_path) as server:
        options = ("--base-url", server.base_url, "--model", "m", "--chunk-size", "3")
        done = call("run", "odd.csv", "--prompt", "Say {text}!", *options, cwd=tmp_path)
        assert done.status == 0, done.stderr
        asked = server.books()["requests_by_prompt"]
    assert asked == {f"Say {text}!": 1 for text in ODD}
    for path in sorted((tmp_path / "output").glob("*.csv")):
        for row in table(path):
            assert row["text"] in ODD
            assert row["infer"] == expected_answer(f"Say {row['text']}!")
    assert [row["text"] for row in table(tmp_path / "output" / "all_odd.csv")] == ODD


def test_a_failed_row_never_stops_the_others_and_says_why(odd: Path, tmp_path: Path) -> None:
    # The first row goes alone and must be answered, or the run ends there.
    knobs = (sim.Knobs(error_rate=0.5, seed=seed) for seed in range(100))
    seed = next(each.seed for each in knobs if sim.draw(each, f"Say {ODD[0]}", 0)[0] is sim.Fate.ANSWER)
    with local_server("--error-rate", "0.5", "--seed", str(seed), cwd=tmp_path) as server:
        options = ("--prompt", "Say {text}", "--base-url", server.base_url, "--model", "m", "--max-attempts", "1")
        done = call("run", "odd.csv", *options, cwd=tmp_path)
        assert done.status == 1, done.stderr
        failed = [row for row in table(tmp_path / "output" / "all_odd.csv") if row["infer_status"] == "error"]
        assert 0 < len(failed) < len(ODD)
        assert all("HTTP 500" in row["infer_error"] for row in failed)
        assert all(row["infer"] == "" for row in failed)
        assert f"{len(failed)} x the server failed: HTTP 500" in call("status", "odd", cwd=tmp_path).stdout

        kept = call("run", "odd.csv", *options, cwd=tmp_path)
        assert (kept.status, server.books()["requests"]) == (1, len(ODD)), "nothing is sent again unasked"
        again = call("run", "odd.csv", *options, "--max-attempts", "20", "--retry-failed", cwd=tmp_path)
        assert again.status == 0, again.stderr
        assert server.books()["answered"] == len(ODD)
    assert {row["infer_status"] for row in table(tmp_path / "output" / "all_odd.csv")} == {"ok"}


def test_limit_asks_the_first_rows_and_a_later_run_the_others(odd: Path, tmp_path: Path) -> None:
    with local_server(cwd=tmp_path) as server:
        options = ("--prompt", "Say {text}", "--base-url", server.base_url, "--model", "m")
        assert call("run", "odd.csv", *options, "--limit", "5", cwd=tmp_path).status == 0
        assert [row["text"] for row in table(tmp_path / "output" / "all_odd.csv")] == ODD[:5]
        assert call("run", "odd.csv", *options, cwd=tmp_path).status == 0
        assert server.books()["requests"] == len(ODD)
    assert [row["text"] for row in table(tmp_path / "output" / "all_odd.csv")] == ODD


def test_json_puts_one_object_on_stdout(odd: Path, tmp_path: Path) -> None:
    done = call("run", "odd.csv", "--prompt-column", "text", *OFFLINE, "--json", "--quiet", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert (report["status"], report["rows"], report["ok"], report["error"]) == ("done", len(ODD), len(ODD), 0)
    assert report["requests"] == len(ODD)
    assert report["prompt_tokens"] > 0
    assert report["output"] == "output/all_odd.csv"


def test_an_empty_table_gives_an_empty_result_with_its_header(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("id,text\n")
    done = call("run", "none.csv", "--prompt", "{text}", *OFFLINE, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert (tmp_path / "output" / "all_none.csv").read_text() == "id,text,infer,infer_status,infer_error\n"


def test_the_answer_column_names_all_three_so_that_a_result_can_be_an_input(odd: Path, tmp_path: Path) -> None:
    assert call("run", "odd.csv", "--prompt-column", "text", *OFFLINE, cwd=tmp_path).status == 0
    second = ("run", "output/all_odd.csv", "--prompt", "{infer}", "--keyword", "second", *OFFLINE)
    clash = call(*second, cwd=tmp_path)
    assert clash.status == 2
    assert "'infer'" in clash.stderr
    assert "--answer-column" in clash.stderr
    assert call(*second, "--answer-column", "judged", cwd=tmp_path).status == 0
    [first, *_] = table(tmp_path / "output" / "all_second.csv")
    assert list(first) == ["text", "infer", "infer_status", "infer_error", "judged", "judged_status", "judged_error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.csv", "--prompt", "x"], "missing.csv"),
        (["odd.csv"], "--prompt-column"),
        (["odd.csv", "--prompt", "x", "--prompt-column", "text"], "--prompt and --prompt-column"),
        (["odd.csv", "--prompt", "{txt}"], "'txt'"),
        (["odd.csv", "--prompt", "a } b"], "line 1, column 3"),
        (["odd.csv", "--prompt", "x", "--chunk-size", "0"], "--chunk-size"),
        (["odd.csv", "--prompt", "x", "--rpm", "-1"], "--rpm"),
        (["odd.csv", "--prompt", "x", "--keyword", "a/b"], "--keyword"),
        (["odd.csv", "--prompt", "x", "--param", "temperature"], "KEY=VALUE"),
        (["odd.csv", "--prompt", "x", "--param", "model=other"], "--model"),
        (["ragged.csv", "--prompt", "x"], "ragged.csv, line 3"),
        (["broken.jsonl", "--prompt", "x"], "broken.jsonl, line 2"),
        (["table.xlsx", "--prompt", "x"], ".xlsx"),
    ],
)
def test_bad_input_is_refused_before_any_call_and_nothing_is_written(
    odd: Path, tmp_path: Path, unasked: LocalServer, arguments: list[str], said: str
) -> None:
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a": \n')
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    done = call("run", *arguments, "--base-url", unasked.base_url, "--model", "m", cwd=tmp_path)
    assert unasked.books()["requests"] == 0
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("output/*.csv"))


def test_a_wrong_key_costs_two_requests_and_is_never_shown(odd: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_KEY=sk-wrong-1\nMODEL=m\n")
    knobs = ("--api-key-env", "ACCEPTED", "--latency", "0.1")
    with local_server(*knobs, cwd=tmp_path, ACCEPTED="sk-right, sk-other") as server:
        wrong = call("run", "odd.csv", "--prompt-column", "text", "--base-url", server.base_url, cwd=tmp_path)
        assert wrong.status == 3
        assert "the API key was refused" in wrong.stderr
        assert server.books()["requests"] == 2

        # The right key beside a wrong one: the wrong one leaves the pool, its rows go to the other.
        (tmp_path / ".env").write_text("API_KEY=sk-wrong-1, sk-right\nMODEL=m\n")
        # While that one is busy the wrong one is tried again: it leaves only when a second row is refused.
        options = ("--prompt-column", "text", "--base-url", server.base_url, "--max-concurrency", "1")
        right = call("run", "odd.csv", *options, cwd=tmp_path)
        assert right.status == 0, right.stderr
        assert "leaves the pool" in right.stderr
    shown = wrong.stderr + wrong.stdout + right.stderr + right.stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "output").iterdir())
    assert "sk-" not in shown
    assert b"sk-" not in written


def test_keys_from_the_environment_make_a_pool_and_requests_are_counted_for_each(odd: Path, tmp_path: Path) -> None:
    with local_server("--latency", "0.02", cwd=tmp_path) as server:
        options = ("--prompt-column", "text", "--model", "m", "--max-concurrency", "2", "--json")
        done = call("run", "odd.csv", *options, cwd=tmp_path, BASE_URL=server.base_url, API_KEY="k1,k2,k3")
        by_key = sorted(server.books()["by_key"].values())
    counted = sorted(endpoint["requests"] for endpoint in json.loads(done.stdout)["endpoints"])
    assert counted == by_key
    assert sum(counted) == len(ODD)
    assert len(counted) == 3
    assert all(counted)


def test_the_journal_can_be_read_by_anybody(odd: Path, tmp_path: Path) -> None:
    assert call("run", "odd.csv", "--prompt-column", "text", *OFFLINE, cwd=tmp_path).status == 0
    journal = sqlite3.connect(tmp_path / "output" / "journal_odd.sqlite")
    assert journal.execute("SELECT count(*), count(ended) FROM requests").fetchone() == (len(ODD), len(ODD))
    assert journal.execute("SELECT outcome, ended IS NOT NULL FROM runs").fetchall() == [("done", 1)]
    journal.close()


def test_without_a_terminal_there_is_no_bar(odd: Path, tmp_path: Path) -> None:
    done = call("run", "odd.csv", "--prompt-column", "text", *OFFLINE, cwd=tmp_path)
    assert done.stderr.splitlines()[0] == f"odd: {len(ODD)} rows: {len(ODD)} new"
    assert "%|" not in done.stderr
    assert "\r" not in done.stderr


def test_a_journal_that_cannot_be_written_stops_the_run_with_exit_3(odd: Path, tmp_path: Path) -> None:
    with local_server(cwd=tmp_path) as server:
        options = ("--prompt-column", "text", "--base-url", server.base_url, "--model", "m")
        assert call("run", "odd.csv", *options, "--limit", "2", cwd=tmp_path).status == 0
        journal = sqlite3.connect(tmp_path / "output" / "journal_odd.sqlite")
        full = "SELECT raise(ABORT, 'database or disk is full')"
        journal.execute(f"CREATE TRIGGER full BEFORE INSERT ON results WHEN new.id > 5 BEGIN {full}; END")
        journal.commit()
        stopped = call("run", "odd.csv", *options, cwd=tmp_path)
        assert stopped.status == 3, stopped.stderr
        assert "disk is full" in stopped.stderr
        assert f"of {len(ODD)} rows are saved" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        journal.execute("DROP TRIGGER full")
        journal.commit()
        journal.close()
        assert call("run", "odd.csv", *options, cwd=tmp_path).status == 0
    assert [row["text"] for row in table(tmp_path / "output" / "all_odd.csv")] == ODD


def test_status_says_why_a_run_stopped(odd: Path, tmp_path: Path) -> None:
    with local_server("--model", "served", cwd=tmp_path) as server:
        options = ("--prompt-column", "text", "--base-url", server.base_url, "--model", "other")
        lost = call("run", "odd.csv", *options, cwd=tmp_path)
    assert lost.status == 3
    assert lost.stderr.count("does not exist") == 1, "said once"
    status = call("status", "odd", cwd=tmp_path)
    assert "stopped" in status.stdout
    assert "because   no endpoint is left:" in status.stdout
    assert 'The model "other" does not exist' in status.stdout


def test_a_prompt_file_is_the_prompt_without_its_last_line_break(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Say {text}\n", encoding="utf-8-sig")
    assert call("run", "odd.csv", "--prompt", "Say {text}", *OFFLINE, cwd=tmp_path).status == 0
    same = call("run", "odd.csv", "--prompt-file", "prompt.txt", *OFFLINE, "--json", cwd=tmp_path)
    assert json.loads(same.stdout)["requests"] == 0


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (["sk-secret-key"], "--header must look like NAME=VALUE, as in X-Team=labels or X-Key=env:TEAM_KEY"),
        (["=sk-secret-key"], "--header must look like NAME=VALUE"),
        (["X-A=sk-secret-key", "X-A=2"], "--header X-A is given twice"),
        (["Authorization=Bearer sk-secret-key"], "--header: 'Authorization' carries the API key: give that through"),
        (["X-A=env:NONE"], "header X-A: NONE is not set in the environment or .env"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_before_anything_is_written(
    odd: Path, tmp_path: Path, headers: list[str], said: str
) -> None:
    options = [argument for header in headers for argument in ("--header", header)]
    done = call("run", odd, "--prompt", "{text}", "--model", "m", "--base-url", "http://h", *options, cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert "sk-secret" not in done.stderr
    assert not (tmp_path / "output").exists()


def test_an_option_is_not_taken_for_another_that_begins_like_it(odd: Path, tmp_path: Path) -> None:
    done = call("serve", "--api-key", "sk-secret", cwd=tmp_path)
    assert done.status == 2
    assert "unrecognized arguments" in done.stderr
    assert "sk-secret" not in done.stderr


NO_KEY_OPTION = "--api-key: API keys come from API_KEY in the environment or .env, or from the variable that"


IN_ENV = "API keys come from API_KEY in the environment or .env"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key", "hunter2"],
        ["--key", "hunter2"],
        ["--api_key=hunter2"],
        ["--token", "hunter2"],
        ["--deepseek-api-key", "hunter2"],
        ["sk-hunter2-0123"],
        ["--model", "sk-hunter2-0123"],
        ["--model=sk-hunter2-0123"],
        ["--base-url", "sk-hunter2-0123"],
        ["--api-key-env", "sk-hunter2-0123"],
        ["--rpm", "sk-hunter2-0123"],
        ["--keyword", "sk-hunter2-0123"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("verb", ["run", "plan", "serve", "status", ""])
def test_an_api_key_in_any_place_of_the_command_line_is_refused_unshown_with_where_it_belongs(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(odd.parent)
    places = ([*arguments, verb, "odd.csv"], [verb, "odd.csv", *arguments], [verb, *arguments])
    for place in places:
        monkeypatch.setattr(sys, "argv", ["batcher", *filter(None, place)])
        with pytest.raises(SystemExit) as ended:
            main()
        stdout, stderr = capsys.readouterr()
        assert (ended.value.code, stdout) == (2, "")
        assert IN_ENV in stderr
        assert "hunter2" not in stderr
    assert not (odd.parent / "output").exists()


def test_what_may_be_a_key_although_it_does_not_begin_like_one_is_not_shown(odd: Path, tmp_path: Path) -> None:
    done = call("run", "odd.csv", "0123456789hunter2hunter2", cwd=tmp_path)
    assert done.status == 2
    assert "unrecognized arguments: (not shown: it looks like an API key)" in done.stderr


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["--header", "Authorization: Bearer sk-hunter2-0123"], {}),
        (["--header", "Authorization: Bearer sk-hunter2-0123=="], {}),
        (["--param", "sk-hunter2_0123"], {}),
        (["--base-url", "https://h/v1/sk-hunter2-0123"], {}),
        (["--base-url", "https://u:sk-hunter2-0123@h/v1"], {}),
        ([], {"MODEL": "sk-hunter2-0123"}),
        ([], {"BASE_URL": "sk-hunter2-0123"}),
    ],
    ids=str,
)
def test_an_api_key_inside_another_value_is_refused_unshown(
    odd: Path, tmp_path: Path, options: list[str], variables: dict[str, str]
) -> None:
    options = [] if variables else ["--model", "m", *options]
    given = {"MODEL": "m"} | variables
    done = call("run", "odd.csv", "--prompt-column", "text", *options, cwd=tmp_path, **given)
    assert (done.status, done.stdout) == (2, "")
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "0"], "--temperature: a request parameter goes into --param temperature=0"),
        (["--seed=7"], "--seed: a request parameter goes into --param seed=7"),
        (["--chunksize", "5"], "--chunksize: did you mean --chunk-size?"),
        (["--api-key", "sk-secret"], NO_KEY_OPTION),
        (["--api-key=sk-secret"], NO_KEY_OPTION),
        (["other.csv"], "other.csv\n"),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant_and_its_value_is_not_shown(
    odd: Path, tmp_path: Path, verb: str, arguments: list[str], said: str
) -> None:
    done = call(verb, "odd.csv", "--prompt-column", "text", *OFFLINE, *arguments, cwd=tmp_path)
    assert done.status == 2
    assert f"unrecognized arguments: {said}" in done.stderr
    assert "sk-secret" not in done.stderr
    assert not (tmp_path / "output").exists()
