from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults import fault

from batcher.calls.endpoints import endpoints_of, environment
from batcher.calls.services import AZURE, SERVICES, service_at
from batcher.endpoint import MAX_CONCURRENCY, OFFLINE, Endpoint
from batcher.settings import Settings
from batcher.words import command_line

OPENAI = "https://api.openai.com/v1"
PLACES = [service.base_url for name, service in SERVICES.items() if service.needs_key and name != AZURE]


@pytest.fixture(autouse=True)
def reader() -> Iterator[None]:
    """Messages are read at the command line."""
    with command_line():
        yield


def made(env: dict[str, str], **options: Any) -> list[tuple[str | None, str, str | None]]:
    """Return model, base URL and key of each endpoint."""
    return [(each.model, each.base_url, each.api_key) for each in endpoints_of(Settings.of(options), env)]


@pytest.mark.parametrize(
    ("env", "options", "expected"),
    [
        ({"MODEL": "m", "OPENAI_API_KEY": "sk-1"}, {}, [("m", OPENAI, "sk-1")]),
        ({"MODEL": "m", "OPENAI_API_KEY": "sk-1, sk-2,,"}, {}, [("m", OPENAI, "sk-1"), ("m", OPENAI, "sk-2")]),
        ({"MODEL": "m", "API_KEY": "sk-1", "OPENAI_API_KEY": "sk-2"}, {}, [("m", OPENAI, "sk-2")]),
        ({"MODEL": "m", "API_KEY": "sk-1", "BASE_URL": OPENAI}, {}, [("m", OPENAI, "sk-1")]),
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


@pytest.mark.parametrize(
    "provider", [name for name, service in SERVICES.items() if service.needs_key and name != AZURE]
)
def test_a_provider_that_asks_for_a_key_names_the_variables(provider: str) -> None:
    variables = [*SERVICES[provider].key_variables, "API_KEY"]
    assert fault(lambda: made({}, provider=provider, model="m")) == (
        f"no API key for {SERVICES[provider].base_url}: set {' or '.join(variables)} in the environment or .env"
    )


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ({"API_KEY": "sk-1"}, {}, "no model: give --model, or MODEL in the environment or in .env"),
        ({"MODEL": "m"}, {}, f"no API key for {OPENAI}: set OPENAI_API_KEY in the environment or .env"),
        (
            {"MODEL": "m", "API_KEY": "sk-1"},
            {},
            f"no API key for {OPENAI}: set OPENAI_API_KEY in the environment or .env; API_KEY is for BASE_URL and",
        ),
        (
            {"MODEL": "m", "API_KEY": "sk-1"},
            {"api_key_env": "MINE", "base_url": "http://h"},
            "no API key for http://h: set MINE in the environment or .env",
        ),
        (
            {"MODEL": "m", "BASE_URL": OPENAI, "API_KEY": "sk-1,sk-a b"},
            {},
            "API_KEY (environment): key 2 is not a string, or holds a space",
        ),
        (
            {"MODEL": "m", "BASE_URL": OPENAI, "API_KEY": "sk-密钥"},
            {},
            "API_KEY (environment) is not a string, or holds a space or a",
        ),
        (
            {"MODEL": "m", "OPENAI_API_KEY": "sk-1,sk-2,sk-1"},
            {},
            "OPENAI_API_KEY (environment): key 3 repeats key 1: remove one",
        ),
        (
            {"MODEL": "m", "BASE_URL": "http://me:sk-1@h"},
            {},
            "BASE_URL (environment) holds a user, a password or a query",
        ),
        (
            {},
            {"provider": "opnai"},
            "--provider 'opnai' is not known: did you mean openai? `batcher services` lists those that",
        ),
        ({}, {"provider": "☃"}, "--provider '☃' is not known; `batcher services` lists those that are; any other"),
    ],
)
def test_what_is_missing_or_wrong_is_named(env: dict[str, str], options: dict[str, Any], said: str) -> None:
    assert fault(lambda: made(env, **options)).startswith(said)


def test_every_key_has_the_limits_to_itself() -> None:
    settings = Settings(model="m", rpm=5, rps=2.5, tpm=9, max_concurrency=7, price_in=1, price_out=2)
    endpoints = endpoints_of(settings, {"OPENAI_API_KEY": "sk-1,sk-2"})
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


# --- the destination of keys ---

KEYS = {
    "API_KEY": "sk-ours",
    "OPENAI_API_KEY": "sk-openai",
    "DEEPSEEK_API_KEY": "sk-deepseek",
    "ZHIPU_API_KEY": "sk-zhipu",
    "AZURE_OPENAI_API_KEY": "sk-azure",
    "MODEL": "m",
}
DEEPSEEK = SERVICES["deepseek"].base_url
AZURE_URL = "https://mine.openai.azure.com/openai/deployments/d?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("urls", "options", "expected"),
    [
        # What the environment gives: API_KEY belongs to BASE_URL, OPENAI_API_KEY to OPENAI_BASE_URL.
        ({}, {}, (OPENAI, "sk-openai")),
        ({"BASE_URL": "http://h/v1"}, {}, ("http://h/v1", "sk-ours")),
        ({"BASE_URL": DEEPSEEK}, {}, (DEEPSEEK, "sk-ours")),
        ({"OPENAI_BASE_URL": "http://h/v1"}, {}, ("http://h/v1", "sk-openai")),
        ({"OPENAI_API_BASE": "http://h/v1/"}, {}, ("http://h/v1", "sk-openai")),
        ({"OPENAI_BASE_URL": "http://h", "OPENAI_API_BASE": "http://i"}, {}, ("http://h", "sk-openai")),
        ({"OPENAI_BASE_URL": DEEPSEEK}, {}, (DEEPSEEK, "sk-deepseek")),
        ({"BASE_URL": "http://h", "OPENAI_BASE_URL": "http://i"}, {}, ("http://h", "sk-ours")),
        # What the command line names: a service takes its own variable first, any other place API_KEY.
        ({}, {"base_url": "http://h/v1"}, ("http://h/v1", "sk-ours")),
        ({"BASE_URL": "/app/"}, {"base_url": "http://h/v1"}, ("http://h/v1", "sk-ours")),
        ({}, {"base_url": OPENAI}, (OPENAI, "sk-openai")),
        ({}, {"base_url": "https://api.deepseek.com"}, ("https://api.deepseek.com", "sk-deepseek")),
        ({}, {"provider": "deepseek"}, (DEEPSEEK, "sk-deepseek")),
        ({}, {"provider": "zhipu"}, (SERVICES["zhipu"].base_url, "sk-zhipu")),
        ({}, {"provider": "groq"}, (SERVICES["groq"].base_url, "sk-ours")),
        ({}, {"provider": "vllm"}, (SERVICES["vllm"].base_url, None)),
        ({}, {"base_url": SERVICES["vllm"].base_url}, (SERVICES["vllm"].base_url, "sk-ours")),
        ({"OPENAI_BASE_URL": "http://h"}, {"base_url": "http://h"}, ("http://h", "sk-openai")),
        ({}, {"base_url": AZURE_URL}, (AZURE_URL, "sk-azure")),
        ({}, {"provider": "deepseek", "api_key_env": "OPENAI_API_KEY"}, (DEEPSEEK, "sk-openai")),
    ],
)
def test_each_key_goes_where_it_belongs(
    urls: dict[str, str], options: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    assert made(KEYS | urls, **options) == [("m", *expected)]


@pytest.mark.parametrize("variable", [name for name in KEYS if name != "MODEL"])
@pytest.mark.parametrize("base_url", ["http://h/v1", "https://api.openai.com.h/v1", *PLACES])
def test_a_key_goes_nowhere_else(variable: str, base_url: str) -> None:
    """Each key alone in the environment, and a base URL in the one variable or the other."""
    service = service_at(base_url)
    own = service.key_variables if service else ()
    for name, paired in (("BASE_URL", "API_KEY"), ("OPENAI_BASE_URL", "OPENAI_API_KEY")):
        env = {"MODEL": "m", name: base_url, variable: "sk-1"}
        if variable == paired or variable in own:
            assert made(env) == [("m", base_url, "sk-1")]
        elif service:
            assert fault(partial(made, env)).startswith(f"no API key for {base_url}: set ")
        else:
            assert made(env) == [("m", base_url, None)]


def test_a_key_that_is_set_for_another_place_is_named() -> None:
    env = {"MODEL": "m", "OPENAI_BASE_URL": DEEPSEEK, "API_KEY": "sk-1"}
    assert fault(lambda: made(env)) == (
        f"no API key for {DEEPSEEK}: set DEEPSEEK_API_KEY or OPENAI_API_KEY in the environment or .env; API_KEY is for"
        " BASE_URL and for what the command line names"
    )
    assert fault(lambda: made({"OPENAI_API_KEY": "sk-1"}, provider="zhipu", model="m")) == (
        f"no API key for {SERVICES['zhipu'].base_url}: set ZHIPUAI_API_KEY or ZHIPU_API_KEY or API_KEY in the"
        " environment or .env; OPENAI_API_KEY is for OpenAI and for OPENAI_BASE_URL"
    )


@pytest.mark.parametrize("name", ["BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_BASE"])
@pytest.mark.parametrize(
    ("base_url", "said"),
    [
        ("/app/", "is '/app/': it must look like https://host/v1"),
        ("http://h/v1?key=sk-1", "holds a user, a password or a query other than ?api-version=: "),
    ],
)
def test_a_wrong_base_url_of_the_environment_is_named_with_its_variable(name: str, base_url: str, said: str) -> None:
    message = fault(lambda: made({"MODEL": "m", name: base_url, "API_KEY": "sk-1"}))
    assert message.startswith(f"{name} (environment) {said}")
    assert "sk-1" not in message


# --- Azure ---


def test_azure_by_name_takes_the_variables_of_its_sdk_and_the_model_names_the_deployment() -> None:
    env = KEYS | {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/", "OPENAI_API_VERSION": "2024-10-21"}
    resource = "https://mine.openai.azure.com/openai/deployments"
    assert made(env, provider="azure", model="a b/c") == [
        ("a b/c", f"{resource}/a%20b%2Fc?api-version=2024-10-21", "sk-azure")
    ]
    assert made(env | {"AZURE_OPENAI_API_KEY": "", "AZURE_API_KEY": "sk-2"}, provider="azure") == [
        ("m", f"{resource}/m?api-version=2024-10-21", "sk-2")
    ]


def test_azure_at_a_place_of_the_users_own_needs_a_key_too() -> None:
    env = {"AZURE_OPENAI_ENDPOINT": "https://gateway.example", "OPENAI_API_VERSION": "2024-10-21", "MODEL": "m"}
    assert fault(lambda: made(env, provider="azure")) == (
        "no API key for https://gateway.example/openai/deployments/m?api-version=2024-10-21: set AZURE_OPENAI_API_KEY"
        " or AZURE_API_KEY or API_KEY in the environment or .env"
    )


@pytest.mark.parametrize("missing", ["AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION", "MODEL"])
def test_azure_without_resource_version_or_deployment_says_what_it_needs(missing: str) -> None:
    env = KEYS | {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com", "OPENAI_API_VERSION": "2024-10-21"}
    said = fault(lambda: made(env | {missing: ""}, provider="azure"))
    assert said.startswith("--provider azure needs AZURE_OPENAI_ENDPOINT (https://RESOURCE.openai.azure.com) and")


# --- headers ---


def headers_of(env: dict[str, str], **options: Any) -> list[dict[str, str]]:
    return [dict(each.headers) for each in endpoints_of(Settings.of(options), env)]


def test_a_header_may_be_read_from_the_environment() -> None:
    header = {"X-Team": "labels", "X-Key": "env:TEAM_KEY", "X-Odd": "my env:TEAM_KEY"}
    env = KEYS | {"TEAM_KEY": "sk-1"}
    expected = {"X-Team": "labels", "X-Key": "sk-1", "X-Odd": "my env:TEAM_KEY"}
    assert headers_of(env, header=header) == [expected]
    assert headers_of(env, endpoints=[Endpoint("m", headers=header)]) == [expected]
    assert fault(lambda: headers_of(KEYS, header=header)) == (
        "header X-Key: TEAM_KEY is not set in the environment or .env"
    )


def test_a_file_of_endpoints_may_hold_headers(tmp_path: Path) -> None:
    content = '[[endpoint]]\nmodel = "m"\nbase_url = "http://h"\nheaders = { X-Key = "env:TEAM_KEY", X-Team = "a" }'
    [endpoint] = from_file(tmp_path, content, {"TEAM_KEY": "sk-1"})
    assert endpoint.headers == {"X-Key": "sk-1", "X-Team": "a"}
    assert fault(lambda: from_file(tmp_path, content, {})).endswith(
        "header X-Key: TEAM_KEY is not set in the environment or .env"
    )
    message = fault(lambda: from_file(tmp_path, content.replace('"a"', "5"), {"TEAM_KEY": "sk-1"}))
    assert "endpoint 1: headers must hold texts by name" in message


def test_organization_and_project_are_sent_to_openai_alone() -> None:
    env = KEYS | {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-1"}
    both = {"OpenAI-Organization": "org-1", "OpenAI-Project": "proj-1"}
    assert headers_of(env) == headers_of(env, provider="openai") == headers_of(env, endpoints=[Endpoint("m")]) == [both]
    assert headers_of(env | {"OPENAI_PROJECT_ID": ""}) == [{"OpenAI-Organization": "org-1"}]
    mine = {"openai-organization": "org-2", "OpenAI-Project": "proj-1"}
    assert headers_of(env, header={"openai-organization": "org-2"}) == [mine]
    for options in ({"provider": "deepseek"}, {"base_url": "http://h"}, {"base_url": AZURE_URL}):
        assert headers_of(env, **options) == [{}]
    assert headers_of(env | {"OPENAI_BASE_URL": "http://h"}) == [{}]


@pytest.mark.parametrize("name", ["api-key", "Authorization"])
def test_a_key_that_is_given_as_a_header_of_azure_is_the_only_one(name: str) -> None:
    both = Settings(base_url=AZURE_URL, header={name: "env:MINE"}, api_key_env="API_KEY")
    said = "headers carry the API key, and api_key is given as well: leave one of them out"
    assert fault(lambda: endpoints_of(both, KEYS)) == said
    [endpoint] = endpoints_of(Settings(base_url=AZURE_URL, header={name: "env:MINE"}), KEYS | {"MINE": "sk-1"})
    assert (endpoint.api_key, endpoint.headers) == (None, {name: "sk-1"})


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"Host": "h"}, "'Host' is set by batcher itself: leave it out"),
        ({"content-TYPE": "text/plain"}, "'content-TYPE' is set by batcher itself"),
        ({"X-Request-ID": "1"}, "'X-Request-ID' is set by batcher itself"),
        ({"Transfer-Encoding": "chunked"}, "'Transfer-Encoding' is set by batcher itself"),
        ({"Authorization": "Bearer sk-1"}, "'Authorization' carries the API key: give that through api_key or"),
        ({"X-A": "1", "x-a": "2"}, "'x-a' is given twice"),
        ({"X A": "1"}, "'X A' cannot be the name of a header"),
        ({"": "sk-1"}, "'' cannot be the name of a header"),
        ({"X-A": ""}, "'X-A' has a value that is empty or holds a character that is not allowed in a header"),
        ({"X-A": "sk-1\r\nX-B: 2"}, "'X-A' has a value that is empty or holds a character"),
        ({"X-A": "sk-密"}, "'X-A' has a value that is empty or holds a character"),
        ({"X-A": "env:sk-1"}, "'X-A', after env:, must be the name of a variable"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_and_its_value_is_not_shown(header: dict[str, str], said: str) -> None:
    message = fault(lambda: headers_of(KEYS, header=header))
    assert message.startswith(f"--header: {said}")
    assert "sk-1" not in message
    assert fault(lambda: Endpoint("m", headers=header)).startswith(f"headers: {said}")


def test_a_value_from_the_environment_that_no_header_may_carry_is_not_shown() -> None:
    message = fault(lambda: headers_of(KEYS | {"BAD": "sk-1\nX: y"}, header={"X-A": "env:BAD"}))
    assert message.startswith("headers: 'X-A' has a value that is empty or holds a character")
    assert "sk-1" not in message


def test_no_repr_shows_the_value_of_a_header() -> None:
    settings = Settings(header={"X-A": "sk-1", "X-B": "env:MINE"})
    [endpoint] = endpoints_of(settings, KEYS | {"MINE": "sk-2"})
    for shown in (repr(settings), repr(endpoint), str(endpoint), repr(endpoint.headers["X-B"])):
        assert "sk-" not in shown


# --- .env ---


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("MODEL=m\nAPI_KEY sk-1 sk-2\n", 2),
        ("MODEL=m\n\n# a key\nAPI_KEY='sk-1\n", 4),
        ("sk-1 = 'x' y\n", 1),
    ],
)
def test_a_line_of_dotenv_that_cannot_be_read_is_named_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, line: int
) -> None:
    (tmp_path / ".env").write_text(content, "utf-8")
    monkeypatch.chdir(tmp_path)
    assert fault(environment) == (
        f"{tmp_path / '.env'}, line {line} cannot be read: it must look like NAME=value, or begin with #"
    )


def test_a_key_stays_with_the_base_url_that_stands_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BASE_URL=http://a/v1\nAPI_KEY=sk-of-a\nMODEL=m\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("BASE_URL", "API_KEY", "MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert made(environment()) == [("m", "http://a/v1", "sk-of-a")]
    monkeypatch.setenv("BASE_URL", "http://b/v1")
    assert made(environment()) == [("m", "http://b/v1", None)]
    monkeypatch.setenv("API_KEY", "sk-of-b")
    assert made(environment()) == [("m", "http://b/v1", "sk-of-b")]


@pytest.mark.parametrize(
    ("env", "options"),
    [({"MODEL": "m", "BASE_URL": "sk-pasted-0123456789"}, {}), ({"MODEL": "m"}, {"provider": "sk-pasted-0123456789"})],
)
def test_a_key_in_the_wrong_place_is_not_shown(env: dict[str, str], options: dict[str, Any]) -> None:
    said = fault(lambda: made(env, **options))
    assert "(not shown: it looks like an API key)" in said
    assert "pasted" not in said


def test_a_key_in_quotation_marks_is_refused_unshown() -> None:
    said = fault(lambda: made({"MODEL": "m", "OPENAI_API_KEY": "'sk-quoted-0123456789'"}))
    assert said.startswith("OPENAI_API_KEY (environment) has quotation marks around it")
    assert "quoted-" not in said


def test_the_environment_goes_before_the_nearest_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "\ufeffMODEL=far\nOPENAI_API_KEY='sk-1, sk-2'  # two\nONLY_THERE=x\nEMPTY\n", "utf-8"
    )
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    for name in ("MODEL", "BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    env = environment()
    assert (env["MODEL"], env["OPENAI_API_KEY"]) == ("far", "sk-1, sk-2")
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
        max_concurrency=9,
        prices={"in": 0.27, "out": 1.1, "cached": 0.07},
        params={"temperature": 0, "stop": ["\n"]},
        account="DEEPSEEK_KEYS, deepseek-chat",
    )
    assert second == dataclasses.replace(first, api_key="sk-2")
    assert third == Endpoint("数学", "http://127.0.0.1:8000/v1", max_concurrency=9)
    assert from_file(tmp_path, content, {"DEEPSEEK_KEYS": "sk-1"})[0].max_concurrency == 64


def test_what_a_table_leaves_out_comes_from_the_environment(tmp_path: Path) -> None:
    env = {"MODEL": "m", "BASE_URL": "http://h/v1", "API_KEY": "sk-1", "OTHER": "sk-2", "OPENAI_API_KEY": "sk-3"}
    endpoints = from_file(tmp_path, '[[endpoint]]\n[[endpoint]]\napi_key_env = "OTHER"', env)
    assert endpoints == (Endpoint("m", "http://h/v1", "sk-1"), Endpoint("m", "http://h/v1", "sk-2"))
    assert endpoints[0].max_concurrency == MAX_CONCURRENCY


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "an endpoint needs a model"),
        ('model = ""', "model must be a text"),
        ("model = 5", "model cannot be of type int"),
        ('api_key = "sk-1"', "there is no key 'api_key': an API key is never in a file: put it into"),
        ("max_concurency = 3", "there is no key 'max_concurency': did you mean max_concurrency?"),
        ('tier = "flex"', "there is no key 'tier': params = { service_tier = "),
        ("zzz = 3", "there is no key 'zzz': known are model, base_url, api_key_env, rpm, rps, "),
        ('model = "m"\nbase_url = "h"', "the base URL is 'h': it must look like https://host/v1"),
        ('model = "m"\nbase_url = "http://sk-1@h"', "the base URL holds a user"),
        ('model = "m"\napi_key_env = "sk-1"', "api_key_env must be the name of a variable"),
        ('model = "m"\napi_key_env = ""', "api_key_env must be the name of a variable"),
        ('model = "m"\napi_key_env = "NONE"', f"no API key for {OPENAI}: set NONE in the environment or .env"),
        ('model = "m"', f"no API key for {OPENAI}: set OPENAI_API_KEY"),
        ('model = "m"\napi_key_env = "TWICE"', "TWICE (environment): key 2 repeats key 1: remove one"),
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
