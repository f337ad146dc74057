"""What people are told in the commonest mistakes: the whole sentence, for Python and for the command line."""

from __future__ import annotations

import copy
import gzip
import inspect
import json
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_service import Service

import batcher
from batcher.cli.verbs import main
from batcher.endpoint import Endpoint
from batcher.errors import BatcherError, DiskFull, OutputError, output_error
from batcher.journal.opening import open_journal

OFFLINE: dict[str, Any] = {"provider": "offline", "keyword": "k", "quiet": True}
TABLE = pd.DataFrame({"text": ["good", "bad"], "id": [1, 2]})


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("API_KEY", "BASE_URL", "MODEL", "OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    TABLE.to_csv("t.csv", index=False)


def said(call: Callable[[], object]) -> str:
    """Return the message of the error that batcher raises."""
    with pytest.raises(BatcherError) as caught:
        call()
    return str(caught.value)


def said_in_shell(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line that a refused command prints."""
    try:
        status = main([*arguments])
    except SystemExit as end:  # argparse's
        status = int(end.code or 0)
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    return line.removeprefix("batcher: ").removeprefix("error: ")


# -- Options and fields that do not exist


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"temperature": 0}, 'temperature\': a request parameter goes into params={"temperature": 0}'),
        ({"stop": "sk-0123456789"}, 'stop\': a request parameter goes into params={"stop": ...}'),
        ({"temprature": 0.5}, 'temprature\': did you mean params={"temperature": 0.5}?'),
        ({"rpmm": 3}, "rpmm': did you mean 'rpm'?"),
        ({"param": {}}, "param': did you mean 'params'?"),
        ({"api_base": "http://h/v1"}, "api_base': did you mean 'base_url'?"),
        ({"max_retries": 2}, "max_retries': give max_attempts to batcher.run instead"),
        ({"timeout": 60}, "timeout': give timeout to batcher.run instead"),
        ({"key": "sk-0123456789"}, "key': the key goes into api_key; with several keys, make one Endpoint for each"),
        (
            {"zzz": "sk-0123456789"},
            (
                "zzz': the fields are model, base_url, api_key, rpm, rps, tpm, max_concurrency, params, prices, llm,"
                " headers, account, name; give other options to batcher.run"
            ),
        ),
    ],
)
def test_a_field_that_an_endpoint_does_not_have_is_refused_with_advice(field: dict[str, Any], message: str) -> None:
    assert said(lambda: Endpoint("m", **field)) == f"an Endpoint has no field '{message}"


def test_an_endpoint_is_still_shown_copied_and_pickled_as_a_dataclass() -> None:
    endpoint = Endpoint("m", "http://h/v1", api_key="sk-1", params={"temperature": 0})
    assert [*inspect.signature(Endpoint).parameters][:4] == ["model", "base_url", "api_key", "rpm"]
    assert copy.copy(endpoint) == pickle.loads(pickle.dumps(endpoint)) == endpoint  # noqa: S301 - our own
    with pytest.raises(TypeError, match="multiple values for argument 'model'"):
        Endpoint("m", model="m")  # type: ignore[misc]  # it is the mistake


@pytest.mark.parametrize(
    ("option", "python", "shell"),
    [
        (
            {"temperature": 0},
            "there is no option 'temperature': a request parameter goes into param={\"temperature\": 0}",
            "unrecognized arguments: --temperature: a request parameter goes into --param temperature=0",
        ),
        (
            {"zzz": 3},
            "there is no option 'zzz': `help(batcher.run)` lists the options",
            "unrecognized arguments: --zzz: `batcher run --help` lists the options",
        ),
    ],
)
def test_an_option_that_does_not_exist_is_refused_with_advice(
    capsys: pytest.CaptureFixture[str], option: dict[str, Any], python: str, shell: str
) -> None:
    assert said(lambda: batcher.run(TABLE, "{text}", **OFFLINE, **option)) == python
    [(name, value)] = option.items()
    arguments = ("run", "t.csv", "--prompt", "{text}", "--provider", "offline", f"--{name}", str(value))
    assert said_in_shell(capsys, *arguments) == shell


# -- The environment and .env


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"BASE_URL": "/app/"}, "BASE_URL ({}) is '/app/': it must look like https://host/v1"),
        (
            {"BASE_URL": "https://h/v1?key=a"},
            (
                "BASE_URL ({}) holds a user, a password or a query other than ?api-version=: give keys through API_KEY,"
                " and other values that the server needs as headers"
            ),
        ),
        ({"API_KEY": "k1, k2 ,k1", "BASE_URL": "http://h/v1"}, "API_KEY ({}): key 3 repeats key 1: remove one"),
        (
            {"API_KEY": "a b", "BASE_URL": "http://h/v1"},
            "API_KEY ({}) is not a string, or holds a space or a character that is not allowed in a header",
        ),
        (
            {"MODEL": "sk-0123456789abcdef"},
            "MODEL ({}) looks like an API key, and is not shown: API keys come from API_KEY in the environment or .env",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_variable_and_the_place_where_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    (name, value), *others = variables.items()
    lines = [f"{each}={text}" for each, text in others]
    file = tmp_path / ".env"
    file.write_text("\n".join([*lines, "", "# the next line is wrong", "", f'{name}="{value}"', ""]), encoding="utf-8")
    options: dict[str, Any] = {"keyword": "k"} | ({} if name == "MODEL" else {"model": "m"})
    assert said(lambda: batcher.plan(TABLE, "{text}", **options)) == message.format(f"{file}, line {len(lines) + 4}")
    monkeypatch.setenv(name, value)
    assert said(lambda: batcher.plan(TABLE, "{text}", **options)) == message.format("environment")


def test_a_line_of_dotenv_that_cannot_be_read_is_named_with_its_number(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MODEL=m\n\n\nAPI KEY sk-1\n", encoding="utf-8")
    message = said(lambda: batcher.plan(TABLE, "{text}", keyword="k"))
    assert message == f"{tmp_path / '.env'}, line 4 cannot be read: it must look like NAME=value, or begin with #"


def test_a_wrong_option_is_named_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    message = "is '/app': it must look like https://host/v1"
    assert said(lambda: batcher.plan(TABLE, "{text}", keyword="k", base_url="/app", model="m")) == f"base_url {message}"
    arguments = ("plan", "t.csv", "--prompt", "{text}", "--base-url", "/app", "--model", "m")
    assert said_in_shell(capsys, *arguments) == f"--base-url {message}"


# -- Endpoints that repeat each other


def chat_model() -> Any:
    from langchain_core.language_models import FakeListChatModel  # noqa: PLC0415 - it takes a second

    return FakeListChatModel(responses=["yes"])


@pytest.mark.parametrize(
    ("fields", "shared"),
    [
        ({"base_url": "http://h/v1", "api_key": "k"}, "same model m, base URL and API key"),
        ({"base_url": "http://h/v1"}, "same model m and base URL"),
        ({"base_url": "http://h/v1", "headers": {"X-Team": "a"}}, "same model m, base URL and headers"),
    ],
)
def test_an_endpoint_that_repeats_another_is_named_with_that(fields: dict[str, Any], shared: str) -> None:
    endpoints = [Endpoint("m", **fields), Endpoint("other", "http://h/v1"), Endpoint("m", **fields)]
    message = said(lambda: batcher.plan(TABLE, "{text}", keyword="k", endpoints=endpoints))
    assert message == f"endpoint 3 repeats endpoint 1 ({shared}): remove one"


def test_a_chat_model_that_is_given_twice_is_named_too() -> None:
    model = chat_model()
    endpoints = [Endpoint(llm=model), Endpoint(llm=model)]
    message = said(lambda: batcher.plan(TABLE, "{text}", keyword="k", endpoints=endpoints))
    assert message == "endpoint 2 repeats endpoint 1 (the same chat model): remove one"


def test_in_a_file_endpoints_are_counted_by_their_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWO_KEYS", "k1,k2")
    table = '[[endpoint]]\nmodel = "m"\nbase_url = "http://h/v1"\napi_key_env = "TWO_KEYS"\n'
    Path("pool.toml").write_text(table * 2, encoding="utf-8")
    message = said(lambda: batcher.plan(TABLE, "{text}", keyword="k", endpoints="pool.toml"))
    assert message == (
        "endpoints pool.toml: endpoint 2 repeats endpoint 1 (same model m, base URL and API key): remove one"
    )


# -- The table and the prompt


@pytest.mark.parametrize(
    ("columns", "has", "python", "shell"),
    [
        (["infer"], "a column 'infer'", 'it out: df.drop(columns="infer")', "it out"),
        (
            ["infer", "infer_status", "infer_error"],
            "columns 'infer', 'infer_status' and 'infer_error'",
            'them out: df.drop(columns=["infer", "infer_status", "infer_error"])',
            "them out",
        ),
    ],
)
def test_a_table_that_has_the_answer_columns_already_is_refused_with_both_ways_out(
    capsys: pytest.CaptureFixture[str], columns: list[str], has: str, python: str, shell: str
) -> None:
    table = TABLE.assign(**dict.fromkeys(columns, "x"))
    message = said(lambda: batcher.run(table, "{text}", **OFFLINE))
    assert message == f"the input has {has} already: choose another answer_column, or leave {python}"
    table.to_csv("twice.csv", index=False)
    arguments = ("run", "twice.csv", "--prompt", "{text}", "--provider", "offline")
    assert said_in_shell(capsys, *arguments) == (
        f"the input has {has} already: choose another --answer-column, or leave {shell}"
    )


@pytest.mark.parametrize(
    ("index", "place"),
    [
        (None, "row 1 (counted from 0)"),
        (pd.Index(["a", "b"]), "row 1 (counted from 0; index 'b')"),
        (pd.Index([7, 5]), "row 1 (counted from 0; index 5)"),
        (pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]), "row 1 (counted from 0; index ('a', 2))"),
        (
            pd.date_range("2026-01-01", periods=2),
            "row 1 (counted from 0; index Timestamp('2026-01-02 00:00:00'))",
        ),
        (pd.Index(["a", "x" * 100]), f"row 1 (counted from 0; index '{'x' * 79})"),
    ],
)
def test_a_prompt_function_that_fails_is_shown_with_the_row_and_its_index(index: Any, place: str) -> None:
    table = TABLE if index is None else TABLE.set_index(index)

    def prompt(row: dict[str, Any]) -> str:
        return row["text"] if row["id"] == 1 else 1 + row["text"]  # type: ignore[no-any-return]

    with pytest.raises(batcher.InputError) as caught:
        batcher.run(table, prompt, **OFFLINE)
    assert str(caught.value) == (
        f"the prompt function failed on the DataFrame, {place}: TypeError: unsupported operand type(s) for +: 'int'"
        " and 'str'"
    )
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_prompt_function_that_returns_something_else_is_told_what_it_may_return() -> None:
    assert said(lambda: batcher.run(TABLE, lambda row: row["id"], **OFFLINE)) == (
        "the DataFrame, row 0 (counted from 0): the prompt function's result must be a string or a list of messages,"
        " not 1"
    )


CHINESE = "gbk.csv, line 1: byte 0xb1 is not UTF-8: it is likely gb18030 (Chinese, also called GBK): "
PROMPT = " p.txt, line 1: byte 0xc7 is not UTF-8: it is likely gb18030 (Chinese, also called GBK): save it as UTF-8, or"


def test_text_in_another_encoding_is_refused_with_its_likely_name_and_two_ways_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("gbk.csv").write_bytes("编号,评论\n1,这个产品很好用我非常喜欢\n".encode("gbk"))
    instead = ', or save it as UTF-8 ("CSV UTF-8" in Excel)'
    python = said(lambda: batcher.plan("gbk.csv", "{评论}", provider="offline"))
    assert python == f'{CHINESE}add input_encoding="gb18030"{instead}'
    shell = said_in_shell(capsys, "plan", "gbk.csv", "--prompt", "{评论}", "--provider", "offline")
    assert shell == f"{CHINESE}add --input-encoding gb18030{instead}"

    Path("p.txt").write_bytes("请给这个评论打分，只回答数字：{text}".encode("gbk"))  # noqa: RUF001 - as people write
    python = said(lambda: batcher.plan("t.csv", prompt_file="p.txt", provider="offline"))
    assert python == f'prompt_file{PROMPT} add input_encoding="gb18030" if the table has that encoding, too'
    shell = said_in_shell(capsys, "plan", "t.csv", "--prompt-file", "p.txt", "--provider", "offline")
    assert shell == f"--prompt-file{PROMPT} add --input-encoding gb18030 if INPUT has that encoding, too"


def test_a_file_of_another_kind_than_its_name_says_is_named() -> None:
    Path("zipped.csv").write_bytes(gzip.compress(b"text\na\n"))
    assert said(lambda: batcher.plan("zipped.csv", "{text}", provider="offline")) == (
        "zipped.csv is a gzip file: name it zipped.csv.gz"
    )


# -- A run that is refused, or ends early


@contextmanager
def answering(status: int, body: dict[str, Any]) -> Iterator[str]:
    """Serve one reply to every request, and yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("key", "status", "body", "message"),
    [
        (
            None,
            401,
            {"error": {"message": "You didn't provide an API key."}},
            (
                "the API key was refused: HTTP 401: You didn't provide an API key. (no API key was sent: --api-key-env"
                " NAME sends the one in the variable NAME of the environment or .env; in Python api_key_env, or api_key"
                " of the Endpoint)"
            ),
        ),
        ("sk-1", 401, {"error": "Unauthorized"}, "the API key was refused: HTTP 401: Unauthorized"),
        (
            None,
            404,
            {"detail": "Not Found"},
            "the model or the base URL is unknown there (does it lack /v1?): HTTP 404: Not Found",
        ),
    ],
)
def test_a_service_that_refuses_everything_is_quoted_with_what_to_do(
    key: str | None, status: int, body: dict[str, Any], message: str
) -> None:
    with answering(status, body) as url:
        endpoint = Endpoint("m", url, api_key=key)
        told = said(lambda: batcher.run(TABLE, "{text}", keyword="k", endpoints=[endpoint], quiet=True))
    assert told == (
        f"no endpoint is left:\n  endpoint 1 (m at {url}): {message} (2 different rows were told so)\n"
        "no row is answered: correct the cause, and run it again"
    )


def test_a_journal_that_another_run_of_the_process_holds_is_busy_before_that_run_has_begun(path: Path) -> None:
    with open_journal(path):
        assert said(lambda: open_journal(path)) == f"{path}: another run in this process has it: await it or cancel it"
    open_journal(path).close()


def test_a_full_disk_is_told_apart_from_other_errors_of_the_system_and_of_sqlite(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "full.sqlite")) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("PRAGMA max_page_count = 3")
        with pytest.raises(sqlite3.OperationalError) as caught:
            db.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert type(output_error("said", caught.value)) is DiskFull
    for number, kind in ((28, DiskFull), (13, OutputError)):
        assert type(output_error("said", OSError(number, "said"))) is kind


def test_a_full_disk_is_said_with_the_answers_that_are_lost_and_the_room_that_is_needed(lab: Any) -> None:
    texts = [f"text {number}" for number in range(40)]

    def fill() -> None:
        lab.change("CREATE TRIGGER full BEFORE INSERT ON results BEGIN SELECT raise(ABORT, 'no room'); END")

    with pytest.raises(batcher.RunStopped) as caught:
        lab.run(texts, Service(texts), at={10.5: fill}, endpoints=[Endpoint("m", max_concurrency=2)])
    lost = caught.value.report.out_now
    assert 1 <= lost <= 2
    were = "1 request was out: its answer is lost" if lost == 1 else "2 requests were out: their answers are lost"
    assert str(caught.value).splitlines()[-1] == f"{were}, and may be billed twice"
