"""A client of the local server that shows every response as it came."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return str(self.json["choices"][0]["message"]["content"])


def request(base_url: str, method: str, path: str, body: bytes | None = None, key: str = "") -> Reply:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def chat(base_url: str, prompt: object = "hello", key: str = "", **options: object) -> Reply:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **options}
    return request(base_url, "POST", "/v1/chat/completions", json.dumps(body).encode(), key)


def stats_when(base_url: str, name: str, value: int) -> dict[str, Any]:
    """Ask for the books until they show it; only the test's timeout ends the wait."""
    while True:
        stats: dict[str, Any] = request(base_url, "GET", "/stats").json
        if stats[name] == value:
            return stats


@contextlib.contextmanager
def unanswered(base_url: str, prompt: str = "hello") -> Iterator[socket.socket]:
    """Send a request, and leave without its answer at the end of the block."""
    where = urlsplit(base_url)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((where.hostname or "", where.port or 0)) as client:
        client.sendall(head.encode() + body)
        yield client
