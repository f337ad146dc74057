"""What a LangChain chat model of the user's own sends and holds, asked of its attributes: LangChain is not loaded.

Invariant: what is returned to be kept or shown holds no API key, and what a model does not tell is never guessed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from batcher.hiding import public_url, query_of, secrets_among, user_of, without_user

_SDK_RETRIES = 2
"""What the SDKs of OpenAI and Anthropic do where `max_retries` is None."""

# Names under which secrets are kept have a word that is one of these, or ends so ("accesskey").
_SECRET_WORDS = {"keys", "secrets", "passwords", "passwd", "pwd", "passphrase", "credential", "credentials", "auth"}
_SECRET_WORDS |= {"authorization", "authorisation", "bearer", "cookie", "cookies", "signature", "jwt"}
_SECRET_WORDS |= {"header", "headers"}
_SECRET_ENDS = ("key", "secret", "password", "token")
# A name of tokens with one of these speaks of what a model reads and writes.
_MODEL_WORDS = {"max", "min", "num", "stop", "eos", "bos", "pad", "unk", "id", "ids", "limit", "count", "budget"}
_SENT_BESIDE = {"default_query", "extra_query"}
# Names that JSON Schema gives to the fields that it describes, none of which is a value.
_OF_FIELDS = {"properties", "patternProperties", "$defs", "definitions"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def request_of(llm: object, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a chat model will send beside the messages, or None where it does not tell.

    Args:
        llm: the model. Those of langchain-openai, and others built like it, make their request in a method that has no
            public name; it calls nobody.
        params: the run's request parameters, which its `agenerate` gets.
    """
    make = getattr(llm, "_get_request_payload", None)
    if make is None:
        return None
    try:
        body = dict(make("hello", **params))
        # Any other body, such as one of the Responses API, may have more in it than our messages and parameters.
        if not body.pop("messages", None):
            return None
        body |= body.pop("extra_body", None) or {}  # the SDK lays it over the body
        json.dumps(body)
    except Exception:  # noqa: BLE001 - any chat model may stand here; one that fails at this does not tell
        return None
    return body


def retries_of(llm: object) -> float:
    """Return how many requests a chat model makes by itself after one that failed."""
    # The calls of langchain-openai go through one of these clients, which may be the user's own and have other retries
    # than the model says; that of the first has no public name.
    clients = (getattr(getattr(llm, "async_client", None), "_client", None), getattr(llm, "root_async_client", None))
    told = [getattr(client, "max_retries", None) for client in clients]
    numbers = [retries for retries in told if isinstance(retries, (int, float))]
    retries = max(numbers) if numbers else getattr(llm, "max_retries", 0)
    return retries if isinstance(retries, (int, float)) else _SDK_RETRIES


def identity_of(llm: object) -> tuple[str, str, str]:
    """Return a chat model's name, its base URL, and the parameters that tell it from another one, as JSON.

    Keys, and what is sent in headers and queries, are no part of it: two models that differ in these are the same.
    """
    named = (getattr(llm, name, None) for name in ("model_name", "model"))
    model = next((str(name) for name in named if name), type(llm).__name__)
    # LangChain's own account of what tells two models apart; `extra_body` and the like are in it as they were given.
    params = getattr(llm, "_identifying_params", None) or {}
    secrets = secrets_of(llm)
    kept = _public(params, secrets)
    shown = json.dumps(kept, sort_keys=True, ensure_ascii=False, default=lambda value: type(value).__name__)
    return model, public_url(str(getattr(llm, "openai_api_base", None) or "")), shown if params else ""


def secrets_of(llm: object) -> tuple[str, ...]:
    """Return the secrets that a chat model holds, wherever it keeps them: nothing that is shown may contain one."""
    held = dict(getattr(llm, "__dict__", {}))
    clients = [held.get(name) for name in ("root_async_client", "root_client", "http_async_client", "http_client")]
    clients += [getattr(held.get(name), "_client", None) for name in ("async_client", "client")]
    sent = [{"api_key": getattr(client, "api_key", None), **_headers_of(client)} for client in clients]
    return secrets_among(_gathered([held, *sent], is_secret=False))


def _headers_of(client: object) -> Mapping[str, Any]:
    headers = getattr(client, "headers", None)  # of httpx
    return headers if isinstance(headers, Mapping) else {}


def _gathered(value: object, *, is_secret: bool, names_fields: bool = False) -> Iterator[str]:
    """Yield the secrets in a value.

    Args:
        value: any.
        is_secret: the name that it has says so.
        names_fields: its names are those of fields that a JSON Schema describes.
    """
    reveal = getattr(type(value), "get_secret_value", None)  # of pydantic's SecretStr
    if reveal is not None:
        yield from _gathered(reveal(value), is_secret=True)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            speaks = is_secret or _speaks_of_secret(name, each, names_fields=names_fields)
            yield from _gathered(each, is_secret=speaks, names_fields=name in _OF_FIELDS)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _gathered(each, is_secret=is_secret)
    elif isinstance(value, (str, int)):
        yield from _secrets_in(str(value), is_secret=is_secret)


def _secrets_in(text: str, *, is_secret: bool) -> Iterator[str]:
    if is_secret:
        yield text
        scheme, _, credentials = text.partition(" ")
        if scheme and " " not in credentials:  # "Bearer sk-...": a server may repeat the half
            yield credentials
    if user := user_of(text):
        yield from (*user, *map(unquote, user))
        yield base64.b64encode(unquote(user[0]).encode()).decode()  # as HTTP clients send it
    yield from (each for name, each in query_of(text) if _speaks_of_secret(name, each))


def _speaks_of_secret(name: object, value: object, *, names_fields: bool = False) -> bool:
    """Tell whether a name says that its value is a secret.

    Of names that speak of tokens, those of a model's tokens do not; nor do the names of described fields.
    """
    if names_fields and isinstance(value, (Mapping, bool)):
        return False
    words = {word.lower() for word in _WORD.findall(str(name))}
    if name in _SENT_BESIDE or words & _SECRET_WORDS:
        return True
    if words & {"token", "tokens"} and not words & {"key", "secret", "password"}:
        is_number = isinstance(value, bool) or ("tokens" in words and isinstance(value, (int, float)))
        return not is_number and not words & _MODEL_WORDS
    return any(word.endswith(_SECRET_ENDS) for word in words)


def _public(value: Any, secrets: Sequence[str], *, names_fields: bool = False) -> Any:
    """Return a value without secrets, without what has a name that speaks of one, and without what that leaves empty.

    Args:
        value: any.
        secrets: what no text in it may contain.
        names_fields: its names are those of fields that a JSON Schema describes.
    """
    if isinstance(value, Mapping):
        parts = {
            name: (each, _public(each, secrets, names_fields=name in _OF_FIELDS))
            for name, each in value.items()
            if not _holds(name, secrets) and not _speaks_of_secret(name, each, names_fields=names_fields)
        }
        return {name: kept for name, (each, kept) in parts.items() if not _is_lost(each, kept)}
    if isinstance(value, (list, tuple)):
        return [kept for each in value if not _is_lost(each, kept := _public(each, secrets))]
    if isinstance(value, str):
        shown = without_user(value)
        return "" if _holds(shown, secrets) else shown
    return value


def _is_lost(value: object, kept: object) -> bool:
    """Tell whether nothing is left of a value that was not empty."""
    return bool(value) and kept in ("", {}, [])


def _holds(value: object, secrets: Sequence[str]) -> bool:
    return isinstance(value, str) and any(secret in value for secret in secrets)
