"""A client of the page of `batcher review`, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fake_service import Anything, Call, Service
from server_client import Reply

from batcher.output.directory import Store
from batcher.records import Completion, Failure, Usage
from batcher.reviewing.review import Served, served_page

JSON = {"content-type": "application/json"}


def said(answers: Mapping[str, str | Failure]) -> Callable[[], Any]:
    """Return a service that knows what to say to each prompt, and to one that goes on with what answers must be."""

    def answer(call: Call) -> Completion | Failure:
        found = answers[max((each for each in answers if call.prompt.startswith(each)), key=len)]
        return found if isinstance(found, Failure) else Completion(found, "stop", Usage(10, 2))

    service = Service((), instead=answer)
    service.prompts = Anything()
    return service


class Client:
    """Asks a page.

    Args:
        url: of the page, with its token.

    Attributes:
        url: the same.
        token: in it.
        place: host and port in it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.place = urlsplit(url).netloc
        self.token = urlsplit(url).path.strip("/")

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request as it is; the path begins with a slash."""
        connection = http.client.HTTPConnection(self.place)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **query: Any) -> Any:
        """Return what an address below the token answers, which must be JSON."""
        reply = self.fetch(path, **query)
        assert reply.status == 200, reply
        return reply.json

    def fetch(self, path: str, **query: Any) -> Reply:
        asked = urlencode({name.replace("__", "."): value for name, value in query.items()}, doseq=True)
        return self.ask("GET", f"/{self.token}/{quote(path, errors='surrogatepass')}{'?' * bool(asked)}{asked}")

    def post(self, path: str, **body: Any) -> Reply:
        return self.ask("POST", f"/{self.token}/{path}", json.dumps(body).encode(), JSON)

    def rows(self, **query: Any) -> Any:
        """Return the list when it is whole."""
        while True:
            found = self.get("api/rows", **query)
            if not any(found[name] for name in ("searching", "indexing", "reading")):
                return found

    def positions(self, **query: Any) -> list[int]:
        return [row["position"] for row in self.rows(**query)["rows"]]


@contextlib.contextmanager
def page_of(directory: Path, who: str = "ada", data: Any = None) -> Iterator[tuple[Client, Served]]:
    """Serve the page of the run `k`."""
    with served_page(Store(directory, "k"), who, data) as served:
        yield Client(served.url), served
