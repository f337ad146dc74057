"""What the page asks and what it gets: a request, the kinds of replies, and the errors that a reply can be.

Invariant: JSON is ASCII, so that any text, lone surrogates included, arrives as it is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from batcher.reviewing.page import Page

Pairs = Sequence[tuple[str, str]]


class NotServed(Exception):
    """A request that gets an error.

    Attributes:
        status: of HTTP.
        kind: `changed`, `busy`, `invalid`, `gone` or `internal`.
        more: what else the reply has.
    """

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.more = more

    def reply(self) -> Reply:
        """Return it as JSON."""
        return as_json({"error": str(self), "kind": self.kind, **self.more}, self.status)


def invalid(message: str) -> NotServed:
    """Return the error of a request that asks for what cannot be."""
    return NotServed(400, "invalid", message)


def gone(message: str) -> NotServed:
    """Return the error of a request for what is not there."""
    return NotServed(404, "gone", message)


class Reply(NamedTuple):
    """A reply.

    Attributes:
        body: whole, or in parts as they come.
        kind: its content type.
        status: of HTTP.
        headers: besides those that all replies have.
    """

    body: bytes | AsyncIterator[bytes]
    kind: str = "application/json"
    status: int = 200
    headers: Pairs = ()


def as_json(value: Any, status: int = 200) -> Reply:
    """Return a reply in JSON."""
    return Reply(json.dumps(value, ensure_ascii=True, allow_nan=False).encode(), status=status)


class Request(NamedTuple):
    """A request that has passed the guard.

    Attributes:
        path: below the token.
        query: its parameters, each with all its values.
        body: of a POST: a JSON object.
        rest: the last part of the path, if the route leaves it open (`api/row/*`).
    """

    path: str
    query: Mapping[str, Sequence[str]]
    body: Mapping[str, Any]
    rest: str = ""

    def one(self, name: str, default: str = "") -> str:
        """Return a parameter that counts once: its last value."""
        return self.query[name][-1] if self.query.get(name) else default

    def number(self, name: str, default: int, most: int | None = None) -> int:
        """Return a parameter that is a whole number of at least 0.

        Raises:
            NotServed: it is not.
        """
        return whole(self.one(name, str(default)), name, most)

    def numbers(self, name: str, most: int) -> list[int]:
        """Return a parameter that is a list of whole numbers, such as `1,5,9`.

        Raises:
            NotServed: it is not, or there are too many.
        """
        found = [whole(each, name) for each in self.one(name).split(",") if each.strip()]
        if len(found) > most:
            raise invalid(f"{name} names {len(found)} rows, and at most {most} are sent at once")
        return found

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text of the body.

        Raises:
            NotServed: it is not there, or no text.
        """
        found = self.body.get(name, default)
        if not isinstance(found, str):
            raise invalid(f"{name} must be a text")
        return found

    def whole(self, name: str) -> int:
        """Return a whole number of the body.

        Raises:
            NotServed: it is not there, or none.
        """
        found = self.body.get(name)
        if not isinstance(found, int) or isinstance(found, bool):
            raise invalid(f"{name} must be a whole number")
        return found


def whole(text: str, name: str, most: int | None = None) -> int:
    """Return the whole number, of at least 0, that a text says.

    Raises:
        NotServed: it says none.
    """
    text = text.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise invalid(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text) if most is None else min(int(text), most)


Handler = Callable[["Page", Request], Awaitable[Reply]]
Routes = Mapping[tuple[str, str], Handler]
"""Handlers by method and path below the token; a path that ends in `/*` leaves its last part open (`Request.rest`)."""
