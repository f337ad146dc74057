"""Where the endpoints of a run come from: its options, the environment, `.env`, or a TOML file.

Invariant: an API key is sent to the service that it was named for, and to no other; it is never shown.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from batcher.checks import check_key, check_variable
from batcher.endpoint import MAX_CONCURRENCY, OFFLINE, OPENAI_URL, Endpoint
from batcher.errors import SettingsError
from batcher.settings import Settings


class Service(NamedTuple):
    """A provider by name: where it listens, and which variable holds its key (empty: it needs none)."""

    base_url: str
    api_key_env: str


SERVICES = {
    "openai": Service(OPENAI_URL, "OPENAI_API_KEY"),
    "deepseek": Service("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "dashscope": Service("https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepinfra": Service("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "zhipu": Service("https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY"),
    "ollama": Service("http://127.0.0.1:11434/v1", ""),
    "vllm": Service("http://127.0.0.1:8000/v1", ""),
    OFFLINE: Service(OFFLINE, ""),
}


def environment() -> dict[str, str]:
    """Return the process's variables over those of the nearest `.env` at or above the current directory.

    Nothing is put into the process's own environment.

    Raises:
        SettingsError: the `.env` cannot be read.
    """
    import dotenv  # noqa: PLC0415 - not needed before a run starts

    path = dotenv.find_dotenv(usecwd=True)
    try:
        found = dotenv.dotenv_values(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None  # a decoding error carries the keys
    return {name: value for name, value in found.items() if value is not None} | dict(os.environ)


def endpoints_of(settings: Settings, env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """Return the endpoints that the options and the environment ask for, one for each API key.

    Raises:
        SettingsError: none can be made: no model, no key where one is needed, a broken file.
    """
    given = settings.endpoints
    if given is None:
        return _from_options(settings, env)
    if isinstance(given, (str, os.PathLike)):
        return _without_twins(_from_file(Path(given), settings, env))
    found = tuple(each for each in given if isinstance(each, Endpoint)) if isinstance(given, Sequence) else ()
    if not found or len(found) < len(given):
        raise SettingsError("endpoints= must be a path or a list of batcher.Endpoint, with at least one in it")
    if settings.max_concurrency != MAX_CONCURRENCY:
        raise SettingsError("--max-concurrency and endpoints= exclude each other: say it in the endpoints")
    return _without_twins(found)


def _without_twins(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Refuse two endpoints that are one: each would use up its limits in full."""
    seen: set[tuple[object, ...]] = set()
    for number, each in enumerate(endpoints, 1):
        same = (id(each.llm),) if each.llm is not None else (each.model, each.base_url, each.api_key)
        if same in seen:
            raise SettingsError(f"endpoint {number} ({each.source.model}) has model, base URL and key of one before it")
        seen.add(same)
    return endpoints


def _from_options(settings: Settings, env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    service = _service(settings.provider) if settings.provider else None
    base_url = settings.base_url or (service.base_url if service else _default_url(env))
    model = settings.model or ("sim" if base_url == OFFLINE else env.get("MODEL"))
    if not model:
        raise SettingsError("no model: give --model, or MODEL in the environment or in .env")
    endpoint = Endpoint(
        model=model,
        base_url=base_url,
        rpm=settings.rpm,
        rps=settings.rps,
        tpm=settings.tpm,
        prices=settings.prices,
        max_concurrency=settings.max_concurrency,
    )
    if base_url == OFFLINE:
        return (endpoint,)
    if service and not settings.api_key_env:
        names = [service.api_key_env, "API_KEY"] if service.api_key_env else []
    else:
        names = [settings.api_key_env] if settings.api_key_env else ["API_KEY", "OPENAI_API_KEY"]
    return _with_keys(endpoint, names, env, required=settings.api_key_env is not None)


def _default_url(env: Mapping[str, str]) -> str:
    return env.get("BASE_URL") or env.get("OPENAI_BASE_URL") or OPENAI_URL


def _service(name: str) -> Service:
    if name not in SERVICES:
        raise SettingsError(f"--provider {name!r} is not known; known are {', '.join(SERVICES)}; or give --base-url")
    return SERVICES[name]


def keys_of(name: str, env: Mapping[str, str]) -> list[str]:
    """Return the API keys that a variable holds, separated by commas; none where it is not set.

    Raises:
        SettingsError: one of them can be no key; it is not shown.
    """
    keys = [key.strip() for key in env.get(name, "").split(",") if key.strip()]
    for key in keys:
        check_key(key, f"a key in {name}")
    return keys


def _with_keys(
    endpoint: Endpoint, names: Sequence[str], env: Mapping[str, str], *, required: bool
) -> tuple[Endpoint, ...]:
    """Make one endpoint for each key found in the first of the variables that is set."""
    for name in names:
        keys = keys_of(name, env)
        if len(keys) != len(set(keys)):
            raise SettingsError(f"{name} holds the same key twice: its limits would be used up twice as fast")
        if keys:
            return tuple(replace(endpoint, api_key=key) for key in keys)
    asks_for_key = any(service.api_key_env and service.base_url == endpoint.base_url for service in SERVICES.values())
    if required or asks_for_key:
        raise SettingsError(f"no API key for {endpoint.base_url}: set {' or '.join(names)} in the environment or .env")
    return (endpoint,)


_TABLE_KEYS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "base_url": (str,),
    "api_key_env": (str,),
    "rpm": (int, float),
    "rps": (int, float),
    "tpm": (int, float),
    "max_concurrency": (int,),
    "params": (dict,),
    "prices": (dict,),
}


def _from_file(path: Path, settings: Settings, env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"--endpoints {path}: {error.strerror}") from error
    except ValueError as error:  # of UTF-8, of TOML, or of the path
        raise SettingsError(f"--endpoints {path} is not a TOML file: {error}") from error
    tables = content.get("endpoint")
    has_tables = isinstance(tables, list) and tables and all(isinstance(table, dict) for table in tables)
    if tables is None or not has_tables or len(content) > 1:
        raise SettingsError(f"--endpoints {path} must hold [[endpoint]] tables, and nothing else")
    found: list[Endpoint] = []
    for number, table in enumerate(tables, 1):
        found += _from_table(table, f"--endpoints {path}, endpoint {number}", settings, env)
    return tuple(found)


def _from_table(
    table: Mapping[str, Any], where: str, settings: Settings, env: Mapping[str, str]
) -> tuple[Endpoint, ...]:
    for name, value in table.items():
        if name not in _TABLE_KEYS:
            raise SettingsError(f"{where}: there is no key {name!r}; known are {', '.join(_TABLE_KEYS)}")
        if not isinstance(value, _TABLE_KEYS[name]) or isinstance(value, bool):
            raise SettingsError(f"{where}: {name} cannot be of type {type(value).__name__}")
    # What a table leaves out is looked up as it is without a file, so that an API key never goes to another service.
    defaults = {
        "model": env.get("MODEL"),
        "base_url": _default_url(env),
        "max_concurrency": settings.max_concurrency,
    }
    given = {name: value for name, value in table.items() if name != "api_key_env"}
    try:
        endpoint = Endpoint(**(defaults | given))
        key_env = table.get("api_key_env")
        if key_env is not None:
            check_variable(key_env, "api_key_env")
        names = [key_env] if key_env else ["API_KEY", "OPENAI_API_KEY"]
        return _with_keys(endpoint, names, env, required=key_env is not None)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
