"""The shapes of the error bodies that several services share.

Invariant: each holds what the service's own body holds, in the same places.
"""

from __future__ import annotations

from typing import Any


def openai_error(
    message: str, kind: str | None, code: str | int | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's shape, which most services have taken over."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def coded_error(code: str | int, message: str, **rest: Any) -> dict[str, Any]:
    """An error object of a code and a message."""
    return {"error": {"code": code, "message": message, **rest}}


def flat_error(message: str, kind: str, code: int | str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error without an object around it, as of vLLM before 0.10.1 and of those that have taken it over."""
    return {"object": "error", "message": message, "type": kind, "param": param, "code": code}
