"""batcher against servers that people run themselves: what comes of labels, streams, refusals, kills and overload.

The tiny model answers nonsense. What is looked at is that nothing is lost, that each status is honest, and that the
journal's counts are the server's. Run by `make test-real`, not by `make test`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from programs import Done, Program, call, finish, local_server, started, table, write_table
from servers import KEY, PROGRAMS, Running, make_models, running, write_proxy

WORDS = ("Boils fast", "Broke", "It is a lamp", "Warm and light", "Lid fell off", "Arrived on Tuesday", "Battery flat")
TEXTS = [f"{WORDS[number % len(WORDS)]} {number}" for number in range(40)]


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    program = PROGRAMS[request.param]
    if not program.is_installed:
        pytest.skip(f"{program.name} is not installed: `make test-real` says why")
    folder = tmp_path_factory.mktemp(program.name)
    make_models(folder)
    with contextlib.ExitStack() as stack:
        if program.name == "litellm":
            upstream = stack.enter_context(local_server("--latency", "0.05", "--max-in-flight", "2", cwd=folder))
            write_proxy(folder, upstream.base_url)
        yield stack.enter_context(running(program, folder))


class Desk:
    """A user's directory, from which runs are sent to the server."""

    def __init__(self, folder: Path, server: Running) -> None:
        self.folder = folder
        self.server = server
        self.input = self.write(TEXTS)
        self.statuses = server.statuses()
        self.tokens = server.tokens() if server.program.has_metrics else (0, 0)

    def write(self, texts: list[str]) -> Path:
        return write_table(self.folder / "input.csv", ["text"], [[text] for text in texts])

    def arguments(self, *options: str, model: str = "", key: str = KEY) -> tuple[str, ...]:
        if self.server.program.has_key:
            options = (*options, "--api-key-env", "MY_KEY")
        (self.folder / ".env").write_text(f"MY_KEY={key}\n")
        return (
            *("run", str(self.input), "--prompt", "{text}", "--keyword", "k", "--param", "temperature=0"),
            *("--base-url", self.server.base_url, "--model", model or self.server.model, *options),
        )

    def run(self, *options: str, **how: str) -> Done:
        done = call(*self.arguments(*options, **how), cwd=self.folder)
        print(done.stderr)  # noqa: T201 - what its user reads, if the test fails
        return done

    def rows(self) -> list[dict[str, str]]:
        return table(self.folder / "output" / "all_k.csv")

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / "output" / "journal_k.sqlite")) as journal:
            return journal.execute(query).fetchall()

    def check(self, *, was_killed: bool = False) -> None:
        """Compare the files with the journal, and the journal with the server."""
        verified = call("verify", "k", str(self.input), cwd=self.folder)
        assert verified.status == 0, verified.stdout + verified.stderr
        assert [row["text"] for row in self.rows()] == [row["text"] for row in table(self.input)]
        if was_killed:
            return
        if self.server.program.has_metrics:
            spent = self.ask("SELECT sum(prompt_tokens), sum(completion_tokens) FROM requests")[0]
            asked, answered = self.server.tokens()
            assert spent == (asked - self.tokens[0], answered - self.tokens[1])
            return
        seen = self.server.statuses() - self.statuses
        assert seen.total() == self.ask("SELECT count(*) FROM requests")[0][0]
        assert seen[200] == self.ask("SELECT count(*) FROM requests WHERE outcome IN ('answered', 'unfit')")[0][0]


@pytest.fixture
def desk(tmp_path: Path, server: Running) -> Desk:
    return Desk(tmp_path, server)


def test_labels_are_of_the_list_or_the_row_is_invalid(desk: Desk) -> None:
    done = desk.run("--labels", ",".join(tiny.LABELS))
    statuses = {row["infer_status"] for row in desk.rows()}
    assert statuses <= {"ok", "invalid"}, done.stderr
    assert done.status == (1 if "invalid" in statuses else 0)
    assert all(row["infer"] in tiny.LABELS for row in desk.rows() if row["infer_status"] == "ok")
    desk.check()


def test_the_form_that_a_server_enforces_is_found(desk: Desk) -> None:
    """No answer of the model fits by itself."""
    done = desk.run("--labels", "alpha,beta", "--param", "max_tokens=100")
    oks = [row for row in desk.rows() if row["infer_status"] == "ok"]
    if desk.server.program.enforces:
        assert "is asked with a strict JSON Schema" in done.stderr
        assert len(oks) >= 35  # a few ramble in blanks up to max_tokens
    assert all(row["infer"] in {"alpha", "beta"} for row in oks)
    desk.check()


def test_a_stream_is_read_to_its_end(desk: Desk) -> None:
    done = desk.run("--param", "stream=true", "--param", "max_tokens=40")
    assert {row["infer_status"] for row in desk.rows()} == {"ok"}, done.stderr
    assert {reason for (reason,) in desk.ask("SELECT finish_reason FROM responses")} <= {"stop", "length"}
    counted = desk.ask("SELECT count(*) FROM requests WHERE completion_tokens IS NOT NULL")[0][0]
    assert counted == (len(TEXTS) if desk.server.program.streams_usage else 0)
    desk.check()


def test_a_wrong_key_ends_the_run_after_two_rows(desk: Desk) -> None:
    if not desk.server.program.has_key:
        pytest.skip("it knows no keys")
    done = desk.run(key="sk-wrong-0123456789abcdef")
    assert done.status == 3
    assert "the API key was refused" in done.stderr
    assert desk.ask("SELECT count(*) FROM requests")[0][0] == 2
    assert desk.run().status == 0
    desk.check()


def test_a_wrong_model_is_refused_in_words_or_its_true_name_is_told(desk: Desk) -> None:
    done = desk.run(model="no-such-model")
    if desk.server.program.knows_models:
        assert done.status == 3
        assert "the model is unknown there" in done.stderr
        assert desk.ask("SELECT count(*) FROM requests")[0][0] == 2
    else:
        assert done.status == 0
        assert ("answers as tiny" in done.stderr) == desk.server.program.says_its_name
        desk.check()


def test_a_prompt_longer_than_the_context_is_its_rows_own_error(desk: Desk) -> None:
    long = "so " * tiny.CONTEXT
    desk.input = desk.write([*TEXTS[:5], long, *TEXTS[5:10]])
    done = desk.run("--param", "max_tokens=40")
    failed = [row["infer_error"] for row in desk.rows() if row["infer_status"] == "error"]
    assert len(failed) == desk.server.program.knows_context, done.stderr
    assert all(error.startswith("the request is too long: ") for error in failed)
    assert desk.rows()[5]["infer_status"] == ("error" if failed else "ok")
    if not desk.server.program.has_metrics:
        desk.check()


def test_a_server_that_is_killed_and_started_again_costs_no_row(desk: Desk) -> None:
    texts = [f"{text} {turn}" for turn in range(10) for text in TEXTS]
    desk.input = desk.write(texts)
    with started(*desk.arguments("--param", "max_tokens=40"), cwd=desk.folder) as program:
        _wait_for_answers(desk, program, 40)
        desk.server.kill()
        try:
            time.sleep(3)  # batcher meets a server that is not there
        finally:
            desk.server.start()
        done = finish(program)
    print(done.stderr)  # noqa: T201
    assert done.status == 0, done.stderr
    assert {row["infer_status"] for row in desk.rows()} == {"ok"}
    desk.check(was_killed=True)


def _wait_for_answers(desk: Desk, program: Program, count: int) -> None:
    answers = 0
    while answers < count:
        assert program.poll() is None, finish(program)
        time.sleep(0.1)
        with contextlib.suppress(sqlite3.Error):
            answers = desk.ask("SELECT count(*) FROM responses")[0][0]


def test_more_calls_than_a_server_takes_lose_nothing(desk: Desk) -> None:
    done = desk.run("--max-concurrency", "64", "--param", "max_tokens=40")
    assert {row["infer_status"] for row in desk.rows()} == {"ok"}, done.stderr
    desk.check()
