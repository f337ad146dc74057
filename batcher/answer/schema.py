"""A schema: the JSON that every answer must be, and how a text is read as it.

Invariant: an answer is checked against the user's own schema, whatever form of it a service was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batcher.answer.shape import Read


@dataclass(frozen=True)
class Schema:
    """The JSON Schema of a run.

    Attributes:
        document: as the user gave it.
    """

    document: dict[str, Any]

    @classmethod
    def of(cls, value: object, where: str) -> Schema:
        raise NotImplementedError

    @property
    def fields(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def recorded(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def text(self) -> str:
        raise NotImplementedError

    @property
    def line(self) -> str:
        raise NotImplementedError

    def late_reasons(self) -> tuple[str, str] | None:
        raise NotImplementedError

    def read(self, text: str) -> Read:
        raise NotImplementedError

    def cells(self, answer: str) -> tuple[str, ...]:
        raise NotImplementedError

    def values(self, answer: str) -> tuple[object, ...]:
        raise NotImplementedError

    def json_schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def strict_schema(self) -> dict[str, Any] | None:
        raise NotImplementedError
