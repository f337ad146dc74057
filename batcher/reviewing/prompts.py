"""The prompt of a row as it was sent: made again from the recorded question and the row's cells.

Invariant: it is shown only if its key is that of the question that was asked.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import BatcherError
from batcher.input.dataset import Dataset
from batcher.input.images import holds_images, loaded
from batcher.input.picture import Unusable
from batcher.planning.recorded import Recorded
from batcher.records import Image, Message, Values

_MOST_QUESTIONS = 20  # that are tried, the latest first


class Prompt(NamedTuple):
    """A prompt, or why there is none.

    Attributes:
        messages: each as role and parts: text, or an image as a data URL or a URL.
        why: there are none.
        params: the request parameters of the row's question.
    """

    messages: list[dict[str, Any]] | None
    why: str = ""
    params: Mapping[str, Any] = {}


class _Columns(Dataset):
    """A table of which only the columns and the place are known."""

    def __init__(self, columns: Sequence[str], paths: Sequence[str]) -> None:
        self.name = "the input"
        self.columns = tuple(columns)
        self.paths = tuple(map(Path, paths))

    def _rows(self) -> Generator[Values, None, None]:
        yield from ()


class Prompts:
    """Makes prompts again.

    Args:
        questions: that were asked, the latest first, as the journal has them.
    """

    def __init__(self, questions: Sequence[Mapping[str, Any]]) -> None:
        self._questions = questions[:_MOST_QUESTIONS]

    @cached_property
    def _recorded(self) -> list[tuple[Mapping[str, Any], Recorded]]:
        found = []
        for question in self._questions:
            table = _Columns(question.get("table", ()), question.get("input") or ())
            try:
                recorded = Recorded.of(question, table)
            except (BatcherError, LookupError, TypeError, ValueError):  # of an older batcher, or damaged
                continue
            if recorded is not None:
                found.append((question, recorded))
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the latest prompts read."""
        return tuple(next(iter(self._questions), {}).get("columns", ()))

    def of(self, columns: Sequence[str], cells: Sequence[str] | None, key: bytes) -> Prompt:
        """Return the prompt of a row.

        Args:
            columns: of the present table.
            cells: of the row; None: they are not known.
            key: of the question that was asked.
        """
        if cells is None:
            return Prompt(None, "the cells of this row are not known, and the prompt is made from them")
        values = dict(zip(columns, cells, strict=True))
        for question, recorded in self._recorded:
            table = question.get("table", ())
            if not set(table) <= set(values):
                continue
            try:
                asked = recorded.ask(tuple(values[name] for name in table))
            except BatcherError:
                continue
            if recorded.key(asked.messages, asked.terms) == key:
                params = {**question.get("params", {}), **asked.terms.params}
                return Prompt([*map(_shown, asked.messages)], params=params)
        return Prompt(None, self._why_not())

    def _why_not(self) -> str:
        if any(each.get("prompt_option") == "function" for each in self._questions):
            return "the prompt was made by a function of the caller's, which the journal does not hold"
        return (
            "the prompt cannot be made again as it was sent: the question, an image, or a character that no file can"
            " hold is not as it was"
        )


def _shown(message: Message) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    extra = {name: value for name, value in message.items() if name not in {"role", "content"}}
    shown = [part for each in parts for part in _parts(each)]
    if extra:
        shown.append({"text": json.dumps(extra, ensure_ascii=False)})
    return {"role": str(message.get("role", "")), "parts": shown}


def _parts(part: Any) -> Iterator[dict[str, str]]:
    if part is None:
        return
    if isinstance(part, str):
        yield {"text": part}
    elif isinstance(part, Image):
        yield _image(part)
    elif isinstance(part, dict) and isinstance(part.get("text"), str):
        yield {"text": part["text"]}
    elif isinstance(part, dict) and isinstance((part.get("image_url") or {}), dict) and part.get("image_url"):
        yield {"image": str(part["image_url"].get("url", ""))}
    else:
        yield {"text": json.dumps(part, ensure_ascii=False, default=str)}


def _image(part: Image) -> dict[str, str]:
    message: Message = {"role": "user", "content": [part]}
    if not holds_images([message]):
        return {"text": part.name}
    try:
        [made] = loaded([message])
    except Unusable as error:
        return {"text": f"[{error}]"}
    return {"image": str(made["content"][0]["image_url"]["url"])}
