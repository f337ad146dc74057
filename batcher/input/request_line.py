"""Reads a line of a requests file: a request in OpenAI's batch format, or the bare body of one.

Invariant: any text has exactly one reading, a question or a fault that says what to mend; reading never raises. The
same text always reads as the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, cast

from batcher.errors import in_words
from batcher.hiding import holds_key, looks_like_key, names_key
from batcher.input.jsonl_file import unique_keys
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.params import PARAMS
from batcher.records import LARGEST_CELL, NO_PARAMS, Message, Question, Task, Terms, Values
from batcher.scalars import without_numpy

COLUMNS = ("line", "custom_id", "metadata", "url", "request")
"""The columns of a requests file as a table; the last one holds a body as JSON, or a broken line as it is."""
ASKED = ("url", "request")
"""Those of them that a question is made of."""

_PLACES = {
    "/chat/completions": Task.CHAT,
    "/completions": Task.COMPLETION,
    "/embeddings": Task.EMBEDDING,
}
NAMES = {Task.CHAT: "messages", Task.COMPLETION: "prompt", Task.EMBEDDING: "input"}
"""The parameter that says what is asked."""
_TASKS = {name: task for task, name in NAMES.items()}
_WRAPPED = ("body", "url", "method")  # a line that has one of them is in batch format
_STREAM = ("stream", "stream_options")
_LONGEST_KEPT = 10_000  # characters of a broken line in its cell
_LONGEST_MODEL = 300  # characters
_OF_ARRAY = "; is the file one array? `jq -c '.[]'` writes each request on a line"
_JSON_NAMES = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


class RequestText(str):
    """The cell of a request: its body as text, with the question that it asks.

    Attributes:
        question: the question; that of a broken line has a fault.
        is_streamed: the body asks for a stream.
    """

    __slots__ = ("is_streamed", "question")

    question: Question
    is_streamed: bool

    @classmethod
    def of(cls, text: str, question: Question, *, is_streamed: bool = False) -> RequestText:
        made = cls(text)
        made.question = question
        made.is_streamed = is_streamed
        return made


class Line(NamedTuple):
    """What a line says.

    Attributes:
        custom_id: the name that the user gave it, or empty.
        metadata: as JSON, or empty.
        url: of the batch format, or empty.
        body: of the request.
    """

    custom_id: str
    metadata: str
    url: str
    body: dict[str, Any]


class _Fault(Exception):
    """A line is no request; the text says why.

    Args:
        why: the text.
        line: its parts, as far as they are known.
    """

    def __init__(self, why: str, line: Line | None = None) -> None:
        super().__init__(why)
        self.line = line


_REQUEST = COLUMNS.index("request")  # the columns of directories may stand behind it


def request_in(values: Values) -> RequestText:
    """Return the request of a row of a requests file."""
    return cast("RequestText", values[_REQUEST])


def question_of(values: Values) -> Question:
    """Return what a row of a requests file asks."""
    return request_in(values).question


def asking_with(params: Mapping[str, Any]) -> Callable[[Values], Question]:
    """Return what makes the question of a row of a requests file.

    Args:
        params: of the run; a line's own win. They become the line's, so that one which a line has itself is no part of
            its question.
    """

    def ask(values: Values) -> Question:
        question = question_of(values)
        if not params or question.fault:
            return question
        terms = question.terms
        return question._replace(terms=terms._replace(params={**params, **terms.params}))

    return ask


def read_line(number: int, text: str, *, noun: str = "line") -> Values:
    """Return the row of a line.

    Args:
        number: of the line, from 1.
        text: of the line.
        noun: what is counted.
    """
    try:
        return _row(number, _line_in(_decoded(text)))
    except _Fault as error:
        return broken(number, text, str(error), error.line, noun=noun)


def broken(number: int, text: str, fault: str, found: Line | None = None, *, noun: str = "line") -> Values:
    """Return the row of a line that is no request.

    Args:
        number: of the line, from 1.
        text: of the line; of a long one the beginning.
        fault: what is wrong with it.
        found: its parts, if it has any.
        noun: what is counted.
    """
    kept, said = text, f"{noun} {number}: {fault}"
    if found and _holds_key(found.body):
        kept = _without_key(found.body)
    elif holds_key(text):
        kept = "(not shown: it looks as if it held an API key)"
    if len(kept) > _LONGEST_KEPT:
        kept = kept[:_LONGEST_KEPT] + "..."
    # The fault is a part of the question: a line that was mended, or is broken in another way, asks something else.
    question = Question([{"role": "line", "content": f"{said}\n{kept}"}], fault=said)
    beside = found or Line("", "", "", {})
    return number, beside.custom_id, beside.metadata, beside.url, RequestText.of(kept, question)


def read_item(number: int, item: object) -> Values:
    """Return the row of a request in memory: a dictionary, or the text of a line.

    Args:
        number: of the item, from 1.
        item: the request.
    """
    if isinstance(item, str):
        return read_line(number, item, noun="item")
    if not isinstance(item, Mapping):
        fault = f"a request is a dictionary, this one is of type {type(item).__name__}"
        return broken(number, "", fault, noun="item")
    try:
        text = json.dumps(dict(item), default=_plain, ensure_ascii=False)
    except Exception as error:  # noqa: BLE001 - a user's own type may raise anything
        return broken(number, "", f"it cannot be written as JSON: {in_words(error)}", noun="item")
    return read_line(number, text, noun="item")


def body_in(asked: object) -> Question | None:
    """Return the question of a request that an older script has sent, from its body; None if it is none."""
    try:
        if not isinstance(asked, dict):
            return None
        row = _row(0, _line_in(asked))
    except _Fault:
        return None
    return question_of(row)


def _plain(value: object) -> object:
    found = without_numpy(value)
    if found is not value:
        return found
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it holds a value of type {type(value).__name__}")


# -- From text to an object


def _decoded(text: str) -> dict[str, Any]:
    """Return the object that a line is.

    Raises:
        _Fault: it is none.
    """
    if len(text) > LARGEST_CELL:
        raise _Fault(f"it has {len(text):,} characters, and a request may have {LARGEST_CELL:,}")
    if is_too_deep(text):
        raise _Fault(TOO_DEEP)
    try:
        found = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
        json.dumps(found, allow_nan=False)  # 1e999 is infinite
    except json.JSONDecodeError as error:
        raise _Fault(f"not JSON: {error.msg} (column {error.colno}){_advice(text, error)}") from None
    except (ValueError, RecursionError) as error:
        raise _Fault(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        kind = _JSON_NAMES.get(type(found), "a number")
        raise _Fault(f"a request is an object, this one is {kind}{_advice_on_list(found)}")
    return found


def _advice(text: str, error: json.JSONDecodeError) -> str:
    if text.lstrip().startswith("{") and error.pos >= len(text.rstrip()):
        return "; it does not end on its line: each line is one request (`jq -c .` writes it on one)"
    if text.strip() == "[":
        return _OF_ARRAY
    return ""


def _advice_on_list(found: object) -> str:
    """Return what to do about a list that holds what may be a request."""
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        return ""
    second = found[1] if len(found) > 1 else None
    if isinstance(second, list) or (isinstance(second, dict) and not {*second} & {"body", *NAMES.values()}):
        return "; if it is a result of an older script, --adopt takes its file"
    return _OF_ARRAY


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


# -- From an object to a question


def _line_in(found: dict[str, Any]) -> Line:
    """Return the parts of a line.

    Raises:
        _Fault: it has no body, or a name that is no text.
    """
    custom_id, said, url = found.get("custom_id"), found.get("metadata"), found.get("url")
    is_named = isinstance(custom_id, str | int | float) and not isinstance(custom_id, bool)
    line = Line(
        str(custom_id) if is_named else "",
        "" if said is None else _text(said),
        url if isinstance(url, str) else "",
        {name: value for name, value in found.items() if name not in {"custom_id", "metadata"}},
    )
    if custom_id is not None and not is_named:
        raise _Fault(f"the custom_id is {_short(custom_id)}, and must be a text", line)
    if not any(name in found for name in _WRAPPED):
        return line
    method = found.get("method")
    if method is not None and (not isinstance(method, str) or method.upper() != "POST"):
        raise _Fault(f"the method is {_short(method)}, and only POST asks a model", line)
    if url is not None and not isinstance(url, str):
        raise _Fault(f"the url is {_short(url)}, and must be a text", line)
    if not isinstance(found.get("body"), dict):
        raise _Fault("it has no body" if found.get("body") is None else "its body is no object", line)
    return line._replace(body=found["body"])


def _row(number: int, line: Line) -> Values:
    """Return the row of a request.

    Raises:
        _Fault: it asks nothing that can be sent.
    """
    body = line.body
    if _holds_key(body):
        raise _Fault("it holds an API key, which is not shown: keys come from the environment or .env", line)
    try:
        task = _task(line.url, body)
        model = _model(body.get("model"))
        asked = _CHECKS[task](body[NAMES[task]])
    except _Fault as fault:
        raise _Fault(str(fault), line) from None
    own = {name: value for name, value in body.items() if name not in {"model", NAMES[task], *_STREAM}}
    text = _text(body)
    if len(text) > LARGEST_CELL:
        raise _Fault(f"its body has {len(text):,} characters, and may have {LARGEST_CELL:,}", line)
    question = Question(asked, Terms(task, model, own or NO_PARAMS))
    cell = RequestText.of(text, question, is_streamed=bool(body.get("stream")))
    return number, line.custom_id, line.metadata, line.url, cell


def _task(url: str, body: Mapping[str, Any]) -> Task:
    """Return what a request asks for: by its URL, or else by its shape.

    Raises:
        _Fault: that is not clear.
    """
    has = [name for name in _TASKS if body.get(name) is not None]
    if len(has) > 1:
        raise _Fault(f"it has both {has[0]} and {has[1]}: a request has one of them")
    if not url:
        if not has:
            raise _Fault("it asks nothing: it has neither messages, nor prompt, nor input")
        return _TASKS[has[0]]
    place = "/" + url.partition("?")[0].partition("#")[0].strip().strip("/")
    task = next((task for ending, task in _PLACES.items() if place.endswith(ending)), None)
    if task is None:
        known = "/v1/chat/completions, /v1/completions and /v1/embeddings"
        raise _Fault(f"the url {_short(url)} is not known: batcher asks {known}")
    if NAMES[task] not in has:
        raise _Fault(f"it has no {NAMES[task]}, and {url} needs them" if task is Task.CHAT else _lacks(task, url))
    return task


def _lacks(task: Task, url: str) -> str:
    return f"it has no {NAMES[task]}, and {url} needs one"


def _model(value: object) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not value.isprintable() or value != value.strip() or len(value) > _LONGEST_MODEL:
        raise _Fault(f"the model is {_short(value)}, and must be the name of one")
    return value


def _messages(value: object) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise _Fault(f"messages must be a list of messages, not {_short(value)}")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            raise _Fault(f"message {number} must be an object with a role")
        if message.get("content") is None and len(message) < 2 + ("content" in message):
            raise _Fault(f"message {number} has no content")
    return value


def _prompt(value: object) -> list[Message]:
    if not _is_asked(value) and value != "":
        raise _Fault(f"prompt must be a text, or a list of texts or of model tokens, not {_short(value)}")
    return [{"role": "user", "content": value}]


def _input(value: object) -> list[Message]:
    if not _is_asked(value):
        raise _Fault(f"input must be a text, or a list of texts or of model tokens, and not empty, not {_short(value)}")
    return [{"role": "user", "content": value}]


_CHECKS = {Task.CHAT: _messages, Task.COMPLETION: _prompt, Task.EMBEDDING: _input}


def _is_asked(value: object) -> bool:
    """Return whether a value is a text, a list of texts, a list of model tokens, or a list of such lists."""
    if isinstance(value, str):
        return bool(value)
    if not isinstance(value, list) or not value:
        return False
    kinds = {*map(type, value)}
    if kinds == {list}:
        return all(each and {*map(type, each)} == {int} for each in value)
    return kinds in ({str}, {int})


# -- Texts


def _text(value: object) -> str:
    """Return a value as JSON that a file in UTF-8 can hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value)
    return text


def _short(value: object) -> str:
    text = _text(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _holds_key(body: Mapping[str, Any]) -> bool:
    return any(_is_key(name, value) for name, value in body.items())


def _is_key(name: str, value: object) -> bool:
    if not isinstance(value, str) or not names_key(name) or name in PARAMS:
        return False
    return "api" in name.lower() or looks_like_key(value)


def _without_key(body: Mapping[str, Any]) -> str:
    return _text({name: "[API key]" if _is_key(name, value) else value for name, value in body.items()})
