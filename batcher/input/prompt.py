"""Makes the messages of a row from a template or another source of prompts.

Invariant: a source is parsed and checked against the table's columns once; rendering a row then needs no look-up by
name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from batcher.errors import InputError, in_words
from batcher.input.cell import cell
from batcher.input.column_names import column_index
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.records import Message, Values
from batcher.words import as_given, blamed

Renderer = Callable[[Values], list[Message]]
"""Makes the messages of one row from its values."""

PromptFunction = Callable[[dict[str, Any]], "str | Sequence[Mapping[str, Any]]"]
"""A user's function: from a row as a dictionary to a prompt, or to a list of messages."""

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SPLIT = re.compile(r"\S(?= )|[^\W_](?=\n)")
# The text of lists, dictionaries and arrays of Python, or of its objects: [{'role': ..., [HumanMessage(content=...
_PYTHON_TEXT = re.compile(r"\s*(?:(?:array\()?[\[(]*\s*\{\s*'|[\[(]?\s*[A-Za-z_][\w.]*\(\w+=)")
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class Template(NamedTuple):
    """A parsed template: `literals[0] + hole 0 + literals[1] + hole 1 + ... + literals[-1]`."""

    literals: tuple[str, ...]
    holes: tuple[str, ...]
    source: str

    @classmethod
    def parse(cls, text: str, source: str) -> Template:
        """Parse a template with `{column}` holes; `{{` and `}}` stand for braces.

        Args:
            text: the template.
            source: its name in messages, such as `--prompt`.

        Raises:
            InputError: a brace is single, or a hole is empty; the message shows the place.
        """
        literals, holes, end = [""], [], 0
        for piece in _PIECE.finditer(text):
            literals[-1] += text[end : piece.start()]
            end = piece.end()
            found = piece.group()
            if found in {"{{", "}}"}:
                literals[-1] += found[0]
            elif piece.group(1):
                holes.append(piece.group(1))
                literals.append("")
            else:
                raise InputError(_pointed(text, piece.start(), source, found))
        literals[-1] += text[end:]
        return cls(tuple(literals), tuple(holes), source)

    @property
    def parts(self) -> list[tuple[str, str, str]]:
        """Each literal in three parts; the middle one is fixed: no text in a hole changes its model tokens.

        Tokenizers split a text before a space, and before a line break behind a letter or a digit, and no token crosses
        such a place: GPT, Llama 3, Qwen and DeepSeek split by a pattern, SentencePiece at spaces. So what stands
        between two of these places, or between one and the end of the text, is fixed. The rest of a literal belongs to
        the hole beside it.
        """
        parts, last = [], len(self.literals) - 1
        for number, literal in enumerate(self.literals):
            places = [match.end() for match in _SPLIT.finditer(literal)]
            start = 0 if number == 0 else min(places, default=len(literal))
            stop = len(literal) if number == last else max(places, default=0)
            stop = max(start, stop)
            parts.append((literal[:start], literal[start:stop], literal[stop:]))
        return parts

    @property
    def fixed_bytes(self) -> int:
        """The bytes of UTF-8 in the fixed parts of the literals."""
        return sum(len(fixed.encode("utf-8", "surrogatepass")) for _, fixed, _ in self.parts)

    def bind(self, columns: Sequence[str]) -> Callable[[Values], str]:
        """Return the function that fills the holes from a row of these columns.

        Raises:
            InputError: a hole names no column.
        """
        indexes = [column_index(hole, columns, self.source) for hole in self.holes]
        head, *tails = self.literals
        pairs = tuple(zip(indexes, tails, strict=True))

        def fill(values: Values) -> str:
            pieces = [head]
            for index, literal in pairs:
                pieces += (cell(values[index]), literal)
            return "".join(pieces)

        return fill


def _pointed(text: str, at: int, source: str, found: str) -> str:
    """Return the message about a wrong brace, with its line and a caret below it."""
    start = text.rfind("\n", 0, at) + 1
    line_number, column = text.count("\n", 0, at) + 1, at - start + 1
    # A long line is cut to the text around the brace, so that the caret is still below the brace in a terminal.
    before = text[max(start, at - 40) : at]
    after = re.split(r"[\r\n]", text[at : at + 30], maxsplit=1)[0]
    shown = "".join(char if char.isprintable() else " " for char in before + after)
    # A Chinese character is two columns wide in a terminal.
    width = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in before)
    what = "a hole without a column name" if found == "{}" else f"a single {found!r}"
    wide = next((char for char in "｛｝" if char in before + after), "")  # noqa: RUF001 - they are meant
    advice = f"{wide} is a full-width brace: write {{ and }}" if wide else "write {{ or }} for a brace itself"
    return f"{source}, line {line_number}, column {column}: {what}; {advice}\n  {shown}\n  {' ' * width}^"


def from_template(text: str, source: str, columns: Sequence[str]) -> Renderer:
    """Return the renderer of a template: one user message.

    Raises:
        InputError: the template is empty or invalid, or names a missing column.
    """
    if not text.strip():
        raise InputError(f"{source} is empty")
    fill = Template.parse(text, source).bind(columns)
    return lambda values: [{"role": "user", "content": fill(values)}]


def from_column(name: str, columns: Sequence[str]) -> Renderer:
    """Return the renderer of a column's text: one user message."""
    index = column_index(name, columns, blamed("prompt_column"))
    return lambda values: [{"role": "user", "content": cell(values[index])}]


def from_messages_column(name: str, columns: Sequence[str], *, drops_nulls: bool = False) -> Renderer:
    """Return the renderer of a column of messages: JSON, or lists and dictionaries already.

    Args:
        name: of the column.
        columns: of the table.
        drops_nulls: leave out keys without a value in lists and dictionaries: Arrow gives each message all keys of all
            messages. A null in JSON was written by somebody, and stays.
    """
    index = column_index(name, columns, blamed("messages_column"))

    def render(values: Values) -> list[Message]:
        # Other values also go through JSON, so that NumPy arrays, which pandas makes from Parquet, become lists.
        text = cell(values[index])
        if is_too_deep(text):
            raise InputError(f"column {name!r} is not valid JSON: {TOO_DEEP}")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"column {name!r} is not valid JSON: {_json_trouble(text, name, error)}") from error
        if drops_nulls and not isinstance(values[index], str):
            value = _without_nulls(value)
        return checked_messages(value, f"column {name!r}")

    return render


def _json_trouble(text: str, column: str, error: Exception) -> str:
    if not text.strip():
        return "the cell is empty"
    if not _PYTHON_TEXT.match(text):
        return str(error)
    return (
        f"it is a Python literal, with Python's quotes: write the column with json.dumps, as in"
        f" df[{column!r}] = df[{column!r}].map(json.dumps)"
    )


def _without_nulls(value: Any) -> Any:
    """Leave out keys without a value, at any depth; a null content beside tool calls is part of the protocol."""
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if "content" in value and kept.get("tool_calls"):
        kept = {key: kept.get(key) for key in value if key in kept or key == "content"}
    return kept


def from_function(function: PromptFunction, columns: Sequence[str], hidden: str | None = None) -> Renderer:
    """Return the renderer of a user's function, which gets the row as a dictionary, without the `hidden` column."""

    def render(values: Values) -> list[Message]:
        row = dict(zip(columns, values, strict=True))
        asked = function(row if hidden is None else _Without(row, hidden))
        if isinstance(asked, str):
            return [{"role": "user", "content": asked}]
        return checked_messages(asked, "the prompt function's result", "a string or a list of messages")

    return render


class _Without(dict[str, object]):
    """A row without a column that the model must not see."""

    def __init__(self, row: dict[str, object], hidden: str) -> None:
        row.pop(hidden, None)
        super().__init__(row)
        self._hidden = hidden

    def __missing__(self, name: str) -> object:
        if name != self._hidden:
            raise KeyError(name)
        raise InputError(
            f"the prompt function reads column {name!r}, which holds the right answers ({as_given('gold')}): the model"
            " must not see them"
        )


def with_system(render: Renderer, text: str, source: str, columns: Sequence[str]) -> Renderer:
    """Put a system message, itself a template, before the messages of each row."""
    fill = Template.parse(text, source).bind(columns)
    return lambda values: [{"role": "system", "content": fill(values)}, *render(values)]


def failed_on(where: str, error: BaseException) -> InputError:
    """Return the error to raise after an error in making a prompt.

    Args:
        where: the name of the row.
        error: the fault of the row, or the error of the user's function.
    """
    if isinstance(error, InputError):
        return InputError(f"{where}: {error}")
    return InputError(f"the prompt function failed on {where}: {in_words(error)}")


def checked_messages(value: object, source: str, wanted: str = "a list of messages") -> list[Message]:
    """Return a list of messages, or raise if it is not one.

    Raises:
        InputError: it is not a list of objects with a known role and a content, or JSON cannot hold it.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise InputError(f"{source} must be {wanted}, not {value!r:.80}")
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise InputError(f"{source}, message {number}: it needs a role out of {', '.join(_ROLES)}")
        content = message.get("content")
        if not isinstance(content, (str, list)) and not message.get("tool_calls"):
            raise InputError(f"{source}, message {number}: its content must be a text or a list of parts")
    messages = [dict(message) for message in value]
    try:
        text = json.dumps(messages, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{source} cannot be written as JSON: {error}") from error
    if is_too_deep(text):
        raise InputError(f"{source} cannot be written as JSON: {TOO_DEEP}")
    return messages
