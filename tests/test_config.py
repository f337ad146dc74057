"""Settings and endpoints that exist are valid; an error names the fault, and never shows an API key."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from faults import fault
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

import batcher
from batcher.cli import help_of
from batcher.endpoint import MAX_CONCURRENCY, OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.params import RESERVED_PARAMS
from batcher.settings import OPTIONS, Option, Options, Settings, check_keyword
from batcher.words import command_line

OPENAI = "https://api.openai.com/v1"
LOOP: dict[str, object] = {}
LOOP["loop"] = LOOP


# --- options ---


def test_options_and_settings_are_the_same_list() -> None:
    assert list(Options.__annotations__) == [field.name for field in dataclasses.fields(Settings)] == list(OPTIONS)
    hints = {field.name: field.type for field in dataclasses.fields(Settings)}
    assert {name: hint.__forward_arg__ for name, hint in Options.__annotations__.items()} == hints


def test_the_docstring_of_settings_says_of_every_option_what_its_help_says() -> None:
    said = inspect.cleandoc(Settings.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"^ {4}(?=[a-z])", said, flags=re.MULTILINE)[1:]
    assert [" ".join(entry.split()) for entry in entries] == [
        f"{each.name}: {each.in_python}." for each in OPTIONS.values()
    ]


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_help_and_docstring_end_with_the_default_that_the_code_has(option: Option) -> None:
    default = getattr(Settings(), option.name)
    for text in (option.help, option.in_python):
        shown = re.search(r" \(([^()]+)\)$", text)
        if default is None or default is False:
            assert shown is None, text
        else:
            assert shown, text
            assert type(default)(shown.group(1)) == default


def test_every_option_is_in_the_help_under_its_flag() -> None:
    text = " ".join(help_of("run").split())
    for option in OPTIONS.values():
        metavar = f" {option.kind.argument['metavar']}" if "metavar" in option.kind.argument else ""
        assert f" {option.flag}{metavar} {option.help}" in text


def test_one_constant_bounds_the_requests_in_flight_of_a_run_and_of_an_endpoint() -> None:
    assert Settings().max_concurrency == Endpoint("m").max_concurrency == MAX_CONCURRENCY


if TYPE_CHECKING:  # mypy fails if one of these is no longer an error: its `type: ignore` is then unused

    def wrong_types_are_errors_for_a_type_checker() -> None:
        batcher.run("x.csv", chunk_size="x")  # type: ignore[arg-type]
        batcher.plan("x.csv", endpoints=[5])  # type: ignore[list-item]
        batcher.run("x.csv", chunksize=5)  # type: ignore[call-arg]


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.of({})
    assert (settings.output_dir, settings.chunk_size, settings.answer_column) == ("output", 500, "infer")
    assert (settings.timeout, settings.deadline, settings.max_attempts) == (120, 1800, 6)
    assert (settings.max_concurrency, settings.params) == (256, {})


NO_KEY_OPTION = "API keys come from API_KEY in the environment or .env, or from"


@pytest.mark.parametrize(
    ("options", "python", "shell"),
    [
        (
            {"temperature": 0},
            'a request parameter goes into param={"temperature": 0}',
            "a request parameter goes into --param temperature=0",
        ),
        ({"stop": "x"}, 'a request parameter goes into param={"stop": ...}', "... --param stop=..."),
        ({"max_token": 5}, 'did you mean param={"max_tokens": 5}?', "did you mean --param max_tokens=5?"),
        ({"chunksize": 5}, "did you mean chunk_size?", "did you mean --chunk-size?"),
        ({"promt": "x"}, "did you mean prompt?", "did you mean --prompt?"),
        ({"zzz": 5}, "`help(batcher.run)` lists the options", "`batcher run --help` lists the options"),
        (
            {"api_key": "sk-secret"},
            f"{NO_KEY_OPTION} endpoints=[batcher.Endpoint(model, api_key=...)]",
            "... or from the variable that --api-key-env names",
        ),
    ],
)
def test_an_option_that_does_not_exist_is_answered_with_the_one_that_was_meant(
    options: dict[str, object], python: str, shell: str
) -> None:
    [name] = options
    assert fault(lambda: Settings.of(options)) == f"there is no option {name!r}: {python}"
    with command_line():
        assert fault(lambda: Settings.of(options)).endswith(shell.removeprefix("..."))


NO_NUMBERS = (0, -1, True, "5", float("nan"), float("inf"))
NO_TEXTS = ("", " \n", 5, b"x")
NO_FLAGS = (1, "yes", None)
NO_PRICES = (-1, True, "5", float("nan"), float("inf"), 2e6)
WRONG: dict[str, tuple[object, ...]] = {
    "keyword": (5, Path("k")),
    "output_dir": (None, 5),
    "chunk_size": (*NO_NUMBERS, 1.5, None),
    "answer_column": (*NO_TEXTS, None),
    "prompt_file": (5,),
    "prompt_column": NO_TEXTS,
    "messages_column": NO_TEXTS,
    "image_column": NO_TEXTS,
    "image_size": (-1, 1.5, True, "2", None),
    "image_detail": ("", "best", "Low", 5),
    "system": (5,),
    "system_file": (5,),
    "model": NO_TEXTS,
    "base_url": NO_TEXTS,
    "provider": NO_TEXTS,
    "endpoint_name": (*NO_TEXTS, "http://h/v1", "a/b", "offline", " vllm", "a\nb", "n" * 101, "sk-" + "a1" * 20),
    "api_key_env": NO_TEXTS,
    "header": ("X-Team=labels", [("X-Team", "labels")], 5),
    "via": (*NO_TEXTS, "batches"),
    "tier": (*NO_TEXTS, "flx", "batch", "flex,", ["flex", 5]),
    "rpm": NO_NUMBERS,
    "rps": NO_NUMBERS,
    "tpm": NO_NUMBERS,
    "max_concurrency": (*NO_NUMBERS, 1.5, None),
    "limits_per": ("", "server", "Key", 5),
    "timeout": (*NO_NUMBERS, None),
    "stream": NO_FLAGS,
    "idle_timeout": NO_NUMBERS,
    "deadline": (*NO_NUMBERS, None),
    "max_attempts": (*NO_NUMBERS, 1.5, None),
    "wait": (*(each for each in NO_NUMBERS if each != 0 or isinstance(each, bool)), None),
    "grace": (*(each for each in NO_NUMBERS if each != 0 or isinstance(each, bool)), None),
    "max_response_mb": (*NO_NUMBERS, None),
    "by": ("", "7am", "25:00", 7, True, "2026-12-01"),
    "within": ("", "8", 8.0, "0h", "soon", True),
    "hedge": (*NO_NUMBERS, 49.9, 100, 0.9),
    "budget": NO_NUMBERS,
    "price_in": NO_PRICES,
    "price_out": NO_PRICES,
    "price_batch": (0, 1.5, -0.5, "half", True),
    "param": ([("temperature", 0)], "temperature=0", {1: 2}, {"": 1}, {"stop": {"\n"}}, {"x": float("nan")}, LOOP),
    "limit": (*NO_NUMBERS, 1.5),
    "same_prompt": NO_FLAGS,
    "params_column": ("", "a,,b", [], 5, b"x"),
    "requests": NO_FLAGS,
    "adopt": ("", 5, [], [5], {}),
    "keep_thinking": NO_FLAGS,
    "task": ("", "Chat", "embeddings", 5, None),
    "inputs_per_request": (*NO_NUMBERS, 1.5),
    "labels": ("", [], {}, 5, True, b"a,b"),
    "schema": ("", {}, 5, [], b"{}"),
    "structured": ("", "xml", "Auto", 5, None),
    "repair": (-1, 1.5, True, "2", None),
    "canary": (-1, 1.5, True, "2", None),
    "samples": (*NO_NUMBERS, 1.5, None),
    "repeat_sample": (*NO_NUMBERS, 1.5),
    "gold": NO_TEXTS,
    "gold_drawn": ("", 5, "some", []),
    "then": ("", 5, True, [], {}),
    "hold": (*NO_NUMBERS, 1.5),
    "threshold": (*NO_NUMBERS, 1.5),
    "yes": NO_FLAGS,
    "examples": ("", [], 5, True, b"x"),
    "shots": (*NO_NUMBERS, 1.5, None),
    "with_": ("", "certainty", "reasoning,", [], ["model", "x"], [5], 5, {"model": 1}),
    "sample": (*NO_NUMBERS, 1.5),
    "shard": ("", "3", "0/3", "4/3", "1/2/3", "a/b", 5, True),
    "retry_failed": NO_FLAGS,
    "on_change": ("", "Redo", 5, None),
    "id_column": NO_TEXTS,
    "dedup": NO_FLAGS,
    "ray": (
        *NO_TEXTS,
        "nowhere",
        "head:",
        "head:0",
        "head:65536",
        "http://head:1",
        "ray://head",
        "u:p@head:1",
        ["auto"],
    ),
    "ray_workers": (*NO_NUMBERS, 1.5),
    "sheet": NO_TEXTS,
    "input_encoding": (*NO_TEXTS, "utf-9", "base64", "rot13", "undefined"),
    "separator": ("", ";;", "a", "1", '"', " ", "\n", 5),
    "format": ("", "Parquet", "json", 5),
    "encoding": ("", "utf8", "latin-1", 5, None),
    "no_progress": NO_FLAGS,
    "log_json": NO_FLAGS,
    "quiet": NO_FLAGS,
}


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the extra ray be there, or seem to."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: find("json" if name == "ray" else name, *rest))


@pytest.mark.usefixtures("with_ray")
@pytest.mark.parametrize(
    "address", ["local", "auto", "head:6379", "10.0.0.7:6379", "[fe80::1]:6379", "ray://head.example:10001"]
)
def test_an_address_of_ray_is_taken(address: str) -> None:
    assert Settings(ray=address, ray_workers=2).ray == address


@pytest.mark.usefixtures("with_ray")
def test_workers_of_ray_cannot_have_a_chat_model() -> None:
    pool = [Endpoint("m"), Endpoint(llm=Model())]
    said = "a chat model in llm= cannot be sent to workers: give the endpoint by its model and base_url"
    assert fault(lambda: Settings(ray="auto", endpoints=pool)) == f'ray="auto": {said}'
    with command_line():
        assert fault(lambda: Settings(ray="auto", endpoints=pool)) == f"--ray auto: {said}"
    assert Settings(ray="auto", endpoints=pool[:1]).ray == "auto"


@pytest.mark.usefixtures("with_ray")
def test_workers_of_ray_are_refused_if_all_rows_are_asked_in_batches_which_leave_from_this_process() -> None:
    said = "is for requests that are sent one by one, and"
    assert fault(lambda: Settings(ray="auto", via="batch")) == f'ray {said} via="batch" sends none: give one of them'
    with command_line():
        assert (
            fault(lambda: Settings(ray="auto", via="batch")) == f"--ray {said} --via batch sends none: give one of them"
        )
    assert Settings(ray="auto", via="batch", within="6h").ray == "auto"  # rows may be asked online in the end
    assert Settings(ray="auto", via="online").ray == "auto"


def test_a_number_of_workers_without_ray_is_refused() -> None:
    assert fault(lambda: Settings(ray_workers=2)) == 'ray_workers goes with ray="auto": give both'
    with command_line():
        assert fault(lambda: Settings(ray_workers=2)) == "--ray-workers goes with --ray auto: give both"


def test_without_the_extra_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert fault(lambda: Settings(ray="local")) == "ray needs the extra ray: pip install 'batcher-llm[ray]'"
    with command_line():
        assert fault(lambda: Settings(ray="local")) == "--ray needs the extra ray: pip install 'batcher-llm[ray]'"


def test_every_option_has_wrong_values() -> None:
    assert {*WRONG, "endpoints"} == set(Options.__annotations__)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_with_its_option(name: str, value: object) -> None:
    assert re.match(rf"{name}:? ", fault(lambda: Settings.of({name: value})))
    with command_line():
        flag = OPTIONS[name].flag
        assert re.match(rf"{flag}:? ", fault(lambda: Settings.of({name: value})))


@pytest.mark.parametrize("name", RESERVED_PARAMS)
def test_parameters_that_batcher_sets_are_refused_with_the_way_to_set_them(name: str) -> None:
    said = f"{name!r} is not a parameter that can be set here: use {' or '.join(RESERVED_PARAMS[name])}"
    assert fault(lambda: Settings(param={name: 1})) == f"param: {said}"
    assert fault(lambda: Endpoint("m", params={name: 1})) == f"params: {said}"
    with command_line():
        assert fault(lambda: Settings(param={name: 1})).startswith("--param: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"system": "x", "system_file": "y"}, "system and system_file"),
        ({"provider": "vllm", "base_url": OPENAI}, "provider and base_url"),
        ({"endpoints": "e.toml", "model": "m"}, "model and endpoints"),
        ({"endpoints": "e.toml", "base_url": OPENAI}, "base_url and endpoints"),
        ({"endpoints": "e.toml", "provider": "vllm"}, "provider and endpoints"),
        ({"endpoints": "e.toml", "api_key_env": "K"}, "api_key_env and endpoints"),
        ({"endpoints": "e.toml", "rpm": 5}, "rpm and endpoints"),
        ({"endpoints": "e.toml", "rps": 5}, "rps and endpoints"),
        ({"endpoints": "e.toml", "tpm": 5}, "tpm and endpoints"),
        ({"endpoints": "e.toml", "price_in": 1, "price_out": 1}, "price_in and endpoints"),
    ],
)
def test_options_that_exclude_each_other_are_named(options: dict[str, object], said: str) -> None:
    assert fault(lambda: Settings.of(options)).startswith(f"{said} exclude each other")


@pytest.mark.parametrize("name", ["price_in", "price_out"])
def test_one_price_alone_is_refused(name: str) -> None:
    assert fault(lambda: Settings.of({name: 0})).startswith("price_in and price_out go together")


def test_prices_that_are_given_are_those_of_an_endpoint() -> None:
    assert Settings().prices is None
    assert Settings(price_in=0, price_out=1.5).prices == {"in": 0, "out": 1.5}


@pytest.mark.parametrize("name", ["sk-secret", "sk-1,sk-2", "$K", "K=sk-1", "1K"])
def test_a_key_given_as_the_name_of_its_variable_is_not_shown(name: str) -> None:
    assert fault(lambda: Settings(api_key_env=name)) == (
        "api_key_env must be the name of a variable, such as OPENAI_API_KEY, not the key itself"
    )


def test_parameters_may_be_any_mapping_and_are_a_copy() -> None:
    mine = {"temperature": 0}
    endpoint, settings = Endpoint("m", params=MappingProxyType(mine)), Settings(param=MappingProxyType(mine))
    assert (endpoint.source.params, settings.params) == ('{"temperature": 0}', {"temperature": 0})
    mine["temperature"] = 1
    assert endpoint.params == {"temperature": 0}


# --- keywords ---


@pytest.mark.parametrize(
    "keyword", ["sentiment", "数学计算", "été 2024", "a.b", "-x", "~", "#%&$!'[0]{}", "😀", "x" * 200]
)
def test_a_safe_name_is_a_keyword(keyword: str) -> None:
    check_keyword(keyword)


@pytest.mark.parametrize(
    ("keyword", "why"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        (".hidden", "it starts with a dot"),
        ("..", "it starts with a dot"),
        ("a/b", "it holds '/'"),
        ("a\\b", "it holds '\\\\'"),
        ("C:x?", "it holds ':' '?'"),
        ('"*<>|"', "it holds '\"' '*' '<' '>' '|'"),
        ("a\nb", r"it holds '\n'"),
        ("a\0b", r"it holds '\x00'"),
        ("a\u202eb", r"it holds '\u202e'"),  # turns the letters round that follow
        ("\ud800", r"it holds '\ud800'"),
        ("a.", "it ends with a dot or a space"),
        ("a ", "it ends with a dot or a space"),
        *((name, "the name is reserved on Windows") for name in ("con", "PRN", "aux", "com1", "com9", "lpt1")),
        ("NUL.txt", "the name is reserved on Windows"),
        ("Lpt9", "the name is reserved on Windows"),
        ("x" * 201, "it is longer than 200 bytes"),
        ("数" * 67, "it is longer than 200 bytes"),
    ],
)
def test_a_name_that_is_not_safe_is_refused_with_the_reason(keyword: str, why: str) -> None:
    message = fault(lambda: Settings(keyword=keyword))
    assert message == f"keyword {keyword!r} cannot be part of a file name: {why}; choose another"


def is_accepted(keyword: str) -> bool:
    try:
        check_keyword(keyword)
    except SettingsError:
        return False
    return True


@given(st.text(st.characters() | st.sampled_from("/\\.:数 "), min_size=1, max_size=80).filter(is_accepted))
@hypothesis(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_keyword_that_is_accepted_makes_files_that_can_be_made(tmp_path: Path, keyword: str) -> None:
    names = [f"12345678_{keyword}.csv", f".12345678_{keyword}.csv.tmp", f"journal_{keyword}.sqlite-wal"]
    for name in names:
        (tmp_path / name).write_text(keyword, encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        (tmp_path / name).unlink()


# --- endpoints ---


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "an endpoint needs a model"),
        ({"model": ""}, "model must be a text"),
        ({"model": 5}, "model must be a text"),
        ({"base_url": None}, "base_url must be a text"),
        ({"api_key": "sk-a,sk-b"}, "api_key holds several keys: make one Endpoint for each"),
        ({"api_key": ["sk-a", "sk-b"]}, "api_key holds several keys: make one Endpoint for each"),
        ({"api_key": "sk-a b"}, "api_key is not a string, or holds a space or a character"),
        ({"api_key": "sk-a\n"}, "api_key is not a string"),
        ({"api_key": "sk-数"}, "api_key is not a string"),
        ({"api_key": 5}, "api_key is not a string"),
        ({"llm": object(), "headers": {"X": "y"}}, "an endpoint with llm= takes its headers from that object"),
        (
            {"base_url": "https://h?api-version=1", "api_key": "sk-a", "headers": {"api-key": "env:K"}},
            "headers carry the API key, and api_key is given as well",
        ),
        ({"rpm": 0}, "rpm must be a number above 0, not 0"),
        ({"rps": "5"}, "rps must be a number above 0, not '5'"),
        ({"tpm": 0}, "tpm must be a number above 0, not 0"),
        ({"prices": 5}, "prices must hold dollars per million tokens"),
        ({"prices": {"in": 1}}, "prices must hold dollars per million tokens"),
        ({"prices": {"in": 1, "out": 1, "flex": 1}}, "prices must hold dollars per million tokens"),
        ({"prices": {"in": 1, "batch": 0.5}}, "prices must hold dollars per million tokens"),
        ({"prices": {"batch": 50}}, "prices: batch must be what a batch costs as a share of the price, above 0 to 1"),
        ({"prices": {"in": 1, "out": -1}}, "prices: out must be dollars per million tokens, 0 or more, not -1"),
        ({"max_concurrency": 1.5}, "max_concurrency must be a whole number above 0, not 1.5"),
        ({"max_concurrency": None}, "max_concurrency must be"),
        ({"params": {"x": object()}}, "params: the parameters cannot be written as JSON"),
        ({"params": None}, "params must hold parameters by name"),
        ({"llm": object(), "params": {"x": 1}}, "an endpoint with llm= takes its parameters from that object"),
    ],
)
def test_an_endpoint_that_exists_is_valid(values: dict[str, Any], said: str) -> None:
    given_values = values if not values or "llm" in values else {"model": "m"} | values
    assert fault(lambda: Endpoint(**given_values)).startswith(said)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("https://host/v1", "https://host/v1"),
        ("https://host/v1/", "https://host/v1"),
        (" HTTP://127.0.0.1:8000/v1\n", "HTTP://127.0.0.1:8000/v1"),
        ("https://host/v1/chat/completions", "https://host/v1"),
        ("https://host/v1//chat/completions/", "https://host/v1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://host/v1/?api-version=2024-10-21", "https://host/v1?api-version=2024-10-21"),
        ("https://host/chat/completions?api-version=2025-01-01-preview", "https://host?api-version=2025-01-01-preview"),
        (OFFLINE, OFFLINE),
    ],
)
def test_a_base_url_is_made_fit_for_calls(url: str, used: str) -> None:
    assert Endpoint("m", url).base_url == used


@pytest.mark.parametrize(
    "url", ["host/v1", "ftp://host", "https://", "https:///v1", "http://[::1", "http://h:x/v1", "http://h:99999", "h t"]
)
def test_a_base_url_that_cannot_be_called_is_refused(url: str) -> None:
    assert fault(lambda: Endpoint("m", url)) == f"the base URL is {url!r}: it must look like https://host/v1"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("localhost", "http://localhost/v1"),
        ("127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("//10.0.0.7:8000", "http://10.0.0.7:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("gpu01:8000/v1", "http://gpu01:8000/v1"),
        ("api.deepseek.com", "https://api.deepseek.com/v1"),
        ("api.openai.com/v1", "https://api.openai.com/v1"),
    ],
)
def test_a_base_url_without_a_scheme_is_answered_with_the_one_that_was_meant(url: str, meant: str) -> None:
    said = f"the base URL is {url!r}: it must look like https://host/v1: did you mean {meant}?"
    assert fault(lambda: Endpoint("m", url)) == said
    assert Endpoint("m", meant).base_url == meant


@pytest.mark.parametrize(
    "url", ["https://me:sk-1@host/v1", "https://sk-1@host", "me:sk-1@host", "https://host/v1?key=sk-1", "http://h#sk-1",
     "https://h?api-version=1&key=sk-1", "https://h?api-version=", "https://h?", "https://h?api-version=sk-1/2"],
)  # fmt: skip
def test_a_base_url_that_may_hold_a_secret_is_refused_unshown(url: str) -> None:
    assert fault(lambda: Endpoint("m", url)).startswith("the base URL holds a user, a password or a query")


def test_no_repr_shows_a_key() -> None:
    endpoint = Endpoint("m", api_key="sk-secret", llm={"key": "sk-secret"})
    assert "sk-" not in repr(endpoint)
    assert "sk-" not in repr(Settings(endpoints=[endpoint]))


def test_headers_and_the_version_of_an_api_are_not_part_of_a_source() -> None:
    one = Endpoint("m", "https://h/v1?api-version=1", headers={"X-A": "1"})
    assert one.source == Endpoint("m", "https://h/v1").source


def test_endpoints_that_differ_in_key_or_limits_alone_are_one_source() -> None:
    one = Endpoint("m", "https://h/v1", api_key="sk-1", rpm=5, params={"a": 1, "b": "数"})
    other = Endpoint("m", "https://h/v1/", api_key="sk-2", max_concurrency=9, params={"b": "数", "a": 1})
    assert one.source == other.source == ("m", "https://h/v1", '{"a": 1, "b": "数"}')
    assert Endpoint("m", "https://h/v1").source == ("m", "https://h/v1", "")


def test_equal_endpoints_are_one_in_a_set_and_those_that_differ_are_two() -> None:
    values: dict[str, Any] = {"rpm": 5, "params": {"stop": ["a"], "temperature": 0}, "prices": {"in": 1, "out": 2}}
    one, same = (Endpoint("m", "https://h/v1", "sk-1", **values) for _ in range(2))
    hot = dataclasses.replace(one, params={"temperature": 1})
    assert {one, same, hot, Endpoint("m", "https://h/v1/", "sk-1", **values)} == {one, hot}
    assert hash(one) == hash(
        Endpoint("m", "https://h/v1", "sk-1", **values | {"params": {"stop": ["a"], "temperature": 0.0}})
    )
    assert {one: "first"}[same] == "first"
    assert len({Endpoint(llm=Model()), Endpoint(llm=Model()), one}) == 3


def test_an_endpoint_stays_as_it_was_made_whatever_becomes_of_what_it_was_made_from() -> None:
    params, prices = {"stop": ["a"]}, {"in": 1.0, "out": 2.0}
    endpoint = Endpoint("m", params=params, prices=prices)
    params["stop"].append("b")
    prices["in"] = -1.0
    assert (endpoint.params, endpoint.prices) == ({"stop": ["a"]}, {"in": 1.0, "out": 2.0})


class Model:
    """Stands for a chat model: it has a name and a place, under the attributes that LangChain uses."""

    model_name = "gpt"
    openai_api_base = "https://h/v1"


class Nameless:
    model = None


@pytest.mark.parametrize(
    ("endpoint", "source"),
    [
        (Endpoint(llm=Model()), ("gpt", "https://h/v1", "")),
        (Endpoint("mine", llm=Model()), ("mine", "https://h/v1", "")),
        (Endpoint(llm=Nameless()), ("Nameless", "", "")),
    ],
)
def test_a_chat_model_gives_under_its_own_name(endpoint: Endpoint, source: tuple[str, str, str]) -> None:
    assert endpoint.source == source


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit": 10**23}, "limit must be a whole number of at most 1,000,000,000, not 100000000000000000000000"),
        ({"chunk_size": 2**63}, "chunk_size must be a whole number of at most 1,000,000,000, not 9223372036854775808"),
        ({"max_response_mb": 1e308}, "max_response_mb must be a number of at most 1,000,000,000, not 1e+308"),
        ({"timeout": 10**400}, f"timeout must be a number of at most 1,000,000,000, not 1{'0' * 39}..."),
        ({"rpm": 1e-320}, "rpm must be a number of at least 0.000001, not 1e-320"),
        ({"output_dir": ""}, "output_dir must be the path of a directory, not ''"),
        ({"output_dir": "a\0b"}, "output_dir must be the path of a directory, not 'a\\x00b'"),
        ({"output_dir": "\ud800"}, "output_dir holds characters that no file system takes: '\\ud800'"),
        ({"output_dir": f"a/{'b' * 300}"}, f"output_dir holds a name of more than 255 bytes: {'b' * 40}..."),
        ({"param": {"api_key": "sk-1"}}, "param: 'api_key' is not a parameter that can be set here: use api_key_env"),
    ],
)
def test_a_value_that_no_run_could_use_is_refused_at_once(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.of(values)
    assert str(refused.value) == said
