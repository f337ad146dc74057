"""The answers of the simulated model: a sum's value, a label, the JSON asked for, else an echo.

Invariant: nothing here is random; every JSON body gets an answer, and the same body always the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from batcher.server.filling import Filler, as_number
from batcher.server.forms import Form, wanted_of
from batcher.server.requests import Tools
from batcher.server.sums import value_of


class Given(NamedTuple):
    """An answer that is not the model's own: it takes the place of labels, of a sum's value, and of an echo.

    Attributes:
        label: the answer.
        labels: choices that hold one of these are choices of labels; the answer counts even if it is not among them.
    """

    label: str
    labels: Collection[str]

    @property
    def number(self) -> Fraction | None:
        """The answer as a number; None if it is not one."""
        with contextlib.suppress(ValueError, ZeroDivisionError):
            return Fraction(self.label)
        return None


def answer(body: Mapping[str, Any], *, is_wrong: bool = False, given: Given | None = None) -> str:
    """Answer a chat request; the same body always gets the same answer.

    The last user message is the prompt. The first rule that applies decides:

    1. A list of choices (`structured_outputs` or `guided_choice`): one of them.
    2. A JSON Schema in `response_format`: a value that fits it. JSON mode, or a prompt that shows what it wants, after
       the words `JSON Schema:`, by a skeleton such as `as JSON: {"answer": <number>}` or `"infer": ?`, or in words
       (`JSON with the key infer`): an object that fits, with the sum's value, a label or an echo in its fields. In JSON
       mode, a prompt that shows nothing gets `{"label": ...}` if it offers labels, else `{"answer": ...}`.
    3. Labels are offered (`one of: a, b`, `Labels: ["a", "b"]`, `as positive, negative or neutral`): one of them.
    4. The prompt holds a sum (of 200 characters at most): its value, exact or of ten digits; a division by zero
       is `undefined`. Of several sums the last counts. `10-20` and `24/7`, without spaces, may be a range or a score:
       they count next to a word such as "compute" or `=`, or if there are no words. Dates never count. `x` may also
       be a size or a variable (see `batcher.server.sums`).
    5. An echo: a digest of all messages and the beginning of the prompt.

    A choice, a label or a value of an `enum` is that of `label_for`; images change it.

    Args:
        body: the request's JSON; `messages` is a list of objects.
        is_wrong: give another label than that, if there is another.
        given: what to answer.

    Raises:
        RecursionError: the messages are nested too deeply to be written as JSON.
    """
    question = _Question(body, is_wrong=is_wrong, given=given)
    wanted = wanted_of(body)
    if wanted.choices:
        return str(question.among(wanted.choices))
    if wanted.form in {Form.STRICT, Form.SCHEMA}:
        schema = dict(wanted.schema) or {"type": "object"}
    else:
        schema = question.shown or (question.bare_object if wanted.form is Form.JSON else {})
    if schema:
        return json.dumps(Filler(question, schema).value(schema), ensure_ascii=False)
    if given:
        return given.label  # it may be empty
    return question.label or question.result[0] or question.echo


def call_of(body: Mapping[str, Any], tools: Tools) -> tuple[str, str] | None:
    """Return the tool that the model calls, and its arguments as JSON; None if it answers with a text.

    It calls a tool whenever it may, unless the last message holds what a tool has returned. Of several tools it calls
    the first that the prompt names, else one that is drawn by the prompt.

    Args:
        body: the request's JSON.
        tools: that it may call.
    """
    if tools.choice == "none" or (tools.choice == "auto" and body["messages"][-1].get("role") in ("tool", "function")):
        return None
    question = _Question(body, is_wrong=False)
    offered = tools.offered
    named = [tool for tool in offered if re.search(rf"(?<!\w){re.escape(tool.name)}(?!\w)", question.prompt)]
    tool = next(iter(named), offered[question.pick(len(offered), "tool")])
    schema = {"type": "object", **tool.parameters}
    return tool.name, json.dumps(Filler(question, schema).value(schema), ensure_ascii=False)


def label_for(prompt: str, labels: Sequence[str]) -> str:
    """Return the right label of a prompt: that which the simulated model gives if it makes no mistake.

    It is the value of the sum in the prompt if that is among the labels, else drawn by a hash of the prompt. The hash
    leaves out a JSON Schema that the prompt shows after the words `JSON Schema:`, the sentence that announces it, a
    last line that asks for `{"label": "..."}`, and white space at the ends: a row has the same label, in whichever form
    its endpoint is asked.

    Args:
        prompt: the text of the request's last user message.
        labels: in their order; at least one.
    """
    return str(_choice(core_of(prompt), labels))


def core_of(prompt: str) -> str:
    """Return a prompt without a JSON Schema in it, the sentence that announces it, and white space at the ends."""
    return _split(prompt)[1]


def prompt_of(body: Mapping[str, Any]) -> str:
    """Return the text of the last user message, or of the last message, or ""."""
    messages = _dicts(body.get("messages"))
    asked = [message for message in messages if message.get("role") == "user"] or messages
    return text_of(asked[-1]) if asked else ""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, whose content is a text or a list of parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def images_of(message: Mapping[str, Any]) -> list[Any]:
    """Return the parts of a message that are images."""
    content = message.get("content")
    return [part for part in _dicts(content) if part.get("type") == "image_url"]


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


class _Question:
    """The question of a chat request; each view of it is made when it is first needed.

    Args:
        body: the request.
        is_wrong: its label shall be a wrong one.
        given: what to answer.
    """

    def __init__(self, body: Mapping[str, Any], *, is_wrong: bool, given: Given | None = None) -> None:
        self.prompt = prompt_of(body)
        self._messages = body.get("messages")
        self._is_wrong = is_wrong
        self._given = given
        images = [image for message in _dicts(self._messages) for image in images_of(message)]
        self._seen = f"\0{_digest(json.dumps(images, sort_keys=True), 8).hex()}" if images else ""
        # Instructions come before data: a system message has priority.
        self.texts = list(dict.fromkeys([*map(text_of, _dicts(self._messages)), self.prompt]))

    @cached_property
    def echo(self) -> str:
        whole = json.dumps(self._messages, sort_keys=True)
        return f"Echo {_digest(whole, 6).hex()}: {' '.join(self.prompt.split())[:60]}"

    @cached_property
    def _parts(self) -> dict[str, tuple[dict[str, Any] | None, str]]:
        """The schema that each text shows, if it does, and the text without it."""
        return {text: _split(text) for text in self.texts}

    @cached_property
    def _core(self) -> str:
        return self._parts[self.prompt][1]

    @cached_property
    def result(self) -> tuple[str, Fraction | None]:
        """The value of the sum as text and as a number; empty if there is no sum, None if its value is not a number."""
        return (self._given.label, self._given.number) if self._given else value_of(self._core)

    @cached_property
    def label(self) -> str:
        if self._given:
            return self._given.label
        labels = next(filter(None, (_find_labels(core) for _, core in self._parts.values())), [])
        return str(self.among(labels)) if labels else ""

    @cached_property
    def shown(self) -> dict[str, Any]:
        """The schema that a text shows, as it is or by a skeleton; empty if none does."""
        schemas = (schema for schema, _ in self._parts.values())
        return next(filter(None, schemas), None) or next(filter(None, map(_find_skeleton, self.texts)), None) or {}

    @property
    def bare_object(self) -> dict[str, Any]:
        """The schema of an answer in JSON mode to a prompt that shows none."""
        return {"properties": {"label" if self.label else "answer": {}}}

    def among(self, options: Sequence[Any]) -> Any:
        """Choose the given one of several options, else the right one, or a wrong one."""
        if self._given and any(str(option) in self._given.labels for option in options):
            return next((option for option in options if str(option) == self._given.label), self._given.label)
        right = _choice(self._core, options, self._seen)
        others = [option for option in options if option != right]
        return others[self.pick(len(others), "wrong")] if self._is_wrong and others else right

    def pick(self, count: int, salt: str) -> int:
        return _pick(self._core + self._seen, count, salt)


def _choice(core: str, options: Sequence[Any], seen: str = "") -> Any:
    text, number = value_of(core)
    plain = None if number is None else as_number(number)
    for option in options:
        if (text and option == text) or (plain is not None and option == plain and not isinstance(option, bool)):
            return option
    return options[_pick(core + seen, len(options), "label")]


def _pick(core: str, count: int, salt: str) -> int:
    """Choose a number below `count` by a hash that is the same in every process."""
    return int.from_bytes(_digest(f"{salt}\x00{core}", 8), "big") % count


# A schema in the prompt.

_SHOWN = re.compile(r"JSON[ -]Schema:\s*(?:```(?:json)?\s*)?(?=\{)", re.IGNORECASE)
_AS_OBJECT = re.compile(r'\n[^\n]*\{"label": "\.\.\."\}\s*\Z')
_SENTENCE = re.compile(r"[.!?](?=\s)|[。！？\n]")  # noqa: RUF001 - as typed


def _split(text: str) -> tuple[dict[str, Any] | None, str]:
    """Return the last schema that a text shows, and the text without it and without the sentence before it."""
    for match in reversed(list(_SHOWN.finditer(text))):
        with contextlib.suppress(ValueError, RecursionError):  # it is not JSON, or has too many levels
            schema, end = json.JSONDecoder().raw_decode(text, match.end())
            ends = [found.end() for found in _SENTENCE.finditer(text, 0, match.start())]
            before, after = text[: max(ends, default=0)], re.sub(r"\A\s*```", "", text[end:])
            return schema, f"{before}{after}".strip()
    return None, _AS_OBJECT.sub("", text).strip()


def _digest(text: str, size: int) -> bytes:
    # A prompt may hold half of a surrogate pair; that is allowed.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


# Labels. A noun announces a list, or a preposition comes before single words.

_NOUN = r"(?:\b(?:one of|labels?|categor(?:y|ies)|class(?:es)?|options?|choices?)\b|类别|标签|选项|之一)"
_ITEM = r"(?:\"[^\"\n]{1,60}\"|'[^'\n]{1,60}'|“[^”\n]{1,60}”|[^\W\d_][\w-]{0,40})"
_COMMA = r"[,，、]"  # noqa: RUF001 - as typed
_ITEMS = rf"{_ITEM}(?:[ \t]*+(?:{_COMMA}|[/|])[ \t]*+{_ITEM}){{0,99}}"
_LAST = rf"[ \t]*+(?:{_COMMA}[ \t]*+)?(?:\bor\b|或者?|[/|])[ \t]*+{_ITEM}"
_BULLET = r"\s*(?:[-*•]|[0-9]{1,3}[.)])"
_LISTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        _NOUN + r"[^\n\[]{0,60}\[([^\[\]]{1,9000})\]",
        _NOUN + rf"[^\n:]{{0,60}}:[ \t]*(\n(?:{_BULLET}[^\n]{{1,400}}(?:\n|\Z)){{2,200}})",
        _NOUN + r"(?:(?!\bor\b|\bas\b)[^\n:.,\[\]]){0,60}:[ \t]*((?:[^\n.;?!:。\[\]]|[?](?=,)){1,5000})",
        rf"(?:\b(?:as|into|either|answer|reply|respond)\b|[为是成])[ \t]*({_ITEMS}{_LAST})",
        rf"\b(?:one of|labels|categories|classes|options)[ \t]+(?:are[ \t]+)?({_ITEMS}(?:{_LAST}|,? and {_ITEM})?)",
    )
)


def _find_labels(text: str) -> list[str]:
    """Return the labels that a text offers, or an empty list."""
    text = text.replace(chr(0xFF1A), ":")  # the colon of Chinese
    matches = (match for pattern in _LISTS for match in pattern.finditer(text))
    return next(filter(None, (_labels(match[1]) for match in matches)), [])


def _labels(listed: str) -> list[str]:
    """Split a list; return nothing unless it holds at least two labels, all of them short."""
    listed = listed.strip()
    with contextlib.suppress(ValueError, RecursionError):
        exact = json.loads(f"[{listed}]")
        if len(exact) > 1 and all(isinstance(label, str) and label for label in exact):
            return list(dict.fromkeys(exact))
    if listed[:1] in ("'", '"'):
        parts = [match[2] for match in re.finditer(r"(['\"])(.+?)\1", listed)]
    elif re.match(_BULLET, listed):
        # Of "- a: what it means" the label is "a".
        parts = [re.split(r":\s|\s[-–—]\s", part)[0] for part in re.split(rf"(?:\A|\n){_BULLET}", listed)]  # noqa: RUF001 - as typed
    else:
        parts = next((parts for by in (_COMMA, "[|]", "/") if len(parts := re.split(by, listed)) > 1), [listed])
        parts[-1:] = re.split(r"(?:^|\s)(?:or|and)\s|或者?", parts[-1])
    found = list(dict.fromkeys(filter(None, (part.strip(" \t\r\n,.*\"'`“”") for part in parts))))
    # More than five words are prose, not a label.
    return found if len(found) > 1 and all(len(label) <= 60 and len(label.split()) <= 5 for label in found) else []


# Skeletons. `{"answer": <number>, "why": "..."}` is turned into JSON, and that into a schema: one filler serves both.

_BARE = re.compile(
    r"(\"\s*+:\s*+(?:\[\s*+)?)(?!(?:true|false|null|-?[0-9]+(?:\.[0-9]+)?)\s*+[,}\]])"
    r"(<[^<>\"\n]*>|[^\s\"{\[][^,{}\[\]\"\n]*)"
)
# Texts in single quotes, as Python writes them: those before a colon and behind one.
_SINGLE = re.compile(r"([{,]\s*+|:\s*+)'([^'\"\n]{0,60})'(\s*+[:,}])")
_AND_SO_ON = re.compile(r"(?:,\s*+)?(?:\.\.\.|…)\s*+(?=[}\]])")
_KINDS = (
    ("integer", re.compile(r"\b(?:int|integer|count)\b|整数|\A[-0-9 ]+\Z", re.IGNORECASE)),
    ("number", re.compile(r"\b(?:number|float|decimal|double|score)\b|数字?", re.IGNORECASE)),
    ("boolean", re.compile(r"\b(?:bool|boolean|true|false)\b", re.IGNORECASE)),
)


# A field whose value is a question mark, with or without braces around, whatever the quotes.
_ASKED_FIELD = re.compile(r"[\"'“‘`]([^\"'“”‘’`\n]{1,60})[\"'”’`]\s{0,9}[:：]\s{0,9}[<\"'“]?[?？]")  # noqa: RUF001 - as typed
_ASKED_NAME = re.compile(r"(?<![\w\"'])([A-Za-z_]\w{0,40})\s{0,9}[:：]\s{0,9}[?？]")  # noqa: RUF001 - as typed
_QUOTED = r"[\"'“‘「`]([^\"'“”‘’「」`\n]{1,40})[\"'”’」`]"  # noqa: RUF001 - as typed
_PLAIN = r"(?<![A-Za-z0-9_])(?!json)([A-Za-z_][A-Za-z0-9_-]{0,40})"
_IS = r"\s{0,3}(?::|：|=|named|called|is|must be|should be|为|是|叫)\s{0,3}"  # noqa: RUF001 - as typed
_IS_ZH = r"名?\s{0,3}(?:应?为|是|叫|:|：)?\s{0,3}"  # noqa: RUF001 - as typed
_BESIDE = 120  # characters from the word JSON to those of a key
_KEY_IN_WORDS = re.compile(
    rf"(?:键|字段|属性){_IS_ZH}(?:{_QUOTED}|{_PLAIN})"
    rf"|(?:{_QUOTED}|{_PLAIN})\s{{0,3}}(?:键|字段|属性)"
    rf"|(?:其中|包含|含有)(?:一个)?\s{{0,3}}(?:{_QUOTED}|{_PLAIN})"
    rf"|[以用]\s{{0,3}}(?:{_QUOTED}|{_PLAIN})\s{{0,3}}[为作]\s{{0,3}}(?:键|字段|属性|key)"
    rf"|\bwith (?:the |a |one |only |single ){{0,3}}(?:key|field) (?:named |called )?(?:{_QUOTED}|{_PLAIN})"
    rf"|\b(?:key|field)(?:{_IS}(?:{_QUOTED}|{_PLAIN})|\s{{0,3}}{_QUOTED})"
    rf"|(?:{_QUOTED}|\b{_PLAIN}) as (?:the|its|a) (?:only )?(?:key|field)\b",
    re.IGNORECASE,
)


def _find_skeleton(text: str) -> dict[str, Any] | None:
    """Return the JSON that a text shows or describes as a schema.

    It is the first object after the word JSON, or else anywhere; fields of the form `"infer": ?`; or one field whose
    key stands in the words around, as in `JSON with the key infer`.
    """
    asked = text.lower().find("json")
    for part in (text[asked:], text) if asked >= 0 else ():
        shown = _AND_SO_ON.sub("", _BARE.sub(r'\1"<\2>"', _SINGLE.sub(r'\1"\2"\3', part)))
        brace = re.search(r"\{\s*+\"", shown)
        with contextlib.suppress(ValueError, RecursionError):  # it is not JSON, or has too many levels
            if brace:
                return _of_skeleton(json.JSONDecoder().raw_decode(shown, brace.start())[0])
    names = _ASKED_FIELD.findall(text) if "?" in text or "？" in text else []  # noqa: RUF001 - as typed
    if not names and asked >= 0:
        described = _KEY_IN_WORDS.search(text, max(asked - _BESIDE, 0), asked + _BESIDE)
        names = [next(filter(None, described.groups()))] if described else _ASKED_NAME.findall(text)
    return {"properties": {name: {} for name in names}} if names else None


def _of_skeleton(shown: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a skeleton; its only field holds the answer, whatever it is called."""
    schema = _schema_of(shown)
    for name, value in shown.items() if len(shown) == 1 else ():
        if schema["properties"][name] == {"type": "string"}:
            schema["properties"][name] = {} if value.startswith("<") else {"type": "string", "title": "answer"}
    return schema


def _schema_of(shown: object) -> dict[str, Any]:
    """Return the schema of a value in a skeleton."""
    if isinstance(shown, dict):
        return {"properties": {name: _schema_of(value) for name, value in shown.items()}}
    if isinstance(shown, list):
        return {"items": _schema_of(shown[0] if shown else "")}
    if not isinstance(shown, str):
        return {"type": {bool: "boolean", int: "integer", float: "number"}.get(type(shown), "null")}
    inner = shown.strip(" <>")
    if inner in ("?", "？"):  # noqa: RUF001 - as typed
        return {}
    kind = next((name for name, pattern in _KINDS if pattern.search(inner)), None)
    # In quotes a kind must be the only word: "number" is a kind, "the number of the house" is a text.
    if kind and (shown.startswith("<") or " " not in inner):
        return {"type": kind}
    options = [option.strip() for option in inner.split("|")]
    return {"enum": options} if len(options) > 1 and all(options) else {"type": "string"}
