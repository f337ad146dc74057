"""What a run was asked to do, checked once: its options, and what an endpoint is.

Invariant: a `Settings` or an `Endpoint` that exists is valid, and its `repr` holds no API key.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, TypedDict
from urllib.parse import urlsplit

from batcher.chat_model import identity_of, retries_of
from batcher.errors import SettingsError
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.records import Source

OFFLINE = "offline"
"""The base URL of an endpoint that the embedded server answers; its real port changes with each run."""

OPENAI_URL = "https://api.openai.com/v1"

MAX_CONCURRENCY = 256
ON_CHANGE = ("abort", "redo", "reuse")
ENCODINGS = ("utf-8", "utf-8-sig")
_DEAREST = 1e6  # dollars per million tokens: beyond it somebody has mixed up the units

RESERVED_PARAMS = {
    "model": "use --model",
    "messages": "use --prompt or --messages-column",
}

# Windows refuses these as file names, whatever their ending.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10)),
}
# A file name may have 255 bytes; `journal_`, `.sqlite-wal` and a temporary file's ending need room.
_KEYWORD_BYTES = 200


def check_keyword(keyword: str) -> None:
    """Refuse a keyword that is no safe part of a file name.

    Raises:
        SettingsError: it is empty, hidden, reserved, too long, or holds a separator or a control character.
    """
    reason = None
    if not keyword.strip():
        reason = "it is empty"
    elif keyword.startswith("."):
        reason = "it starts with a dot"
    elif bad := sorted({char for char in keyword if char in '/\\:*?"<>|' or not char.isprintable()}):
        reason = f"it holds {' '.join(map(repr, bad))}"
    elif keyword[-1] in ". ":
        reason = "it ends with a dot or a space"
    elif keyword.partition(".")[0].lower() in _DEVICES:
        reason = "the name is reserved on Windows"
    elif len(keyword.encode("utf-8", "replace")) > _KEYWORD_BYTES:
        reason = f"it is longer than {_KEYWORD_BYTES} bytes"
    if reason:
        raise SettingsError(f"--keyword {keyword!r} cannot be part of a file name: {reason}; choose another")


def _positive(name: str, value: object, *, whole: bool = False, optional: bool = False) -> None:
    if value is None and optional:
        return
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise SettingsError(f"{name} must be a {'whole ' if whole else ''}number above 0, not {value!r}")


def _text(name: str, value: object, *, optional: bool = True) -> None:
    if not (isinstance(value, str) and value.strip()) and not (value is None and optional):
        shown = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
        raise SettingsError(f"{name} must be a text that is not empty; it is {shown}")


def _check_params(params: object, where: str) -> None:
    if not isinstance(params, Mapping) or not all(isinstance(name, str) and name for name in params):
        raise SettingsError(f"{where} must hold parameters by name, as in {{'temperature': 0}}")
    for name, advice in RESERVED_PARAMS.items():
        if name in params:
            raise SettingsError(f"{where}: {name!r} is not a parameter that can be set here: {advice}")
    try:
        text = json.dumps(dict(params), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: the parameters cannot be written as JSON: {error}") from error
    if is_too_deep(text):
        raise SettingsError(f"{where}: the parameters cannot be written as JSON: {TOO_DEEP}")


def _check_prices(prices: object) -> None:
    if prices is None:
        return
    if not isinstance(prices, Mapping) or not {"in", "out"} <= set(prices) <= {"in", "out", "cached"}:
        raise SettingsError("prices must hold dollars per million tokens, as in {'in': 0.27, 'out': 1.10}")
    for name, price in prices.items():
        _price(f"prices: {name}", price)


def _price(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _DEAREST:
        raise SettingsError(f"{name} must be dollars per million tokens, 0 or more, not {value!r}")


def check_variable(name: str, where: str) -> None:
    """Refuse what cannot name a variable, unshown: it may well be an API key."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise SettingsError(f"{where} must be the name of a variable, such as OPENAI_API_KEY, not the key itself")


def check_key(key: object, where: str) -> None:
    if not isinstance(key, str) or not (key.isascii() and key.isprintable()) or " " in key:
        raise SettingsError(f"{where} is no text, or holds a space or a character that no header may carry")


def _checked_url(url: str) -> str:
    """Return a base URL as calls need it; one that may hold a secret is not shown."""
    url = url.strip()
    if url == OFFLINE:
        return url
    if "@" in url or "?" in url or "#" in url:
        raise SettingsError("the base URL holds a user, a password or a query: give keys through API_KEY instead")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or any(char.isspace() for char in url):
        raise SettingsError(f"the base URL {url!r} must look like https://host/v1")
    return url.rstrip("/").removesuffix("/chat/completions").rstrip("/")


@dataclass(frozen=True)
class Endpoint:
    """A model behind a base URL, called with one API key under its own limits.

    Args:
        model: the model's name, as the server knows it. Not needed with `llm`.
        base_url: such as `https://api.deepseek.com/v1`.
        api_key: one key; None where the server asks for none. Never shown, never written.
        rpm: requests a minute at most; None is no limit.
        rps: requests a second at most; None is no limit.
        tpm: model tokens a minute at most, prompts and answers together; None is no limit.
        max_concurrency: requests in flight at most.
        params: request parameters of this endpoint alone, sent on under the names given.
        prices: US dollars per million model tokens: `in`, `out` and, if it differs, `cached`; default: the price table.
        llm: any LangChain chat model; it is called instead, with its own model, key and parameters.

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
    params: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, float] | None = None
    llm: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.llm is None and self.model is None:
            raise SettingsError("an endpoint needs a model: Endpoint('gpt-4o-mini', ...), --model or MODEL in .env")
        if self.llm is not None and self.params:
            raise SettingsError("an endpoint with llm= takes its parameters from that object: leave params out")
        _text("model", self.model)
        _text("base_url", self.base_url, optional=False)
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        if self.api_key is not None:
            check_key(self.api_key, "api_key")
        _positive("rpm", self.rpm, optional=True)
        _positive("rps", self.rps, optional=True)
        _positive("tpm", self.tpm, optional=True)
        _positive("max_concurrency", self.max_concurrency, whole=True)
        if self.llm is not None and (self.rpm or self.rps or self.tpm) and (retries := retries_of(self.llm)):
            raise SettingsError(
                f"the chat model in llm= sends a failed request again by itself, {retries:g} times, and no rpm, rps or"
                " tpm can hold that back: make it with max_retries=0; batcher tries again"
            )
        _check_params(self.params, "params")
        _check_prices(self.prices)
        object.__setattr__(self, "params", dict(self.params))

    @property
    def source(self) -> Source:
        """Who an answer of this endpoint comes from."""
        if self.llm is not None:
            model, base_url, params = identity_of(self.llm)
            return Source(self.model or model, base_url, params)
        params = json.dumps(self.params, sort_keys=True, ensure_ascii=False) if self.params else ""
        return Source(self.model or "", self.base_url, params)


class Options(TypedDict, total=False):
    """The keyword arguments of `run` and `arun`; `Settings` says what each means and its default."""

    keyword: str | None
    output_dir: str | os.PathLike[str]
    chunk_size: int
    answer_column: str
    prompt_file: str | os.PathLike[str] | None
    prompt_column: str | None
    messages_column: str | None
    system: str | None
    system_file: str | os.PathLike[str] | None
    model: str | None
    base_url: str | None
    provider: str | None
    api_key_env: str | None
    endpoints: str | os.PathLike[str] | Sequence[Endpoint] | None
    rpm: float | None
    rps: float | None
    tpm: float | None
    max_concurrency: int
    timeout: float
    deadline: float
    max_attempts: int
    max_response_mb: float
    budget: float | None
    price_in: float | None
    price_out: float | None
    param: Mapping[str, Any] | None
    limit: int | None
    retry_failed: bool
    on_change: str
    id_column: str | None
    dedup: bool
    encoding: str
    no_progress: bool
    quiet: bool


# Of the options whose type is all that can be wrong with them, or is checked before the rest.
_KINDS: dict[str, tuple[type, ...]] = {
    "keyword": (str, NoneType),
    "output_dir": (str, os.PathLike),
    "prompt_file": (str, os.PathLike, NoneType),
    "system": (str, NoneType),
    "system_file": (str, os.PathLike, NoneType),
    "retry_failed": (bool,),
    "dedup": (bool,),
    "no_progress": (bool,),
    "quiet": (bool,),
}


@dataclass(frozen=True)
class Settings:
    """The options of a run, checked.

    Attributes:
        keyword: names the run and its files; default: the input file's stem.
        output_dir: the directory that everything is written to; made if missing.
        chunk_size: rows in a chunk file.
        answer_column: the column that holds the answer; also the stem of its `_status` and `_error` columns.
        prompt_file: a file that holds the template.
        prompt_column: the column that holds each row's prompt.
        messages_column: the column that holds each row's messages, a JSON list.
        system: the system message, a template too.
        system_file: a file that holds the system message.
        model, base_url: what to call; default `MODEL` and `BASE_URL` of the environment or `.env`.
        provider: a known service by name: it fills in the base URL and the key's variable.
        api_key_env: the variable that holds the key, or several separated by commas.
        endpoints: `Endpoint` objects, or the path of a TOML file with `[[endpoint]]` tables.
        rpm, rps, tpm: requests a minute, requests a second and model tokens a minute at most, for each key.
        max_concurrency: requests in flight at most, for each key.
        timeout: seconds for one attempt.
        deadline: seconds that a row may be in flight over all its attempts.
        max_attempts: attempts that a row may use; one refused for a rate limit is not counted.
        max_response_mb: megabytes (of 10^6 bytes, unpacked) that a response may have; a longer one ends its row.
        budget: US dollars at most, for all that this keyword has ever sent.
        price_in, price_out: US dollars per million model tokens of prompts and answers; default: the price table.
        param: request parameters, sent on under the names given.
        limit: only so many rows, from the first.
        retry_failed: send the rows again that ended as `error` or `invalid`.
        on_change: what to do about rows that have an answer to a different question: `abort` before any call, `redo`
            (ask again) or `reuse` (keep an old answer if it is provably the row's own, ask the others).
        id_column: a column of unique values that identify the rows. With `reuse` an edited row keeps its answer only
            if its id is the same.
        dedup: rows that ask the same are sent once, and each gets the answer.
        encoding: of the CSV files: `utf-8`, or `utf-8-sig` for spreadsheets.
        no_progress: show no bar.
        quiet: show errors only.
    """

    keyword: str | None = None
    output_dir: str | os.PathLike[str] = "output"
    chunk_size: int = 500
    answer_column: str = "infer"
    prompt_file: str | os.PathLike[str] | None = None
    prompt_column: str | None = None
    messages_column: str | None = None
    system: str | None = None
    system_file: str | os.PathLike[str] | None = None
    model: str | None = None
    base_url: str | None = None
    provider: str | None = None
    api_key_env: str | None = None
    endpoints: str | os.PathLike[str] | Sequence[Endpoint] | None = None
    rpm: float | None = None
    rps: float | None = None
    tpm: float | None = None
    max_concurrency: int = MAX_CONCURRENCY
    timeout: float = 120.0
    deadline: float = 1800.0
    max_attempts: int = 6
    max_response_mb: float = 64.0
    budget: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    param: Mapping[str, Any] | None = None
    limit: int | None = None
    retry_failed: bool = False
    on_change: str = "abort"
    id_column: str | None = None
    dedup: bool = False
    encoding: str = "utf-8"
    no_progress: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        self._check_values()
        _check_params({} if self.param is None else self.param, "--param")
        if self.keyword is not None:
            check_keyword(self.keyword)
        if self.api_key_env is not None:
            check_variable(self.api_key_env, "--api-key-env")
        _only_one(self, "system", "system_file")
        _only_one(self, "provider", "base_url")
        if (self.price_in is None) != (self.price_out is None):
            raise SettingsError("--price-in and --price-out go together: give both, in dollars per million tokens")
        for name in ("model", "base_url", "provider", "api_key_env", "rpm", "rps", "tpm", "price_in"):
            if self.endpoints is not None and getattr(self, name) is not None:
                raise SettingsError(f"{_flag(name)} and --endpoints exclude each other: say it in the endpoints")

    def _check_values(self) -> None:
        """Check each option alone."""
        for name in ("chunk_size", "max_concurrency", "max_attempts", "limit"):
            _positive(_flag(name), getattr(self, name), whole=True, optional=name == "limit")
        for name in ("rpm", "rps", "tpm", "budget", "timeout", "deadline", "max_response_mb"):
            _positive(
                _flag(name),
                getattr(self, name),
                optional=name not in {"timeout", "deadline", "max_response_mb"},
            )
        for name in ("price_in", "price_out"):
            if getattr(self, name) is not None:
                _price(_flag(name), getattr(self, name))
        for name in ("prompt_column", "messages_column", "id_column", "model", "base_url", "provider", "api_key_env"):
            _text(_flag(name), getattr(self, name))
        _text("--answer-column", self.answer_column, optional=False)
        if self.on_change not in ON_CHANGE:
            raise SettingsError(f"--on-change must be one of {', '.join(ON_CHANGE)}, not {self.on_change!r}")
        if self.encoding not in ENCODINGS:
            raise SettingsError(f"--encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding!r}")
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise SettingsError(f"{_flag(name)} cannot be of type {type(getattr(self, name)).__name__}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Check options given by name.

        Raises:
            SettingsError: an option is unknown or its value cannot be used.
        """
        known = [each.name for each in fields(cls)]
        for name in options:
            if name not in known:
                raise SettingsError(f"there is no option {name!r}; the options are {', '.join(known)}")
        return cls(**options)

    @property
    def params(self) -> dict[str, Any]:
        """The request parameters of every row."""
        return dict(self.param or {})

    @property
    def prices(self) -> dict[str, float] | None:
        """The prices given, as an endpoint has them."""
        if self.price_in is None or self.price_out is None:
            return None
        return {"in": self.price_in, "out": self.price_out}

    @property
    def answer_columns(self) -> tuple[str, str, str]:
        """The columns that are added to the input's: the answer, its status, its error."""
        name = self.answer_column
        return name, f"{name}_status", f"{name}_error"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _only_one(settings: Settings, first: str, second: str) -> None:
    if getattr(settings, first) is not None and getattr(settings, second) is not None:
        raise SettingsError(f"{_flag(first)} and {_flag(second)} exclude each other: give one of them")
