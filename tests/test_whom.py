"""A plan needs no key, and a plan and a run say whom they ask, without showing a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service
from programs import call

import batcher
from batcher.calls.endpoints import Variables, endpoints_of
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.planning.forecast import Forecast
from batcher.planning.whom import asked_of, in_lines
from batcher.settings import Settings

OPENAI = "https://api.openai.com/v1"
OWN = "http://127.0.0.1:9/v1"


def lines(env: dict[str, str], file: dict[str, str] | None = None, **options: Any) -> list[str]:
    """Return whom a plan says that it asks, with these variables of the environment and of a `.env`."""
    found = endpoints_of(Settings.of({"model": "m"} | options), Variables(env, file or {}), needs_keys=False)
    return in_lines(asked_of(found))


def forecast(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str = "", **options: Any) -> Forecast:
    """Make a plan in a directory with a `.env`, without any key in the environment."""
    for name in ("API_KEY", "OPENAI_API_KEY", "BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_BASE", "MODEL"):
        monkeypatch.delenv(name, raising=False)
    (folder / ".env").write_text(file, encoding="utf-8")
    monkeypatch.chdir(folder)
    return batcher.plan(["a", "b"], keyword="k", **options)


@pytest.mark.parametrize(
    ("env", "file", "options", "said"),
    [
        ({"OPENAI_API_KEY": "sk-1"}, {}, {}, f"m at {OPENAI}, 1 key from OPENAI_API_KEY of the environment"),
        ({}, {"API_KEY": "sk-1, sk-2", "BASE_URL": OWN}, {}, f"m at {OWN}, 2 keys from API_KEY in .env"),
        ({"API_KEY": "sk-3"}, {"API_KEY": "sk-1", "BASE_URL": OWN}, {}, f"m at {OWN}, 1 key from API_KEY of the env"),
        ({}, {}, {"base_url": OWN}, f"m at {OWN}, no key"),
        ({}, {}, {"provider": "offline"}, "m on the embedded server"),
        ({}, {}, {}, f"m at {OPENAI}, no API key yet: set OPENAI_API_KEY in the environment or .env"),
        (
            {"API_KEY": "sk-1"},
            {},
            {},
            f"m at {OPENAI}, no API key yet: set OPENAI_API_KEY in the environment or .env; API_KEY is for",
        ),
        (
            {},
            {},
            {"base_url": OWN, "api_key_env": "MINE"},
            f"m at {OWN}, no API key yet: set MINE in the environment or .env",
        ),
        (
            {},
            {},
            {"base_url": OWN, "header": {"X-Team": "env:TEAM"}},
            f"m at {OWN}, no header X-Team yet: set TEAM in the environment or .env",
        ),
        (
            {"MINE": "sk-1"},
            {},
            {
                "base_url": "https://r.openai.azure.com/openai/deployments/m?api-version=1",
                "header": {"api-key": "env:MINE"},
            },
            "m at https://r.openai.azure.com/openai/deployments/m, 1 key from MINE of the environment",
        ),
    ],
)
def test_a_plan_says_whom_it_asks_and_where_the_keys_are_from(
    env: dict[str, str], file: dict[str, str], options: dict[str, Any], said: str
) -> None:
    [found] = lines(env, file, **options)
    assert found.startswith(said)


def test_a_pool_has_a_line_for_each_model_and_a_line_for_the_rest() -> None:
    endpoints = [Endpoint(f"m{number // 2}", OWN, api_key=f"sk-{number}") for number in range(20)]
    found = in_lines(asked_of(endpoints))
    assert found[0] == f"m0 at {OWN}, 2 keys from api_key= of the Endpoint"
    assert (len(found), found[-1]) == (7, "and 4 more")
    assert len(asked_of(endpoints)) == 10


def test_a_file_of_endpoints_is_planned_without_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.toml"
    tables = [f'[[endpoint]]\nmodel = "m"\nbase_url = "{OWN}"\napi_key_env = "{name}"\n' for name in ("ONE", "TWO")]
    path.write_text("".join(tables), encoding="utf-8")
    found = forecast(monkeypatch, tmp_path, "ONE=sk-11111111\n", endpoints=path)
    [asked] = found.asks
    assert (asked.keys, asked.keys_from) == (1, ("1 key from ONE in .env",))
    assert asked.missing == ("no API key yet: set TWO in the environment or .env",)
    with pytest.raises(SettingsError, match="endpoint 2: no API key for"):
        batcher.run(["a"], keyword="k", endpoints=path)
    path.write_text(tables[1] * 2, encoding="utf-8")
    with pytest.raises(
        SettingsError,
        match=r"pool.toml: endpoint 2 repeats endpoint 1 \(same model m, base URL and API key\): remove one$",
    ):
        batcher.plan(["a"], keyword="k", endpoints=path)


def test_without_a_key_a_plan_is_the_plan_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = forecast(monkeypatch, tmp_path, model="gpt-4o-mini").to_dict()
    having = forecast(monkeypatch, tmp_path, "OPENAI_API_KEY=sk-1234567890", model="gpt-4o-mini").to_dict()
    assert (without.pop("asks"), having.pop("asks")) != ((), ())
    assert without == having


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("", {}, "no model"),
        ("MODEL=m\nAPI_KEY='a b'\n", {"base_url": OWN}, r"API_KEY \(.*\.env, line 2\) is not a string"),
        ("MODEL=m\nAPI_KEY=a,a\n", {"base_url": OWN}, r"API_KEY \(.*\.env, line 2\): key 2 repeats key 1: remove one"),
        ("MODEL=m\nBASE_URL=/app\n", {}, r"BASE_URL \(.*\.env, line 2\) is '/app': it must look like"),
        ("MODEL=m\n", {"provider": "opena"}, "is not known"),
    ],
)
def test_a_plan_without_a_key_refuses_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        forecast(monkeypatch, tmp_path, file, **options)


def test_no_plan_shows_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["sk-1a2b3c4d5e6f", "sk-a1b2c3d4e5f6", "team-7f8e9d0c"]
    file = f"API_KEY={secrets[0]},{secrets[1]}\nTEAM={secrets[2]}\nBASE_URL={OWN}\nMODEL=m\n"
    found = forecast(monkeypatch, tmp_path, file, header={"X-Team": "env:TEAM"})
    shown = f"{found}{found!r}{json.dumps(found.to_dict())}"
    assert "2 keys from API_KEY in .env" in shown
    assert not any(secret in shown for secret in secrets)


def test_the_first_line_of_a_run_says_whom_it_asks(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    one = [Endpoint("m", OWN, api_key="sk-1")]
    report = lab.run(["a", "b"], Service(["a", "b"]), endpoints=one, quiet=False, no_progress=True)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"k: 2 rows: 2 new; asks m at {OWN}, 1 key from api_key= of the Endpoint"
    assert report.to_dict()["asks"][0]["keys_from"] == ("1 key from api_key= of the Endpoint",)
    two = [*one, Endpoint("n", OWN)]
    lab.run(["a", "b", "c"], Service(["c"]), endpoints=two, quiet=False, no_progress=True)
    assert capsys.readouterr().err.splitlines()[:3] == [
        "k: 3 rows: 2 answered, 1 new; asks",
        f"  m at {OWN}, 1 key from api_key= of the Endpoint",
        f"  n at {OWN}, no key",
    ]
    report = lab.run(["a", "b", "c"], Service([]), endpoints=two, quiet=False, no_progress=True)
    assert capsys.readouterr().err.splitlines()[0] == "k: 3 rows: 3 answered, 0 new"
    assert report.asks == ()


def test_the_command_line_plans_without_a_key_and_says_which_it_would_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n", encoding="utf-8")
    done = call("plan", "t.csv", "--prompt", "{text}", "--model", "gpt-4o-mini", "--json", cwd=tmp_path)
    [asked] = json.loads(done.stdout)["asks"]
    assert (done.status, asked["model"], asked["base_url"], asked["keys"]) == (0, "gpt-4o-mini", OPENAI, 0)
    assert asked["missing"] == ["no API key yet: set OPENAI_API_KEY in the environment or .env"]
