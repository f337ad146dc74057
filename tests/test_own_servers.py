"""What the servers that people run themselves were seen to answer (`tests/real`) is read rightly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service

import batcher
from batcher.calls.dialect import answer_in
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.forms import may_be_of_form
from batcher.calls.naming import is_another
from batcher.endpoint import Endpoint
from batcher.records import Completion, Failure, Usage


def failure(status: int, body: object) -> Failure:
    raw = body if isinstance(body, str) else json.dumps(body)
    found = answer_in(status, {"content-type": "application/json"}, raw.encode())
    assert isinstance(found, Failure)
    return found


NO_SCHEMA = (
    "1 validation error:\n  {'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input should"
    " be 'text' or 'json_object'\", 'input': 'json_schema', 'ctx': {'expected': \"'text' or 'json_object'\"}}\n\n  File"
    ' "/llama_cpp/server/app.py", line 376, in create_chat_completion\n    POST /v1/chat/completions'
)
TOO_LONG = (
    "This model's maximum context length is 1024 tokens. However, you requested 3039 tokens (3019 in the messages, 20"
    " in the completion). Please reduce the length of the messages or completion."
)
LONGER = "request (3019 tokens) exceeds the available context size (1024 tokens), try increasing it"
NO_MODEL = "/chat/completions: Invalid model name passed in model=no. Call `/v1/models` to view available models"
UPSTREAM = (
    "litellm.BadRequestError: OpenAIException - Error code: 422\n\nLiteLLM: model group 'tiny' failed with the error"
)


def error(message: str, kind: str, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, **more}}


KEY, MODEL, LONG = "the API key was refused", "the model is unknown", "the request is too long"
ROW, SERVER = "the request was refused", "the server failed"


@pytest.mark.parametrize(
    ("status", "body", "fate", "said"),
    [
        # transformers serve 5.24.0
        (400, {"detail": "Server is pinned to '/m'; requested 'no'."}, Fate.ENDPOINT_REFUSES, MODEL),
        (500, "Internal Server Error", Fate.AGAIN, SERVER),
        # LLaMA-Factory 0.9.5
        (401, {"detail": "Invalid API key."}, Fate.ENDPOINT_REFUSES, KEY),
        (400, {"detail": "Invalid length"}, Fate.ROW_REFUSED, ROW),
        # llama.cpp's server, of October 2026
        (400, error(LONGER, "exceed_context_size_error", code=400, n_ctx=1024), Fate.ROW_ENDS, LONG),
        (401, error("Invalid API Key", "authentication_error", code=401), Fate.ENDPOINT_REFUSES, KEY),
        (503, error("Loading model", "unavailable_error", code=503), Fate.AGAIN, SERVER),
        # llama-cpp-python 0.3.36
        (400, error(TOO_LONG, "invalid_request_error", code="context_length_exceeded"), Fate.ROW_ENDS, LONG),
        (401, {"detail": "Invalid API key"}, Fate.ENDPOINT_REFUSES, KEY),
        (500, error(NO_SCHEMA, "internal_server_error", code=None), Fate.AGAIN, SERVER),
        (200, "", Fate.AGAIN, "the answer was no chat completion"),  # a stream, if the prompt is too long
        # LiteLLM's proxy
        (400, error(NO_MODEL, "invalid_request_error", code="400"), Fate.ENDPOINT_REFUSES, MODEL),
        (400, error("No connected db.", "no_db_connection", code="400"), Fate.ENDPOINT_REFUSES, KEY),
        (422, error(UPSTREAM, "invalid_request_error", code="422"), Fate.ROW_REFUSED, ROW),
    ],
)
def test_a_refusal_has_its_fate(status: int, body: object, fate: Fate, said: str) -> None:
    meaning = meaning_of(failure(status, body))
    assert (meaning.fate, meaning.reason[: len(said)]) == (fate, said)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {"detail": "Unexpected fields in the request: {'structured_outputs'}"}),
        (422, {"detail": [{"loc": ["body", "response_format", "type"], "msg": "Input should be 'text'"}]}),
        (422, error(UPSTREAM, "invalid_request_error", param=None, code="422")),
        (500, error(NO_SCHEMA, "internal_server_error", param=None, code=None)),
    ],
)
def test_a_refusal_of_a_form_is_known(status: int, body: object) -> None:
    assert may_be_of_form(failure(status, body))


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_fault_without_a_word_of_it_is_not_of_the_form(status: int) -> None:
    assert not may_be_of_form(failure(status, error("out of memory", "internal_server_error")))


CHUNK = {"id": "95849bb8", "model": "tiny", "object": "chat.completion.chunk"}


def stream(*choices: dict[str, Any], done: bool = True, **last: Any) -> bytes:
    chunks = [CHUNK | {"choices": [{"index": 0, **choice}]} for choice in choices]
    chunks[-1] |= last
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else "\n"]).encode()


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        # transformers: no mark at the end, the usage beside the finish reason, no empty finish reasons before.
        (
            stream(
                {"delta": {"role": "assistant"}},
                {"delta": {"content": "positive"}},
                {"delta": {}, "finish_reason": "stop"},
                done=False,
                usage={"completion_tokens": 2, "prompt_tokens": 21, "total_tokens": 23},
            ),
            Usage(21, 2),
        ),
        # LLaMA-Factory and llama-cpp-python: no usage, even if it is asked for.
        (
            stream(
                {"delta": {"role": "assistant", "content": ""}, "finish_reason": None},
                {"delta": {"content": "positive"}, "finish_reason": None},
                {"delta": {}, "finish_reason": "stop"},
            ),
            Usage(),
        ),
        # llama.cpp's server: the first content is null.
        (
            stream(
                {"delta": {"role": "assistant", "content": None}, "finish_reason": None},
                {"delta": {"content": "positive"}, "finish_reason": None},
                {"delta": {}, "finish_reason": "stop"},
                usage={"completion_tokens": 2, "prompt_tokens": 21, "prompt_tokens_details": {"cached_tokens": 20}},
            ),
            Usage(21, 2, 20),
        ),
    ],
)
def test_a_stream_is_read(raw: bytes, usage: Usage) -> None:
    found = answer_in(200, {"content-type": "text/event-stream"}, raw)
    assert isinstance(found, Completion)
    assert (found.text, found.finish_reason, found.usage) == ("positive", "stop", usage)


@pytest.mark.parametrize(
    ("answered", "asked", "other"),
    [
        ("tiny", "no-such-model", True),  # llama.cpp's server answers whatever it is asked for
        ("gpt-3.5-turbo", "gpt-4o", True),
        ("Qwen3-4B", "Qwen/Qwen3-8B", True),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
        ("gpt-4o", "openai/gpt-4o", False),
        ("/models/Qwen3-8B.gguf", "Qwen/Qwen3-8B", False),
        ("C:\\models\\qwen3-8b.gguf", "qwen3-8b", False),
        ("llama3:latest", "llama3", False),
        ("/srv/model/", "/srv/model", False),
        ("Meta-Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct", False),
        ("", "m", False),
        ("模型", "通义", True),
        ("--", "m", False),
    ],
)
def test_a_model_that_answers_under_another_name_is_known(answered: str, asked: str, *, other: bool) -> None:
    assert is_another(answered, asked) == other


def test_a_server_that_answers_as_another_model_is_told_once(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [f"row {number}" for number in range(20)]
    service = Service(texts, instead=lambda _: Completion("yes", "stop", model="tiny"))
    lab.run(texts, service, "{text}", quiet=False, endpoints=[Endpoint("big", base_url="http://127.0.0.1:9/v1")])
    assert capfd.readouterr().err.count("endpoint 1 (big at http://127.0.0.1:9/v1) answers as tiny.") == 1
    assert lab.query("SELECT detail FROM events WHERE kind = 'another model'") == [("tiny",)]


def test_a_server_that_fails_without_a_word_may_lack_the_model_or_the_key(lab: Lab) -> None:
    texts = ["a", "b"]
    bare = failure(500, "Internal Server Error")
    with pytest.raises(batcher.RunStopped, match="if the model is unknown or a key is missing") as lost:
        lab.run(texts, Service(texts, instead=lambda _: bare))
    assert "HTTP 500: Internal Server Error (some servers say no more" in str(lost.value)


def test_a_server_that_has_answered_and_fails_without_a_word_is_only_failing(lab: Lab) -> None:
    texts = [f"row {number}" for number in range(10)]
    bare = failure(500, "Internal Server Error")
    lab.run(texts, Service(texts, instead=lambda call: bare if call.prompt == "row 7" else None))
    [error] = [row["infer_error"] for row in lab.rows() if row["infer_error"]]
    assert "model" not in error
