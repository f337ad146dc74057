"""Reads the request, the identity and the secrets of a user's LangChain chat model from its attributes.

Invariant: LangChain is not loaded. Values that may be stored or shown hold no API key; a fact that the model does not
reveal is not guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from batcher.hiding import Secret, credentials_of, public_url, query_of, secrets_among, without_user

_SDK_RETRIES = 2
"""The retries of OpenAI's and Anthropic's SDKs if `max_retries` is None."""

# A name means a secret if one of its words is in this list, or ends with an entry of the next one ("accesskey").
_SECRET_WORDS = {"keys", "secrets", "passwords", "passwd", "pwd", "passphrase", "credential", "credentials", "auth"}
_SECRET_WORDS |= {"authorization", "authorisation", "bearer", "cookie", "cookies", "signature", "jwt"}
_SECRET_WORDS |= {"header", "headers", "creds", "session", "sessionid", "sig", "pat", "license", "licence"}
_SECRET_ENDS = ("key", "secret", "password", "token")
# If a name has "token" and one of these words, it means the model's tokens, not a secret.
_MODEL_WORDS = {"max", "min", "num", "stop", "eos", "bos", "pad", "unk", "id", "ids", "limit", "count", "budget"}
_SENT_BESIDE = {"default_query", "extra_query"}
# Under these names a JSON Schema describes fields; the names of the fields say nothing about values.
_OF_FIELDS = {"properties", "patternProperties", "$defs", "definitions"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

# A value is a key for certain if its name has one of these words, or a word that ends like those ("accesstoken").
_CERTAIN_WORDS = {"password", "passwd", "pwd", "passphrase", "secret", "secrets", "credential", "credentials", "auth"}
_CERTAIN_WORDS |= {"authorization", "authorisation", "bearer", "cookie", "cookies", "jwt"}
_CERTAIN_ENDS = ("secret", "password", "token")
# With one of these words a "key" gives access; other keys may be labels, such as a key to sort by.
_ACCESS = {"api", "access", "auth", "account", "admin", "client", "master", "private", "secret", "service"}
_ACCESS |= {"subscription", "x"}
_ACCESS_ENDS = ("apikey", "accesskey", "authkey", "secretkey", "privatekey", "subscriptionkey")
# With one of these words a name describes a key ("token_type", "key_id"), or means another kind ("prompt_cache_key").
_DESCRIBING = {"cache", "prompt", "sort", "group", "partition", "routing", "public", "primary", "foreign", "label"}
_DESCRIBING |= {"idempotency", "field", "column", "name", "type", "in", "description", "scheme", "mode", "method"}
_DESCRIBING |= {"format", "url", "uri", "path", "file", "id", "header", "expires", "ttl", "alg", "version"}
_DESCRIBING |= {"image", "audio", "mask", "sep", "cls", "start", "end", "special", "think", "thinking"}
_LONG = 16
"""Characters that a value needs, with a digit among them, if its name says "key" but not which kind of key."""
_CREDENTIALS = re.compile(r"(?:Bearer|Basic) (?=\S*\d)\S+|sk-\S+", re.IGNORECASE)
_SCHEME = re.compile(r"^(?:Bearer|Basic|Token|ApiKey|Api-Key|Key) ", re.IGNORECASE)
_ORDINARY = re.compile(
    r"\d{4}([-/.]?)\d\d\1\d\d(?:T\S*)?"  # a date, as API versions are
    r"|(?:\*|application|audio|font|image|message|model|multipart|text|video)/\S*"  # a media type
    r"|[<\[{(]\S*"  # a model's special token
    r"|\w+://\S*"
)


def request_of(llm: object, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the request parameters that a chat model will send, or None if it does not reveal them.

    Args:
        llm: the model. Those of langchain-openai, and others built like it, build their request in a private method,
            which sends nothing.
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
    except Exception:  # noqa: BLE001 - any chat model may be behind it; one that fails here reveals nothing
        return None
    return body


def retries_of(llm: object) -> float:
    """Return how many requests a chat model makes by itself after one that failed."""
    # The calls of langchain-openai go through one of these clients, which may be the user's own, with other retries
    # than the model's. The client of the first one is private.
    clients = (getattr(getattr(llm, "async_client", None), "_client", None), getattr(llm, "root_async_client", None))
    given = [getattr(client, "max_retries", None) for client in clients]
    numbers = [retries for retries in given if isinstance(retries, (int, float))]
    retries = max(numbers) if numbers else getattr(llm, "max_retries", 0)
    return retries if isinstance(retries, (int, float)) else _SDK_RETRIES


def streams(llm: object) -> bool:
    """Return whether a chat model can send its answer piece by piece, so far as its class says."""
    kinds = (kind for kind in type(llm).__mro__ if kind.__name__ != "BaseChatModel")
    has_method = any(name in vars(kind) for kind in kinds for name in ("_astream", "_stream"))
    return has_method and getattr(llm, "disable_streaming", False) is not True


def identity_of(llm: object) -> tuple[str, str, str]:
    """Return a chat model's name, its base URL, and the parameters that distinguish it from other models, as JSON.

    They hold no keys, headers or queries: two models that differ in these alone count as the same.
    """
    named = (getattr(llm, name, None) for name in ("model_name", "model"))
    model = next((str(name) for name in named if name), type(llm).__name__)
    # LangChain's own list of what distinguishes two models; `extra_body` and the like are in it as they were given.
    params = getattr(llm, "_identifying_params", None) or {}
    secrets = secrets_of(llm)
    kept = _public(params, secrets)
    shown = json.dumps(kept, sort_keys=True, ensure_ascii=False, default=lambda value: type(value).__name__)
    return model, public_url(str(getattr(llm, "openai_api_base", None) or "")), shown if params else ""


def secrets_of(llm: object) -> tuple[str, ...]:
    """Return every text of a chat model that may be a secret, so that its identity and messages leave it out.

    Some may be ordinary words, such as a header's value.
    """
    return _secrets_among(_held_by(llm), _ANY)


def keys_of(llm: object) -> tuple[str, ...]:
    """Return the texts of a chat model that are certainly keys, so that they are hidden in answers too."""
    return _secrets_among(_held_by(llm), _CERTAIN)


def keys_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys among an endpoint's headers: values from the environment, and values whose names mean a key."""
    return _secrets_among(_copied(headers), _CERTAIN)


class Secrets:
    """The secrets of a chat model, searched again only if the model has changed.

    Args:
        llm: the model.
    """

    def __init__(self, llm: object) -> None:
        self._llm = llm
        self._held: object = None
        self._all: tuple[str, ...] = ()
        self._keys: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """As `secrets_of`."""
        self._refresh()
        return self._all

    @property
    def keys(self) -> tuple[str, ...]:
        """As `keys_of`."""
        self._refresh()
        return self._keys

    def _refresh(self) -> None:
        held = _held_by(self._llm)
        if held != self._held:
            self._held, self._all, self._keys = held, _secrets_among(held, _ANY), _secrets_among(held, _CERTAIN)


class _Fields(tuple[tuple[object, object], ...]):
    """The pairs of a mapping."""

    __slots__ = ()


def _held_by(llm: object) -> object:
    """Return a copy of what a model and its clients hold, which can be compared with a later one."""
    held = dict(getattr(llm, "__dict__", {}))
    clients = [held.get(name) for name in ("root_async_client", "root_client", "http_async_client", "http_client")]
    clients += [getattr(held.get(name), "_client", None) for name in ("async_client", "client")]
    different = {id(client): client for client in clients if client is not None}.values()
    sent = [{"api_key": getattr(client, "api_key", None), **_headers_of(client)} for client in different]
    return _copied([held, *sent])


def _headers_of(client: object) -> Mapping[str, Any]:
    headers = getattr(client, "headers", None)  # of httpx
    return headers if isinstance(headers, Mapping) else {}


def _copied(value: object) -> object:
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if isinstance(value, Mapping):
        return _Fields((name, _copied(each)) for name, each in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(map(_copied, value))
    reveal = getattr(type(value), "get_secret_value", None)
    if reveal is None:
        return None
    revealed = reveal(value)
    return Secret(revealed) if isinstance(revealed, str) else _copied(revealed)


class _Rule(NamedTuple):
    """What counts as a secret.

    Attributes:
        names: whether a name means a secret, given the name, its value, and whether it names a field of a JSON Schema.
        inherits: whether the value of a name is secret in a mapping that is secret itself.
        accepts: whether a value with such a name is a secret.
    """

    names: Callable[[object, object, bool], bool]
    inherits: Callable[[object], bool]
    accepts: Callable[[str], bool]


def _secrets_among(held: object, rule: _Rule) -> tuple[str, ...]:
    return secrets_among(_gathered(held, rule, is_secret=False))


def _gathered(value: object, rule: _Rule, *, is_secret: bool, names_fields: bool = False) -> Iterator[str]:
    """Yield the secrets in a value.

    Args:
        value: as `_copied` returns it.
        rule: which values count as secrets.
        is_secret: the value's name means a secret.
        names_fields: its names are those of fields that a JSON Schema describes.
    """
    if isinstance(value, _Fields):
        for name, each in value:
            speaks = rule.names(name, each, names_fields) or (is_secret and rule.inherits(name))
            yield from _gathered(each, rule, is_secret=speaks, names_fields=name in _OF_FIELDS)
    elif isinstance(value, tuple):
        for each in value:
            yield from _gathered(each, rule, is_secret=is_secret)
    elif isinstance(value, Secret):
        yield from _forms_of(value, _ANY.accepts)
    elif isinstance(value, (str, int)):
        yield from _secrets_in(str(value), rule, is_secret=is_secret)


def _secrets_in(text: str, rule: _Rule, *, is_secret: bool) -> Iterator[str]:
    if is_secret or _CREDENTIALS.fullmatch(text):
        yield from _forms_of(text, rule.accepts)
    yield from credentials_of(text)
    yield from (each for name, each in query_of(text) if rule.names(name, each, False) and rule.accepts(each))


def _forms_of(text: str, accepts: Callable[[str], bool]) -> Iterator[str]:
    """Yield a secret that is accepted as one, and its parts that a server may repeat alone."""
    if accepts(text):
        yield text
        scheme, _, credentials = text.partition(" ")
        if scheme and " " not in credentials:  # "Bearer sk-..."
            yield credentials
    if ";" in text:  # "session=...; theme=dark" of a cookie
        yield from filter(accepts, (part.strip().partition("=")[2] for part in text.split(";")))


def _is_key_name(name: object, value: object, names_fields: bool) -> bool:
    """Return whether a name says for certain that its value is a key."""
    if not _speaks_of_secret(name, value, names_fields=names_fields):
        return False
    words = _words_of(name)
    if words & _DESCRIBING:
        return False
    if words & _CERTAIN_WORDS or any(word.endswith((*_CERTAIN_ENDS, *_ACCESS_ENDS)) for word in words):
        return True
    if "key" not in words:
        return False
    return bool(words & _ACCESS) or (isinstance(value, str) and len(value) >= _LONG and any(map(str.isdigit, value)))


def _is_like_key(text: str) -> bool:
    """Return whether a text looks like a key, whatever its name: one word, perhaps after the name of a scheme."""
    word = _SCHEME.sub("", text)
    return not re.search(r"\s", word) and not _ORDINARY.fullmatch(word)


def _speaks_of_secret(name: object, value: object, *, names_fields: bool = False) -> bool:
    """Return whether a name says that its value is a secret.

    Names of a model's tokens ("max_tokens"), and of fields that a JSON Schema describes, do not.
    """
    if names_fields and isinstance(value, (Mapping, _Fields, bool)):
        return False
    words = _words_of(name)
    if name in _SENT_BESIDE or words & _SECRET_WORDS:
        return True
    if words & {"token", "tokens"} and not words & {"key", "secret", "password"}:
        is_number = isinstance(value, bool) or ("tokens" in words and isinstance(value, (int, float)))
        return not is_number and not words & _MODEL_WORDS
    return any(word.endswith(_SECRET_ENDS) for word in words)


def _words_of(name: object) -> set[str]:
    return {word.lower() for word in _WORD.findall(str(name))}


_ANY = _Rule(lambda name, value, fields: _speaks_of_secret(name, value, names_fields=fields), lambda _: True, bool)
_CERTAIN = _Rule(_is_key_name, lambda name: not _words_of(name) & _DESCRIBING, _is_like_key)


def _public(value: Any, secrets: Sequence[str], *, names_fields: bool = False) -> Any:
    """Return a value without secrets and without entries that are named like one; drop entries that become empty.

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
    """Return whether nothing is left of a value that was not empty."""
    return bool(value) and kept in ("", {}, [])


def _holds(value: object, secrets: Sequence[str]) -> bool:
    return isinstance(value, str) and any(secret in value for secret in secrets)
