"""Labels: the list that every answer must come from, and how a text is read as one of it.

Invariant: a text is read as a label only if it says that label and no other; else it is invalid and stays as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batcher.answer.shape import Read


@dataclass(frozen=True)
class Labels:
    """The labels of a run.

    Attributes:
        names: as the user wrote them.
        descriptions: of a label, by its name; may lack some.
        aliases: by another text for a label, the label.
    """

    names: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object, where: str) -> Labels:
        raise NotImplementedError

    @property
    def fields(self) -> tuple[str, ...]:
        return ()

    @property
    def recorded(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def listed(self) -> str:
        raise NotImplementedError

    @property
    def line(self) -> str:
        raise NotImplementedError

    def stated_in(self, text: str) -> bool:
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
