"""Makes the endpoints of a run from its options, the environment, `.env`, or a TOML file.

Invariant: an API key is sent only to the service whose variable holds it, and is never shown. The endpoints of one
account have the same limits.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

from batcher.calls.services import AZURE, SERVICES, Service, service_at
from batcher.checks import check_headers, check_key, check_model, check_variable
from batcher.endpoint import LIMITS, MAX_CONCURRENCY, OFFLINE, OPENAI_URL, Endpoint, checked_url, key_header
from batcher.errors import SettingsError
from batcher.hiding import Key, shown
from batcher.params import Unfolded
from batcher.settings import Settings, means_key
from batcher.visible import on_one_line
from batcher.words import as_given, blamed, escape_hint, option, toml_hint, verb


class Variables(dict[str, str]):
    """The variables of the process and of a `.env`.

    Args:
        process: those of the process, which go before the others.
        file: those of the `.env`.
        places: the file and the line of each in the `.env`, for messages.

    Attributes:
        in_file: the names of those that the `.env` has set.
        places: as given.
    """

    def __init__(
        self, process: Mapping[str, str], file: Mapping[str, str], places: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__({**file, **process})
        self.in_file = frozenset(file.keys() - process.keys())
        self.places = places


def environment() -> Variables:
    """Return the process's variables over those of the nearest `.env` at or above the current directory.

    Nothing is put into the process's own environment.

    Raises:
        SettingsError: the `.env` cannot be read.
    """
    import dotenv  # noqa: PLC0415 - not needed before a run starts
    from dotenv.parser import parse_stream  # noqa: PLC0415

    path = dotenv.find_dotenv(usecwd=True)
    if not path:
        return Variables(os.environ, {})
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None  # a decoding error contains the keys
    places = {}
    for binding in parse_stream(io.StringIO(text)):
        written = binding.original.string  # with the empty lines above it
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        if binding.error:  # dotenv would skip it; the line is not shown, because it may hold a key
            raise SettingsError(f"{path}, line {line} cannot be read: it must look like NAME=value, or begin with #")
        if binding.key:
            places[binding.key] = f"{path}, line {line}"
    found = dotenv.dotenv_values(stream=io.StringIO(text))
    if "BASE_URL" in found and os.environ.get("BASE_URL", found["BASE_URL"]) != found["BASE_URL"]:
        found.pop("API_KEY", None)  # it belongs to the base URL beside it, not to the one that goes before that
    return Variables(os.environ, {name: value for name, value in found.items() if value is not None}, places)


def _origin(name: str, env: Mapping[str, str]) -> str:
    is_in_file = isinstance(env, Variables) and name in env.in_file
    return f"{name} in .env" if is_in_file else f"{name} of the environment"


def _placed(name: str, env: Mapping[str, str]) -> str:
    """Return a variable with the place that a user has to look at if its value is wrong."""
    if isinstance(env, Variables) and name in env.in_file:
        return f"{name} ({env.places.get(name, '.env')})"
    return f"{name} (environment)"


def endpoints_of(
    settings: Settings, env: Mapping[str, str], *, needs_keys: bool = True, models: Sequence[str] = ()
) -> tuple[Endpoint, ...]:
    """Return the endpoints that the options and the environment ask for, one for each API key.

    Args:
        settings: the options.
        env: the variables.
        needs_keys: refuse a variable that should hold a key and is not set. If False, a `Key` that says what is missing
            stands for its value; nothing may be sent then.
        models: that rows name; if the options name none, each of them gets an endpoint. `""` is one that the
            environment may name.

    Raises:
        SettingsError: no model is given, a key is needed and missing, the file is invalid, or endpoints of one account
            have different limits.
    """
    where, given = _given(settings, env, needs_keys=needs_keys, models=models)
    made = [(number, _with_headers(each, env, needs_keys=needs_keys)) for number, each in given]
    _check_accounts(made, where)
    _check_distinct(made, where)
    return tuple(endpoint for _, endpoint in made)


class Tiers(NamedTuple):
    """The endpoints of a run in the order in which rows are asked at them.

    Attributes:
        first: are asked about every row.
        second: are asked about the rows whose answers there are not certain enough (`--then`); empty: none.
    """

    first: tuple[Endpoint, ...]
    second: tuple[Endpoint, ...] = ()


def tiers_of(
    settings: Settings, endpoints: tuple[Endpoint, ...], env: Mapping[str, str], *, needs_keys: bool = True
) -> Tiers:
    """Part the endpoints of a run from the second ones (`--then`), or add these.

    Args:
        settings: the options.
        endpoints: as `endpoints_of` returns them.
        env: the variables.
        needs_keys: as for `endpoints_of`.

    Raises:
        SettingsError: it is not certain which endpoint is meant, or it is the only one.
    """
    then, where = settings.then, blamed("then")
    if then is None:
        return Tiers(endpoints)
    if isinstance(then, Endpoint):
        tiers = Tiers(endpoints, (_with_headers(then, env, needs_keys=needs_keys),))
    elif isinstance(then, str):
        tiers = _named(then, endpoints) or _of_model(then, settings, endpoints, env, needs_keys=needs_keys)
    else:
        raise SettingsError(f"{where} must be an Endpoint, or the name or model of one, not {type(then).__name__}")
    if not tiers.first:
        raise SettingsError(f"{where}: {shown(then)} is the only model of the pool: name another one, which is better")
    if same := {each.source for each in tiers.first} & {each.source for each in tiers.second}:
        raise SettingsError(f"{where}: {next(iter(same)).model} is asked first already: name another endpoint")
    return tiers


def _named(then: str, endpoints: Sequence[Endpoint]) -> Tiers | None:
    """Return the endpoints without those of a name, or else of a model, and these; None if there are none."""
    by_name = tuple(each for each in endpoints if each.name == then)
    second = by_name or tuple(each for each in endpoints if each.real_source.model == then)
    return Tiers(tuple(each for each in endpoints if each not in second), second) if second else None


def _of_model(
    then: str, settings: Settings, endpoints: tuple[Endpoint, ...], env: Mapping[str, str], *, needs_keys: bool
) -> Tiers:
    """Return the endpoints, and those of another model at the same service, with the same keys.

    The prices that the user gives are those of the first model. A limit that the user gives is one of the whole run, as
    for models that rows name.
    """
    where = blamed("then")
    check_model(then, where)
    if settings.endpoints is None:
        other = replace(settings, model=then, price_in=None, price_out=None)
        second = [
            _with_headers(each, env, needs_keys=needs_keys) for each in _from_options(other, env, needs_keys=needs_keys)
        ]
        is_limited = any(each is not None for each in (settings.rpm, settings.rps, settings.tpm))
        if is_limited or settings.max_concurrency != MAX_CONCURRENCY:
            first, second = (
                [replace(each, account=_of_run(each, at)) for at, each in enumerate(keys, 1)]
                for keys in (endpoints, second)
            )
            return Tiers(tuple(first), tuple(second))
        return Tiers(endpoints, tuple(second))
    if any(each.llm is not None for each in endpoints) or len({each.where for each in endpoints}) > 1:
        known = ", ".join(dict.fromkeys(each.name or each.real_source.model for each in endpoints))
        raise SettingsError(
            f"{where}: no endpoint has the name or the model {shown(then)} (there are {known}): add one to"
            f" {option('endpoints')}"
        )
    return Tiers(endpoints, tuple(replace(each, model=then, prices=None) for each in endpoints))


_Numbered = list[tuple[int, Endpoint]]
"""Endpoints, each with the number of the entry that it was made from: a table with two keys makes two."""


def _given(
    settings: Settings, env: Mapping[str, str], *, needs_keys: bool, models: Sequence[str] = ()
) -> tuple[str, _Numbered]:
    """Return the endpoints that are given, and the file that they are in, if they are in one."""
    given: object = settings.endpoints
    if given is None:
        return "", list(enumerate(_from_models(settings, env, models, needs_keys=needs_keys), 1))
    if isinstance(given, (str, os.PathLike)):
        given = tables_of(Path(given))
        if settings.max_concurrency != MAX_CONCURRENCY:
            given = replace(given, instead={"max_concurrency": settings.max_concurrency})
    if isinstance(given, EndpointTables):
        return given.where, _from_tables(given, settings, env, needs_keys=needs_keys)
    entries = given if isinstance(given, Sequence) else ()
    found = [each for each in entries if isinstance(each, Endpoint)]
    if not found or len(found) < len(entries):
        raise SettingsError("endpoints= must be a path or a list of batcher.Endpoint, with at least one in it")
    if settings.max_concurrency != MAX_CONCURRENCY:
        raise SettingsError(f"{option('max_concurrency')} and endpoints= exclude each other: set it in the endpoints")
    if settings.limits_per is not None:
        raise SettingsError(
            f"{option('limits_per')} and endpoints= exclude each other: name the account in the endpoints"
        )
    return "", list(enumerate(found, 1))


def _from_models(
    settings: Settings, env: Mapping[str, str], models: Sequence[str], *, needs_keys: bool
) -> list[Endpoint]:
    """Return the endpoints of the options: of each model that rows name, if the options name none.

    A limit that the user gives is one of the whole run. Without one, each model has the limits that its service names.
    """
    named = [*dict.fromkeys(model or env.get("MODEL") for model in models)]
    asked = [replace(settings, model=model) for model in named if model] if settings.model is None else []
    made = [[*_from_options(one, env, needs_keys=needs_keys)] for one in asked or [settings]]
    is_limited = any(each is not None for each in (settings.rpm, settings.rps, settings.tpm))
    if len(made) > 1 and (is_limited or settings.max_concurrency != MAX_CONCURRENCY):
        made = [[replace(each, account=_of_run(each, at)) for at, each in enumerate(keys, 1)] for keys in made]
    return [each for keys in made for each in keys]


def _of_run(endpoint: Endpoint, at: int) -> str:
    """Return the name of the account that all models of a run share; `at` is the place of the endpoint's key."""
    return "all keys of the run" if endpoint.account is not None else f"key {at} of the run"


def _check_accounts(numbered: Iterable[tuple[int, Endpoint]], where: str) -> None:
    """Refuse endpoints of one account that differ in a limit, because an account has one limit."""
    first_of: dict[tuple[str, str], tuple[int, Endpoint]] = {}
    for number, endpoint in numbered:
        if endpoint.shared_account is None:
            continue
        before, first = first_of.setdefault(endpoint.shared_account, (number, endpoint))
        for name in LIMITS:
            one, other = getattr(first, name), getattr(endpoint, name)
            if one != other:
                raise SettingsError(
                    f"{where or 'endpoints'}: endpoints {before} and {number} are of one account,"
                    f" {endpoint.account!r}, but {name} is {_given_as(one)} in the first and {_given_as(other)} in the"
                    " other: give both the same, or two accounts"
                )


def _given_as(limit: float | None) -> str:
    return "not given" if limit is None else f"{limit:g}"


def _check_distinct(numbered: Iterable[tuple[int, Endpoint]], where: str) -> None:
    """Refuse equal endpoints: each would use the full limits of the same key."""
    first_of: dict[tuple[object, ...], int] = {}
    for number, each in numbered:
        same: tuple[object, ...] = (each.model, each.base_url, each.api_key, *sorted(each.headers.items()))
        if each.llm is not None:
            same = (id(each.llm),)
        if same in first_of:
            said = f"endpoint {number} repeats endpoint {first_of[same]} ({_in_common(each)}): remove one"
            raise SettingsError(f"{where}: {said}" if where else said)
        first_of[same] = number


def _in_common(endpoint: Endpoint) -> str:
    """Return what an endpoint has in common with one that it repeats."""
    if endpoint.llm is not None:
        return "the same chat model"
    more = [*(["API key"] if endpoint.api_key else []), *(["headers"] if endpoint.headers else [])]
    *some, last = [f"model {endpoint.model}", "base URL", *more]
    return f"same {', '.join(some)} and {last}"


def check_chat_model(endpoint: Endpoint) -> None:
    """Refuse an `llm` that is not a LangChain chat model.

    Raises:
        SettingsError: it is something else.
    """
    loaded = sys.modules.get("langchain_core.language_models.chat_models")  # if not loaded, no chat model can exist
    if endpoint.llm is not None and not (loaded and isinstance(endpoint.llm, loaded.BaseChatModel)):
        raise SettingsError(f"Endpoint(llm=...) takes a LangChain chat model, not {type(endpoint.llm).__name__}")


def _from_options(settings: Settings, env: Mapping[str, str], *, needs_keys: bool) -> tuple[Endpoint, ...]:
    service = _service(settings.provider) if settings.provider else None
    model = settings.model or env.get("MODEL")
    if settings.base_url:
        base_url = checked_url(settings.base_url, blamed("base_url"))
    else:
        base_url = _url_of(service, model, env) if service else _default_url(env)
    if base_url == OFFLINE:
        model = settings.model or "sim"
    if not model:
        name = ", or name one in a line" if settings.requests else ""
        raise SettingsError(f"no model: give {option('model')}, or MODEL in the environment or in .env{name}")
    if not settings.model:
        check_model(model, _placed("MODEL", env))
    headers = settings.header or {}
    check_headers(headers, blamed("header"), key_header(base_url))
    endpoint = Endpoint(
        model=model,
        base_url=base_url,
        rpm=settings.rpm,
        rps=settings.rps,
        tpm=settings.tpm,
        prices=settings.prices,
        max_concurrency=settings.max_concurrency,
        headers=headers,
        name=settings.endpoint_name,
    )
    if base_url == OFFLINE:
        return (endpoint,)
    is_named = bool(service or settings.base_url)
    keys = _keys_for(endpoint, settings.api_key_env, env, service, is_named=is_named, needs_keys=needs_keys)
    return _with_keys(endpoint, keys, settings.limits_per, service)


# --- base URLs ---

_OF_OPENAI = ("OPENAI_BASE_URL", "OPENAI_API_BASE")  # the SDK's present variable, then its former one


def _default_url(env: Mapping[str, str]) -> str:
    """Return the base URL that the environment gives, or OpenAI's own."""
    return _url_in(("BASE_URL", *_OF_OPENAI), env) or OPENAI_URL


def _url_in(names: Sequence[str], env: Mapping[str, str]) -> str | None:
    """Return the base URL in the first of the variables that is set."""
    name = next((name for name in names if env.get(name)), None)
    return name and checked_url(env[name], _placed(name, env))


def _leads_to(base_url: str, names: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether the first of the variables that is set holds this base URL; an invalid URL counts as none."""
    try:
        return _url_in(names, env) == base_url
    except SettingsError:
        return False


def _service(name: str) -> Service:
    if name not in SERVICES:
        similar = "".join(f": did you mean {each}?" for each in difflib.get_close_matches(name.lower(), SERVICES, 1))
        raise SettingsError(
            f"{blamed('provider')} {shown(name)} is not known{similar or ';'} {verb('services')} lists those that are;"
            f" any other works by its {option('base_url')}"
        )
    return SERVICES[name]


def _url_of(service: Service, model: str | None, env: Mapping[str, str]) -> str:
    """Return the base URL of a service; at Azure that of the model's deployment, from the variables of the SDK."""
    if service.name != AZURE:
        return service.base_url
    resource, version = _url_in(["AZURE_OPENAI_ENDPOINT"], env), env.get("OPENAI_API_VERSION")
    if not (resource and version and model):
        raise SettingsError(
            f"{as_given('provider', AZURE)} needs AZURE_OPENAI_ENDPOINT (https://RESOURCE.openai.azure.com) and"
            " OPENAI_API_VERSION (such as 2024-10-21) in the environment or .env, and the name of a deployment as"
            f" {option('model')}"
        )
    return f"{resource}/openai/deployments/{quote(model, safe='')}?api-version={version}"


# --- API keys ---

_ELSEWHERE = {
    "API_KEY": "is for BASE_URL and for what the command line names",
    "OPENAI_API_KEY": "is for OpenAI and for OPENAI_BASE_URL",
}


def _variables(base_url: str, env: Mapping[str, str], service: Service | None, *, is_named: bool) -> list[str]:
    """Return the variables that may hold the key for a base URL; the first that is set is used.

    Args:
        base_url: as an endpoint has it.
        env: the environment.
        service: the service given by name; else the service at this base URL.
        is_named: the command line names the service or the base URL.
    """
    if service and not service.key_variables:
        return []
    listening = service or service_at(base_url)
    own = list(listening.key_variables) if listening else []
    if _leads_to(base_url, _OF_OPENAI, env) and "OPENAI_API_KEY" not in own:
        own.append("OPENAI_API_KEY")
    if is_named:
        return [*own, "API_KEY"]
    return ["API_KEY", *own] if _leads_to(base_url, ["BASE_URL"], env) else own


def keys_of(name: str, env: Mapping[str, str]) -> list[str]:
    """Return the API keys that a variable holds, separated by commas; none if it is not set.

    Raises:
        SettingsError: one of them cannot be a key, or is there twice; it is not shown.
    """
    keys = [key.strip() for key in env.get(name, "").split(",") if key.strip()]
    for number, key in enumerate(keys, 1):
        check_key(key, _placed(name, env) if len(keys) == 1 else f"{_placed(name, env)}: key {number}")
        if key in keys[: number - 1]:
            first = keys.index(key) + 1
            raise SettingsError(f"{_placed(name, env)}: key {number} repeats key {first}: remove one")
    origin = _origin(name, env)
    return [Key(key, origin) for key in keys]


class _Keys(NamedTuple):
    """The keys of an endpoint, and the variable that holds them."""

    variable: str
    keys: Sequence[str]


def _keys_for(
    endpoint: Endpoint,
    key_env: str | None,
    env: Mapping[str, str],
    service: Service | None = None,
    *,
    is_named: bool = False,
    needs_keys: bool = True,
) -> _Keys | None:
    """Return the keys in the variable `key_env`, or else in the base URL's own variables; None if none is needed."""
    if key_env is None and endpoint.has_key_in_headers:
        return None
    names = [key_env] if key_env else _variables(endpoint.base_url, env, service, is_named=is_named)
    for name in names:
        if keys := keys_of(name, env):
            return _Keys(name, keys)
    known = service or service_at(endpoint.base_url)
    if key_env or (known and known.needs_key):
        set_in_vain = (name for name in _ELSEWHERE if name not in names and env.get(name))
        elsewhere = "".join(f"; {name} {_ELSEWHERE[name]}" for name in set_in_vain)
        to_set = f"set {' or '.join(names)} in the environment or .env{elsewhere}"
        if needs_keys:
            raise SettingsError(f"no API key for {endpoint.base_url}: {to_set}")
        return _Keys(names[0], [Key(f"missing:{names[0]}", missing=f"no API key yet: {to_set}")])
    return None


def _with_keys(
    endpoint: Endpoint, held: _Keys | None, limits_per: str | None, service: Service | None = None
) -> tuple[Endpoint, ...]:
    """Make one endpoint for each key. They share an account if the service's limits are not a key's.

    Args:
        endpoint: without a key.
        held: its keys.
        limits_per: `account` or `key`, if the user said so; it goes before what is known of the service.
        service: the service given by name; default: the service at the base URL.
    """
    if held is None:
        return (endpoint,)
    account = endpoint.account
    if account is None and len(held.keys) > 1:
        known = service or service_at(endpoint.base_url)
        is_shared = limits_per == "account" if limits_per else known is not None and known.keys_share_limits
        # Most services limit each model by itself: with another model the same keys are another account.
        account = f"{held.variable}, {endpoint.model}" if is_shared else None
    return tuple(replace(endpoint, api_key=key, account=account) for key in held.keys)


# --- headers ---


def _with_headers(endpoint: Endpoint, env: Mapping[str, str], *, needs_keys: bool) -> Endpoint:
    """Return an endpoint whose headers are filled from the environment, its service's headers included.

    Raises:
        SettingsError: a variable is not set.
    """
    given = {name.lower() for name in endpoint.headers}
    service = None if endpoint.llm is not None else service_at(endpoint.base_url)
    wanted = service.headers if service else {}
    added = {name: env[held] for name, held in wanted.items() if env.get(held) and name.lower() not in given}
    if not added and not any(value.startswith("env:") for value in endpoint.headers.values()):
        return endpoint
    given_by = {name: _value(name, text, env, needs_keys=needs_keys) for name, text in endpoint.headers.items()}
    return replace(endpoint, headers=given_by | added)


def _value(header: str, text: str, env: Mapping[str, str], *, needs_keys: bool) -> str:
    scheme, separator, variable = text.partition("env:")
    if scheme or not separator:
        return text
    if env.get(variable):
        return Key(env[variable], _origin(variable, env))
    if needs_keys:
        raise SettingsError(f"header {header}: {variable} is not set in the environment or .env")
    return Key(f"missing:{variable}", missing=f"no header {header} yet: set {variable} in the environment or .env")


# --- a file of endpoints ---

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
    "headers": (dict,),
    "account": (str,),
    "name": (str,),
}


@dataclass(frozen=True)
class EndpointTables:
    """The `[[endpoint]]` tables of a file that holds other things too: a value of the option `endpoints`.

    Attributes:
        where: the file, for messages.
        tables: as TOML has them.
        instead: what goes before the same keys of every table; other prices or another model replace the prices, a
            share for batches alone is added to them, and headers are merged by name.
        own_params: names of request parameters that the tables do not set, because the run does.
    """

    where: str
    tables: Sequence[Mapping[str, Any]]
    instead: Mapping[str, Any] = field(default_factory=dict)
    own_params: Collection[str] = ()

    def changed(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return a table with what goes before it."""
        kept = {name: value for name, value in table.items() if name != "prices" or "model" not in self.instead}
        changed = kept | dict(self.instead)
        if {*self.instead.get("prices", ())} == {"batch"}:
            changed["prices"] = kept.get("prices", {}) | self.instead["prices"]
        if "headers" in self.instead:
            mine = {name.lower() for name in self.instead["headers"]}
            theirs = {name: value for name, value in table.get("headers", {}).items() if name.lower() not in mine}
            changed["headers"] = theirs | self.instead["headers"]
        return changed


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        SettingsError: it cannot be read, or is not TOML; the message begins with `where`.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror}{escape_hint(str(path))}") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, TOML or path, or nested too deep
        raise SettingsError(f"{where} is not a TOML file: {error}{toml_hint(error)}") from error


def tables_in(content: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the `[[endpoint]]` tables of a TOML file; None if there is none, or it is written in another way."""
    tables = content.get("endpoint")
    has_tables = isinstance(tables, list) and tables and all(isinstance(table, dict) for table in tables)
    return tables if has_tables else None


def tables_of(path: Path) -> EndpointTables:
    """Read a file of endpoints.

    Raises:
        SettingsError: it cannot be read, or holds something else.
    """
    where = f"{blamed('endpoints')} {on_one_line(str(path))}"
    content = read_toml(path, where)
    tables = tables_in(content)
    if tables is None or len(content) > 1:
        raise SettingsError(f"{where} must hold [[endpoint]] tables, and nothing else")
    return EndpointTables(where, tables)


def _from_tables(given: EndpointTables, settings: Settings, env: Mapping[str, str], *, needs_keys: bool) -> _Numbered:
    numbered: _Numbered = []
    for number, table in enumerate(given.tables, 1):
        where = f"{given.where}, endpoint {number}"
        _check_keys(table, where)
        for made in _from_table(given.changed(table), where, settings, env, needs_keys=needs_keys):
            params = Unfolded({name: value for name, value in made.params.items() if name not in given.own_params})
            numbered.append((number, replace(made, params=params)))
    return numbered


def _advice_on(name: str) -> str:
    """Return advice on a key of a table that does not exist."""
    if means_key(name):
        return 'an API key is never in a file: put it into the environment or .env, and write api_key_env = "VARIABLE"'
    if name in {"tier", "service_tier"}:
        return f'params = {{ service_tier = "flex" }} is for one endpoint, and {option("tier", "flex")} for all'
    if near := difflib.get_close_matches(name.replace("-", "_"), _TABLE_KEYS, 1, 0.7):
        return f"did you mean {near[0]}?"
    return f"known are {', '.join(_TABLE_KEYS)}"


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    for name, value in table.items():
        if name not in _TABLE_KEYS:
            raise SettingsError(f"{where}: there is no key {name!r}: {_advice_on(name)}")
        if not isinstance(value, _TABLE_KEYS[name]) or isinstance(value, bool):
            raise SettingsError(f"{where}: {name} cannot be of type {type(value).__name__}")


def _from_table(
    table: Mapping[str, Any], where: str, settings: Settings, env: Mapping[str, str], *, needs_keys: bool
) -> tuple[Endpoint, ...]:
    # Values that a table leaves out are looked up as they are without a file.
    defaults = {"model": env.get("MODEL"), "max_concurrency": settings.max_concurrency}
    if "base_url" not in table:
        defaults["base_url"] = _default_url(env)
    given = {name: value for name, value in table.items() if name != "api_key_env"}
    try:
        endpoint = Endpoint(**(defaults | given))
        key_env = table.get("api_key_env")
        if key_env is not None:
            check_variable(key_env, "api_key_env")
        return _with_keys(endpoint, _keys_for(endpoint, key_env, env, needs_keys=needs_keys), settings.limits_per)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
