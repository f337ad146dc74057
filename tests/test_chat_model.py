"""A user's own chat model reveals its request, its retries and its identity, but never a key."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from batcher.chat_model import Secrets, keys_of, request_of, retries_of, secrets_of
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.money.tariff import Tariff

KEY = "sk-0123456789"
FREE = {"in": 0, "out": 0}
PRICES = {"in": 1, "out": 1}


def model(**options: Any) -> ChatOpenAI:
    given: dict[str, Any] = {"model": "m", "api_key": SecretStr(KEY), "base_url": "http://h/v1", "max_retries": 0}
    return ChatOpenAI(**(given | options))


# -- What it sends


@pytest.mark.parametrize(
    ("options", "params", "most"),
    [
        ({}, {}, None),
        ({"max_tokens": 20}, {}, 20),
        ({"max_tokens": 20, "n": 5}, {}, 100),
        ({"max_tokens": 20}, {"n": 5.0}, 100),
        ({"max_tokens": 20}, {"max_tokens": 50}, 50),
        ({"max_tokens": 20, "model_kwargs": {"best_of": 5}}, {}, 100),
        ({"max_tokens": 20, "extra_body": {"n": 5}}, {}, 100),
        ({"max_tokens": 20, "extra_body": {"max_completion_tokens": 5000}}, {}, 5000),
        ({"max_tokens": 20, "extra_body": {"max_tokens": 5000}}, {}, 5000),
        ({"max_tokens": 20, "extra_body": {"max_tokens": 5000}}, {"extra_body": {"n": 2}}, 40),
        ({"max_tokens": 20, "extra_body": {"max_completion_tokens": "5000"}}, {}, None),
        ({"max_tokens": 20, "extra_body": {"thinking": {"budget_tokens": 100}}}, {}, 120),
    ],
)
def test_what_a_chat_model_sends_bounds_its_answers(
    options: dict[str, Any], params: dict[str, Any], most: int | None
) -> None:
    assert Tariff.of(Endpoint(llm=model(**options), prices=PRICES), params).completion_tokens == most


def test_a_chat_model_is_priced_by_what_it_sends() -> None:
    url = "https://api.openai.com/v1"
    named = Tariff.of(Endpoint("gpt-4o"), {"service_tier": "priority"})
    for options in (
        {"model": "gpt-4o", "service_tier": "priority"},
        {"model": "gpt-4o-mini", "extra_body": {"model": "gpt-4o", "service_tier": "priority"}},
    ):
        assert Tariff.of(Endpoint(llm=model(base_url=url, **options)), {}).price == named.price is not None


def test_a_chat_model_is_not_free_because_the_embedded_server_is() -> None:
    assert Tariff.of(Endpoint(llm=model(), base_url="offline"), {}).price is None


class Broken(FakeListChatModel):
    """Has a method of the name, which is something else."""

    def _get_request_payload(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    "llm",
    [
        object(),
        FakeListChatModel(responses=["one"]),
        Broken(responses=["one"]),
        model(use_responses_api=True),
        model(extra_body={"x": object()}),
    ],
    ids=["object", "other", "broken", "responses", "no JSON"],
)
def test_a_chat_model_that_does_not_tell_what_it_sends_is_not_guessed_at(llm: object) -> None:
    assert request_of(llm, {"max_tokens": 5}) is None
    assert Tariff.of(Endpoint(llm=llm, prices=PRICES), {"max_tokens": 5}).bound([]).cost is None
    assert Tariff.of(Endpoint(llm=llm, prices=FREE), {"max_tokens": 5}).bound([]).cost == 0


# -- How it retries


@pytest.mark.parametrize(
    ("llm", "retries"),
    [
        (model(), 0),
        (model(max_retries=None), 2),
        (model(max_retries=7), 7),
        (model(max_retries=None, async_client=openai.AsyncOpenAI(api_key=KEY, max_retries=0).chat.completions), 0),
        (model(async_client=openai.AsyncOpenAI(api_key=KEY, max_retries=5).chat.completions), 5),
        (SimpleNamespace(max_retries=None), 2),
        (SimpleNamespace(max_retries=3), 3),
        (FakeListChatModel(responses=[]), 0),
        (object(), 0),
    ],
)
def test_a_chat_models_own_retries_are_seen(llm: object, retries: int) -> None:
    assert retries_of(llm) == retries


@pytest.mark.parametrize("limit", ["rpm", "rps", "tpm"])
def test_a_limit_beside_a_model_that_retries_by_itself_is_refused(limit: str) -> None:
    with pytest.raises(SettingsError, match=r"retries a failed request itself, 2 times.*max_retries=0"):
        Endpoint(llm=model(max_retries=None), **{limit: 5.0})  # type: ignore[arg-type]
    Endpoint(llm=model(), **{limit: 5.0})  # type: ignore[arg-type]


# -- Who it is


PLAIN: dict[str, Any] = {
    "temperature": 0,
    "max_tokens": 5,
    "stop": ["a key: sk-"],
    "model_kwargs": {"stop_token_ids": [1, 2], "echo": True},
    "default_headers": {"X-Title": "opinions about hotels"},
    "extra_body": {
        "guided_choice": ["opinions", "hotels"],
        "top_k": 20,
        "min_tokens": 3,
        "skip_special_tokens": False,
        "thinking_token_budget": 100,
        "stop_tokens": ["</s>"],
        "chat_template_kwargs": {"enable_thinking": False, "none": {}, "empty": []},
        "guided_json": {"type": "object", "properties": {"key": {"type": "string", "description": "password"}}},
    },
}


def test_a_plain_chat_model_gives_under_the_name_that_it_always_had() -> None:
    source = Endpoint(llm=model()).source
    assert source == ("m", "http://h/v1", '{"model": "m", "model_name": "m", "stream": false}')
    llm = model(**PLAIN)
    assert json.loads(Endpoint(llm=llm).source.params) == json.loads(json.dumps(llm._identifying_params))


HIDDEN = "s3cret-value"
WITH_KEYS: dict[str, dict[str, Any]] = {
    "api_key": {"api_key": SecretStr(HIDDEN)},
    "default_headers": {"default_headers": {"X-Whatever": f"Bearer {HIDDEN}"}},
    "default_query": {"default_query": {"q": HIDDEN}},
    "extra_headers": {"model_kwargs": {"extra_headers": {"Authorization": HIDDEN}}},
    "extra_query": {"model_kwargs": {"extra_query": {"q": HIDDEN}}},
    "extra_body": {"extra_body": {"api_key": HIDDEN}},
    "nested": {"extra_body": {"upstream": [{"accessToken": HIDDEN}, {"password": HIDDEN}]}},
    "model_kwargs": {"model_kwargs": {"cookie": {"session": HIDDEN}}},
    "held elsewhere": {"default_headers": {"X": HIDDEN}, "extra_body": {"note": f"use {HIDDEN}", HIDDEN: 1}},
    "secret field": {"extra_body": {"auth_token": SecretStr(HIDDEN)}},
    "user of the URL": {"base_url": f"http://user:{HIDDEN}@h/v1"},
    "name of the URL": {"base_url": f"http://{HIDDEN}@h/v1"},
    "query of the URL": {"base_url": f"http://h/v1?api_key={HIDDEN}"},
    "another URL": {"extra_body": {"api_key": f"http://user:{HIDDEN}@h/v1"}},
}


@pytest.mark.parametrize("options", WITH_KEYS.values(), ids=WITH_KEYS)
def test_chat_models_that_differ_in_keys_alone_are_one_source_and_show_none(options: dict[str, Any]) -> None:
    llm = model(**options)
    assert Endpoint(llm=llm).source == Endpoint(llm=model()).source
    assert HIDDEN not in repr(Endpoint(llm=llm))
    assert HIDDEN in secrets_of(llm)


def test_a_url_loses_its_user_and_stays() -> None:
    params = Endpoint(llm=model(extra_body={"hook": f"http://me:{HIDDEN}@h/x and more"})).source.params
    assert json.loads(params)["extra_body"] == {"hook": "http://h/x and more"}


def test_what_is_too_short_to_be_a_secret_is_none() -> None:
    llm = model(api_key=SecretStr("EMPTY"), default_headers={"X": "0"}, extra_body={"note": "EMPTY, 10"})
    assert secrets_of(llm) == ()
    assert "EMPTY, 10" in Endpoint(llm=llm).source.params


def test_headers_of_the_users_own_client_are_secrets_where_their_name_says_so() -> None:
    client = openai.DefaultAsyncHttpxClient(headers={"X-Api-Key": HIDDEN, "X-Title": "the title"})
    assert secrets_of(model(http_async_client=client)) == (KEY, HIDDEN)


# -- What is a key for certain


@pytest.mark.parametrize(
    "options",
    [
        {"default_query": {"api-version": "2024-10-21"}},
        {"default_headers": {"X-Title": "Sentiment 2025", "Accept": "application/json", "X-Token-Type": "bearer-1.0"}},
        {"default_headers": {"Authorization-Mode": "delegated-2", "X-Secret": "application/json", "X-Key": "1"}},
        {"model_kwargs": {"prompt_cache_key": "very-negative-1", "extra_headers": {"X-Topic": "hotels-2025"}}},
        {"model_kwargs": {"extra_query": {"auth": "2024-10-21", "token": "very negative-2"}}},
        {"extra_body": {"sort_key": "customer_name_of_2024", "key": "category-1", "image_token": "<|image-01|>"}},
        {"extra_body": {"mask": {"access_token": "<|mask_1|>"}, "secret_name": "prod/hotels-1", "tokens": [1]}},
        {"extra_body": {"auth": {"type": "oauth2-bearer", "token_url": "https://h/token/1"}}},
        {"base_url": "http://h/v1?api-version=2024-10-21"},
    ],
    ids=str,
)
def test_an_ordinary_word_in_headers_query_and_body_is_no_key(options: dict[str, Any]) -> None:
    assert keys_of(model(**options)) == (KEY,)


@pytest.mark.parametrize(
    "options",
    [
        WITH_KEYS["api_key"],
        WITH_KEYS["default_headers"],
        WITH_KEYS["extra_headers"],
        WITH_KEYS["extra_body"],
        WITH_KEYS["nested"],
        WITH_KEYS["model_kwargs"],
        WITH_KEYS["secret field"],
        WITH_KEYS["user of the URL"],
        WITH_KEYS["name of the URL"],
        WITH_KEYS["query of the URL"],
        {"default_headers": {"Ocp-Apim-Subscription-Key": HIDDEN}},
        {"default_headers": {"X-Functions-Key": HIDDEN}},
        {"default_headers": {"Proxy-Authorization": f"Basic {HIDDEN}"}},
        {"default_headers": {"Cookie": f"theme=dark; session={HIDDEN}; seen=2024-10-21"}},
        {"extra_body": {"upstream": {"secret": {"value": HIDDEN}}}},
    ],
    ids=str,
)
def test_what_has_the_name_and_the_look_of_a_key_is_one(options: dict[str, Any]) -> None:
    assert HIDDEN in keys_of(model(**options))


def test_a_key_that_is_changed_in_any_place_is_known_at_once() -> None:
    body = {"upstream": {"api_key": "first-k3y"}}
    llm = model(extra_body=body)
    secrets = Secrets(llm)
    assert set(secrets.keys) == {KEY, "first-k3y"}
    body["upstream"]["api_key"] = "second-k3y"
    assert set(secrets.keys) == set(secrets.all) == {KEY, "second-k3y"}
    llm.root_async_client.api_key = "third-k3y"
    assert set(secrets.keys) == set(secrets.all) == {KEY, "second-k3y", "third-k3y"}


def test_secrets_are_gathered_once_for_as_long_as_a_model_holds_the_same() -> None:
    secrets = Secrets(model(default_headers={"X-Title": "Sentiment 2025"}))
    assert secrets.all is secrets.all
    assert secrets.keys is secrets.keys
