"""The name of an endpoint is the source of its answers, at whatever host and port the server is today."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import fault
from programs import call, write_table

import batcher
from batcher.calls.endpoints import endpoints_of
from batcher.endpoint import Endpoint
from batcher.errors import ChangedError, SettingsError
from batcher.hiding import looks_like_key
from batcher.money.tariff import Tariff
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs
from batcher.settings import Settings

TEXTS = [f"Is {number} odd?" for number in range(6)]


@pytest.fixture
def hosts() -> Iterator[tuple[Server, Server]]:
    """Two servers of one model, on different ports: the hosts of two jobs."""
    with embedded(Knobs()) as first, embedded(Knobs()) as second:
        yield first, second


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ask(*servers: Server, name: str | None = "my-vllm", model: str = "m", **options: Any) -> batcher.Report:
    pool = [Endpoint(model, server.base_url, name=name) for server in servers]
    return batcher.run(TEXTS, "{text}", keyword="k", endpoints=pool, quiet=True, **options)


def test_the_next_host_of_a_named_server_is_asked_only_what_is_left(hosts: tuple[Server, Server]) -> None:
    first, second = hosts
    ask(first, limit=4)
    report = ask(second)
    assert (report.ok, first.books.requests, second.books.requests) == (6, 4, 2)
    assert report.endpoints[0].endpoint == f"endpoint 1 (m at my-vllm, {second.base_url})"
    found = batcher.verify("k", TEXTS)
    assert found.ok, found
    assert f"The endpoint named my-vllm was at {first.base_url}, {second.base_url}." in found.notes
    assert "endpoint 1, m at my-vllm: 6 = 6 + 0 + 0" in str(found)


def test_two_replicas_with_one_name_are_one_source_and_any_of_them_may_go(hosts: tuple[Server, Server]) -> None:
    report = ask(*hosts)
    assert (report.ok, len(report.endpoints)) == (6, 2)
    assert ask(hosts[0]).ok == ask(hosts[1]).ok == 6
    assert sum(server.books.requests for server in hosts) == 6
    assert batcher.verify("k", TEXTS).ok


@pytest.mark.parametrize("other", [{"model": "n"}, {"name": "another"}, {"name": None}])
def test_another_model_another_name_or_none_is_another_source_and_asks_first(
    hosts: tuple[Server, Server], other: dict[str, Any]
) -> None:
    ask(hosts[0])
    with pytest.raises(ChangedError, match="6 answered to another question"):
        ask(hosts[0], **other)


def test_the_answers_from_before_the_name_are_kept_with_reuse_and_stay(hosts: tuple[Server, Server]) -> None:
    first, second = hosts
    ask(first, name=None, limit=4)
    with pytest.raises(ChangedError) as refused:
        ask(second)
    assert f"endpoint was {first.base_url}, is my-vllm" in str(refused.value)
    assert 'on_change="reuse"` keeps the old answers' in str(refused.value)
    assert ask(second, on_change="reuse").ok == 6
    assert ask(first).ok == 6
    assert (first.books.requests, second.books.requests) == (4, 2)
    assert batcher.verify("k", TEXTS).ok


def test_a_named_server_is_new_at_each_start_so_that_a_wrong_host_costs_two_requests(tmp_path: Path) -> None:
    with embedded(Knobs()) as right, embedded(Knobs(model="n")) as wrong:
        ask(right, limit=2)
        with pytest.raises(batcher.RunStopped):
            ask(wrong)
        assert wrong.books.requests <= 2
        assert ask(right).ok == 6


def test_the_command_line_names_a_single_endpoint(tmp_path: Path, hosts: tuple[Server, Server]) -> None:
    path = write_table(tmp_path / "x.csv", ["text"], [[text] for text in TEXTS])
    for server in hosts:
        done = call(
            *("run", path, "--prompt", "{text}", "--base-url", server.base_url, "--model", "m"),
            *("--endpoint-name", "my-vllm", "--json"),
            cwd=tmp_path,
        )
        assert done.status == 0, done.stderr
        assert json.loads(done.stdout)["ok"] == 6
    assert [server.books.requests for server in hosts] == [6, 0]


def test_a_table_of_the_endpoints_file_may_have_a_name(tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    path.write_text('[[endpoint]]\nmodel = "m"\nbase_url = "http://a:1/v1"\nname = "我的"\n', encoding="utf-8")
    assert endpoints_of(Settings(endpoints=path), {}) == (Endpoint("m", "http://a:1/v1", name="我的"),)
    path.write_text('[[endpoint]]\nmodel = "m"\nname = "http://a:1/v1"\n', encoding="utf-8")
    assert "endpoint 1: name must be a name of your own" in fault(lambda: endpoints_of(Settings(endpoints=path), {}))


def test_a_name_that_looks_like_a_key_is_not_shown() -> None:
    key = "sk-" + "a1" * 20
    assert looks_like_key(key)
    with pytest.raises(SettingsError) as refused:
        Endpoint("m", name=key)
    assert key not in str(refused.value)


def test_the_price_is_that_of_the_base_url_and_the_account_too() -> None:
    plain = Endpoint("deepseek-chat", "https://api.deepseek.com/v1", account="a")
    named = Endpoint("deepseek-chat", "https://api.deepseek.com/v1", account="a", name="mine")
    assert Tariff.of(named, {}).price == Tariff.of(plain, {}).price is not None
    assert named.shared_account == plain.shared_account
