"""The answers of the simulated model: a sum's value, a label, the JSON asked for, else an echo.

Invariant: nothing here is random; every JSON body gets an answer, and the same body always the same answer.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cached_property
from operator import add, mul, sub, truediv
from typing import Any


def answer(body: Mapping[str, Any]) -> str:
    """Answer a chat request; the same body always gets the same answer.

    The last user message is the prompt. The first rule that applies decides:

    1. JSON is asked for, by `response_format` or by a skeleton such as `as JSON: {"answer": <number>}`: an
       object that fits, with the sum's value, a label or an echo in its fields.
    2. Labels are offered (`one of: a, b`, `Labels: ["a", "b"]`, `as positive, negative or neutral`): one of
       them; the sum's value if it is offered, else by a hash of the prompt.
    3. The prompt holds a sum (of 200 characters at most): its value, exact or of ten digits; a division by zero
       is `undefined`. Of several sums the last counts. `10-20` and `24/7`, without spaces, may be a range or a score:
       they count next to a word such as "compute" or `=`, or if there are no words. Dates never count.
    4. An echo: a digest of all messages and the beginning of the prompt.

    Args:
        body: the request's JSON; `messages` is a list of objects.

    Raises:
        RecursionError: the messages are nested too deeply to be written as JSON.
    """
    question = _Question(body)
    wanted = _dict(body.get("response_format"))
    if wanted.get("type") == "json_schema":
        schema = _dict(_dict(wanted.get("json_schema")).get("schema")) or {"type": "object"}
    else:
        bare: dict[str, Any] = {"properties": {"answer": {}}} if wanted.get("type") == "json_object" else {}
        schema = next(filter(None, map(_find_skeleton, question.texts)), bare)
    if schema:
        return json.dumps(_Filler(question, schema).value(schema, "", 0), ensure_ascii=False)
    return question.label or question.result[0] or question.echo


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


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


class _Question:
    """The question of a chat request; each view of it is made when it is first needed."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.prompt = prompt_of(body)
        self._messages = body.get("messages")
        # Instructions come before data: a system message has priority.
        self.texts = list(dict.fromkeys([*map(text_of, _dicts(self._messages)), self.prompt]))

    @cached_property
    def echo(self) -> str:
        whole = json.dumps(self._messages, sort_keys=True)
        return f"Echo {_digest(whole, 6).hex()}: {' '.join(self.prompt.split())[:60]}"

    @cached_property
    def result(self) -> tuple[str, Fraction | None]:
        """The value of the sum as text and as a number; empty if there is no sum, None if its value is not a number."""
        found = _find_sum(self.prompt)
        try:
            number = None if found is None else _evaluate(found)
        except ZeroDivisionError:
            return "undefined", None
        return "" if number is None else _decimal(number), number

    @cached_property
    def label(self) -> str:
        labels = next(filter(None, map(_find_labels, self.texts)), [""])
        return self.result[0] if self.result[0] in labels else labels[self.pick(len(labels), "label")]

    def pick(self, count: int, salt: str) -> int:
        """Choose a number below `count` by a hash that is the same in every process."""
        return int.from_bytes(_digest(f"{salt}\x00{self.prompt}", 8), "big") % count


def _digest(text: str, size: int) -> bytes:
    # A prompt may hold half of a surrogate pair; that is allowed.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


# Sums. A regular expression finds candidates; Python's own parser decides.

_ASCII = str.maketrans("×÷−（）＋－＊／０１２３４５６７８９", "*/-()+-*/0123456789")  # noqa: RUF001 - as typed
_NUMBER = r"[0-9]{1,30}(?:,[0-9]{3}){0,9}(?:\.[0-9]{1,30})?(?![A-Za-z0-9_]|\.[0-9])[ \t)]{0,20}"
# `**` is not a sign here, and `//` is part of addresses; a leading sign apart from its number marks a list item.
_SUM = re.compile(
    r"(?<![A-Za-z0-9_.])(?<![*/^])(?<![*/^] )[-+]?(?:\([ \t]*[-+]?){0,20}"
    rf"(?>{_NUMBER}(?:[-+*/][-+( \t]{{0,20}}{_NUMBER})+)(?![*/^])"
)
_CLOSE = re.compile(r"[^+* \t]*")
_CALCULATE = re.compile(
    r"=|\b(?:calculat|comput|evaluat|solve|work out|how much|what(?: is|'s) [-+(0-9])|计算|求值|等于|多少|\A[\W0-9]*\Z",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"(?:19|20)[0-9]{2}(?:-(?:0[1-9]|1[0-2])|([-/])[0-9]{1,2}\1[0-9]{1,2})"  # a month, a date
    r"|[0-9]{1,2}([-/])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2})"  # a date
    r"|\+?(?:[0-9]{1,4}-)+[0-9]{3}-[0-9]{4}"  # a telephone number
)


def _find_sum(text: str) -> ast.expr | None:
    """Return the last sum that the text asks for."""
    text = text.translate(_ASCII)
    found = [_in_brackets(match[0]) for match in _SUM.finditer(text) if len(match[0]) <= 200]  # bounds the parser too
    found = [source for source in found if not _DATED.fullmatch(source)]
    sure = [source for source in found if not _CLOSE.fullmatch(source)]
    for source in reversed(sure or (found if _CALCULATE.search(text) else [])):
        # Python does not read thousands separators or leading zeros.
        plain = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", source.replace(",", ""))
        with contextlib.suppress(SyntaxError):  # brackets without a partner
            return ast.parse(plain, mode="eval").body
    return None


def _in_brackets(source: str) -> str:
    """Strip the brackets at the ends that have no partner."""
    source = source.strip()
    while source[0] == "(" and source.count("(") > source.count(")"):
        source = source[1:].lstrip()
    while source[-1] == ")" and source.count(")") > source.count("("):
        source = source[:-1].rstrip()
    return source


_SIGNS: dict[type, Callable[..., Fraction]] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: truediv}


def _evaluate(node: ast.AST) -> Fraction:
    """Compute a sum exactly, or raise `ZeroDivisionError`."""
    if isinstance(node, ast.BinOp):
        return _SIGNS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp):
        return _evaluate(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    # `repr` gives the decimal as written; the float itself is only close to it.
    return Fraction(repr(node.value)) if isinstance(node, ast.Constant) else Fraction(0)


def _decimal(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    with localcontext(prec=10):
        return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")


# Labels. A noun announces a list, or a preposition comes before single words.

_NOUN = r"(?:\b(?:one of|labels?|categor(?:y|ies)|class(?:es)?|options?|choices?)\b|类别|标签|选项|之一)"
_ITEM = r"(?:\"[^\"\n]{1,60}\"|'[^'\n]{1,60}'|“[^”\n]{1,60}”|[^\W\d_][\w-]{0,40})"
_COMMA = r"[,，、]"  # noqa: RUF001 - as typed
_ITEMS = rf"{_ITEM}(?:[ \t]*+(?:{_COMMA}|[/|])[ \t]*+{_ITEM}){{0,99}}"
_LAST = rf"[ \t]*+(?:{_COMMA}[ \t]*+)?(?:\bor\b|或者?|[/|])[ \t]*+{_ITEM}"
_BULLET = r"\s*(?:[-*•]|[0-9]{1,3}[.)])"
_LISTS = (
    _NOUN + r"[^\n\[]{0,60}\[([^\[\]]{1,9000})\]",
    _NOUN + rf"[^\n:]{{0,60}}:[ \t]*(\n(?:{_BULLET}[^\n]{{1,80}}(?:\n|\Z)){{2,200}})",
    _NOUN + r"(?:(?!\bor\b|\bas\b)[^\n:.,\[\]]){0,60}:[ \t]*((?:[^\n.;?!:。\[\]]|[?](?=,)){1,5000})",
    rf"(?:\b(?:as|into|either|answer|reply|respond)\b|[为是成])[ \t]*({_ITEMS}{_LAST})",
    rf"\b(?:one of|labels|categories|classes|options)[ \t]+(?:are[ \t]+)?({_ITEMS}(?:{_LAST}|,? and {_ITEM})?)",
)


def _find_labels(text: str) -> list[str]:
    """Return the labels that a text offers, or an empty list."""
    text = text.replace(chr(0xFF1A), ":")  # the colon of Chinese
    matches = (match for pattern in _LISTS for match in re.finditer(pattern, text, re.IGNORECASE))
    return next(filter(None, (_labels(match[1]) for match in matches)), [])


def _labels(listed: str) -> list[str]:
    """Split a list; return nothing unless it holds at least two labels, all of them short."""
    listed = listed.strip()
    if listed[:1] in ("'", '"'):
        parts = [match[2] for match in re.finditer(r"(['\"])(.+?)\1", listed)]
    elif re.match(_BULLET, listed):
        parts = re.split(rf"(?:\A|\n){_BULLET}", listed)
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
_AND_SO_ON = re.compile(r"(?:,\s*+)?(?:\.\.\.|…)\s*+(?=[}\]])")
_KINDS = (
    ("integer", re.compile(r"\b(?:int|integer|count)\b|整数|\A[-0-9 ]+\Z", re.IGNORECASE)),
    ("number", re.compile(r"\b(?:number|float|decimal|double|score)\b|数字?", re.IGNORECASE)),
    ("boolean", re.compile(r"\b(?:bool|boolean|true|false)\b", re.IGNORECASE)),
)


def _find_skeleton(text: str) -> dict[str, Any] | None:
    """Return the first JSON object in a text after the word JSON, or else anywhere, as a schema."""
    asked = text.lower().find("json")
    for part in (text[asked:], text) if asked >= 0 else ():
        shown = _AND_SO_ON.sub("", _BARE.sub(r'\1"<\2>"', part))
        brace = re.search(r"\{\s*+\"", shown)
        with contextlib.suppress(ValueError, RecursionError):  # it is not JSON, or has too many levels
            if brace:
                return _schema_of(json.JSONDecoder().raw_decode(shown, brace.start())[0])
    return None


def _schema_of(shown: object) -> dict[str, Any]:
    """Return the schema of a value in a skeleton."""
    if isinstance(shown, dict):
        return {"properties": {name: _schema_of(value) for name, value in shown.items()}}
    if isinstance(shown, list):
        return {"items": _schema_of(shown[0] if shown else "")}
    if not isinstance(shown, str):
        return {"type": {bool: "boolean", int: "integer", float: "number"}.get(type(shown), "null")}
    inner = shown.strip(" <>")
    kind = next((name for name, pattern in _KINDS if pattern.search(inner)), None)
    # In quotes a kind must be the only word: "number" is a kind, "the number of the house" is a text.
    if kind and (shown.startswith("<") or " " not in inner):
        return {"type": kind}
    options = [option.strip() for option in inner.split("|")]
    return {"enum": options} if len(options) > 1 and all(options) else {"type": "string"}


# Filling a schema.

_DEPTH = 20  # levels, references included: a schema may refer to itself
_NODES = 2_000  # values in one answer, for the same reason
_ASKED = re.compile(r"answer|result|value|output|label|categor|class|sentiment|答案|结果|类别|标签", re.IGNORECASE)


class _Filler:
    """Makes a value that fits a JSON Schema from the answer to a question."""

    def __init__(self, question: _Question, schema: dict[str, Any]) -> None:
        self._question = question
        self._root = schema
        self._left = _NODES

    def value(self, schema: object, name: str, depth: int) -> object:
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            return None
        rules = _dict(schema)
        for key in ("anyOf", "oneOf", "allOf", "$ref"):
            options = self._target(rules[key]) if key == "$ref" and key in rules else _dicts(rules.get(key))
            if options:
                return self.value(options[0], name, depth + 1)
        if "const" in rules:
            return rules["const"]
        if isinstance(rules.get("enum"), list) and rules["enum"]:
            return self._choose(rules["enum"], name)
        return self._of_kind(rules, name, depth)

    def _target(self, reference: object) -> list[dict[str, Any]]:
        found: object = self._root
        for step in str(reference).split("/")[1:]:
            found = _dict(found).get(step)
        return _dicts([found])

    def _of_kind(self, rules: dict[str, Any], name: str, depth: int) -> object:
        question = self._question
        kinds = rules.get("type")
        kind = next((each for each in kinds if each != "null"), "null") if isinstance(kinds, list) else kinds
        if kind == "object" or (kind is None and "properties" in rules):
            properties, required = _dict(rules.get("properties")), rules.get("required")
            names = [*properties, *(required if isinstance(required, list) else [])]
            named = dict.fromkeys(each for each in names if isinstance(each, str))
            return {each: self.value(properties.get(each), each, depth + 1) for each in named}
        if kind == "array" or (kind is None and "items" in rules):
            return [self.value(rules.get("items"), name, depth + 1)]
        if kind in ("integer", "number"):
            return self._some_number(rules, name, whole=kind == "integer")
        if kind in ("boolean", "null"):
            return question.pick(2, name) == 1 if kind == "boolean" else None
        text, number = question.result
        if kind == "string":
            return (_ASKED.search(name) and (question.label or text)) or question.echo
        return question.label or (text if number is None else _number(number)) or question.echo

    def _some_number(self, rules: dict[str, Any], name: str, *, whole: bool) -> int | float:
        low, high = _bound(rules.get("minimum"), -math.inf), _bound(rules.get("maximum"), math.inf)
        number = self._question.result[1]
        if number is not None and low <= number <= high and not (whole and number.denominator > 1):
            return _number(number)
        first = math.ceil(max(low, min(high - 100, 0)))
        return min(first + self._question.pick(max(math.floor(min(high, first + 100)) - first, 0) + 1, name), high)

    def _choose(self, options: list[Any], name: str) -> object:
        wanted = [each for each in (self._question.label, *self._question.result) if each not in ("", None)]
        fitting = [option for option in options if option in wanted] or options
        return fitting[self._question.pick(len(fitting), name)]


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _bound(value: object, default: float) -> float:
    """Return a number of a schema, or the default: Python's JSON also allows NaN."""
    return value if isinstance(value, int | float) and abs(value) < 1e15 else default
