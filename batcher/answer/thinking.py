"""Separates what a model thought from what it answered, in one text.

Invariant: thought and answer together are the whole text but for the marks and the white space around them; a text
without a mark at the place of one is all answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PAIRS = (
    ("<think>", "</think>"),  # DeepSeek R1 and V3, Qwen, QwQ, GLM, Kimi K2, MiniMax, Hunyuan, Nemotron, Phi, OLMo
    ("<thinking>", "</thinking>"),  # Claude and Nova, if they are told to think
    ("<thought>", "</thought>"),  # EXAONE Deep; Gemini's OpenAI protocol
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi-VL, Kimi-Dev
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
)
_CLOSES = {opening.lower(): closing for opening, closing in _PAIRS}
_OPENING = re.compile(rf"\s*({'|'.join(re.escape(opening) for opening, _ in _PAIRS)})", re.IGNORECASE)
# The chat templates of these models write the opening mark themselves, so that only the closing one comes.
_ALONE = tuple(_CLOSES[opening] for opening in ("<think>", "<seed:think>", "[think]", "◁think▷"))

# GPT-OSS: each message has a channel; without a parser its server sends them all.
_HARMONY = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
# The counts bound the time that the text of a server may take.
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(\w{1,40})[^<]{0,200}(?:<\|constrain\|>[^<]{0,200})?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_BARE_HARMONY = re.compile(r"\s*analysis(.*?)assistantfinal(.*)", re.DOTALL)  # with the special tokens left out

_FENCE = "```"
_QUOTES = "`'\"\u2018\u2019\u201c\u201d\u00ab\u00bb\u300c\u300d"
_ENDS_A_SENTENCE = ".!?:;)]}\u2026\u3002\uff01\uff1f\uff1a\uff1b*"
_BETWEEN_MARKS = {"", "and", "or", "&", "/", ",", "...", "\u2026", "\u548c", "\u4e0e", "\u6216"}


class Parted(NamedTuple):
    """A text in its parts.

    Attributes:
        thought: what the model thought.
        answer: what it answered.
        is_open: the thought never closes, so that there is no answer.
    """

    thought: str
    answer: str
    is_open: bool = False


def parted(text: str, *, is_cut: bool) -> Parted | None:
    """Separate the thoughts at the beginning of a text; return None if there is none.

    A mark in the middle of an answer, in quotes or in code is a part of the answer.

    Args:
        text: as the model sent it.
        is_cut: it was cut off at the most tokens that it may have.
    """
    if opening := _OPENING.match(text):
        return _opened(text, opening, is_cut=is_cut)
    if _HARMONY.match(text):
        return _of_channels(text)
    if bare := _BARE_HARMONY.match(text):
        return Parted(bare[1].strip(), bare[2].lstrip())
    return next((found for mark in _ALONE if mark in text and (found := _closed(text, mark))), None)


def _opened(text: str, opening: re.Match[str], *, is_cut: bool) -> Parted | None:
    """Separate the thoughts of a text that begins with an opening mark; several may follow each other."""
    thoughts: list[str] = []
    mark: re.Match[str] | None = opening
    end = 0
    while mark:
        closing = _closing(text, _CLOSES[mark[1].lower()], mark.end())
        end = closing.end() if closing else len(text)
        thought = text[mark.end() : closing.start() if closing else end]
        if not thoughts and _is_about_marks(thought, text[end : end + 2], has_closed=bool(closing), is_cut=is_cut):
            return None
        thoughts.append(thought.strip())
        if not closing:
            return Parted("\n".join(filter(None, thoughts)), "", is_open=True)
        mark = _OPENING.match(text, end)
    return Parted("\n".join(filter(None, thoughts)), text[end:].lstrip())


def _closing(text: str, mark: str, start: int = 0) -> re.Match[str] | None:
    """Find the first mark from a place on, in whatever case, that is not in quotes."""
    for found in re.compile(re.escape(mark), re.IGNORECASE).finditer(text, start):
        before, after = text[max(found.start() - 1, 0) : found.start()], text[found.end() : found.end() + 1]
        if not (before and before in _QUOTES and after and after in _QUOTES):
            return found
    return None


def _is_about_marks(thought: str, after: str, *, has_closed: bool, is_cut: bool) -> bool:
    """Return whether a text that begins with a mark only talks of it: `<think> is not a tag of HTML.`."""
    if has_closed:
        return "\n" not in thought and thought.strip().lower() in _BETWEEN_MARKS and bool(re.match(r" [a-z]", after))
    return re.match(r" [a-z]", thought) is not None and not is_cut


def _of_channels(text: str) -> Parted:
    thoughts: list[str] = []
    answers: list[str] = []
    for found in _MESSAGE.finditer(text):
        (answers if found[1] == "final" else thoughts).append(found[2].strip())
    return Parted("\n".join(filter(None, thoughts)), "\n".join(answers), is_open=not answers)


def _closed(text: str, mark: str) -> Parted | None:
    """Separate the thought of a text in which only the closing mark came."""
    found = _closing(text, mark)
    if found is None:
        return None
    thought, after = text[: found.start()], text[found.end() : found.end() + 1]
    is_code = thought.count(_FENCE) % 2
    if is_code or any(opening in thought for opening, closing in _PAIRS if closing == mark):
        return None
    is_within_a_line = thought[-1:] in {" ", "\t"} and after not in {"", "\n", "\r"}
    if is_within_a_line and thought.rstrip()[-1:] not in _ENDS_A_SENTENCE:
        return None
    return Parted(thought.strip(), text[found.end() :].lstrip())
