"""A model behind a base URL, with its key, its limits and its prices.

Invariant: an `Endpoint` that exists is valid, and its `repr` holds no API key.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from batcher.chat_model import identity_of, retries_of
from batcher.checks import (
    check_headers,
    check_key,
    check_model,
    check_number,
    check_price,
    check_share,
    check_text,
    check_whole,
)
from batcher.equality import written
from batcher.errors import SettingsError, outermost
from batcher.hiding import looks_like_key, names_key, shown
from batcher.params import INSTEAD, REQUEST_PARAMS, as_json, check_params, unfolded
from batcher.records import Source
from batcher.words import option

T = TypeVar("T")

OFFLINE = "offline"
"""The base URL of an endpoint that the embedded server answers; its real port changes with each run."""

OPENAI_URL = "https://api.openai.com/v1"

MAX_CONCURRENCY = 256
"""The default limit of requests in flight at one account."""

LONGEST_NAME = 100  # characters

LIMITS = ("rpm", "rps", "tpm", "max_concurrency")
"""The fields of an endpoint that are limits of its account."""

AS_STARTED = "none"
"""The value that takes back what was set by hand for a limit: the run has the one again that it was started with."""


def _check_prices(prices: object) -> None:
    names = set(prices) if isinstance(prices, Mapping) else set()
    if not isinstance(prices, Mapping) or (
        names != {"batch"} and not {"in", "out"} <= names <= {"in", "out", "cached", "batch"}
    ):
        raise SettingsError(
            "prices must hold dollars per million tokens, as in {'in': 0.27, 'out': 1.10}, or what a batch costs, as a"
            " share of the price: {'batch': 0.5}"
        )
    for name, price in prices.items():
        (check_share if name == "batch" else check_price)(price, f"prices: {name}")


def is_name(base_url: str) -> bool:
    """Return whether the base URL of a `Source` is an endpoint's name: a URL has a slash, and a name has none."""
    return bool(base_url) and base_url != OFFLINE and "/" not in base_url


def check_name(value: object, where: str) -> None:
    """Refuse what cannot be the name of an endpoint. An error does not show a name that may be a key.

    Raises:
        SettingsError: it is not one line of text, is too long, looks like a URL or an API key, or is `offline`.
    """
    check_text(value, where)
    name = str(value)
    if looks_like_key(name):
        raise SettingsError(f"{where} looks like an API key, and is not shown: give keys through API_KEY")
    if not is_name(name) or not name.isprintable() or name != name.strip() or len(name) > LONGEST_NAME:
        raise SettingsError(
            f"{where} must be a name of your own, such as my-vllm: at most {LONGEST_NAME} characters, no slash, and not"
            f" {OFFLINE!r}"
        )


def checked_url(url: str, name: str = "the base URL") -> str:
    """Return a base URL in the form that calls need. An error does not show a URL that may hold a secret.

    Args:
        url: as the user gave it.
        name: of the value, for messages: the variable that holds it, and where that is set.

    Raises:
        SettingsError: it is not a base URL, or holds more than scheme, host, path and an `api-version`.
    """
    url = url.strip()
    if url == OFFLINE:
        return url
    place, mark, query = url.partition("?")
    if "@" in url or "#" in url or (mark and not re.fullmatch(r"api-version=[\w.-]+", query, re.ASCII)):
        raise SettingsError(
            f"{name} holds a user, a password or a query other than ?api-version=: give keys through API_KEY, and other"
            " values that the server needs as headers"
        )
    try:
        parts = urlsplit(place)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or any(char.isspace() for char in place):
        raise SettingsError(f"{name} is {shown(url)}: it must look like https://host/v1{_with_scheme(place)}")
    if any(map(looks_like_key, re.split(r"[/.]", place))):
        raise SettingsError(f"{name} holds what looks like an API key, and is not shown: give keys through API_KEY")
    place = place.rstrip("/")
    for path in ("/chat/completions", "/completions", "/embeddings"):
        place = place.removesuffix(path)
    return place.rstrip("/") + mark + query


def _with_scheme(url: str) -> str:
    """Return what a base URL without a scheme should probably be, as the end of a message; else an empty text."""
    found = re.fullmatch(r"/{0,2}([\w.-]+|\[[\da-fA-F:]+\])((?::\d{1,5})?)(/[\w./-]*)?", url, re.ASCII)
    if found is None or any(map(looks_like_key, re.split(r"[/.]", url))):
        return ""
    host, port, path = found[1], found[2], (found[3] or "").rstrip("/")
    is_local = host == "localhost" or bool(
        re.match(r"127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|0\.0\.0\.0|\[", host)
    )
    if not (is_local or port or "." in host):
        return ""
    scheme = "http" if is_local or port not in {"", ":443"} else "https"
    return f": did you mean {scheme}://{host}{port}{path or '/v1'}?"


def key_header(base_url: str) -> str:
    """Return the header that carries the API key to a base URL: `api-key` for Azure's URLs, which name a version."""
    return "api-key" if "?api-version=" in base_url else "Authorization"


def _with_advice(kind: type[T]) -> type[T]:
    """Let a dataclass refuse a field that it does not have as batcher does: Python's own error has no advice."""
    make: Any = kind.__init__
    known = [each.name for each in fields(cast("Any", kind))]

    @functools.wraps(make)
    def made(self: T, *values: Any, **given: Any) -> None:
        for name, value in given.items():
            if name not in known:
                raise SettingsError(f"an Endpoint has no field {name!r}: {_advice_on(name, value, known)}")
        make(self, *values, **given)

    changed: Any = kind
    changed.__init__ = outermost(made)
    return kind


def _advice_on(name: str, value: object, known: Sequence[str]) -> str:
    """Return advice on a field that does not exist; it shows the value only if that is a number."""
    if name in REQUEST_PARAMS:
        return f"a request parameter goes into {_in_params(name, value)}"
    if names_key(name):
        return "the key goes into api_key; with several keys, make one Endpoint for each"
    instead = next(iter(INSTEAD.get(name, ())), "")
    near = difflib.get_close_matches(name, [*known, *REQUEST_PARAMS], 1, 0.7)
    if instead in known or (near and near[0] in known):
        return f"did you mean {instead if instead in known else near[0]!r}?"
    if near:
        return f"did you mean {_in_params(near[0], value)}?"
    if instead:
        return f"give {instead} to batcher.run instead"
    return f"the fields are {', '.join(known)}; give other options to batcher.run"


def _in_params(name: str, value: object) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'params={{"{name}": {value if is_number else "..."}}}'


@_with_advice
@dataclass(frozen=True)
class Endpoint:
    """A model behind a base URL, called with one API key, under its own limits or those that its account's keys share.

    Endpoints are compared by value, and may be members of a set or keys of a dictionary.

    Args:
        model: the model's name, as the server knows it. Not needed with `llm`.
        base_url: such as `https://api.deepseek.com/v1`; it may end in `?api-version=...`, as Azure's do.
        api_key: one key; None if the server needs none. Never shown, never written.
        rpm: the most requests per minute; None means no limit.
        rps: the most requests per second; None means no limit.
        tpm: the most model tokens per minute, prompts and answers together; None means no limit.
        max_concurrency: the most requests in flight.
        params: request parameters of this endpoint alone, sent on under the names given.
        prices: US dollars per million model tokens: `in`, `out` and, if it differs, `cached`; default: the price table.
            `batch` is what requests in batches cost, as a share of these; default: what is known of the service.
        llm: any LangChain chat model; it is called instead, with its own model, key and parameters.
        headers: sent with each request, by name. A value `env:NAME` is read from that variable of the environment or
            `.env`, and hidden in everything that the server returns. Never shown, never written.
        account: a name for the account that the key belongs to. Endpoints with the same name at the same base URL share
            rpm, rps, tpm and max_concurrency, which must be the same in each. None: no other endpoint shares them.
        name: a name of your own for the server, such as `my-vllm`. It is the source of the answers in the place of the
            base URL, so that they stay valid if the server's host or port changes. It stands for one model: two servers
            with one name and the same model are one source. None: the base URL is the source.

    Raises:
        SettingsError: a value cannot be used.
    """

    model: str | None = None
    base_url: str = OPENAI_URL
    api_key: str | None = field(default=None, repr=False)
    rpm: float | None = None
    rps: float | None = None
    tpm: float | None = None
    max_concurrency: int = MAX_CONCURRENCY
    # Fields without a hash are only compared: equal endpoints still have equal hashes.
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prices: Mapping[str, float] | None = field(default=None, hash=False)
    llm: Any = field(default=None, repr=False, hash=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    account: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.llm is None and self.model is None:
            ways = f"Endpoint('gpt-4o-mini', ...), {option('model')} or MODEL in .env"
            raise SettingsError(f"an endpoint needs a model: {ways}")
        for name, what in (("params", "parameters"), ("headers", "headers")):
            if self.llm is not None and getattr(self, name):
                raise SettingsError(f"an endpoint with llm= takes its {what} from that object: leave {name} out")
        self._check_values()
        object.__setattr__(self, "base_url", checked_url(self.base_url))
        check_headers(self.headers, "headers", key_header(self.base_url))
        if self.api_key and self.has_key_in_headers:
            raise SettingsError("headers carry the API key, and api_key is given as well: leave one of them out")
        if self.llm is not None and (self.rpm or self.rps or self.tpm) and (retries := retries_of(self.llm)):
            raise SettingsError(
                f"the chat model in llm= retries a failed request itself, {retries:g} times, and rpm, rps and tpm do"
                " not limit its retries: create it with max_retries=0; batcher does the retries"
            )
        # Copies, so that an endpoint stays valid if its arguments are changed later.
        object.__setattr__(self, "params", unfolded(as_json(self.params, "params")))
        object.__setattr__(self, "headers", dict(self.headers))
        object.__setattr__(self, "prices", None if self.prices is None else dict(self.prices))

    def _check_values(self) -> None:
        """Check each value alone."""
        if self.model is not None:
            check_model(self.model, "model")
        check_text(self.base_url, "base_url")
        if self.api_key is not None:
            check_key(self.api_key, "api_key")
        if self.account is not None:
            check_text(self.account, "account")
        if self.name is not None:
            check_name(self.name, "name")
        for name in ("rpm", "rps", "tpm"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name)
        check_whole(self.max_concurrency, "max_concurrency")
        check_params(self.params, "params")
        if self.prices is not None:
            _check_prices(self.prices)

    @property
    def has_key_in_headers(self) -> bool:
        """Whether the user's headers carry an API key of the kind that this service takes."""
        return self.key_in_headers is not None

    @property
    def key_in_headers(self) -> str | None:
        """The value of the user's header that carries an API key of the kind that this service takes, or None."""
        own = key_header(self.base_url).lower()
        names = () if own == "authorization" else (own, "authorization")
        return next((value for name, value in self.headers.items() if name.lower() in names), None)

    @property
    def shared_account(self) -> tuple[str, str] | None:
        """The base URL and the name that tell its account from others; None if no other endpoint is of that account."""
        return None if self.account is None else (self.real_source.base_url, self.account)

    @property
    def source(self) -> Source:
        """The source of this endpoint's answers: its name, if it has one, stands in the place of the base URL."""
        real = self.real_source
        return real if self.name is None else real._replace(base_url=self.name)

    @property
    def where(self) -> str:
        """Its name and its base URL, for people; empty if it has neither."""
        return ", ".join(filter(None, (self.name, self.real_source.base_url)))

    @property
    def real_source(self) -> Source:
        """The source that it is without a name; headers and the API version are not part of it."""
        if self.llm is not None:
            model, base_url, params = identity_of(self.llm)
            return Source(self.model or model, base_url, params)
        params = written(self.params) if self.params else ""
        return Source(self.model or "", self.base_url.partition("?")[0], params)


def by_account(endpoints: Iterable[Endpoint]) -> list[list[Endpoint]]:
    """Return the endpoints of each account, in the order of their first."""
    groups: dict[object, list[Endpoint]] = {}
    for number, endpoint in enumerate(endpoints):
        groups.setdefault(endpoint.shared_account or number, []).append(endpoint)
    return list(groups.values())
