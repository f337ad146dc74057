"""The simulated model: what it answers, how badly it behaves, and the accounts that its server keeps.

Invariant: nothing here is random or decides by a clock. The same request gets the same answer; the same seed,
prompt and try get the same fate, so that a run against the simulator can be repeated.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import time
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# --- how the server behaves ---


@dataclass(frozen=True)
class Knobs:
    """How the simulator behaves. Every default is "off": it answers at once, always, and to anybody.

    Attributes:
        latency: seconds until an answer; the median where `latency_sigma` is not 0.
        latency_sigma: 0 for a fixed latency, else the sigma of a log-normal one.
        rpm: requests a minute that are let through, of all keys together; those beyond it get 429 and
            `Retry-After`. 0 is no limit.
        error_rate: share of the requests let through that are answered 500.
        drop_rate: share of them whose connection is cut without a response.
        hang_rate: share of them that are never answered.
        keys: the API keys that are accepted, empty for any; others get 401.
        model: the only model served, empty for any; others get 404.
        seed: draws other faults and latencies.

    Raises:
        SettingsError: a knob is out of its range.
    """

    latency: float = 0.0
    latency_sigma: float = 0.0
    rpm: float = 0.0
    error_rate: float = 0.0
    drop_rate: float = 0.0
    hang_rate: float = 0.0
    keys: tuple[str, ...] = field(default=(), repr=False)
    model: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latency", "latency_sigma", "rpm"):
            _require(_is_number(getattr(self, name)) and getattr(self, name) >= 0, name, "a number, 0 or more")
        rates = ("error_rate", "drop_rate", "hang_rate")
        for name in rates:
            _require(_is_number(getattr(self, name)) and 0 <= getattr(self, name) <= 1, name, "a share from 0 to 1")
        # A millionth of slack: 0.1 + 0.2 + 0.7 is a little more than 1 in binary.
        fits = sum(getattr(self, name) for name in rates) <= 1 + 1e-6
        _require(fits, " + ".join(rates), "1 at most, since a request has one fate: lower one of them")
        keys_fit = isinstance(self.keys, tuple) and all(isinstance(key, str) and key for key in self.keys)
        _require(keys_fit, "keys", "a tuple of API keys that are not empty")
        _require(isinstance(self.model, str), "model", "a model's name, or empty for any")
        _require(isinstance(self.seed, int), "seed", "a whole number")


def _require(fits: bool, name: str, what: str) -> None:
    if not fits:
        raise SettingsError(f"simulator: {name} must be {what}")


def _is_number(value: object) -> bool:
    # Beyond 1e300 an integer can leave the range of floats, and NaN is in no range at all.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


class Fate(StrEnum):
    """What becomes of a request that was let through."""

    ANSWER = "answer"
    ERROR = "error"
    DROP = "drop"
    HANG = "hang"


def draw(knobs: Knobs, prompt: str, turn: int) -> tuple[Fate, float]:
    """Draw a request's fate, and its latency in seconds, from the seed.

    Args:
        knobs: the shares, the latency and the seed.
        prompt: the text asked.
        turn: how many times this prompt had been let through before, so that a retry draws anew.
    """
    fate = Fate.ANSWER
    if knobs.error_rate or knobs.drop_rate or knobs.hang_rate:
        left = _unit("fate", knobs.seed, prompt, turn)
        shares = ((Fate.HANG, knobs.hang_rate), (Fate.DROP, knobs.drop_rate), (Fate.ERROR, knobs.error_rate))
        for candidate, share in shares:
            left -= share
            if left < 0:
                fate = candidate
                break
    latency = knobs.latency
    if latency and knobs.latency_sigma:
        z = NormalDist().inv_cdf(_unit("latency", knobs.seed, prompt, turn))
        latency *= math.exp(min(knobs.latency_sigma * z, 100.0))  # 100: exp overflows at 710
    return fate, latency


def _unit(*parts: object) -> float:
    """Hash the parts to a number between 0 and 1, both excluded."""
    return (_hash("\x00".join(map(str, parts))) % 2**52 + 0.5) / 2**52


def _hash(text: str) -> int:
    """Hash a text the same way in every process, which Python's `hash` does not."""
    return int.from_bytes(_digest(text, 8), "big")


def _digest(text: str, size: int) -> bytes:
    # A prompt may hold half of a surrogate pair; it is a prompt like any other.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


# --- what the server saw ---

SECONDS_KEPT = 3_600


class Books:
    """The server's own accounts, against which a client's can be checked.

    Only the server writes them. Each request ends exactly once: when none is in flight, `requests` equals
    `sum(by_status.values()) + dropped + hung + abandoned`.

    Attributes:
        requests: chat requests that arrived.
        answered: those that were answered 200.
        requests_by_prompt, answered_by_prompt: the same by the text of the last user message.
        by_key: requests by a digest of the API key (`none` without one).
        by_status: responses by HTTP status.
        in_flight, peak_in_flight: requests without an end now, and at most.
        dropped: connections cut without a response.
        hung: requests that were never answered.
        abandoned: requests whose client left before the answer.
        first_request, last_request: Unix times in seconds, None before the first.
        per_second: requests in each of the last seconds (3,600 at most); the first one kept is second
            `per_second_start` since the first request.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything but how many requests are in flight; those end in the new accounts."""
        self.requests = 0
        self.answered = 0
        self.requests_by_prompt: dict[str, int] = {}
        self.answered_by_prompt: dict[str, int] = {}
        self.by_key: dict[str, int] = {}
        self.by_status: dict[int, int] = {}
        self.in_flight: int = getattr(self, "in_flight", 0)
        self.peak_in_flight: int = self.in_flight
        self.dropped = 0
        self.hung = 0
        self.abandoned = 0
        self.first_request: float | None = None
        self.last_request: float | None = None
        self.per_second: deque[int] = deque(maxlen=SECONDS_KEPT)
        self.per_second_start = 0
        self._admitted: dict[str, int] = {}

    def arrive(self, prompt: str | None, key: str) -> None:
        """Write down a request: its prompt, if it has one, and its API key, of which a digest is kept."""
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if prompt is not None:
            _add(self.requests_by_prompt, prompt)
        _add(self.by_key, hashlib.sha256(key.encode()).hexdigest()[:12] if key else "none")
        self._tick()

    def admit(self, prompt: str) -> int:
        """Write down that a request was let through; return how many of its prompt were before."""
        # Refusals are left out: their number depends on timing, and the fates would with it.
        turn = self._admitted.get(prompt, 0)
        self._admitted[prompt] = turn + 1
        return turn

    def respond(self, status: int, prompt: str | None = None) -> None:
        """Write down a response; with its prompt if it is the answer."""
        self.in_flight -= 1
        _add(self.by_status, status)
        if prompt is not None:
            self.answered += 1
            _add(self.answered_by_prompt, prompt)

    def drop(self) -> None:
        """Write down a connection that was cut."""
        self.in_flight -= 1
        self.dropped += 1

    def hang(self) -> None:
        """Write down a request that will not be answered; it is in flight until `let_go`."""
        self.hung += 1

    def let_go(self) -> None:
        """Write down that the client of a hung request has left."""
        self.in_flight -= 1

    def abandon(self) -> None:
        """Write down that a client left before its answer."""
        self.in_flight -= 1
        self.abandoned += 1

    def _tick(self) -> None:
        now = self._clock()
        if self.first_request is None:
            self.first_request = now
        self.last_request = now
        second = max(int(now - self.first_request), self.per_second_start)
        behind = second - (self.per_second_start + len(self.per_second) - 1)
        if behind > 0:
            kept = len(self.per_second)
            self.per_second.extend([0] * min(behind, SECONDS_KEPT))
            self.per_second_start += max(kept + behind - SECONDS_KEPT, 0)
        # A clock that was set back counts into an earlier second.
        self.per_second[second - self.per_second_start] += 1

    def to_dict(self) -> dict[str, Any]:
        """Copy the accounts into a dictionary that JSON can hold; safe to call from another thread."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "dropped": self.dropped,
            "hung": self.hung,
            "abandoned": self.abandoned,
            "by_status": {str(status): count for status, count in list(self.by_status.items())},
            "by_key": dict(self.by_key),
            "requests_by_prompt": dict(self.requests_by_prompt),
            "answered_by_prompt": dict(self.answered_by_prompt),
            "per_second": list(self.per_second),
            "per_second_start": self.per_second_start,
            "first_request": self.first_request,
            "last_request": self.last_request,
        }


def _add(counts: dict[Any, int], name: str | int) -> None:
    counts[name] = counts.get(name, 0) + 1


# --- what it answers ---


def answer(body: Mapping[str, Any]) -> str:
    """Answer a chat request; the same body always gets the same answer.

    The last user message is the prompt. The first rule that fits decides:

    1. JSON is asked for, by `response_format` or by a skeleton such as `as JSON: {"answer": <number>}`: an
       object that fits, with the sum's value, a label or an echo in its fields.
    2. Labels are offered (`one of: a, b`, `Labels: ["a", "b"]`, `as positive, negative or neutral`): one of
       them; the sum's value if it is offered, else by a hash of the prompt.
    3. The prompt holds a sum (of 200 characters at most): its value. Integers stay integers, others are
       decimals of ten digits; a division by zero is `undefined`. Of several sums the last one counts. `10-20` and `24/7`, written
       close, may be a range or a score: they count only beside a word such as "compute" or `=`, or with
       nothing else in the prompt. What looks like a date or a telephone number counts only in the last case.
    4. An echo: a digest of all messages and the beginning of the prompt.

    Args:
        body: the request's JSON; `messages` is a list of objects.
    """
    question = _Question(body)
    schema = _schema(body) or question.skeleton(wanted=_format(body) == "json_object")
    if schema is not None:
        return json.dumps(_Filler(question).fill(schema), ensure_ascii=False)
    return question.label or question.number_text or question.echo


def prompt_of(body: Mapping[str, Any]) -> str:
    """Return the text of the last user message, or of the last message, or nothing."""
    messages = _dicts(body.get("messages"))
    asked = [message for message in messages if message.get("role") == "user"] or messages
    return text_of(asked[-1]) if asked else ""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, whose content is a text or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _format(body: Mapping[str, Any]) -> object:
    wanted = body.get("response_format")
    return wanted.get("type") if isinstance(wanted, dict) else None


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    if _format(body) != "json_schema":
        return None
    wrapper = body["response_format"].get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    return schema if isinstance(schema, dict) and schema else {"type": "object"}


class _Question:
    """What a chat request asks, each view of it made when it is first needed."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.prompt = prompt_of(body)
        self._messages = body.get("messages")
        others = (text_of(message) for message in _dicts(self._messages))
        # Instructions stand before data: what a system message asks for comes first.
        self._texts = list(dict.fromkeys([*others, self.prompt]))

    @cached_property
    def echo(self) -> str:
        whole = json.dumps(self._messages, sort_keys=True)
        return f"Echo {_digest(whole, 6).hex()}: {' '.join(self.prompt.split())[:60]}"

    @cached_property
    def number(self) -> Fraction | None:
        """The value of the sum; None where there is none, or a division by zero."""
        return self._sum[1]

    @cached_property
    def number_text(self) -> str:
        return self._sum[0]

    @cached_property
    def _sum(self) -> tuple[str, Fraction | None]:
        source = _find_sum(self.prompt)
        if source is None:
            return "", None
        try:
            value = _evaluate(ast.parse(source, mode="eval").body)
        except ZeroDivisionError:
            return "undefined", None
        return _decimal(value), value

    @cached_property
    def label(self) -> str:
        for text in self._texts:
            labels = _find_labels(text)
            if labels:
                return self.number_text if self.number_text in labels else labels[self.pick(len(labels), "label")]
        return ""

    def skeleton(self, *, wanted: bool) -> dict[str, Any] | None:
        """Return the JSON object that the messages show, as a schema; a bare one if any is `wanted`."""
        if wanted or any("json" in text.lower() for text in self._texts):
            for text in self._texts:
                schema = _find_skeleton(text)
                if schema is not None:
                    return schema
        return {"type": "object", "properties": {"answer": {}}} if wanted else None

    def pick(self, count: int, salt: str) -> int:
        return _hash(f"{salt}\x00{self.prompt}") % count


# Sums. A run of digits, signs and blanks is cut into pieces that follow the grammar of a sum.

_ASCII = str.maketrans("×÷−（）＋－＊／０１２３４５６７８９", "*/-()+-*/0123456789")  # noqa: RUF001 - as typed
_RUN = re.compile(r"[-+*/(0-9][-+*/()0-9., \t]*")
_LEXEME = re.compile(
    r"(?P<number>(?<![A-Za-z0-9_.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?![A-Za-z0-9_]|\.[0-9]))"
    r"|(?P<sign>[-+*/()])|(?P<blank>[ \t]+)|(?P<other>.)",
    re.DOTALL,
)
_SUM_LENGTH = 200  # characters; also bounds the depth of the parser and the size of the value
_NUMBER_LENGTH = 30
_CALCULATE = re.compile(
    r"=|\b(?:calculat|comput|evaluat|solve|simplif|add|subtract|multipl|divi|arithmetic|result|equal)"
    r"|\bhow much|\bwhat(?: is|'s)\s+(?=[-+(0-9])|计算|求值|等于|多少",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"[0-9]{4}([-/])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2})"  # dates
    r"|[0-9]{4}-[0-9]{2}|\+?(?:[0-9]{1,4}-)*[0-9]{3}-[0-9]{4}"  # a month, a telephone number
)


class _Lexeme(NamedTuple):
    text: str
    start: int
    end: int

    @property
    def is_number(self) -> bool:
        return self.text[0].isdigit()

    @property
    def source(self) -> str:
        """The lexeme as Python reads it: no separators of thousands, no zeros in front."""
        if not self.is_number:
            return self.text
        whole, dot, rest = self.text.replace(",", "").partition(".")
        return (whole.lstrip("0") or "0") + dot + rest


_Piece = list[_Lexeme]


def _find_sum(text: str) -> str | None:
    """Return the sum that the text asks for, as Python source."""
    text = text.translate(_ASCII)
    best: _Piece | None = None
    best_rank = 0
    for piece in _pieces(text):
        rank = _rank(piece, text)
        if rank and rank >= best_rank:
            best, best_rank = piece, rank
    return None if best is None else " ".join(lexeme.source for lexeme in best)


def _rank(piece: _Piece, text: str) -> int:
    """Rank how sure it is that a piece is meant as a sum: 2 sure, 1 beside the right words, 0 not."""
    start, end = piece[0].start, piece[-1].end
    # Far from the ends of a long text nothing is looked for: there is something else in it, surely.
    far = start > _SUM_LENGTH or len(text) - end > _SUM_LENGTH
    alone = not far and not re.search(r"\w", text[:start] + text[end:])
    dated = _DATED.fullmatch(text, start, end) is not None
    signs = [sign for before, sign in pairwise(piece) if sign.text in "+-*/" and before.text not in "+-*/("]
    plain = any(
        sign.text in "+*" or text[sign.start - 1].isspace() or text[sign.end : sign.end + 1].isspace() for sign in signs
    )
    if alone or (plain and not dated):
        return 2
    return int(not dated and _CALCULATE.search(text) is not None)


def _pieces(text: str) -> Iterator[_Piece]:
    """Cut a text into what reads like a sum: two numbers at least, signs between, brackets in pairs."""
    for run in _RUN.finditer(text):
        # `**` is no sign here, and `//` stands in addresses.
        if run.end() - run.start() <= _SUM_LENGTH and not re.search(r"\*\s*\*|/\s*/", run[0]):
            for piece in _grammatical(_lexemes(text, run.start(), run.end())):
                for part in _balanced(piece):
                    if sum(lexeme.is_number for lexeme in part) > 1:
                        yield part


def _lexemes(text: str, start: int, end: int) -> Iterator[_Lexeme]:
    # No end is given to `finditer`: a number must be seen to touch the letter behind it.
    for match in _LEXEME.finditer(text, start):
        if match.start() >= end:
            return
        if match.lastgroup != "blank":
            yield _Lexeme(match[0], match.start(), match.end())


def _grammatical(lexemes: Iterable[_Lexeme]) -> Iterator[_Piece]:
    """Cut wherever two lexemes cannot stand side by side."""
    piece: _Piece = []
    for lexeme in lexemes:
        after_operand = bool(piece) and (piece[-1].is_number or piece[-1].text == ")")
        if lexeme.is_number or lexeme.text == "(":
            fits = not after_operand
        else:
            fits = lexeme.text in "+-" or (after_operand and lexeme.text in "*/)")
        if not fits:
            yield piece
            piece = []
        if (fits or lexeme.is_number or lexeme.text == "(") and len(lexeme.text) <= _NUMBER_LENGTH:
            piece.append(lexeme)
    yield piece


def _balanced(piece: _Piece) -> Iterator[_Piece]:
    """Cut at brackets without a partner, and trim what a sum cannot begin or end with."""
    opened: list[int] = []
    cuts = [-1, len(piece)]
    for at, lexeme in enumerate(piece):
        if lexeme.text == "(":
            opened.append(at)
        elif lexeme.text == ")":
            if opened:
                opened.pop()
            else:
                cuts.append(at)
    for left, right in pairwise(sorted(cuts + opened)):
        part = piece[left + 1 : right]
        while part and part[-1].text in "+-*/":
            part.pop()
        while part and (part[0].text in "*/" or _is_bullet(part)):
            part.pop(0)
        yield part


def _is_bullet(part: _Piece) -> bool:
    """Whether the piece begins with a sign that stands apart, as before the items of a list."""
    return part[0].text in "+-" and part[1].start > part[0].end


def _evaluate(node: ast.AST) -> Fraction:
    """Compute a sum exactly; only numbers and the four operations are known.

    Raises:
        ZeroDivisionError: it divides by zero.
    """
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        return left * right if isinstance(node.op, ast.Mult) else left / right
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    # `repr` gives the decimal that was written; the float itself is only near it.
    return Fraction(repr(node.value)) if isinstance(node, ast.Constant) else Fraction(0)


def _decimal(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    with localcontext() as context:
        context.prec = 10
        quotient = Decimal(value.numerator) / Decimal(value.denominator)
        return format(quotient.normalize(), "f")


# Labels. A noun announces a list, or a preposition stands before single words.

_NOUN = r"(?:\b(?:one of|labels?|categor(?:y|ies)|class(?:es)?|options?|choices?)\b|类别|标签|选项|之一)"
_GAP = r"(?:(?!\bor\b|\bas\b)[^\n:：.,\[\]]){0,60}"  # noqa: RUF001 - what stands there is no list itself
_BRACKETED = re.compile(_NOUN + r"[^\n\[\]]{0,60}\[([^\[\]]{1,2000})\]", re.IGNORECASE)
_ITEMISED = re.compile(
    _NOUN + r"[^\n:：]{0,60}[:：][ \t]*\n((?:[ \t]*(?:[-*•]|[0-9]{1,2}[.)])[ \t]*[^\n]{1,60}(?:\n|$)){2,50})",  # noqa: RUF001
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    _NOUN + _GAP + r"[:：][ \t]*([^\n;?!:。；？！：\[\]]{1,1000})",  # noqa: RUF001
    re.IGNORECASE,
)
_WORD = r"(?:\"[^\"\n]{1,60}\"|'[^'\n]{1,60}'|“[^”\n]{1,60}”|[^\W\d_][\w-]{0,40})"
_SEPARATED = rf"(?:{_WORD}[ \t]*[,，、|/][ \t]*){{0,50}}{_WORD}[ \t]*"  # noqa: RUF001
_WORDED = (
    re.compile(
        r"(?:\b(?:as|into|either|with|one of|answer|reply|respond)\b|[为是成])[ \t]*"
        rf"({_SEPARATED}(?:[,，、]?[ \t]*(?:\bor\b|或者?)|[/|])[ \t]*{_WORD})",  # noqa: RUF001
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:one of|between|labels|categories|classes|options)\b[ \t]*(?:are[ \t]+)?"
        rf"({_SEPARATED}(?:[,，、]?[ \t]*(?:\bor\b|\band\b)|[,，、/|])[ \t]*{_WORD})",  # noqa: RUF001
        re.IGNORECASE,
    ),
)
_LABEL_LENGTH, _LABEL_WORDS = 60, 5  # more is prose


def _find_labels(text: str) -> list[str]:
    """Return the labels that a text offers, or nothing."""
    bracketed = _BRACKETED.search(text)
    if bracketed:
        quoted = re.findall(r"\"([^\"]+)\"|'([^']+)'", bracketed[1])
        return _usable(["".join(pair) for pair in quoted] or re.split("[,，|、]", bracketed[1]))  # noqa: RUF001
    itemised = _ITEMISED.search(text)
    if itemised:
        return _usable(re.sub(r"^[ \t]*(?:[-*•]|[0-9]{1,2}[.)])", "", line) for line in itemised[1].splitlines())
    for pattern in (_ANNOUNCED, *_WORDED):
        for match in pattern.finditer(text):
            labels = _usable(_split(re.split(r"\.(?:\s|$)", match[1])[0]))
            if labels:
                return labels
    return []


def _split(listed: str) -> list[str]:
    parts = re.split(r"[,，、|]", listed)  # noqa: RUF001
    if len(parts) == 1:
        parts = listed.split("/")
    return parts[:-1] + re.split(r"(?:^|\s)(?:or|and)\s|或者?|和", parts[-1])


def _usable(labels: Iterable[str]) -> list[str]:
    """Strip the labels of quotes; return nothing unless two at least are left, and all are short."""
    found = list(dict.fromkeys(filter(None, (label.strip(" \t\r\n\"'`“”.*") for label in labels))))
    short = all(len(label) <= _LABEL_LENGTH and len(label.split()) <= _LABEL_WORDS for label in found)
    return found if short and len(found) > 1 else []


# Skeletons. `{"answer": <number>, "why": "..."}` is read into a JSON Schema, so that one filler serves both.

_DEPTH = 12  # levels of nesting that are followed, in a skeleton and in a schema
_BRACES = 20  # opening braces of a prompt that are looked at
_KEY = re.compile(r"[\s,]*(?:\"([^\"\n]{1,80})\"|“([^”\n]{1,80})”|([^\W\d]\w{0,79}))\s*[:：]\s*")  # noqa: RUF001
_VALUE = re.compile(r"\"([^\"\n]*)\"|<([^<>\n]*)>|([^,{}\[\]\n]*)")
_KINDS = (
    ("integer", re.compile(r"int|integer|count|[-+]?[0-9]+|整数", re.IGNORECASE)),
    (
        "number",
        re.compile(r"number|float|decimal|numeric|double|score|[-+]?[0-9]+\.[0-9]+|数字?", re.IGNORECASE),
    ),
    ("boolean", re.compile(r"bool|boolean|true|false|true or false", re.IGNORECASE)),
    ("string", re.compile(r"str|string|text", re.IGNORECASE)),
    ("array", re.compile(r"list|array", re.IGNORECASE)),
    ("null", re.compile(r"null|none", re.IGNORECASE)),
)


def _find_skeleton(text: str) -> dict[str, Any] | None:
    """Return the first JSON object that a text shows, those after the word JSON first."""
    asked = max(text.lower().find("json"), 0)
    braces = [match.start() for match in re.finditer(r"\{", text)]
    later = [at for at in braces if at >= asked]
    for at in (later + [at for at in braces if at < asked])[:_BRACES]:
        schema, _ = _read_object(text, at, 0)
        if schema is not None:
            return schema
    return None


def _read_object(text: str, at: int, depth: int) -> tuple[dict[str, Any] | None, int]:
    """Read `{...}` from position `at`; return its schema, or None if it is no skeleton, and where it ends."""
    properties: dict[str, Any] = {}
    at += 1
    while True:
        key = _KEY.match(text, at)
        if key is None:
            break
        properties["".join(filter(None, key.groups()))], at = _read_value(text, key.end(), depth + 1)
    closing = re.compile(r"[\s,.…]*\}").match(text, at)
    if closing is None or not properties:
        return None, at
    return {"type": "object", "properties": properties}, closing.end()


def _read_value(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    if depth < _DEPTH and text.startswith("{", at):
        schema, end = _read_object(text, at, depth)
        return schema or {}, end
    if depth < _DEPTH and text.startswith("[", at):
        items, end = _read_value(text, at + 1, depth + 1)
        closing = re.compile(r"[^\[\]{}\n]*\]").match(text, end)
        return {"type": "array", "items": items}, closing.end() if closing else end
    match = _VALUE.match(text, at)
    if match is None:
        return {}, at
    return _kind((match[1] or match[2] or match[3] or "").strip(" <>"), quoted=match[1] is not None), match.end()


def _kind(shown: str, *, quoted: bool) -> dict[str, Any]:
    """Say what a value of a skeleton stands for."""
    options = [option.strip(" \"'") for option in shown.split("|")]
    if len(options) > 1 and all(options) and not any(_type(option) for option in options):
        return {"enum": options}
    kind = _type(options[0])
    if kind is None and not quoted:
        # `<a number from 0 to 10>`
        kind = next((name for name, pattern in _KINDS[:4] if _mentions(pattern, shown)), None)
    return {"type": kind} if kind else {"type": "string"} if quoted else {}


def _type(shown: str) -> str | None:
    return next((name for name, pattern in _KINDS if pattern.fullmatch(shown)), None)


def _mentions(pattern: re.Pattern[str], shown: str) -> bool:
    return any(pattern.fullmatch(word) for word in re.findall(r"[^\W\d]+", shown))


# Filling a schema.

_NODES = 2_000  # values in one answer; a schema that refers to itself would have more
_ITEMS = 100
_CHARACTERS = 10_000
_ASKED = re.compile(r"answer|result|value|output|label|categor|class|sentiment|答案|结果|类别|标签", re.IGNORECASE)
_DATES = {"date": "2024-01-31", "time": "12:00:00Z", "date-time": "2024-01-31T12:00:00Z"}


class _Filler:
    """Makes a value that fits a JSON Schema, out of what a question's answer is."""

    def __init__(self, question: _Question) -> None:
        self._question = question
        self._root: dict[str, Any] = {}
        self._left = _NODES

    def fill(self, schema: dict[str, Any]) -> object:
        self._root = schema
        return self._value(schema, "", 0)

    def _value(self, schema: object, path: str, depth: int) -> object:
        self._left -= 1
        rules = self._resolve(schema, depth)
        if "const" in rules:
            return rules["const"]
        options = rules.get("enum")
        if isinstance(options, list) and options:
            return self._choose(options, path)
        kind = _kind_of(rules)
        if kind in ("object", "array"):
            return (self._object if kind == "object" else self._array)(rules, path, depth)
        if kind in ("integer", "number"):
            return self._number(rules, path, whole=kind == "integer")
        return self._plain(kind, rules, path)

    def _plain(self, kind: object, rules: dict[str, Any], path: str) -> object:
        if kind == "boolean":
            return self._question.pick(2, path) == 1
        if kind == "string":
            return self._string(rules, path)
        return self._anything() if kind is None else None

    def _resolve(self, schema: object, depth: int) -> dict[str, Any]:
        """Follow references and alternatives to plain rules."""
        rules = schema if isinstance(schema, dict) else {}
        for _ in range(_DEPTH):
            if isinstance(rules.get("$ref"), str):
                target = self._target(rules["$ref"])
            else:
                target = self._alternative(rules, depth)
            if target is None:
                break
            rules = {
                **{key: rule for key, rule in rules.items() if key not in ("$ref", "anyOf", "oneOf")},
                **target,
            }
        for part in _dicts(rules.get("allOf")):
            merged = {**_rules(rules.get("properties")), **_rules(self._resolve_part(part).get("properties"))}
            rules = {**self._resolve_part(part), **rules, "properties": merged}
        return rules

    def _resolve_part(self, part: dict[str, Any]) -> dict[str, Any]:
        return (self._target(part["$ref"]) or {}) if isinstance(part.get("$ref"), str) else part

    def _alternative(self, rules: dict[str, Any], depth: int) -> dict[str, Any] | None:
        for name in ("anyOf", "oneOf"):
            options = _dicts(rules.get(name))
            if options:
                nulls = [option for option in options if option.get("type") == "null"]
                # Deep down, the way out of a schema that refers to itself is its null.
                if nulls and (depth >= _DEPTH or self._left <= 0):
                    return nulls[0]
                return next((option for option in options if option.get("type") != "null"), options[0])
        return None

    def _target(self, reference: str) -> dict[str, Any] | None:
        found: object = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else None

    def _object(self, rules: dict[str, Any], path: str, depth: int) -> dict[str, object]:
        properties = _rules(rules.get("properties"))
        listed = rules.get("required")
        required = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        if depth >= 2 * _DEPTH:
            return {}
        names = required if depth >= _DEPTH or self._left <= 0 else list(dict.fromkeys([*properties, *required]))
        return {name: self._value(properties.get(name), f"{path}/{name}", depth + 1) for name in names}

    def _array(self, rules: dict[str, Any], path: str, depth: int) -> list[object]:
        lowest = _bound(rules.get("minItems"))
        highest = _bound(rules.get("maxItems"))
        least = int(lowest) if lowest is not None and lowest > 0 else 0
        size = max(least, 0 if depth >= _DEPTH or self._left <= 0 else 1)
        size = min(size, _ITEMS if highest is None else max(int(highest), 0), _ITEMS)
        if depth >= 2 * _DEPTH:
            return []
        return [self._value(rules.get("items"), f"{path}/{place}", depth + 1) for place in range(size)]

    def _number(self, rules: dict[str, Any], path: str, *, whole: bool) -> int | float:
        step = _bound(rules.get("multipleOf")) or Fraction(0)
        if step <= 0:
            step = Fraction(int(whole))
        elif whole:
            step = Fraction(step.numerator)  # the multiples of p/q that are whole are those of p
        fits = _Range.of(rules, step)
        asked = self._question.number
        value = asked if asked is not None and fits.holds(asked) else fits.some(self._question, path)
        return int(value) if value.denominator == 1 else float(value)

    def _string(self, rules: dict[str, Any], path: str) -> str:
        shape = rules.get("format")
        if isinstance(shape, str) and shape in _DATES:
            return _DATES[shape]
        question = self._question
        named = path.count("/") == 1 and _ASKED.search(path) is not None
        text = (named and (question.label or question.number_text)) or question.echo
        lowest, highest = _bound(rules.get("minLength")), _bound(rules.get("maxLength"))
        if lowest is not None and lowest > len(text):
            text = text.ljust(min(int(lowest), _CHARACTERS), ".")
        return text if highest is None else text[: max(int(highest), 0)]

    def _choose(self, options: list[Any], path: str) -> object:
        question = self._question
        for option in options:
            if isinstance(option, str) and option in (question.number_text, question.label):
                return option
        if question.number is not None and question.number in [option for option in options if _is_number(option)]:
            return int(question.number) if question.number.denominator == 1 else float(question.number)
        return options[question.pick(len(options), path)]

    def _anything(self) -> object:
        question = self._question
        if question.label or question.number is None:
            return question.label or question.number_text or question.echo
        number = question.number
        return int(number) if number.denominator == 1 else float(number)


def _kind_of(rules: dict[str, Any]) -> object:
    kinds = rules.get("type")
    if isinstance(kinds, list):
        return next((kind for kind in kinds if kind != "null"), "null")
    if kinds is None and isinstance(rules.get("properties"), dict):
        return "object"
    return "array" if kinds is None and "items" in rules else kinds


def _rules(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _bound(value: object) -> Fraction | None:
    """Return a number of a schema exactly; None where there is none (JSON as Python reads it knows NaN)."""
    return Fraction(repr(value)) if isinstance(value, int | float) and _is_number(value) else None


class _Range(NamedTuple):
    """The numbers that a schema allows: from `low` to `high`, and multiples of `step` unless it is 0."""

    low: Fraction | None
    high: Fraction | None
    open_low: bool
    open_high: bool
    step: Fraction

    @classmethod
    def of(cls, rules: Mapping[str, Any], step: Fraction) -> _Range:
        low, high = _bound(rules.get("minimum")), _bound(rules.get("maximum"))
        above, below = _bound(rules.get("exclusiveMinimum")), _bound(rules.get("exclusiveMaximum"))
        open_low = above is not None and (low is None or above >= low)
        open_high = below is not None and (high is None or below <= high)
        return cls(above if open_low else low, below if open_high else high, open_low, open_high, step)

    def holds(self, value: Fraction) -> bool:
        return (
            (self.low is None or value > self.low or (value == self.low and not self.open_low))
            and (self.high is None or value < self.high or (value == self.high and not self.open_high))
            and (not self.step or (value / self.step).denominator == 1)
        )

    def some(self, question: _Question, path: str) -> Fraction:
        """Choose one by the hash of the prompt; the nearest there is where none is allowed."""
        step = self.step or Fraction(1)
        low, high = self.low, self.high
        if low is None:
            low = Fraction(0) if high is None or high > 0 else high - 100 * step
        first = math.floor(low / step) + 1 if self.open_low and self.low is not None else math.ceil(low / step)
        last = first + 100
        if high is not None:
            last = min(last, math.ceil(high / step) - 1 if self.open_high else math.floor(high / step))
        if last >= first:
            return (first + question.pick(last - first + 1, path)) * step
        return low if high is None or self.step else (low + high) / 2
