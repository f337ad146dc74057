"""What stands around a label in an answer: quotes, brackets, Markdown, punctuation, `Label:` before it.

Invariant: each layer that is taken off leaves a part of the text that stands together; nothing within it changes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

BLANKS = " \t\r\n\f\v\u00a0\ufeff\u200b\u200e\u200f\u2060\u3000"
_LAYERS = 40
_LONGEST_NAME = 100
# ruff: noqa: RUF001 - the signs that look like others are what is meant
_CLOSING = dict(zip("\"'`*_~$([{<“‘«‹「『《〈【（［｛„‚”’＂", "\"'`*_~$)]}>”’»›」』》〉】）］｝“‘”’＂", strict=True))
_ENDS = ".,;:!?…。，；：！？、．"
_OPEN = "\"'`*_~“‘”’«»‹›「『《〈【（([{"
_CLOSED = "\"'`*_~“‘”’«»‹›」』》〉】）)]}"
_NO_PUNCTUATION = "~$<>\\!"  # signs that are words of their own, or may be
_FENCE = re.compile(r"(`{3,}|~{3,})[^\n`]*\n(.*?)\n?[ \t]*\1", re.DOTALL)
_TAG = re.compile(r"<(\w{1,30})>(.*)</\1>", re.DOTALL)
_COMMAND = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{(.*)\}", re.DOTALL)
_BULLET = re.compile(
    r"(?:[-*+•·●▪◦‣–—>#=~]{1,6}|\(?\d{1,3}[.)]|\[[ xX]\]|[✅✔☑]\ufe0f?)\s+"
    r"|(?:[-=]>|[→⇒➡]\ufe0f?)(?:\s+|(?=\w))|>(?=[^\W\d])"
    r"|\d{1,3}、\s*"
)
_SIGNED = {">": "<>≤≥=~", "=": "<>≤≥=~", "~": "<>≤≥=~", "-": "-+", "+": "-+", "–": "-+", "—": "-+"}

_NOUNS = (
    "labels?|answers?|categor(?:y|ies)|class(?:es)?|classification|intents?|intention|sentiment|emotion|mood|polarity|tone"
    "|stance|attitude|topic|theme|subject|genre|type|kind|tags?|results?|output|prediction|response|reply|choice|option"
    "|selection|decision|verdict|judge?ment|conclusion|rating|score|grade|rank|level|priority|severity|domain|language"
    "|value|assessment|evaluation"
)
_MODIFIERS = (
    "the|my|your|its|our|final|predicted|correct|right|best|most|likely|overall|suggested|assigned|detected|chosen"
    "|selected|appropriate|matching|main|primary|single|customer|user|text|review|output"
)
_ENGLISH = (
    rf"(?:(?:{_MODIFIERS})[ _-]{{1,3}}){{0,4}}(?:{_NOUNS})(?:[ _-]{{1,3}}(?:{_NOUNS}|name|id)){{0,2}}"
    r"(?:\s(?:of|for|in|to)\s(?:the|this|that|your)(?:\s[\w-]{1,20}){1,2}?)?"
)
_CHINESE = (
    "(?:最终|正确|预测|所属|对应|该|其|此|这条|用户|客户|文本|句子|评论|的){0,4}"
    "(?:标签|答案|类别|分类|归类|意图|情感|情绪|倾向|极性|结果|输出|回答|回复|类型|选项|选择|判断|判定|结论|主题|话题|评分|等级|评级|分数|得分|预测)"
    "(?:标签|类别|类型|倾向|极性|结果|名称|答案){0,2}"
)
_NAME = re.compile(rf"[\s\"'`*_]{{0,4}}(?:{_ENGLISH}|{_CHINESE})[\s\"'`*_]{{0,4}}", re.IGNORECASE)
_PREFIX = re.compile(
    rf"[\s\"'`*_#>(\[{{【「『-]{{0,12}}(?P<name>{_ENGLISH}|{_CHINESE})[\"'`*_)\]】」』 \t]{{0,8}}"
    r"(?:[:：]=?|={1,2}(?!>)|(?:[-–—]{1,2}>|=>)(?!\d)|[→⇒]|\s[-–—]\s|\sis(?=\W)\s?:?|[是为]\s?[:：]?|\r?\n)[\s*_]{0,20}(?:`(?!``)\s{0,4})?",
    re.IGNORECASE,
)


@functools.lru_cache(1000)
def is_name(key: str) -> bool:
    """Return whether a text names what an answer says, as `label` or `final_answer` do."""
    return len(key) < _LONGEST_NAME and _NAME.fullmatch(key.replace("_", " ")) is not None


def prefix(text: str) -> re.Match[str] | None:
    """Match what says at the beginning of a text that a label follows; its group `name` is the word that does."""
    return _PREFIX.match(text)


class Layer(NamedTuple):
    """What is left of a text.

    Attributes:
        text: without blanks around it.
        name: the `Label` that stood before it, if that was the layer taken off.
        has_other_words: what was taken off may be more than punctuation.
    """

    text: str
    name: str = ""
    has_other_words: bool = True


def peeled(text: str, kept: frozenset[str] = frozenset()) -> Iterator[Layer]:
    """Yield a text, and what is left of it as one layer after the other is taken off.

    Args:
        text: any.
        kept: the beginnings of labels that look like bullets, as `beginning` gives them.
    """
    layer = Layer(text)
    for _ in range(_LAYERS):
        text = layer.text.strip(BLANKS)
        if not text:
            return
        yield layer._replace(text=text)
        if (whole := _wrapped(text)) is not None:
            layer = Layer(whole)
        elif named := _PREFIX.match(text):
            layer = Layer(text[named.end() :], named["name"])
        elif (bullet := _BULLET.match(text)) and not kept.intersection(_likely(text[0], text[bullet.end() :])):
            layer = Layer(text[bullet.end() :])
        else:
            inner = _bare(text)
            if inner is None:
                return
            layer = Layer(inner, has_other_words=text[0] in _NO_PUNCTUATION or text[-1] in _NO_PUNCTUATION)


def beginning(text: str) -> str:
    """Return the first sign of a text and the first one behind it, with 0 for any digit."""
    first, rest = text[:1], text[1:].strip(BLANKS)[:1].casefold()
    return ("0" if first.isdecimal() else first) + ("0" if rest.isdecimal() else rest)


def _likely(bullet: str, rest: str) -> set[str]:
    """Return the beginnings of labels that a bullet and what follows may be instead."""
    if bullet.isdecimal() or bullet == "(":
        return {"0"} if rest[:1].isdecimal() else set()
    return {beginning(f"{sign}{rest}") for sign in (bullet, *_SIGNED.get(bullet, ""))}


def _wrapped(text: str) -> str | None:
    """Return what a fence, a tag or a command of LaTeX holds that is the whole text."""
    if text[0] not in "`~<\\":
        return None
    whole = _FENCE.fullmatch(text) or _TAG.fullmatch(text) or _COMMAND.fullmatch(text)
    held = whole[whole.lastindex or 0] if whole else ""
    return held if held.strip(BLANKS) else None  # "```label\n```" is no empty fence


def _bare(text: str) -> str | None:
    """Return a text without the signs around it, or without one at an end; None if it has none."""
    first, last = text[0], text[-1]
    if len(text) > 1 and _CLOSING.get(first) == last:
        return text[1:-1]
    if last in _ENDS:
        return text[:-1]
    if last in _CLOSED and (first not in _OPEN or text.count(last) % 2 or text.startswith(("```", "~~~"))):
        return text[:-1]
    return text[1:] if first in _OPEN else None
