from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults import fault

from batcher.calls.endpoints import SERVICES, endpoints_of, environment
from batcher.endpoint import MAX_CONCURRENCY, OFFLINE, Endpoint
from batcher.settings import Settings

OPENAI = "https://api.openai.com/v1"


def made(env: dict[str, str], **options: Any) -> list[tuple[str | None, str, str | None]]:
    """Return model, base URL and key of each endpoint."""
    return [(each.model, each.base_url, each.api_key) for each in endpoints_of(Settings.of(options), env)]


@pytest.mark.parametrize(
    ("env", "options", "expected"),
    [
        ({"MODEL": "m", "API_KEY": "sk-1"}, {}, [("m", OPENAI, "sk-1")]),
        ({"MODEL": "m", "API_KEY": "sk-1, sk-2,,"}, {}, [("m", OPENAI, "sk-1"), ("m", OPENAI, "sk-2")]),
        ({"MODEL": "m", "API_KEY": "sk-1", "OPENAI_API_KEY": "sk-2"}, {}, [("m", OPENAI, "sk-1")]),
        ({"MODEL": "m", "API_KEY": "", "OPENAI_API_KEY": "sk-2"}, {}, [("m", OPENAI, "sk-2")]),
        ({"MODEL": "m", "BASE_URL": "http://a", "OPENAI_BASE_URL": "http://b"}, {}, [("m", "http://a", None)]),
        ({"MODEL": "m", "BASE_URL": "", "OPENAI_BASE_URL": "http://b/"}, {}, [("m", "http://b", None)]),
        (
            {"MODEL": "m", "BASE_URL": "http://a", "API_KEY": "sk-1", "MINE": "sk-9"},
            {"model": "n", "base_url": "http://c", "api_key_env": "MINE"},
            [("n", "http://c", "sk-9")],
        ),
        # A provider brings its base URL and its variable.
        (
            {"MODEL": "m", "BASE_URL": "http://a", "API_KEY": "sk-1", "DEEPSEEK_API_KEY": "sk-7"},
            {"provider": "deepseek"},
            [("m", SERVICES["deepseek"].base_url, "sk-7")],
        ),
        ({"API_KEY": "sk-1"}, {"provider": "zhipu", "model": "g"}, [("g", SERVICES["zhipu"].base_url, "sk-1")]),
        (
            {"ZHIPUAI_API_KEY": "sk-1", "MINE": "sk-9"},
            {"provider": "zhipu", "model": "g", "api_key_env": "MINE"},
            [("g", SERVICES["zhipu"].base_url, "sk-9")],
        ),
        ({"API_KEY": "sk-1"}, {"provider": "ollama", "model": "q"}, [("q", "http://127.0.0.1:11434/v1", None)]),
        ({"MODEL": "m", "API_KEY": "sk-1"}, {"provider": OFFLINE}, [("sim", OFFLINE, None)]),
        ({"BASE_URL": OFFLINE, "API_KEY": "sk-1"}, {"model": "m"}, [("m", OFFLINE, None)]),
    ],
)
def test_options_go_before_the_environment(
    env: dict[str, str], options: dict[str, Any], expected: list[tuple[str, str, str | None]]
) -> None:
    assert made(env, **options) == expected


def test_the_services_of_the_contract_are_known() -> None:
    assert {"openai", "deepseek", "dashscope", "deepinfra", "zhipu", "ollama", "vllm", OFFLINE} == set(SERVICES)
    for base_url, _ in SERVICES.values():
        assert Endpoint("m", base_url).base_url == base_url


@pytest.mark.parametrize("provider", [name for name, service in SERVICES.items() if service.api_key_env])
def test_a_provider_that_asks_for_a_key_names_the_variables(provider: str) -> None:
    variables = dict.fromkeys([SERVICES[provider].api_key_env, "API_KEY"])
    assert fault(lambda: made({}, provider=provider, model="m")) == (
        f"no API key for {SERVICES[provider].base_url}: set {' or '.join(variables)} in the environment or .env"
    )


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ({"API_KEY": "sk-1"}, {}, "no model: give --model, or MODEL in the environment or in .env"),
        ({"MODEL": "m"}, {}, f"no API key for {OPENAI}: set API_KEY or OPENAI_API_KEY in the environment or .env"),
        (
            {"MODEL": "m", "API_KEY": "sk-1"},
            {"api_key_env": "MINE", "base_url": "http://h"},
            "no API key for http://h: set MINE in the environment or .env",
        ),
        ({"MODEL": "m", "API_KEY": "sk-1,sk-a b"}, {}, "a key in API_KEY is no text, or holds a space"),
        ({"MODEL": "m", "API_KEY": "sk-密钥"}, {}, "a key in API_KEY is no text, or holds a space or a character"),
        ({"MODEL": "m", "API_KEY": "sk-1,sk-2,sk-1"}, {}, "API_KEY holds the same key twice"),
        ({"MODEL": "m", "BASE_URL": "http://me:sk-1@h"}, {}, "the base URL holds a user, a password or a query"),
        ({}, {"provider": "opnai"}, "--provider 'opnai' is not known; known are openai, deepseek, "),
    ],
)
def test_what_is_missing_or_wrong_is_named(env: dict[str, str], options: dict[str, Any], said: str) -> None:
    assert fault(lambda: made(env, **options)).startswith(said)


def test_every_key_has_the_limits_to_itself() -> None:
    settings = Settings(model="m", rpm=5, rps=2.5, tpm=9, max_concurrency=7, price_in=1, price_out=2)
    endpoints = endpoints_of(settings, {"API_KEY": "sk-1,sk-2"})
    limits = [(each.rpm, each.rps, each.tpm, each.max_concurrency) for each in endpoints]
    assert limits == [(5, 2.5, 9, 7)] * 2
    assert [each.prices for each in endpoints] == [{"in": 1, "out": 2}] * 2


def test_endpoint_objects_are_taken_as_they_are() -> None:
    endpoints = [Endpoint("a", api_key="sk-1"), Endpoint("b", "http://h")]
    assert endpoints_of(Settings(endpoints=endpoints), {"MODEL": "m"}) == tuple(endpoints)


@pytest.mark.parametrize("endpoints", [[], (), ["m"], [Endpoint("m"), None], Endpoint("m"), {"model": "m"}, 5])
def test_anything_else_is_no_list_of_endpoints(endpoints: Any) -> None:
    said = "endpoints= must be a path or a list of batcher.Endpoint, with at least one in it"
    assert fault(lambda: endpoints_of(Settings(endpoints=endpoints), {})) == said


def test_a_concurrency_beside_endpoint_objects_is_refused_rather_than_ignored() -> None:
    settings = Settings(endpoints=[Endpoint("m")], max_concurrency=1)
    assert fault(lambda: endpoints_of(settings, {})).startswith("--max-concurrency and endpoints= exclude each other")


# --- .env ---


def test_the_environment_goes_before_the_nearest_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("\ufeffMODEL=far\nAPI_KEY='sk-1, sk-2'  # two\nONLY_THERE=x\nEMPTY\n", "utf-8")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    for name in ("MODEL", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(name, raising=False)
    env = environment()
    assert (env["MODEL"], env["API_KEY"]) == ("far", "sk-1, sk-2")
    assert "EMPTY" not in env
    monkeypatch.setenv("MODEL", "near")
    assert environment()["MODEL"] == "near"
    assert [model for model, _, _ in made(environment(), model="option")] == ["option", "option"]
    (below / ".env").write_text("BASE_URL=http://h\n", "utf-8")
    assert environment()["BASE_URL"] == "http://h"
    assert "ONLY_THERE" not in environment()


def test_a_dotenv_that_is_not_utf8_is_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes("API_KEY=sk-1\n# 密钥\n".encode("gbk"))
    monkeypatch.chdir(tmp_path)
    assert fault(environment).startswith(f"{tmp_path / '.env'} cannot be read: ")


# --- endpoint files ---


def from_file(folder: Path, content: str | bytes, env: dict[str, str], **options: Any) -> tuple[Endpoint, ...]:
    path = folder / "pool.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return endpoints_of(Settings.of({"endpoints": path, **options}), env)


def test_an_endpoint_file_describes_a_pool(tmp_path: Path) -> None:
    content = """\ufeff
        [[endpoint]]
        model = "deepseek-chat"
        base_url = "https://api.deepseek.com/v1/"
        api_key_env = "DEEPSEEK_KEYS"
        rpm = 500
        rps = 2.5
        tpm = 90_000
        max_concurrency = 64
        prices = { in = 0.27, out = 1.1, cached = 0.07 }
        params = { temperature = 0, stop = ["\\n"] }

        [[endpoint]]
        model = "数学"
        base_url = "http://127.0.0.1:8000/v1"
        """
    first, second, third = from_file(tmp_path, content, {"DEEPSEEK_KEYS": "sk-1,sk-2"}, max_concurrency=9)
    assert first == Endpoint(
        "deepseek-chat",
        "https://api.deepseek.com/v1",
        "sk-1",
        rpm=500,
        rps=2.5,
        tpm=90_000,
        max_concurrency=64,
        prices={"in": 0.27, "out": 1.1, "cached": 0.07},
        params={"temperature": 0, "stop": ["\n"]},
    )
    assert second == dataclasses.replace(first, api_key="sk-2")
    assert third == Endpoint("数学", "http://127.0.0.1:8000/v1", max_concurrency=9)


def test_what_a_table_leaves_out_comes_from_the_environment(tmp_path: Path) -> None:
    env = {"MODEL": "m", "BASE_URL": "http://h/v1", "OPENAI_API_KEY": "sk-1", "OTHER": "sk-2"}
    endpoints = from_file(tmp_path, '[[endpoint]]\n[[endpoint]]\napi_key_env = "OTHER"', env)
    assert endpoints == (Endpoint("m", "http://h/v1", "sk-1"), Endpoint("m", "http://h/v1", "sk-2"))
    assert endpoints[0].max_concurrency == MAX_CONCURRENCY


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "an endpoint needs a model"),
        ('model = ""', "model must be a text"),
        ("model = 5", "model cannot be of type int"),
        ('api_key = "sk-1"', "there is no key 'api_key'; known are model, base_url, api_key_env, rpm, rps, "),
        ('model = "m"\nbase_url = "h"', "the base URL 'h' must look like https://host/v1"),
        ('model = "m"\nbase_url = "http://sk-1@h"', "the base URL holds a user"),
        ('model = "m"\napi_key_env = "sk-1"', "api_key_env must be the name of a variable"),
        ('model = "m"\napi_key_env = ""', "api_key_env must be the name of a variable"),
        ('model = "m"\napi_key_env = "NONE"', f"no API key for {OPENAI}: set NONE in the environment or .env"),
        ('model = "m"', f"no API key for {OPENAI}: set API_KEY or OPENAI_API_KEY"),
        ('model = "m"\napi_key_env = "TWICE"', "TWICE holds the same key twice"),
        ('model = "m"\nrpm = true', "rpm cannot be of type bool"),
        ('model = "m"\nrpm = "sk-5"', "rpm cannot be of type str"),
        ('model = "m"\nrpm = 0', "rpm must be a number above 0, not 0"),
        ('model = "m"\nrps = nan', "rps must be a number above 0, not nan"),
        ('model = "m"\nmax_concurrency = 1.5', "max_concurrency cannot be of type float"),
        ('model = "m"\nprices = 5', "prices cannot be of type int"),
        ('model = "m"\nprices = { in = 1 }', "prices must hold dollars per million tokens"),
        ('model = "m"\nparams = [1]', "params cannot be of type list"),
        ('model = "m"\nparams = { messages = [] }', "params: 'messages' is not a parameter that can be set here"),
        ('model = "m"\nparams = { since = 2024-05-01 }', "params: the parameters cannot be written as JSON"),
    ],
)
def test_a_mistake_in_an_endpoint_file_is_named_with_the_number_of_the_endpoint(
    tmp_path: Path, table: str, said: str
) -> None:
    content = f'[[endpoint]]\nmodel = "ok"\nbase_url = "http://h"\n[[endpoint]]\n{table}'
    message = fault(lambda: from_file(tmp_path, content, {"TWICE": "sk-1,sk-1"}))
    assert message.startswith(f"--endpoints {tmp_path / 'pool.toml'}, endpoint 2: {said}")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing",
        "endpoint = []",
        "endpoint = [1]",
        '[endpoint]\nmodel = "m"',
        '[[endpoints]]\nmodel = "m"',
        'title = "x"\n[[endpoint]]\nmodel = "m"',
    ],
)
def test_a_file_without_endpoint_tables_is_refused(tmp_path: Path, content: str) -> None:
    said = f"--endpoints {tmp_path / 'pool.toml'} must hold [[endpoint]] tables, and nothing else"
    assert fault(lambda: from_file(tmp_path, content, {"API_KEY": "sk-1"})) == said


@pytest.mark.parametrize("content", ['key = sk-1"', b"# \xc3\xdc", "a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_refused_with_its_place(tmp_path: Path, content: str | bytes) -> None:
    message = fault(lambda: from_file(tmp_path, content, {}))
    assert message.startswith(f"--endpoints {tmp_path / 'pool.toml'} is not a TOML file: ")


def test_an_endpoint_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        message = fault(partial(endpoints_of, Settings(endpoints=path), {}))
        assert message.startswith(f"--endpoints {path}: ")
