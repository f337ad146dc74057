"""A tiny LLaMA with a LoRA behind the OpenAI protocol, asked by the clients that people use."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from tiny_model import CONTEXT, ByHand

from batcher.server.hf.engine import Engine
from batcher.server.hf.loading import Model, load
from batcher.server.hf.options import ModelOptions
from batcher.server.hf.serve import embedded_model

if TYPE_CHECKING:
    from tiny_model import Paths

MESSAGES: Any = [{"role": "user", "content": "hello"}]
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nhello\n\n### Response: "
)


@pytest.fixture(scope="module")
def model(tiny: Paths) -> Model:
    return load(ModelOptions(str(tiny.base), str(tiny.lora), only_cpu=True))


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[tuple[str, Engine]]:
    with embedded_model(model) as running:
        yield running


@pytest.fixture(scope="module")
def url(served: tuple[str, Engine]) -> str:
    return served[0]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def hand(tiny: Paths) -> ByHand:
    return ByHand(tiny, has_lora=True)


def post(url: str, body: object) -> tuple[int, dict[str, Any]]:
    """Post JSON as curl does; return the status and the body."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310 - ours
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# --- chats and completions ---


def test_the_answer_is_that_of_peft_by_hand_and_not_the_base_models(
    tiny: Paths, client: openai.OpenAI, hand: ByHand
) -> None:
    found = client.completions.create(model="tiny", prompt="hello", max_tokens=20, temperature=0)
    assert found.choices[0].text == hand.text("hello", 20) != ByHand(tiny).text("hello", 20)
    assert found.model == "lora"


def test_a_chat_without_a_template_is_written_in_alpacas_form(client: openai.OpenAI, hand: ByHand) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=9, temperature=0)
    assert found.choices[0].message.content == hand.text(ALPACA, 9).lstrip()
    assert found.choices[0].message.role == "assistant"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(hand.ids(ALPACA)), 9)
    assert found.choices[0].finish_reason == "length"


def test_a_system_message_stands_in_place_of_the_header(client: openai.OpenAI, hand: ByHand) -> None:
    messages: Any = [{"role": "system", "content": "the lazy dog"}, *MESSAGES]
    messages += [{"role": "assistant", "content": "fox"}, {"role": "user", "content": "over"}]
    found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=9, temperature=0)
    form = "the lazy dog\n\n### Instruction:\nhello\n\n### Response: fox\n\n### Instruction:\nover\n\n### Response: "
    assert found.choices[0].message.content == hand.text(form, 9).lstrip()


def test_a_chat_template_is_obeyed(tiny: Paths) -> None:
    model, hand = load(ModelOptions(str(tiny.chat), only_cpu=True)), ByHand(tiny)
    prompt = hand.ids("<|user|>hello</s><|assistant|>")[1:]  # the template begins the text, not the tokenizer
    with embedded_model(model) as (url, _), openai.OpenAI(base_url=url, api_key="-") as client:
        found = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True)
        own = {"chat_template_kwargs": {"chat_template": "{% for each in range(9) %}{% endfor %}"}}
        with pytest.raises(openai.BadRequestError, match="'chat_template' is not a variable"):
            client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=8, extra_body=own)
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(prompt)


async def test_requests_that_come_together_are_one_batch_and_the_loop_stays_free(model: Model, hand: ByHand) -> None:
    gate: Any = Gate(model)  # it stands in for the model
    prompts = [f"{'fox ' * place}hello" for place in range(16)]
    with embedded_model(gate) as (url, engine):
        async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as client:
            asked = [
                asyncio.create_task(client.completions.create(model="m", prompt=each, max_tokens=9, temperature=0))
                for each in prompts
            ]
            await asyncio.to_thread(gate.reached.acquire)  # a step is under way, and waits
            health = await asyncio.to_thread(urllib.request.urlopen, url.removesuffix("/v1") + "/health")
            assert json.load(health) == {"status": "ok"}
            while engine.counts()["waiting"] < len(prompts) - gate.rows:  # noqa: ASYNC110 - the engine knows no loop
                await asyncio.sleep(0.001)
            gate.open()
            found = await asyncio.gather(*asked)
    assert [each.choices[0].text for each in found] == [hand.text(each, 9) for each in prompts]
    assert engine.most_together == len(prompts)


class Gate:
    """A model whose steps wait until the gate is opened, or for a permit each."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._permits = threading.Semaphore(0)
        self._is_open = False
        self.reached = threading.Semaphore(0)
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, ids: Any, mask: Any, cache: Any) -> Any:
        self.rows = len(ids)
        self.reached.release()
        if not self._is_open:
            self._permits.acquire()
        return self._model.forward(ids, mask, cache)

    def open(self) -> None:
        self._is_open = True
        self.permit()

    def permit(self) -> None:
        self._permits.release()


def test_a_client_that_leaves_is_cancelled(model: Model) -> None:
    gate: Any = Gate(model)  # it stands in for the model
    body = json.dumps({"prompt": "hello", "max_tokens": 200, "stream": True, "logit_bias": {"2": -100}})
    with embedded_model(gate) as (url, engine):
        place = urlsplit(url)
        with socket.create_connection((str(place.hostname), int(place.port or 0))) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(f"{head}{body}".encode())
            for _ in range(20):
                gate.permit()
            while not connection.recv(1_000_000).count(b"data:"):
                pass
        steps = 0
        while engine.counts()["running"]:
            gate.permit()
            urllib.request.urlopen(url.removesuffix("/v1") + "/health").close()  # noqa: S310 - the loop turns
            steps += 1
        gate.open()
    assert engine.answered == 0
    assert steps < 150


def test_seeds_repeat_and_choices_differ(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str | None]:
        found = client.chat.completions.create(model="m", messages=MESSAGES, n=3, seed=seed, max_tokens=15)
        assert [each.index for each in found.choices] == [0, 1, 2]
        assert found.usage is not None
        assert found.usage.completion_tokens <= 45
        return [each.message.content for each in found.choices]

    first = texts(1)
    assert first == texts(1) != texts(2)
    assert len(set(first)) == 3


def test_sampling_can_be_switched_off_and_narrowed_down(client: openai.OpenAI, hand: ByHand) -> None:
    greedy = hand.text("hello", 9)
    cases: list[dict[str, Any]] = [
        {"do_sample": False},
        {"top_k": 1},
        {"top_p": 0},
        {"temperature": 0, "do_sample": True},
        {"temperature": 1e-40},
        {"temperature": 1e-9, "top_k": 10**30},
    ]
    for more in cases:
        found = client.completions.create(model="m", prompt="hello", max_tokens=9, extra_body=more)
        assert found.choices[0].text == greedy, more
    penal = client.completions.create(
        model="m", prompt="hello", max_tokens=30, temperature=0, extra_body={"repetition_penalty": 1.5}
    )
    assert penal.choices[0].text == hand.text("hello", 30, repetition_penalty=1.5) != hand.text("hello", 30)
    beams = client.completions.create(model="m", prompt="hello", max_tokens=9, extra_body={"num_beams": 4})
    assert beams.choices[0].text == hand.text("hello", 9, num_beams=4)


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 2, "repetition_penalty": 2},
        {"temperature": 1e-40},
        {"temperature": 1, "top_k": 10**30},
        {"temperature": 1e-5, "repetition_penalty": 100, "top_p": 0},
    ],
)
def test_a_search_with_beams_takes_every_number_in_range(client: openai.OpenAI, more: dict[str, Any]) -> None:
    found = client.completions.create(model="m", prompt="hello", max_tokens=5, extra_body={"num_beams": 3, **more})
    assert found.choices[0].finish_reason in {"stop", "length"}


def test_an_end_mark_ends_an_answer_and_does_not_stand_in_it(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model="m", prompt=["hello", "fox"], max_tokens=9, logit_bias={"2": 100}, logprobs=1
    )
    assert [(each.text, each.finish_reason) for each in found.choices] == [("", "stop"), ("", "stop")]
    assert found.choices[0].logprobs is not None
    assert found.choices[0].logprobs.tokens == []
    assert found.usage is not None
    assert found.usage.completion_tokens == 2, "the model has written its end mark"


def test_log_probabilities_come_with_every_token(client: openai.OpenAI, hand: ByHand) -> None:
    found = client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = found.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 6
    for token in choice.logprobs.content:
        assert token.logprob == token.top_logprobs[0].logprob == max(each.logprob for each in token.top_logprobs)
        assert len(token.top_logprobs) == 3
    joined = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    assert joined.decode("utf-8", "replace").lstrip() == choice.message.content


def test_prompts_may_be_several_or_tokens_and_are_repeated_if_asked(client: openai.OpenAI, hand: ByHand) -> None:
    ids = hand.ids("hello")
    for prompt in (["hello", "fox"], [ids, hand.ids("fox")]):
        found = client.completions.create(model="m", prompt=prompt, max_tokens=5, temperature=0, n=2)
        assert [each.text for each in found.choices] == [hand.text("hello", 5)] * 2 + [hand.text("fox", 5)] * 2
    echoed = client.completions.create(model="m", prompt="hello", max_tokens=5, temperature=0, echo=True)
    assert echoed.choices[0].text == "hello" + hand.text("hello", 5)


# --- streams ---


def test_a_stream_holds_the_same_as_the_whole(client: openai.OpenAI) -> None:
    options: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 30, "seed": 5, "n": 2}
    whole = client.chat.completions.create(**options)
    texts, finishes, usage, count = ["", ""], ["", ""], None, 0
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage
        for choice in chunk.choices:
            count += 1
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert texts == [each.message.content for each in whole.choices]
    assert finishes == [each.finish_reason for each in whole.choices]
    assert usage == whole.usage
    assert count > 20, "it comes piece by piece"


def test_a_stream_of_a_completion_ends_in_done(url: str) -> None:
    body = {"prompt": "hello", "max_tokens": 4, "stream": True, "logprobs": 0}
    request = urllib.request.Request(f"{url}/completions", json.dumps(body).encode())  # noqa: S310 - ours
    with urllib.request.urlopen(request) as response:  # noqa: S310 - ours
        assert response.headers["content-type"] == "text/event-stream"
        *events, done = response.read().decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    last = json.loads(events[-1].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] in {"length", "stop"}
    tokens = [
        token
        for event in events
        for choice in json.loads(event.removeprefix("data: "))["choices"]
        for token in (choice["logprobs"] or {"tokens": []})["tokens"]
    ]
    assert len(tokens) == 4


def test_characters_come_whole_and_a_stop_string_may_come_in_pieces(client: openai.OpenAI) -> None:
    text = "杭州€ab结束cd"
    options: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 60, "extra_body": {"guided_choice": [text]}}
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**options, stream=True)
        if chunk.choices
    ]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 5
    stopped = list(client.chat.completions.create(**options, stream=True, stop=["b结束c", "never"]))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stopped) == "杭州€a"
    assert stopped[-1].choices[0].finish_reason == "stop"
    whole = client.chat.completions.create(**options, stop="结", logprobs=True)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("杭州€ab", "stop")
    assert whole.choices[0].logprobs is not None
    written = b"".join(bytes(each.bytes or ()) for each in whole.choices[0].logprobs.content or ())
    assert written.startswith("杭州€ab".encode())
    assert len(written) < len(text.encode())


# --- forms ---


def test_an_answer_is_held_to_a_list_of_choices_or_to_an_object(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="m",
        messages=MESSAGES,
        n=8,
        max_tokens=40,
        extra_body={"structured_outputs": {"choice": ["positive", "negative", "未知"]}},
    )
    texts = [each.message.content for each in found.choices]
    assert set(texts) <= {"positive", "negative", "未知"}
    assert {each.finish_reason for each in found.choices} == {"stop"}
    found = client.chat.completions.create(
        model="m", messages=MESSAGES, n=5, seed=1, max_tokens=150, response_format={"type": "json_object"}
    )
    whole = [each for each in found.choices if each.finish_reason == "stop"]
    assert whole, "some end within their limit"
    assert all(isinstance(json.loads(each.message.content or ""), dict) for each in whole)


def test_a_form_that_cannot_be_held_is_refused_with_words(client: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="cannot hold an answer to a JSON Schema") as refused:
        client.chat.completions.create(model="m", messages=MESSAGES, response_format=schema)
    assert refused.value.param == "response_format.type"


# --- embeddings ---


def test_an_embedding_is_the_normalised_mean_of_the_last_layer(client: openai.OpenAI, hand: ByHand) -> None:
    texts = ["hello", "今天天气真不错 " * 9, "the quick brown fox"]
    found = client.embeddings.create(model="m", input=texts)
    assert [each.index for each in found.data] == [0, 1, 2]
    for text, each in zip(texts, found.data, strict=True):
        assert each.embedding == pytest.approx(hand.embedded(text), abs=1e-5)
        assert len(each.embedding) == 32
    assert found.usage.prompt_tokens == sum(len(hand.ids(text)) for text in texts)
    alone = client.embeddings.create(model="m", input="hello", encoding_format="float", dimensions=32)
    assert alone.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-5)
    tokens = client.embeddings.create(model="m", input=hand.ids("hello"))
    assert tokens.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="32"):
        client.embeddings.create(model="m", input="hello", dimensions=8)


# --- other clients ---


async def test_the_async_client_and_langchain_and_raw_responses(url: str, hand: ByHand) -> None:
    expected = hand.text(ALPACA, 9).lstrip()
    async with openai.AsyncOpenAI(base_url=url, api_key="-") as client:
        found = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=9, temperature=0)
        assert found.choices[0].message.content == expected
        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=MESSAGES, max_tokens=9, temperature=0
        )
        assert raw.status_code == 200
        assert raw.parse().choices[0].message.content == expected
    chat = ChatOpenAI(base_url=url, api_key=SecretStr("-"), model="m", temperature=0, max_completion_tokens=9)
    assert (await chat.ainvoke("hello")).content == expected
    assert "".join([str(chunk.content) async for chunk in chat.astream("hello")]) == expected


def test_the_five_examples_of_the_older_demo(url: str) -> None:
    turns = [
        {"role": "user", "message": "给我讲一些有关杭州的故事吧"},
        {"role": "assistant", "message": "好的，请问您对杭州有什么特别的偏好吗？"},  # noqa: RUF001 - as it is
        {"role": "user", "message": "我比较喜欢和西湖，可以给我讲一下西湖吗"},  # noqa: RUF001 - the same
    ]
    examples: list[tuple[str, dict[str, Any]]] = [
        ("completions", {"prompt": "告诉我中国的首都在哪里"}),
        (
            "completions",
            {
                "prompt": "告诉我中国和美国分别各有哪些优点缺点",
                "max_tokens": 90,
                "temperature": 0.7,
                "num_beams": 4,
                "top_k": 40,
            },
        ),
        ("chat/completions", {"messages": turns[:1], "repetition_penalty": 1.0}),
        ("chat/completions", {"messages": turns, "repetition_penalty": 1.0}),
        ("embeddings", {"input": "今天天气真不错"}),
    ]
    for place, body in examples:
        short = body if place == "embeddings" else {"max_tokens": 10, **body}
        status, found = post(f"{url}/{place}", short)
        assert status == 200, found
        if place == "embeddings":
            assert len(found["data"][0]["embedding"]) == 32
        else:
            choice = found["choices"][0]
            assert choice.get("text") or choice["message"]["content"]
            assert found["usage"]["completion_tokens"] > 0
    status, found = post(f"{url}/chat/completions", {"messages": "hello", "max_tokens": 3})
    assert (status, found["choices"][0]["message"]["role"]) == (200, "assistant")


# --- refusals ---


@pytest.mark.parametrize(
    ("place", "body", "param", "code"),
    [
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a" * 3000}]},
            "messages",
            "context_length_exceeded",
        ),
        ("completions", {"prompt": "a", "max_tokens": CONTEXT}, "prompt", "context_length_exceeded"),
        ("embeddings", {"input": ["a", "b" * 3000]}, "input", "context_length_exceeded"),
        ("completions", {"prompt": [9999]}, "prompt", None),
        ("completions", {"prompt": "half of a pair: \ud83d"}, "prompt", None),
        ("chat/completions", {"messages": "half of a pair: \ud83d"}, "messages", None),
        ("completions", {"prompt": "a", "temperature": 2.1}, "temperature", None),
        ("completions", {"prompt": "a", "n": 3, "num_beams": 2}, "n", None),
        ("completions", {"prompt": "a", "logprobs": 1, "num_beams": 2}, "logprobs", None),
        ("completions", {"prompt": "a", "best_of": 2}, "best_of", None),
        ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias", None),
        ("completions", {"prompt": "a", "logit_bias": {"9" * 5000: 1}}, "logit_bias", None),
        ("completions", {"prompt": "a", "min_p": 0.1}, "min_p", None),
        ("completions", {"prompt": "a", "max_new_tokens": 3}, "max_new_tokens", None),
        ("chat/completions", {"messages": "a", "best_of": 2}, "best_of", None),
        ("chat/completions", {"messages": "a", "guided_regex": "a+"}, "guided_regex", None),
        ("chat/completions", {"messages": "a", "structured_outputs": {"json": {}}}, "structured_outputs", None),
        ("chat/completions", {"messages": "a", "guided_choice": ["\ud83d"]}, "choice", None),
        (
            "chat/completions",
            {"messages": "a", "tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools",
            None,
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
            None,
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_shape(
    url: str, place: str, body: dict[str, Any], param: str, code: str | None
) -> None:
    status, found = post(f"{url}/{place}", body)
    assert status == 400
    assert (found["error"]["param"], found["error"]["code"]) == (param, code)
    assert found["error"]["type"] == "invalid_request_error"


def test_a_field_of_other_servers_at_its_neutral_value_or_one_of_none_is_passed_over(url: str) -> None:
    more: dict[str, Any] = {
        "min_p": 0,
        "best_of": 1,
        "early_stopping": False,
        "guided_json": None,
        "structured_outputs": {},
        "zz": 1,
    }
    status, found = post(f"{url}/chat/completions", {"messages": "a", "max_tokens": 1, **more})
    assert status == 200
    assert found["usage"]["completion_tokens"] == 1


def test_the_context_is_filled_to_its_end_and_no_further(client: openai.OpenAI, hand: ByHand) -> None:
    ids = hand.ids("fox " * 40)
    found = client.completions.create(model="m", prompt=ids, temperature=0, logit_bias={"2": -100})
    assert found.usage is not None
    assert found.usage.total_tokens == CONTEXT
    assert found.choices[0].finish_reason == "length"


def test_models_and_unknown_routes(client: openai.OpenAI, url: str) -> None:
    assert [each.id for each in client.models.list()] == ["lora"]
    assert client.models.retrieve("lora").id == "lora"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")
    assert post(f"{url}/nothing", {})[0] == 404
