"""The values of JSON in a text: the whole text, what is in fences, objects and lists among words, and repaired ones.

Invariant: any text is read in time that grows as its length does, and a value holds only what JSON can write: no NaN,
no infinity, no key with two values. What was surely cut off is not repaired.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from batcher.equality import same
from batcher.nesting import TOO_DEEP, is_too_deep

IS_CUT_PERHAPS = ": was the answer cut off?"
"""The end of an error, for a reader who does not know why the model stopped."""

_BLANKS = " \t\r\n\f\v\u00a0\ufeff\u200b\u2060\u3000"
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
# Of what may be JSON, or nearly; words in brackets are not.
_OPENING = re.compile(r"""(?:\{\s*+(?:["'}]|\w{1,100}\s*+:)|\[\s*+["'\[{])|\[\s*+[\]\d\-tfn]""")
_ANY_OPENING = re.compile(r"[\[{]")
# An unclosed string goes on to the end: no place of the text is looked at twice.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_CLOSED = re.compile(r'"(?:[^"\\]|\\.)*+"\Z', re.DOTALL)
_BRACKETS = re.compile(r"[\[{]|[\]}]")
_COMPLETE = re.compile(r"""["'}\]]\Z|\b(?:true|false|null|True|False|None)\Z""")  # the end of a value that is not cut

_STRINGS_AND_NOTES = re.compile(
    r""""(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|//[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z)""", re.DOTALL
)
_BETWEEN = re.compile(r"""[:,{}\[\]"'\n]""")
_BEGINS_AS_NUMBER = re.compile(r"[-+$€£¥]?\s?\.?\d")
_NUMBER = re.compile(r"[-+$€£¥]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_SURROGATES = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")

# Each failure costs the characters that were read, and a share of those before them (Python counts their lines).
_LOOKS = 32  # how often the characters of a text may be read on the whole, while objects in it are looked for
_SHARE = 16
_LONGEST_REPAIRED = 20_000  # characters: to repair some texts takes time that grows as the square of their length
_MOST_REPAIRS = 8
_TAIL = 100  # characters, more than the longest word of `_COMPLETE`


class Found(NamedTuple):
    """A value in a text.

    Attributes:
        value: of JSON.
        error: why there is none, though the text looks like one; else empty.
    """

    value: Any
    error: str = ""


class _RefusedError(ValueError):
    """The text is JSON to Python's parser, but its value is ambiguous or no value of JSON."""


def found(text: str, *, repaired: bool = True) -> Iterator[Found]:
    """Yield the values of JSON in a text, the likeliest first.

    If the whole text is JSON, that is all. Else what stands in fences comes first, then the objects and lists among
    other words; last come those that had to be repaired, if nothing was refused.

    Args:
        text: any.
        repaired: yield these, too.
    """
    if _SURROGATES.search(text):
        for each in _found(text.strip(_BLANKS), repaired=repaired):
            yield each._replace(value=_whole_characters(each.value))
    else:
        yield from _found(text.strip(_BLANKS), repaired=repaired)


def _found(text: str, *, repaired: bool) -> Iterator[Found]:
    if is_too_deep(text):
        yield Found(None, TOO_DEEP)
        return
    whole = _parsed(text)
    if whole:
        yield whole
        if isinstance(whole.value, str) and whole.value.lstrip()[:1] in {"{", "["} and not is_too_deep(whole.value):
            yield from filter(None, [_parsed(whole.value)])  # JSON that was written as a text once more
        return
    is_refused = False
    for each in _among_words(text):
        is_refused = is_refused or bool(each.error)
        yield each
    if repaired and not is_refused:
        yield from _repaired(text)


def _parsed(text: str) -> Found | None:
    """Return the value of a text that is JSON, or why it is refused; None if the text is no JSON."""
    try:
        return Found(_DECODER.decode(text))
    except (json.JSONDecodeError, RecursionError):
        return None
    except ValueError as error:
        return Found(None, _reason(error))


def _among_words(text: str) -> Iterator[Found]:
    """Yield what stands in fences, then each object and list that is in no other one."""
    if "```" in text or "~~~" in text:
        yield from filter(None, (_parsed(fence[2].strip(_BLANKS)) for fence in _FENCE.finditer(text)))
    left = _LOOKS * len(text)
    at = 0
    while left > 0 and (opening := _OPENING.search(text, at)):
        start = opening.start()
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
                yield Found(None, _reason(error))
            # What stands in a broken object is no answer of its own.
            at, is_closed, _ = _end(text, start)
            left -= at - start + start // _SHARE + 1
            if not is_closed and "{" in opening.group():
                return
            at = at if is_closed else start + 1
        else:
            left -= at - start
            yield Found(value)


def _repaired(text: str) -> Iterator[Found]:
    """Yield what a repair makes of the objects and lists that are not quite JSON."""
    at = 0
    left = _LONGEST_REPAIRED
    for _ in range(_MOST_REPAIRS):
        opening = _ANY_OPENING.search(text, at)
        if not opening:
            return
        at, _, is_complete = _end(text, opening.start())
        part = text[opening.start() : at]
        left -= len(part)
        if left < 0:
            return
        if not is_complete:
            yield Found(None, f"the JSON is not closed{IS_CUT_PERHAPS}")
        elif number := _broken_number(part):
            yield Found(None, f"{number!r:.100} is no number of JSON")
        elif not _parsed(part):
            yield from _repair(part)


def _end(text: str, start: int) -> tuple[int, bool, bool]:
    """Return where the object or list that starts at a place ends, whether it is closed, and whether it is complete.

    One that lacks nothing but its own closing brace is complete, if its last value surely is.
    """
    depth = 0
    is_open = False
    for tokens in (_TOKENS, _BRACKETS):  # without a look at strings, if one has quotes in it that are not escaped
        depth = 0
        for token in tokens.finditer(text, start):
            piece = token.group()
            is_open = token.end() == len(text) and piece[0] == '"' and not _CLOSED.match(piece)
            depth += (piece in "[{") - (piece in "]}")
            if depth == 0:
                return token.end(), True, True
        if not is_open:
            break
    tail = text[-_TAIL:].rstrip(_BLANKS + "`,")
    is_complete = depth == 1 and text[start] == "{" and not is_open and bool(_COMPLETE.search(tail))
    return len(text), False, is_complete


def _broken_number(part: str) -> str:
    """Return a value that begins as a number and goes on: a repair would cut `12 + 3` to 12."""
    bare = _STRINGS_AND_NOTES.sub(lambda found: '"' if found.group()[0] in "\"'" else "", part)
    values = (value.strip() for value in _BETWEEN.split(bare))
    return next((value for value in values if _BEGINS_AS_NUMBER.match(value) and not _NUMBER.fullmatch(value)), "")


def _repair(part: str) -> Iterator[Found]:
    import json_repair  # noqa: PLC0415 - few answers need it

    try:
        value = json_repair.loads(part, skip_json_loads=True)  # its `json.loads` would take NaN
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return
    if isinstance(value, (dict, list)):
        yield Found(value)


def _whole_characters(value: Any) -> Any:
    """Return a value without halves of surrogate pairs, which JSON can write but no file takes."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_characters(each) for each in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(each) for name, each in value.items()}
    return value


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _RefusedError) else "a number has too many digits"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        for name, value in pairs:
            if not same(made[name], value):
                raise _RefusedError(f"the key {name!r:.100} comes twice, with different values")
    return made


def _constant(name: str) -> Any:
    raise _RefusedError(f"{name} is no number of JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise _RefusedError(f"{digits:.100} is too large for a number")
    return value


# Not strict: models break lines within strings.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
