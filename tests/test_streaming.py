"""With `--stream` silence ends an attempt, not time; what came of a stream that was cut off is in the journal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from canned_server import CannedServer, Reply, Then, canned, completion, http, read_request, stream
from conftest import Lab
from fake_service import Call, Service
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from server_client import stats_when
from virtual_time import VirtualLoop

import batcher
from batcher.calls.caller import CallCut, Streaming
from batcher.calls.factory import ChatCallers
from batcher.calls.streaming import Added
from batcher.endpoint import Endpoint
from batcher.engine.runner import execute
from batcher.engine.stop import Stop
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Usage
from batcher.server.faults import Fate, FaultRule
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs
from batcher.settings import Settings

HELLO = [{"role": "user", "content": "hello"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def piece(content: str, reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": content}, "finish_reason": reason}
    return {"id": "c", "model": "m", "choices": [choice], **more}


USED = {"id": "c", "choices": [], "usage": USAGE}
FINE = stream(piece("fi"), piece("ne", "stop"), USED)
ANSWER = Completion("fine", "stop", Usage(3, 2))


async def called(
    server: Any, idle_s: float = 60.0, whole_s: float = 60.0, timeout_s: float = 60.0, *, times: int = 1, **params: Any
) -> Any:
    """Call an endpoint with `--stream`, once or several times; return the last outcome."""
    callers = ChatCallers(params, streaming=Streaming(idle_s, whole_s))
    caller = callers.caller(Endpoint("m", server.base_url))
    try:
        return [await caller.call(HELLO, timeout_s) for _ in range(times)][-1]
    finally:
        await callers.close()


class Dripping(NamedTuple):
    base_url: str


@contextlib.asynccontextmanager
async def dripping(parts: Sequence[tuple[float, bytes]], kind: str = "text/event-stream") -> AsyncIterator[Dripping]:
    """Serve a body in parts, each after so many seconds; then nothing more comes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            if await read_request(reader) is None:
                return
            await asyncio.sleep(parts[0][0])
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for seconds, part in parts[1:]:
                await asyncio.sleep(seconds)
                writer.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"0\r\n\r\n")
            await reader.read()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Dripping(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")


def line(chunk: object) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


END = (0.0, b"data: [DONE]\n\n"), (0.0, b"")


# --- how long it may take ---


async def test_a_stream_that_keeps_coming_may_take_longer_than_its_silence_may() -> None:
    pieces = [(0.1, line(piece(str(number)))) for number in range(8)]
    async with dripping([(0.1, b""), *pieces, (0.1, line(piece("", "stop"))), *END]) as server:
        assert await called(server, idle_s=0.5, whole_s=0.01) == Completion("01234567", "stop")


@pytest.mark.parametrize("comment", [b": ping\n\n", b": OPENROUTER PROCESSING\n\n", b"\n"])
async def test_a_comment_is_a_sign_of_life_before_the_first_token_too(comment: bytes) -> None:
    waits = [(0.1, comment)] * 8
    async with dripping([(0.0, b""), *waits, (0.1, line(piece("fine", "stop"))), *END]) as server:
        assert await called(server, idle_s=0.5) == Completion("fine", "stop")


@pytest.mark.parametrize(
    ("parts", "message", "so_far"),
    [
        ([(60.0, b"")], "nothing came for 0.2 s (--idle-timeout allows more)", None),
        ([(0.0, b""), (60.0, b"")], "nothing more came for 0.2 s (--idle-timeout allows more)", None),
        (
            [(0.0, b""), (0.0, line(piece("half of", usage=USAGE))), (60.0, b"")],
            "nothing more came for 0.2 s (--idle-timeout allows more)",
            Completion("half of", None, Usage(3, 2)),
        ),
    ],
)
async def test_silence_ends_an_attempt_and_what_had_come_is_kept(
    parts: list[tuple[float, bytes]], message: str, so_far: Completion | None
) -> None:
    async with dripping(parts) as server:
        failure = await called(server, idle_s=0.2)
    assert failure == Failure(Fault.TIMEOUT, message, may_be_billed=True)
    assert failure.partial == so_far


async def test_the_deadline_bounds_a_stream_that_never_ends() -> None:
    async with dripping([(0.0, b""), *[(0.02, line(piece("la ")))] * 500]) as server:
        failure = await called(server, idle_s=0.2, timeout_s=0.4)
    assert failure == Failure(Fault.TIMEOUT, "the answer was not complete within 0.4 s", may_be_billed=True)
    assert failure.partial.text.startswith("la la ")


async def test_an_endpoint_that_answered_in_one_piece_gets_the_time_of_an_attempt() -> None:
    async with canned(http(200, completion("fine", usage=USAGE)), Reply(b"", Then.HANG)) as server:
        assert await called(server, idle_s=10.0) == ANSWER
    assert server.asked[0].json["stream"] is True
    async with canned(http(200, completion("fine", usage=USAGE)), Reply(b"", Then.HANG)) as server:
        failure = await called(server, idle_s=0.1, whole_s=0.3, times=2)
    assert failure.message == "nothing came within 0.3 s"


async def test_a_stream_without_its_content_type_is_a_stream() -> None:
    data = b"".join([line(piece("fi")), line(piece("ne", "stop")), line(USED), b"data: [DONE]\n\n"])
    async with dripping([(0.0, b""), *((0.1, bytes([each])) for each in data[:6]), (0.0, data[6:]), (0.0, b"")]) as it:
        assert await called(it, idle_s=0.5) == ANSWER


async def test_what_came_of_a_stream_that_is_too_long_is_kept() -> None:
    parts = [(0.0, b""), (0.0, line(piece("a" * 1_000))), (0.2, line(piece("b" * 20_000, "stop")))]
    async with dripping(parts) as server:
        callers = ChatCallers({}, most_bytes=10_000, streaming=Streaming(60, 60))
        failure = await callers.caller(Endpoint("m", server.base_url)).call(HELLO, 60)
        await callers.close()
    assert isinstance(failure, Failure)
    assert failure.partial
    assert (failure.fault, failure.partial.text) == (Fault.TOO_LONG, "a" * 1_000)


# --- what goes over the wire ---


async def sent(params: dict[str, Any], *, is_streamed: bool = True, of_endpoint: dict[str, Any] | None = None) -> Any:
    async with canned(FINE) as server:
        callers = ChatCallers(params, streaming=Streaming(60, 60) if is_streamed else None)
        endpoint = Endpoint("m", server.base_url, params=of_endpoint or {})
        came = await callers.caller(endpoint).call(HELLO, 60.0)
        await callers.close()
        assert came == ANSWER
    [request] = server.asked
    return {name: value for name, value in request.json.items() if name.startswith("stream")}


async def test_a_stream_is_asked_for_with_its_usage_unless_the_user_says_otherwise() -> None:
    usual = {"stream": True, "stream_options": {"include_usage": True}}
    assert await sent({}) == await sent({"stream": True}, is_streamed=False) == usual
    assert await sent({"stream_options": {"x": 1}}) == {"stream": True, "stream_options": {"x": 1}}
    assert await sent({}, is_streamed=False) == {}
    assert await sent({}, of_endpoint={"stream": False}) == {"stream": False}


async def test_several_answers_are_streamed_side_by_side() -> None:
    async with canned(stream(piece("a"), piece("b", index=1), piece("", "stop", 1), piece("c", "stop"))) as server:
        came = await called(server, n=2)
    assert (came.text, came.choices) == ('["ac", "b"]', 2)
    async with canned(stream(piece("a"), piece("b", index=1), end=False, then=Then.CLOSE)) as server:
        failure = await called(server, n=2)
    assert (failure.partial.text, failure.may_be_billed) == ('["a", "b"]', True)


NAMED = [
    (400, {"error": {"message": "Unrecognized request argument supplied: stream_options", "code": None}}),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]}),
    (400, {"error": {"message": "include_usage is not supported"}}),
]
VAGUE = (400, {"error": {"message": "unknown parameter"}})


@pytest.mark.parametrize(("status", "body"), [*NAMED, VAGUE])
async def test_options_that_an_endpoint_refuses_are_left_out_there(status: int, body: object) -> None:
    async with canned(http(status, body), FINE) as server:
        callers = ChatCallers({}, streaming=Streaming(60, 60))
        caller = callers.caller(Endpoint("m", server.base_url))
        refused = await caller.call(HELLO, 60)
        assert isinstance(refused, Failure)
        assert (refused.left_out, refused.may_be_billed) == ("stream_options", False)
        assert [await caller.call(HELLO, 60) for _ in range(2)] == [ANSWER] * 2
        await callers.close()
    assert ["stream_options" in each.json for each in server.asked] == [True, False, False]
    assert all(each.json["stream"] for each in server.asked)


async def test_a_stream_that_an_endpoint_refuses_is_left_out_there() -> None:
    said = {"error": {"message": "Your organization must be verified to stream this model.", "param": "stream"}}
    async with canned(http(400, said), http(200, completion("fine", usage=USAGE))) as server:
        assert await called(server, times=2) == ANSWER
    assert [each.json.get("stream") for each in server.asked] == [True, None]


async def test_a_parameter_of_the_users_own_is_never_left_out() -> None:
    for params in ({"stream_options": {"include_usage": True}}, {"stream": True, "stream_options": {}}):
        async with canned(http(*NAMED[0])) as server:
            failure = await called(server, times=2, **params)
        assert (failure.status, failure.left_out) == (400, "")
        assert all(each.json["stream_options"] == params["stream_options"] for each in server.asked)


def refusal(status: int, message: str) -> Failure:
    return Failure(Fault.STATUS, message, status)


SENT = ("stream", "stream_options")


@pytest.mark.parametrize(
    "failure",
    [
        refusal(429, "too many streams, stream_options"),
        refusal(401, "no stream for this key"),
        Failure(Fault.STATUS, "there is no model 'stream'", 404, "model_not_found"),
        Failure(Fault.STATUS, "stream_options", 400, is_page=True),
        Failure(Fault.CONNECTION, "the stream_options broke"),
        Failure(Fault.STATUS, "you said stream_options", 404, words="you said #"),
    ],
)
def test_a_failure_of_another_kind_leaves_nothing_out(failure: Failure) -> None:
    added = Added({}, is_wanted=True)
    assert added.refused(failure, SENT) == ""
    assert [*added.params] == [*SENT]


def test_a_guess_that_does_not_help_is_taken_back() -> None:
    added, vague = Added({}, is_wanted=True), refusal(400, "bad request")
    assert added.refused(vague, SENT) == "stream_options"
    assert added.refused(vague, ["stream"]) == ""
    assert [*added.params] == [*SENT]
    assert added.refused(vague, SENT) == ""


def test_an_endpoint_that_answers_is_not_suspected() -> None:
    added = Added({}, is_wanted=True)
    added.answered(is_stream=True)
    assert added.refused(refusal(400, "bad request"), SENT) == ""
    assert added.refused(refusal(400, "no streaming today"), SENT) == ""
    assert added.refused(refusal(400, "no stream_options"), SENT) == "stream_options"


# --- a whole run ---


def run(server: Any, texts: Sequence[str], folder: Path, **options: Any) -> batcher.Report:
    endpoint = Endpoint("sim", server.base_url, api_key="k", prices={"in": 1.0, "out": 1.0})
    given = {"keyword": "k", "output_dir": folder, "endpoints": [endpoint], "quiet": True, "canary": 0, "stream": True}
    return batcher.run([{"text": text} for text in texts], "{text}", **(given | options))  # type: ignore[arg-type]


def query(folder: Path, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "journal_k.sqlite")) as journal:
        return journal.execute(question).fetchall()


TEXTS = [f"tell me a long story about number {number}" for number in range(12)]


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (Fate.CUT, "connection"),
        (Fate.BREAK, "The model failed while it answered (simulated)."),
        (Fate.HOLE, "is not JSON"),
        (Fate.STALL, "nothing more came for 0.3 s"),
    ],
)
def test_what_came_of_a_cut_stream_is_in_the_journal_and_its_row_is_asked_again(
    tmp_path: Path, fate: Fate, why: str
) -> None:
    rule = FaultRule(fate, match="number 7", times=1)
    with embedded(Knobs(faults=(rule,))) as server:
        report = run(server, TEXTS, tmp_path, idle_timeout=0.3)
        requests = server.books.requests
    assert (report.ok, report.error, requests) == (12, 0, 13)
    found = query(
        tmp_path,
        "SELECT q.position, p.why, p.characters, p.text, a.answer, p.reasoning FROM partials p"
        " JOIN requests q USING (id) JOIN rows r ON r.position = q.position JOIN results a ON a.id = r.result",
    )
    [(position, said, characters, text, answer, reasoning)] = found
    assert (position, why in said) == (7, True)
    if fate is not Fate.HOLE:  # whose hole is the first piece of text
        assert text
        assert answer.startswith(text)
    assert (characters, reasoning) == (len(text), "")
    assert batcher.verify("k", [{"text": text} for text in TEXTS], output_dir=tmp_path).ok


def test_a_row_whose_streams_all_break_says_how_much_had_come(tmp_path: Path) -> None:
    rule = FaultRule(Fate.BREAK, match="number 7")
    with embedded(Knobs(faults=(rule,))) as server:
        report = run(server, TEXTS, tmp_path, max_attempts=2, param={"max_tokens": 50})
    assert (report.ok, report.error) == (11, 1)
    [(error,)] = query(tmp_path, "SELECT error FROM results WHERE status = 'error'")
    [(came,)] = query(tmp_path, "SELECT characters FROM partials ORDER BY id DESC LIMIT 1")
    assert error.endswith(f"s in flight; {came} characters of the last answer had come")
    assert query(tmp_path, "SELECT count(*), min(cost) > 0 FROM requests WHERE outcome = 'protocol'") == [(2, 1)]
    status = batcher.status("k", tmp_path)
    [(reason, count)] = status.failures
    assert (count, "characters" in reason) == (1, False)
    assert status.notes == (
        "1 row without an answer has a part of one, which was cut off: it is in `partials` of the journal",
    )


def test_a_run_goes_on_with_and_without_it_and_asks_nothing_again(tmp_path: Path) -> None:
    with embedded(Knobs()) as server:
        run(server, TEXTS, tmp_path, stream=False, limit=6)
        run(server, TEXTS, tmp_path, limit=9)
        report = run(server, TEXTS, tmp_path, stream=False)
        assert (report.ok, server.books.requests) == (12, 12)


def test_labels_and_fields_are_streamed_as_well(tmp_path: Path) -> None:
    with embedded(Knobs()) as server:
        report = run(server, TEXTS, tmp_path, labels=["good", "bad"])
        assert (report.ok, report.invalid) == (12, 0)
    bodies = b"".join(body for (body,) in query(tmp_path, "SELECT body FROM responses"))
    assert bodies
    [(cost, tokens)] = query(tmp_path, "SELECT count(*), count(prompt_tokens) FROM requests")
    assert cost == tokens


async def test_a_run_leaves_out_what_is_refused_says_so_once_and_asks_the_row_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with canned(http(*NAMED[0]), FINE) as server:
        given = {"keyword": "k", "output_dir": tmp_path, "stream": True, "canary": 0, "no_progress": True}
        settings = Settings.of(given | {"endpoints": [Endpoint("m", server.base_url)]})
        ended = await execute([{"text": text} for text in TEXTS], "{text}", settings, Stop())
    assert (ended.report.ok, len(server.asked)) == (12, 13)
    assert capfd.readouterr().err.count("refuses stream_options (HTTP 400") == 1
    assert query(tmp_path, "SELECT detail FROM events WHERE kind = 'left out'") == [("stream_options",)]
    assert query(tmp_path, "SELECT position, outcome, cost FROM requests WHERE outcome <> 'answered'") == [
        (0, "400", 0)
    ]
    assert (await asyncio.to_thread(batcher.verify, "k", output_dir=tmp_path)).ok


async def stopped(server: Any, folder: Path) -> None:
    """Stop a run at once, twice, as soon as its request hangs."""
    settings = Settings.of(
        {
            "keyword": "k",
            "output_dir": folder,
            "endpoints": [Endpoint("sim", server.base_url, api_key="k")],
            "quiet": True,
            "stream": True,
            "canary": 0,
        }
    )
    stop = Stop()
    work = asyncio.create_task(execute([{"text": TEXTS[0]}], "{text}", settings, stop))
    await asyncio.to_thread(stats_when, server.base_url, "hung", 1)
    stop.request()
    stop.request()
    ended = await work
    assert ended.report.left == 1


def test_a_stop_keeps_what_had_come(tmp_path: Path) -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.STALL, times=1),))) as server:
        asyncio.run(stopped(server, tmp_path))
        [(why, text, ended)] = query(
            tmp_path, "SELECT why, text, ended FROM partials JOIN requests USING (id) WHERE characters > 0"
        )
        assert (why, ended) == ("batcher was stopped", None)
        assert text.startswith("Echo ")
        assert run(server, TEXTS[:1], tmp_path).ok == 1


def test_a_stall_of_this_process_is_no_part_of_a_rows_time(lab: Lab) -> None:
    def instead(call: Call) -> Failure | None:
        if call.nth > 1 or call.prompt != "b":
            return None
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.move_on(7_200)  # as if the machine slept in the middle of the stream
        return Failure(Fault.CONNECTION, "it closed", may_be_billed=True)

    assert lab.run(["a", "b"], Service(["a", "b"], instead=instead), "{text}", stream=True, deadline=1_800).ok == 2


def test_a_partial_answer_is_bounded(lab: Lab) -> None:
    came = Completion("x" * 300_000, reasoning="\ud83d" * 3, usage=Usage(7, 4))
    cut = Failure(Fault.CONNECTION, "it closed", may_be_billed=True, partial=came)
    service = Service(["a"], instead=lambda call: cut if call.nth == 1 else None)
    lab.run(["a"], service, "{text}", stream=True)
    [(length, characters, prompt, given, reasoning)] = lab.query(
        "SELECT length(text), characters, prompt_tokens, completion_tokens, reasoning FROM partials"
    )
    assert (length, characters, prompt, given) == (2**18, 300_003, 7, 4)
    assert reasoning == b"\xed\xa0\xbd" * 3


async def test_an_api_key_in_a_cut_stream_is_hidden() -> None:
    key = "sk-5ecret-key-that-is-long"
    reply = stream(piece("my key is sk-5ecret"), piece("-key-that-is-long, yes"), end=False, then=Then.CLOSE)
    async with canned(reply) as server:
        callers = ChatCallers({}, streaming=Streaming(60, 60))
        failure = await callers.caller(Endpoint("m", server.base_url, api_key=key)).call(HELLO, 60)
        await callers.close()
    assert isinstance(failure, Failure)
    assert failure.partial
    assert failure.partial.text == "my key is [API key], yes"
    assert key not in repr(failure)


def test_the_tokens_that_a_cut_stream_reported_lower_what_it_may_have_cost(lab: Lab) -> None:
    def charged(usage: Usage) -> int:
        came = Completion("half", usage=usage)
        cut = Failure(Fault.CONNECTION, "it closed", may_be_billed=True, partial=came)
        rows = ["a short one", f"a long question {usage.prompt_tokens}"]
        lab.run(
            rows,
            Service(rows, instead=lambda call: cut if call.prompt == rows[1] else None),
            "{text}",
            keyword=f"k{usage.prompt_tokens}",
            stream=True,
            max_attempts=1,
            param={"max_tokens": 50},
            endpoints=[Endpoint("m", "http://somewhere", api_key="k", prices={"in": 1.0, "out": 1.0})],
        )
        return round((batcher.status(f"k{usage.prompt_tokens}", lab.directory).uncertain_usd or 0) * 1e9)

    unknown, known = charged(Usage()), charged(Usage(4, 1))
    assert known == 54 * 1000
    assert known < unknown


# --- a chat model of the user's own ---


def gpt(base_url: str = "http://127.0.0.1:1", **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url=base_url, api_key=SecretStr("sk-k"), max_retries=0, **options)


class Silent(BaseChatModel):
    """A chat model that does not stream."""

    @property
    def _llm_type(self) -> str:
        return "silent"

    def _generate(self, *_args: Any, **_options: Any) -> ChatResult:
        raise NotImplementedError


async def called_llm(llm: BaseChatModel, idle_s: float = 60.0, times: int = 1, **params: Any) -> Any:
    callers = ChatCallers(params, streaming=Streaming(idle_s, 60.0))
    try:
        caller = callers.caller(Endpoint(llm=llm))
        return [await caller.call(HELLO, 60.0) for _ in range(times)][-1]
    finally:
        await callers.close()


async def test_a_chat_model_of_the_users_own_streams() -> None:
    async with canned(FINE) as server:
        assert await called_llm(gpt(server.base_url)) == ANSWER
    [request] = server.asked
    assert (request.json["stream"], request.json["stream_options"]) == (True, {"include_usage": True})
    assert await called_llm(FakeListChatModel(responses=["fine"])) == Completion("fine")


async def test_what_came_of_a_cut_stream_of_a_chat_model_is_kept() -> None:
    half = (0.0, b""), (0.0, line(piece("half of", role="assistant")))
    async with dripping([*half, (60.0, b"")]) as server:
        failure = await called_llm(gpt(server.base_url), idle_s=0.3)
    assert failure.message == "nothing more came for 0.3 s (--idle-timeout allows more)"
    assert (failure.fault, failure.may_be_billed, failure.partial.text) == (Fault.TIMEOUT, True, "half of")
    for end in (Then.CLOSE, Then.RESET):
        async with canned(stream(piece("half of"), end=False, then=end)) as server:
            failure = await called_llm(gpt(server.base_url))
        assert failure.partial.text == "half of"
    async with canned(stream(piece("half of"))) as server:
        failure = await called_llm(gpt(server.base_url))
    assert (failure.message, failure.partial.text) == ("the stream ended before the answer did", "half of")


async def test_options_that_the_service_of_a_chat_model_refuses_are_left_out() -> None:
    async with canned(http(*NAMED[0]), FINE) as server:
        assert await called_llm(gpt(server.base_url), times=2) == ANSWER
    assert ["stream_options" in each.json for each in server.asked] == [True, False]


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"idle_timeout": 5}, "idle_timeout goes with stream: give both"),
        ({"stream": True, "idle_timeout": 0}, "idle_timeout"),
        ({"stream": True, "param": {"stream": False}}, "exclude each other"),
        ({"stream": True, "endpoints": [Endpoint(llm=Silent())]}, "the chat model Silent in llm= does not stream"),
        ({"stream": True, "param": {"n": 2}, "endpoints": [Endpoint(llm=gpt())]}, "LangChain streams one answer"),
        ({"stream": True, "endpoints": [Endpoint(llm=gpt(n=3))]}, "and n is 3"),
        ({"stream": True, "endpoints": [Endpoint(llm=gpt(disable_streaming=True))]}, "does not stream"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.of(options)


async def test_a_cancelled_call_says_what_had_come() -> None:
    async with canned(stream(piece("half"), end=False, then=Then.HANG)) as server:
        task = asyncio.create_task(called(server))
        await asyncio.wait_for(_came(server), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cut:
            await task
    assert isinstance(cut.value, CallCut)
    assert cut.value.partial.text == "half"


async def _came(server: CannedServer) -> None:
    await server.came.wait()
    for _ in range(100):  # turns of the loop, in which both sides work
        await asyncio.sleep(0)
