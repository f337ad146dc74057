"""No API key reaches a file, a message or a traceback, for any behaviour of the service, the proxy or the user's
code."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from urllib.parse import unquote

import pytest
from canned_server import closed_port, completion, events, http
from hostile_server import Ask, answered, hostile, refused
from programs import call, finish, local_server, started, table, write_table
from proxy_server import Refusal, proxying

KEYS = ("sk-f1rst/With+all=kinds", "sk-s3cond-key")
SECRET, OTHER = "gateway5ecret+with/all=kinds", "sk-0ther-header-key"
VERBOSE = {"PYTHONASYNCIODEBUG": "1", "OPENAI_LOG": "debug", "LANGCHAIN_VERBOSE": "true"}


@contextlib.asynccontextmanager
async def echo(status: int, form: str) -> AsyncIterator[str]:
    """Serve errors that repeat all that was sent, as some relays do; yield the base URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                [length] = [int(line.split(": ")[1]) for line in head.splitlines() if line.startswith("Content-Length")]
                await reader.readexactly(length)
                key = head.partition("Bearer ")[2].split("\r\n")[0]
                said = f"Incorrect API key {key} provided, headers were {head}"
                body = json.dumps({"error": {"message": said, "code": key}}) if form == "json" else said
                data = body.encode()
                header = f"HTTP/1.1 {status} {key}\r\nX-Key: {key}\r\nContent-Length: {len(data)}\r\n\r\n"
                writer.write(header.encode() + data)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def check(tmp_path: Path, *shown: str, secrets: tuple[str, ...] = KEYS) -> None:
    """Grep all that was printed and every file but the one that the keys came from."""
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    assert files
    for secret in secrets:
        assert all(secret not in text for text in shown)
        assert all(secret.encode() not in path.read_bytes() for path in files)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / ".env").write_text(f"API_KEY={','.join(KEYS)}\nMODEL=m\n")
    return write_table(tmp_path / "rows.csv", ["text"], [[f"row {n}"] for n in range(8)])


@pytest.mark.parametrize(
    ("status", "form"), [(200, "json"), (302, "text"), (400, "json"), (401, "json"), (401, "text"), (500, "text")]
)
async def test_a_service_that_repeats_the_key_in_its_errors_shows_it_to_nobody(
    rows: Path, tmp_path: Path, status: int, form: str
) -> None:
    async with echo(status, form) as base_url:
        done = await asyncio.to_thread(
            call, "run", rows, "--prompt", "{text}", "--base-url", base_url, "--max-attempts", "1", "--wait", "0",
            "--json",
            cwd=tmp_path, **VERBOSE,
        )  # fmt: skip
    assert done.status in {1, 3}
    told = call("status", "rows", cwd=tmp_path)
    check(tmp_path, done.stdout, done.stderr, told.stdout)


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_a_service_that_repeats_a_header_shows_it_to_nobody(rows: Path, tmp_path: Path, status: int) -> None:
    """The header comes from the environment, and from `.env`."""
    with (tmp_path / ".env").open("a", encoding="utf-8") as file:
        file.write(f"TEAM_KEY={SECRET}\n")
    async with echo(status, "json") as base_url:
        done = await asyncio.to_thread(
            call, "run", rows, "--prompt", "{text}", "--base-url", base_url, "--max-attempts", "1", "--wait", "0",
            "--json",
            "--header", "X-Whatever=env:TEAM_KEY", "--header", f"X-Api-Key={OTHER}", cwd=tmp_path, **VERBOSE,
        )  # fmt: skip
    assert done.status in {1, 3}
    assert "X-Whatever: [API key]" in call("status", "rows", cwd=tmp_path).stdout + done.stderr
    told = call("status", "rows", cwd=tmp_path)
    check(tmp_path, done.stdout, done.stderr, told.stdout, secrets=(*KEYS, SECRET, OTHER))


WHERE = ["text", "refusal", "reason", "calls", "stream", "header"]


@pytest.mark.parametrize("where", WHERE)
def test_a_service_that_repeats_the_key_in_its_answers_shows_it_to_nobody(
    rows: Path, tmp_path: Path, where: str
) -> None:
    def script(ask: Ask) -> Iterator[bytes]:
        said = f"your key is {ask.key}"
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": said}}]
        chunk = {"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": ask.key}]}
        yield {
            "text": answered(ask, text=said),
            "refusal": http(200, completion(None, refusal=said)).data,
            "reason": http(200, completion("", finish_reason=ask.key)).data,
            "calls": http(200, completion(None, tool_calls=calls)).data,
            "stream": http(200, events(chunk)).data,
            "header": answered(ask, f"X-Request-ID: {ask.key}", f"X-RateLimit-Remaining-Requests: {ask.key}"),
        }[where]

    with hostile(script) as server:
        done = call("run", rows, "--prompt", "{text}", "--base-url", server.base_url, "--json", cwd=tmp_path, **VERBOSE)
    assert done.status in {0, 1}
    told = call("status", "rows", cwd=tmp_path)
    check(tmp_path, done.stdout, done.stderr, told.stdout)


def test_a_word_that_stands_in_for_a_key_is_left_in_every_text(tmp_path: Path) -> None:
    rows = write_table(tmp_path / "rows.csv", ["text"], [["row 0"], ["row 1"]])

    def script(ask: Ask) -> Iterator[bytes]:
        yield answered(ask, text="0 of 10") if ask.prompt == "row 0" else refused(400, "10 is not 0")

    with hostile(script) as server:
        done = call(
            "run", rows, "--prompt", "{text}", "--base-url", server.base_url, "--model", "m", cwd=tmp_path, API_KEY="0"
        )
    assert done.status == 1
    first, second = table(tmp_path / "output" / "all_rows.csv")
    assert first["infer"] == "0 of 10"
    assert second["infer_error"] == "the request was refused: HTTP 400 (code): 10 is not 0; gave up after 3 refusals"


def test_a_good_run_writes_no_key(rows: Path, tmp_path: Path) -> None:
    with local_server("--api-key-env", "ACCEPTED", cwd=tmp_path, ACCEPTED=",".join(KEYS)) as server:
        arguments = ("run", rows, "--prompt", "{text}", "--base-url", server.base_url)
        done = call(*arguments, cwd=tmp_path, **VERBOSE)
        planned = call(*arguments, "--dry-run", "--json", cwd=tmp_path, **VERBOSE)
        books = json.dumps(server.books())
    assert (done.status, planned.status) == (0, 0)
    check(tmp_path, done.stdout, done.stderr, planned.stdout, planned.stderr, books)


def test_nobody_listening_and_a_proxy_with_a_password_show_neither(rows: Path, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{closed_port()}/v1"
    alone = call("run", rows, "--prompt", "{text}", "--base-url", nobody, "--wait", "0", cwd=tmp_path, **VERBOSE)
    # The proxy is on loopback and closed, so nothing leaves the machine.
    proxy = f"http://user:sk-pr0xy@127.0.0.1:{closed_port()}"
    proxied = call(
        "run", rows, "--prompt", "{text}", "--base-url", "http://service.invalid/v1", "--wait", "0",
        "--keyword", "proxied", cwd=tmp_path, HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", **VERBOSE,
    )  # fmt: skip
    assert (alone.status, proxied.status) == (3, 3)
    check(tmp_path, alone.stdout, alone.stderr, proxied.stdout, proxied.stderr, secrets=(*KEYS, "sk-pr0xy"))


# A password of a few letters is one too; `me` and `pw` are parts of many words, so they are looked for alone.
PROXY_USERS = ["alice-9:p%40ss/w0rd+long".replace("/", "%2F"), "user:pw", "proxyuser:proxypassword"]
ECHOES = {
    "header": Refusal(502, "No {credentials}", "came: Proxy-Authorization: {credentials}"),
    "plain": Refusal(503, "No {plain}", "no access for {plain}"),
    "asked": Refusal(407, "No {credentials}", "no access for {plain}, {credentials}"),
}
LLM = """
import os
import batcher
from langchain_openai import ChatOpenAI

proxy = os.environ.get("OWN_PROXY")  # as an argument of the model, or else in HTTP_PROXY
llm = ChatOpenAI(model="m", api_key="EMPTY", base_url="http://model.example/v1", max_retries=0, openai_proxy=proxy)
try:
    batcher.run("rows.csv", "{text}", endpoints=[batcher.Endpoint(llm=llm)], max_attempts=1, wait=0)
except batcher.RunStopped as stopped:
    print(stopped, stopped.report)
"""


def forms_of(user: str) -> tuple[str, ...]:
    """Return what must not come back: the pair, encoded and decoded, the password, and their header."""
    plain = unquote(user)
    forms = (user, plain, plain.partition(":")[2], base64.b64encode(plain.encode()).decode())
    return tuple(each for each in forms if len(each) > 2)


# Each user meets each kind of echo, and each of these meets both schemes, or both ways to name a proxy.
SCHEMES = [
    (user, kind, ("http", "https")[place % 2]) for place, (user, kind) in enumerate(product(PROXY_USERS, ECHOES))
]
NAMES = [
    (user, kind, ("HTTP_PROXY", "OWN_PROXY")[(first + second) % 2])
    for first, user in enumerate(PROXY_USERS)
    for second, kind in enumerate(("header", "plain"))
]


@pytest.mark.parametrize(("user", "kind", "scheme"), SCHEMES)
async def test_user_and_password_of_a_proxy_that_repeats_them_are_shown_nowhere(
    rows: Path, tmp_path: Path, user: str, scheme: str, kind: str
) -> None:
    async with proxying("http://127.0.0.1:1", refusal=ECHOES[kind]) as proxy:
        given = {"ALL_PROXY": proxy.url.replace("://", f"://{user}@"), "NO_PROXY": "", "no_proxy": ""}
        done = await asyncio.to_thread(
            call, "run", rows, "--prompt", "{text}", "--base-url", f"{scheme}://model.example/v1", "--max-attempts",
            "1", "--wait", "0", "--json", cwd=tmp_path, **given, **VERBOSE,
        )  # fmt: skip
    assert done.status == 3
    assert set(proxy.credentials) == {f"Basic {base64.b64encode(unquote(user).encode()).decode()}"}
    told = call("status", "rows", cwd=tmp_path)
    check(tmp_path, done.stdout, done.stderr, told.stdout, secrets=(*KEYS, *forms_of(user)))
    assert not re.search(r"\bpw\b", done.stderr + done.stdout + told.stdout)


AROUND = "set NO_PROXY=model.example to go around the proxy"
OUR_WORDS = {
    "header": "or the service behind it, answered: came: Proxy-Authorization: Basic [API key]; if it was the proxy,"
    f" correct ALL_PROXY, or {AROUND}",
    "plain": "or the service behind it, answered: no access for [API key]; if it was the proxy, correct ALL_PROXY,"
    f" or {AROUND}",
    "asked": f"refused the user and the password in ALL_PROXY (HTTP 407): correct them, or {AROUND}",
}


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ("the:refused", "header"),
        ("the:refused", "asked"),
        ("proxy:password", "plain"),
        ("proxy:password", "asked"),
        ("service:behind", "header"),
        ("it:answered", "plain"),
        ("API:key", "header"),
        ("API:key", "plain"),
    ],
)
async def test_a_proxys_user_and_password_that_are_our_words_leave_our_sentence_whole_in_messages_and_journal(
    rows: Path, tmp_path: Path, user: str, kind: str
) -> None:
    async with proxying("http://127.0.0.1:1", refusal=ECHOES[kind]) as proxy:
        given = {"ALL_PROXY": proxy.url.replace("://", f"://{user}@"), "NO_PROXY": "", "no_proxy": ""}
        done = await asyncio.to_thread(
            call, "run", rows, "--prompt", "{text}", "--base-url", "http://model.example/v1", "--max-attempts", "1",
            "--wait", "0", cwd=tmp_path, **given,
        )  # fmt: skip
    told = call("status", "rows", cwd=tmp_path)
    for shown in (done.stderr, told.stdout):
        assert f"the proxy at {proxy.url} (ALL_PROXY)" in shown
        assert OUR_WORDS[kind] in shown
    check(tmp_path, done.stdout, done.stderr, told.stdout, secrets=(user, base64.b64encode(user.encode()).decode()))


@pytest.mark.parametrize(("user", "kind", "name"), NAMES)
async def test_user_and_password_of_a_chat_models_own_proxy_are_shown_nowhere(
    rows: Path, tmp_path: Path, user: str, kind: str, name: str
) -> None:
    (tmp_path / "script.py").write_text(LLM)
    async with proxying("http://127.0.0.1:1", refusal=ECHOES[kind]) as proxy:
        given = {name: proxy.url.replace("://", f"://{user}@"), "NO_PROXY": "", "no_proxy": ""}
        done = await asyncio.to_thread(call, "script.py", cwd=tmp_path, **given)
    assert (done.status, len(proxy.lines) > 0) == (0, True), done.stderr
    assert "[API key]" in done.stdout
    check(tmp_path, done.stdout, done.stderr, secrets=forms_of(user))
    assert not re.search(r"\bpw\b", done.stderr + done.stdout)


@pytest.mark.parametrize(
    "key", ["0", "EMPTY", "none", "lm-studio", "internationalization", "not-needed", "1234567890", "ordinary.words"]
)
def test_an_answer_keeps_its_words_if_a_key_is_one_of_them(tmp_path: Path, key: str) -> None:
    rows = write_table(tmp_path / "rows.csv", ["text"], [["row 0"]])

    def script(ask: Ask) -> Iterator[bytes]:
        yield answered(ask, text=f"4096 {key} more")

    with hostile(script) as server:
        arguments = ("run", rows, "--prompt", "{text}", "--base-url", server.base_url, "--model", "m")
        done = call(*arguments, cwd=tmp_path, API_KEY=key)
    assert done.status == 0
    assert table(tmp_path / "output" / "all_rows.csv")[0]["infer"] == f"4096 {key} more"


OWN_MODELS = """
import os, warnings
from urllib.parse import quote
import batcher
from langchain_openai import ChatOpenAI

warnings.simplefilter("ignore")
url, secret = os.environ["URL"], os.environ["MINE"]
held = {
    "key": {"api_key": secret},
    "headers": {"default_headers": {"X-Whatever": f"Bearer {secret}"}},
    "query": {"default_query": {"q": secret}},
    "extra": {"model_kwargs": {"extra_headers": {"X-Other": secret}}},
    "body": {"extra_body": {"upstream": {"api_key": secret}}},
    "user": {"base_url": url.replace("http://", f"http://user:{quote(secret, safe='')}@")},
}
for keyword, options in held.items():
    llm = ChatOpenAI(**{"model": "m", "api_key": "EMPTY", "base_url": url, "max_retries": 0} | options)
    endpoint = batcher.Endpoint(llm=llm)
    print(endpoint, endpoint.source)
    try:
        report = batcher.run("rows.csv", "{text}", keyword=keyword, endpoints=[endpoint], max_attempts=1, wait=0)
    except batcher.RunStopped as stopped:
        report = stopped.report
    print(report, report.to_dict(), batcher.status(keyword), batcher.verify(keyword, "rows.csv"))
"""


@pytest.mark.parametrize("status", [200, 400, 401])
async def test_what_a_chat_model_of_the_users_own_holds_is_shown_to_nobody(
    rows: Path, tmp_path: Path, status: int
) -> None:
    (tmp_path / ".env").unlink()
    (tmp_path / "script.py").write_text(OWN_MODELS)
    async with echo(status, "json") as base_url:
        done = await asyncio.to_thread(call, "script.py", cwd=tmp_path, MINE=KEYS[0], URL=base_url)
    assert done.status == 0, done.stderr
    assert done.stdout.count("requests") >= 6
    encoded = base64.b64encode(f"user:{KEYS[0]}".encode()).decode()
    check(tmp_path, done.stdout, done.stderr, secrets=(KEYS[0], encoded))


SCRIPT = """
import logging, os
import batcher

logging.basicConfig(level=logging.DEBUG)
keys = os.environ["MINE"].split(",")
endpoints = [batcher.Endpoint("m", base_url=os.environ["URL"], api_key=key) for key in keys]
print(endpoints)

def prompt(row):
    if row["text"] == "row 5":
        raise KeyError("the user's own mistake")
    return row["text"]

batcher.run("rows.csv", prompt, endpoints=endpoints)
"""


def test_a_traceback_of_the_users_own_code_shows_no_key(rows: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").unlink()
    (tmp_path / "script.py").write_text(SCRIPT)
    with started("script.py", cwd=tmp_path, MINE=",".join(KEYS), URL="http://127.0.0.1:1/v1", **VERBOSE) as program:
        done = finish(program)
    assert done.status == 1
    assert "the user's own mistake" in done.stderr
    assert "row 5 (counted from 0)" in done.stderr
    check(tmp_path, done.stdout, done.stderr)
