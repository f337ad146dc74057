"""Azure by name and by URL, against a server that refuses what Azure refuses: a wrong path, version or key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from canned_server import Asked, Reply, completion, http, read_request
from hostile_server import answer_to
from programs import Done, call, table, write_table

KEY, TOKEN = "sk-azur3-secret-key", "ey-entr4-secret-token"
DEPLOYMENT, VERSIONS = "my deployment", ("2024-10-21", "2025-01-01-preview")


class Azure:
    """The resource of one user, with one deployment.

    Attributes:
        endpoint: where it listens, without a path.
        asked: every request.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.asked: list[Asked] = []

    @property
    def base_url(self) -> str:
        return f"{self.endpoint}/openai/deployments/my%20deployment"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while request := await read_request(reader):
                self.asked.append(request)
                writer.write(self._reply(request).data)

    def _reply(self, request: Asked) -> Reply:
        path, _, query = request.line.split(" ")[1].partition("?")
        if query not in {f"api-version={version}" for version in VERSIONS}:
            return http(404, {"error": {"code": "404", "message": "Resource not found"}})
        sent = {name: request.headers[name] for name in ("api-key", "authorization") if name in request.headers}
        if sent not in ({"api-key": KEY}, {"authorization": f"Bearer {TOKEN}"}):
            said = f"Access denied due to invalid subscription key {' '.join(sent.values())}"
            return http(401, {"error": {"code": "401", "message": said}})
        if path != "/openai/deployments/my%20deployment/chat/completions":
            said = "The API deployment for this resource does not exist."
            return http(404, {"error": {"code": "DeploymentNotFound", "message": said}})
        return http(200, completion(answer_to(request.json["messages"][-1]["content"])))


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    made = Azure()
    async with await asyncio.start_server(made.connected, "127.0.0.1", 0) as server:
        made.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


async def run(folder: Path, *options: str, **env: str) -> Done:
    rows = write_table(folder / "rows.csv", ["text"], [[f"row {n}"] for n in range(5)])
    done = await asyncio.to_thread(call, "run", rows, "--prompt", "{text}", *options, cwd=folder, **env)
    shown = [done.stdout, done.stderr, *(path.read_bytes().decode("latin-1") for path in (folder / "output").glob("*"))]
    assert not any(secret in text for secret in (KEY, TOKEN) for text in shown)
    return done


def answers(folder: Path) -> list[str]:
    return [row["infer"] for row in table(folder / "output" / "all_rows.csv")]


RIGHT = [answer_to(f"row {n}") for n in range(5)]


async def test_azure_by_name_is_asked_at_the_deployment_in_its_version_with_its_key(
    azure: Azure, tmp_path: Path
) -> None:
    done = await run(
        tmp_path, "--provider", "azure", "--model", DEPLOYMENT, API_KEY="sk-0ther-key", AZURE_OPENAI_API_KEY=KEY,
        AZURE_OPENAI_ENDPOINT=f"{azure.endpoint}/", OPENAI_API_VERSION=VERSIONS[0],
    )  # fmt: skip
    assert done.status == 0, done.stderr
    assert answers(tmp_path) == RIGHT
    assert not any("sk-0ther-key" in str(request) for request in azure.asked)


@pytest.mark.parametrize(
    "options", [("--api-key-env", "MINE"), ("--header", "api-key=env:MINE"), ("--header", "Authorization=env:TOKEN")]
)
async def test_azure_by_its_url_takes_a_key_or_a_token(azure: Azure, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = await run(
        tmp_path, "--base-url", f"{azure.base_url}?api-version={VERSIONS[0]}", "--model", "m", *options,
        MINE=KEY, TOKEN=f"Bearer {TOKEN}",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    assert answers(tmp_path) == RIGHT


async def test_another_version_or_another_header_asks_nothing_again(azure: Azure, tmp_path: Path) -> None:
    options = ("--model", "m", "--api-key-env", "MINE", "--base-url")
    for version, more in zip(VERSIONS, [(), ("--header", "X-Team=labels")], strict=True):
        done = await run(tmp_path, *options, f"{azure.base_url}?api-version={version}", *more, MINE=KEY)
        assert done.status == 0, done.stderr
    assert len(azure.asked) == 5
    verified = await asyncio.to_thread(call, "verify", "rows", tmp_path / "rows.csv", cwd=tmp_path)
    assert verified.status == 0, verified.stdout


@pytest.mark.parametrize(
    ("place", "key", "said"),
    [
        ("my%20deployment?api-version=2024-10-21", "sk-wr0ng-secret-key", "key [API key]"),
        ("other?api-version=2024-10-21", KEY, "(DeploymentNotFound)"),
        ("my%20deployment?api-version=2023-05-15", KEY, "Resource not found"),
    ],
)
async def test_what_azure_refuses_ends_the_run_with_its_words(
    azure: Azure, tmp_path: Path, place: str, key: str, said: str
) -> None:
    base_url = f"{azure.endpoint}/openai/deployments/{place}"
    done = await run(tmp_path, "--base-url", base_url, "--model", "m", "--api-key-env", "MINE", MINE=key)
    assert done.status == 3
    assert said in done.stderr
    assert key not in done.stderr
