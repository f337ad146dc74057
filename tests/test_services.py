"""The table of services: what it holds, and which service a base URL leads to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults import fault
from programs import call

import batcher
from batcher.calls.batch_facts import NO_BATCHES
from batcher.calls.services import AZURE, SERVICES, check_batches, service_at, services
from batcher.cli import help_of
from batcher.endpoint import OFFLINE, Endpoint
from batcher.records import Task

LOCAL = {"ollama", "vllm", "sglang", "lmdeploy", "llamafactory", "llamacpp", "lmstudio", "litellm", OFFLINE}
REMOTE = {
    "openai", "azure", "deepseek", "dashscope", "deepinfra", "mistral", "gemini", "zhipu",
    "infini", "moonshot", "siliconflow", "ark", "qianfan", "minimax", "openrouter", "together",
    "fireworks", "groq", "cerebras", "nvidia", "xai", "cohere", "huggingface",
}  # fmt: skip


def test_the_services_of_the_contract_are_known() -> None:
    assert set(SERVICES) == REMOTE | LOCAL
    assert all(service.name == name for name, service in SERVICES.items())


@pytest.mark.parametrize("name", SERVICES)
def test_a_base_url_is_one_that_an_endpoint_accepts_as_it_stands(name: str) -> None:
    base_url = SERVICES[name].base_url
    assert Endpoint("m", base_url).base_url == base_url


def test_a_service_on_the_users_own_machine_needs_no_key_and_any_other_needs_one() -> None:
    assert {name for name, service in SERVICES.items() if not service.needs_key} == LOCAL


def test_no_variable_holds_the_keys_of_two_services() -> None:
    variables = [variable for service in SERVICES.values() for variable in service.key_variables]
    assert len(variables) == len(set(variables))
    assert "API_KEY" not in variables


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.openai.com", "openai"),
        ("https://API.openai.com:443/v1", "openai"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.deepseek.com/beta", "deepseek"),
        ("https://mine.openai.azure.com/openai/deployments/d?api-version=2024-10-21", AZURE),
        ("https://mine.openai.azure.com/openai/v1", AZURE),
        ("http://localhost:11434/v1", "ollama"),
        ("http://127.0.0.1:4000/v1", "litellm"),
    ],
)
def test_a_service_is_known_by_its_url_alone(base_url: str, name: str) -> None:
    service = service_at(base_url)
    assert service is not None
    assert service.name == name


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.openai.com/v1",  # in the clear
        "https://api.openai.com:8443/v1",
        "https://api.openai.com.example.com/v1",
        "https://example.com/api.openai.com/v1",
        "https://xapi.openai.com/v1",
        "https://openai.azure.com/v1",
        "https://example.com/.openai.azure.com",
        "http://127.0.0.1:4001/v1",
        "https://127.0.0.1:4000/v1",
        OFFLINE,
    ],
)
def test_a_url_that_is_only_like_that_of_a_service_is_none_of_it(base_url: str) -> None:
    assert service_at(base_url) is None


def test_the_table_names_each_service_in_lines_of_80_columns() -> None:
    lines = str(services()).splitlines()
    assert max(map(len, lines)) <= 80
    *table, last = lines
    assert [line.split()[0] for line in table if not line.startswith(" ")] == list(SERVICES)
    assert last.startswith("Nothing is known of the batches of the others")
    for service in services():
        assert any(service.base_url in line.split() for line in lines)
        assert all(variable in str(services()) for variable in service.key_variables)


def test_as_json_the_table_says_all_that_is_known() -> None:
    table = json.loads(json.dumps(services().to_dict()))
    zhipu = next(service for service in table["services"] if service["name"] == "zhipu")
    assert zhipu == {
        "name": "zhipu",
        "base_url": "https://open.bigmodel.cn/api/paas/v4",
        "key_variables": ["ZHIPUAI_API_KEY", "ZHIPU_API_KEY"],
        "limits_per": "account",
        "closed": ["1113", "欠费", "1112", "1121", "1311"],
        "empty_account": [],
        "throttle": ["1302", "1303", "1304", "1305", "1308", "1310"],
        "unknown_model": ["1211", "模型不存在"],
        "wrong_key": [],
        "filtered": ["1301", "sensitive"],
        "too_long": ["1261", "Prompt 超长"],
        "inputs": {"": 64},
        "input_tokens": 0,
        "headers": {},
        "structured": "strict",
        "tiers": {},
        "full": [],
        "batch": {**zhipu["batch"], "share": 0.5, "path": "/v4", "window": "", "tasks": ["chat", "embedding"]},
        "no_batch": "",
    }
    limits = {"requests": 50_000, "bytes": 100_000_000, "tokens": 0, "at_once": 0, "inputs": 10_000, "line_bytes": 0}
    assert zhipu["batch"]["limits"] == limits


def test_what_is_known_of_batches_has_its_source_and_what_is_not_is_said() -> None:
    assert {name for name, service in SERVICES.items() if service.batch} == {
        "openai", "azure", "dashscope", "zhipu", "moonshot", "siliconflow", "groq", "together",
        "deepinfra", "qianfan", "litellm",
    }  # fmt: skip
    for service in SERVICES.values():
        if service.batch:
            assert service.batch.confirmed
            assert service.batch.unconfirmed
            assert 0 < service.batch.share <= 1
            assert Task.CHAT in service.batch.tasks
            assert service.name not in NO_BATCHES
    table = str(services())
    assert "batches: 60% of the price, at most 100 MB a file" in table
    assert table.count("batches: none that batcher can use") == len(NO_BATCHES)


@pytest.mark.parametrize(
    ("endpoint", "task", "said"),
    [
        (Endpoint("m", SERVICES["mistral"].base_url), None, "mistral cannot be used by batches: its batch jobs have"),
        (
            Endpoint("m", SERVICES["groq"].base_url),
            Task.EMBEDDING,
            "batches of groq are for the task chat, not for emb",
        ),
        (Endpoint(llm=object()), None, "a chat model in llm= has no batches: give its model"),
    ],
)
def test_an_endpoint_without_batches_is_refused_in_words(endpoint: Endpoint, task: Task | None, said: str) -> None:
    assert fault(lambda: check_batches(endpoint, task)).startswith(f'via="batch": {said}')
    check_batches(Endpoint("m", SERVICES["groq"].base_url), Task.CHAT)
    check_batches(Endpoint("m", "http://127.0.0.1:8000/v1"), Task.EMBEDDING)


def test_the_verb_prints_the_table_and_python_returns_it(tmp_path: Path) -> None:
    assert call("services", cwd=tmp_path).stdout == f"{batcher.services()}\n"
    assert json.loads(call("services", "--json", cwd=tmp_path).stdout) == json.loads(
        json.dumps(batcher.services().to_dict())
    )


def test_the_help_of_the_option_names_each_service() -> None:
    said = help_of("run").partition("--provider NAME")[2].partition("--api-key-env")[0]
    assert " ".join(said.split()).endswith(": " + ", ".join(SERVICES))
