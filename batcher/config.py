"""What a run was asked to do, checked once: the options, and the endpoints that follow from them.

Invariant: a `Settings` or an `Endpoint` that exists is valid, and its `repr` holds no API key.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urlsplit

from batcher.errors import SettingsError
from batcher.records import Giver

OFFLINE = "offline"
"""The base URL of an endpoint that the embedded server answers; its real port changes with each run."""

MAX_CONCURRENCY = 256


class Service(NamedTuple):
    """A provider by name: where it listens, and which variable holds its key (empty: it needs none)."""

    base_url: str
    api_key_env: str


SERVICES = {
    "openai": Service("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "deepseek": Service("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "dashscope": Service("https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepinfra": Service("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "zhipu": Service("https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY"),
    "ollama": Service("http://127.0.0.1:11434/v1", ""),
    "vllm": Service("http://127.0.0.1:8000/v1", ""),
    OFFLINE: Service(OFFLINE, ""),
}

RESERVED_PARAMS = {
    "model": "use --model",
    "messages": "use --prompt or --messages-column",
    "stream": "batcher reads whole answers",
    "stream_options": "batcher reads whole answers",
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


def _positive(name: str, value: float | None, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < float("inf")
    if value is not None and not good:
        raise SettingsError(f"{name} must be a {'whole ' if whole else ''}number above 0, not {value!r}")


def _check_params(params: Mapping[str, Any], where: str) -> None:
    for name, advice in RESERVED_PARAMS.items():
        if name in params:
            raise SettingsError(f"{where}: {name!r} is not a parameter that can be set here: {advice}")
    try:
        json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: the parameters cannot be written as JSON: {error}") from error


def _checked_url(url: str) -> str:
    if url == OFFLINE:
        return url
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise SettingsError(f"the base URL {url!r} must look like https://host/v1")
    if parts.username or parts.password:
        raise SettingsError("the base URL holds a user name or password: give keys through API_KEY instead")
    return url.rstrip("/").removesuffix("/chat/completions")


@dataclass(frozen=True)
class Endpoint:
    """A model behind a base URL, called with one API key under its own limits.

    Args:
        model: the model's name, as the server knows it. Not needed with `llm`.
        base_url: such as `https://api.deepseek.com/v1`.
        api_key: one key; None where the server asks for none. Never shown, never written.
        rpm: requests a minute at most; None is no limit.
        rps: requests a second at most; None is no limit.
        max_concurrency: requests in flight at most.
        params: request parameters of this endpoint alone, sent on under the names given.
        llm: any LangChain chat model; it is called instead, with its own model, key and parameters.

    Raises:
        SettingsError: a value cannot be used.
    """

    model: str | None = None
    base_url: str = SERVICES["openai"].base_url
    api_key: str | None = field(default=None, repr=False)
    rpm: float | None = None
    rps: float | None = None
    max_concurrency: int = MAX_CONCURRENCY
    params: Mapping[str, Any] = field(default_factory=dict)
    llm: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.llm is None and not self.model:
            raise SettingsError("an endpoint needs a model: Endpoint('gpt-4o-mini', ...), --model or MODEL in .env")
        if self.llm is not None and self.params:
            raise SettingsError("an endpoint with llm= takes its parameters from that object: leave params out")
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        _positive("rpm", self.rpm)
        _positive("rps", self.rps)
        _positive("max_concurrency", self.max_concurrency, whole=True)
        _check_params(self.params, "params")

    @property
    def giver(self) -> Giver:
        """Who an answer of this endpoint comes from."""
        if self.llm is not None:
            named = (getattr(self.llm, name, None) for name in ("model_name", "model"))
            model = self.model or next((str(name) for name in named if name), type(self.llm).__name__)
            return Giver(model, str(getattr(self.llm, "openai_api_base", None) or ""))
        params = json.dumps(self.params, sort_keys=True, ensure_ascii=False) if self.params else ""
        return Giver(self.model or "", self.base_url, params)


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
    max_concurrency: int
    timeout: float
    deadline: float
    max_attempts: int
    param: Mapping[str, Any] | None
    limit: int | None
    retry_failed: bool
    no_progress: bool
    quiet: bool


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
        rpm, rps: requests a minute and a second at most, for each key.
        max_concurrency: requests in flight at most, for each key.
        timeout: seconds for one attempt.
        deadline: seconds that a row may be in flight over all its attempts.
        max_attempts: attempts that a row may use; one refused for a rate limit is not counted.
        param: request parameters, sent on under the names given.
        limit: only so many rows, from the first.
        retry_failed: send the rows again that ended as `error` or `invalid`.
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
    max_concurrency: int = MAX_CONCURRENCY
    timeout: float = 120.0
    deadline: float = 1800.0
    max_attempts: int = 6
    param: Mapping[str, Any] | None = None
    limit: int | None = None
    retry_failed: bool = False
    no_progress: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.keyword is not None:
            check_keyword(self.keyword)
        for name in ("chunk_size", "max_concurrency", "max_attempts", "limit"):
            _positive(_flag(name), getattr(self, name), whole=True)
        for name in ("rpm", "rps", "timeout", "deadline"):
            _positive(_flag(name), getattr(self, name))
        if not self.answer_column.strip():
            raise SettingsError("--answer-column is empty; give the column a name")
        _check_params(self.params, "--param")
        _only_one(self, "system", "system_file")
        _only_one(self, "provider", "base_url")
        for name in ("model", "base_url", "provider", "api_key_env", "rpm", "rps"):
            if self.endpoints is not None and getattr(self, name) is not None:
                raise SettingsError(f"{_flag(name)} and --endpoints exclude each other: say it in the endpoints")

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
    def params(self) -> Mapping[str, Any]:
        """The request parameters of every row."""
        return self.param or {}

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


def environment() -> dict[str, str]:
    """Return the process's variables over those of the nearest `.env` at or above the current directory.

    Nothing is put into the process's own environment.
    """
    import dotenv  # noqa: PLC0415 - not needed before a run starts

    found = dotenv.dotenv_values(dotenv.find_dotenv(usecwd=True))
    return {name: value for name, value in found.items() if value is not None} | dict(os.environ)


def endpoints_of(settings: Settings, env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """Return the endpoints that the options and the environment ask for, one for each API key.

    Raises:
        SettingsError: none can be made: no model, no key where one is needed, a broken file.
    """
    given = settings.endpoints
    if isinstance(given, (str, os.PathLike)):
        return _from_file(Path(given), settings, env)
    if given is not None:
        if not given or not all(isinstance(each, Endpoint) for each in given):
            raise SettingsError("endpoints= must be a path or a list of batcher.Endpoint, with at least one in it")
        return tuple(given)
    return _from_options(settings, env)


def _from_options(settings: Settings, env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    service = _service(settings.provider) if settings.provider else None
    base_url = (
        settings.base_url
        or (service and service.base_url)
        or env.get("BASE_URL")
        or env.get("OPENAI_BASE_URL")
        or SERVICES["openai"].base_url
    )
    model = settings.model or ("sim" if base_url == OFFLINE else env.get("MODEL"))
    if not model:
        raise SettingsError("no model: give --model, or MODEL in the environment or in .env")
    endpoint = Endpoint(
        model=model,
        base_url=base_url,
        rpm=settings.rpm,
        rps=settings.rps,
        max_concurrency=settings.max_concurrency,
    )
    if base_url == OFFLINE:
        return (endpoint,)
    if service and not settings.api_key_env:
        names = [service.api_key_env, "API_KEY"] if service.api_key_env else []
    else:
        names = [settings.api_key_env] if settings.api_key_env else ["API_KEY", "OPENAI_API_KEY"]
    return _with_keys(endpoint, names, env, required=settings.api_key_env is not None)


def _service(name: str) -> Service:
    if name not in SERVICES:
        raise SettingsError(f"--provider {name!r} is not known; known are {', '.join(SERVICES)}; or give --base-url")
    return SERVICES[name]


def _with_keys(
    endpoint: Endpoint, names: Sequence[str], env: Mapping[str, str], *, required: bool
) -> tuple[Endpoint, ...]:
    """Make one endpoint for each key found in the first of the variables that is set."""
    for name in names:
        keys = [key.strip() for key in env.get(name, "").split(",") if key.strip()]
        for key in keys:
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise SettingsError(f"a key in {name} holds a space or a character that no header may carry")
        if len(keys) != len(set(keys)):
            raise SettingsError(f"{name} holds the same key twice: its limits would be used up twice as fast")
        if keys:
            return tuple(replace(endpoint, api_key=key) for key in keys)
    asks_for_key = any(service.api_key_env and service.base_url == endpoint.base_url for service in SERVICES.values())
    if required or asks_for_key:
        raise SettingsError(f"no API key for {endpoint.base_url}: set {' or '.join(names)} in the environment or .env")
    return (endpoint,)


_TABLE_KEYS = {"model": str, "base_url": str, "api_key_env": str, "rpm": (int, float), "rps": (int, float)}
_TABLE_KEYS |= {"max_concurrency": int, "params": dict}


def _from_file(path: Path, settings: Settings, env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--endpoints {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--endpoints {path} is not a TOML file: {error}") from error
    tables = content.get("endpoint")
    if set(content) != {"endpoint"} or not isinstance(tables, list) or not tables:
        raise SettingsError(f"--endpoints {path} must hold [[endpoint]] tables, and nothing else")
    found: list[Endpoint] = []
    for number, table in enumerate(tables, 1):
        found += _from_table(table, f"--endpoints {path}, endpoint {number}", settings, env)
    return tuple(found)


def _from_table(
    table: Mapping[str, Any], where: str, settings: Settings, env: Mapping[str, str]
) -> tuple[Endpoint, ...]:
    for name, value in table.items():
        kind: Any = _TABLE_KEYS.get(name)
        if kind is None:
            raise SettingsError(f"{where}: there is no key {name!r}; known are {', '.join(_TABLE_KEYS)}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise SettingsError(f"{where}: {name} = {value!r} is not of the right type")
    values = {"max_concurrency": settings.max_concurrency} | {k: v for k, v in table.items() if k != "api_key_env"}
    try:
        endpoint = Endpoint(**values)
        key_env = table.get("api_key_env")
        names = [key_env] if key_env else ["API_KEY", "OPENAI_API_KEY"]
        return _with_keys(endpoint, names, env, required=key_env is not None)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
