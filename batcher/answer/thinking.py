"""Separates what a model thought from what it answered, in one text.

Invariant: thought and answer together are the whole text but for the marks and the white space around them; a text
without a mark at the place of one is all answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class _Pair(NamedTuple):
    """The marks around a thought.

    Attributes:
        opening: the pattern of the mark before it.
        closing: that of the mark behind it.
        is_closed_alone: chat templates write the opening mark themselves, so that only the closing one may come.
    """

    opening: str
    closing: str
    is_closed_alone: bool = False


def _tags(name: str, *, is_closed_alone: bool = False, before: str = "<", behind: str = ">") -> _Pair:
    """Return the marks of a name, which may have attributes. The counts bound the time that a text may take."""
    opening = rf"{before}{name}(?:\s[^<>&]{{0,200}})?{behind}"
    return _Pair(opening, rf"{before}/{name}\s{{0,9}}{behind}", is_closed_alone)


_PAIRS = (
    _tags("think", is_closed_alone=True),  # DeepSeek R1, Qwen, QwQ, GLM, Kimi K2, MiniMax, Hunyuan, Nemotron, Phi, OLMo
    _tags("think", is_closed_alone=True, before="&lt;", behind="&gt;"),  # behind a relay that escapes HTML
    _tags("thinking"),  # Claude and Nova, if they are told to think
    _tags("thought"),  # EXAONE Deep; Gemini's OpenAI protocol
    _tags("seed:think", is_closed_alone=True),  # Seed-OSS
    _Pair(r"\[THINK\]", r"\[/THINK\]", is_closed_alone=True),  # Magistral
    _Pair("◁think▷", "◁/think▷", is_closed_alone=True),  # Kimi-VL, Kimi-Dev
    _Pair(r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    _Pair(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A Reasoning
)
_ALONE = tuple(number for number, pair in enumerate(_PAIRS) if pair.is_closed_alone)
_OPENING = re.compile(
    rf"\s*(?:{'|'.join(f'(?P<p{number}>{pair.opening})' for number, pair in enumerate(_PAIRS))})", re.IGNORECASE
)
_ANY = re.compile(r"[<\[◁;]/?(?:\||seed:)?(?:think|thought|begin_of|end_of|start_thinking|end_thinking)", re.IGNORECASE)
"""The beginning of every mark."""

# What is quoted within a line, or is code, stands for itself: a mark in it is found only as a part of it.
_QUOTED = (
    r"`[^`\n]{1,200}`|(?<!\w)(?:\"[^\"\n]{1,200}\"|\u201c[^\u201d\n]{1,200}\u201d|\u300c[^\u300d\n]{1,200}\u300d)(?!\w)"
)
_MARKS = tuple(
    re.compile(
        rf"(?P<fence>```)|(?P<quoted>{_QUOTED})|(?P<opening>{pair.opening})|(?P<closing>{pair.closing})", re.IGNORECASE
    )
    for pair in _PAIRS
)
_CLOSING = tuple(re.compile(pair.closing, re.IGNORECASE) for pair in _PAIRS)

# GPT-OSS: each message has a channel; without a parser its server sends them all.
_HARMONY = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
# The counts bound the time that the text of a server may take.
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(\w{1,40})[^<]{0,200}(?:<\|constrain\|>[^<]{0,200})?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_BARE_HARMONY = re.compile(r"\s*analysis(.*?)assistantfinal(.*)", re.DOTALL)  # with the special tokens left out

_QUOTES = "`'\"\u2018\u2019\u201c\u201d\u00ab\u00bb\u300c\u300d"
_ENDS_A_SENTENCE = ".!?:;)]}>\u25b7\u2026\u3002\uff01\uff1f\uff1a\uff1b*\r\n"
_GOES_ON = re.compile(r"[,.;:!?)\uff0c\u3002]|[ \t]+([^\W\d_][^\n<]{0,200})")
_FEWEST_WORDS = 3  # of the rest of a sentence that has no full stop
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

    A mark in the middle of an answer, in quotes or in code is a part of the answer. Marks nest: a thought ends at the
    closing mark that belongs to its opening one.

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
    if "think" not in text.lower():  # nearly all texts, and quicker than to search for each mark
        return None
    ends = (end for number in _ALONE if (end := _stray(text, number)))
    return next((Parted(text[: end.start()].strip(), text[end.end() :].lstrip()) for end in ends), None)


def _opened(text: str, opening: re.Match[str], *, is_cut: bool) -> Parted | None:
    """Separate the thoughts of a text that begins with an opening mark; several may follow each other."""
    thoughts: list[str] = []
    mark: re.Match[str] | None = opening
    number = end = 0
    is_plain = len(_ANY.findall(text)) <= 2  # as nearly always
    while mark:
        number = int((mark.lastgroup or "p0")[1:])
        if is_plain:
            found = _only_end(text, mark.end(), number)
        else:
            found = _end_of_thought(text, mark.end(), number, is_cut=is_cut)
        end = found.closing.end() if found.closing else len(text)
        thought = text[found.start : found.closing.start() if found.closing else end]
        is_closed = found.closing is not None
        if not thoughts and _is_about_marks(thought, text[end : end + 2], has_closed=is_closed, is_cut=is_cut):
            return None
        thoughts.append(thought.strip())
        if not is_closed:
            return Parted("\n".join(filter(None, thoughts)), "", is_open=True)
        mark = _OPENING.match(text, end) if found.is_sure else None
    if stray := _stray(text, number, end, is_answer=True):
        thoughts.append(text[end : stray.start()].strip())
        end = stray.end()
    return Parted("\n".join(filter(None, thoughts)), text[end:].lstrip())


class _End(NamedTuple):
    """Where a thought ends.

    Attributes:
        closing: the mark there; None if the thought never closes.
        start: where it starts, behind opening marks that were written twice.
        is_sure: the mark belongs to the opening one, and the search went no further.
    """

    closing: re.Match[str] | None
    start: int
    is_sure: bool = False


def _only_end(text: str, start: int, number: int) -> _End:
    """Find the only closing mark: the search is twenty times as fast as `_end_of_thought`, and finds the same."""
    closing = _CLOSING[number].search(text, start)
    return _End(None if closing and _is_quoted(text, closing) else closing, start, is_sure=True)


def _end_of_thought(text: str, start: int, number: int, *, is_cut: bool) -> _End:
    """Find the closing mark that belongs to an opening one.

    If more marks open than close, an opening mark that was written twice counts once; else one was only mentioned, and
    the thought ends at the last closing mark before the next opening one. A closing mark in quotes, in code or amid a
    sentence ends the thought only if no other does.
    """
    starts, least = [start], 1  # behind each opening mark of the beginning; how many stay open at the best end so far
    depth, best, last = 1, None, None
    has_reopened, spare = False, None
    for mark in _told(text, number, start):
        if mark.is_mentioned:
            spare = spare or mark.closing
        elif mark.closing is None:
            if depth == len(starts) and not last and not text[starts[-1] : mark.start].strip():
                starts.append(mark.end)
                least = depth + 1
            has_reopened = last is not None
            depth += 1
        else:
            depth -= 1
            last = last if has_reopened else mark.closing
            if depth < least:
                best, least = mark.closing, depth
            if not depth:
                return _End(best, start, is_sure=True)
    if best:
        return _End(best, starts[least])
    if last:
        return _End(None if is_cut else last, start)
    return _End(spare, start)


class _Mark(NamedTuple):
    """A mark in a text.

    Attributes:
        start: where it is.
        end: likewise.
        closing: itself, if it closes a thought.
        is_mentioned: the text only talks of it: it is in quotes, in code or amid a sentence.
    """

    start: int
    end: int
    closing: re.Match[str] | None
    is_mentioned: bool


def _told(text: str, number: int, start: int) -> Iterator[_Mark]:
    """Yield the marks of a pair from a place on, but for those that stand in quotes alone."""
    is_code = False
    for found in _MARKS[number].finditer(text, start):
        if found.lastgroup == "fence":
            is_code = not is_code
        elif found.lastgroup == "quoted":
            inner = _CLOSING[number].search(text, found.start() + 1, found.end() - 1)
            if inner and not _is_quoted(text, inner):
                yield _Mark(*inner.span(), inner, is_mentioned=True)
        elif not _is_quoted(text, found):
            closing = found if found.lastgroup == "closing" else None
            yield _Mark(*found.span(), closing, is_mentioned=is_code or _is_amid_a_sentence(text, found))


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    before, after = text[max(mark.start() - 1, 0) : mark.start()], text[mark.end() : mark.end() + 1]
    return bool(before and before in _QUOTES and after and after in _QUOTES)


def _is_amid_a_sentence(text: str, mark: re.Match[str]) -> bool:
    """Return whether a sentence goes on behind a mark: `Close it with the </think> tag.`, not `good </think> good`."""
    before = text[max(mark.start() - 9, 0) : mark.start()]
    word = before.rstrip(" \t")
    if word == before or not word or word[-1] in _ENDS_A_SENTENCE:
        return False
    after = _GOES_ON.match(text, mark.end())
    if not after or not after[1]:
        return after is not None
    rest = after[1].rstrip()
    return not rest[0].isupper() and (rest[-1] in ".!?\u3002\uff01\uff1f" or len(rest.split()) >= _FEWEST_WORDS)


def _stray(text: str, number: int, start: int = 0, *, is_answer: bool = False) -> re.Match[str] | None:
    """Find the closing mark that ends a thought without an opening one: the last of several that has text behind it.

    Args:
        text: the whole text.
        number: of the pair.
        start: where to begin.
        is_answer: the text is an answer already: the mark counts only if it leaves an answer, or if nothing else is
            there.
    """
    closings: list[re.Match[str]] = []
    for mark in _told(text, number, start):
        if not mark.is_mentioned:
            if mark.closing is None:
                break
            closings.append(mark.closing)
    stop = len(text)
    for closing in reversed(closings):
        if text[closing.end() : stop].strip():
            return closing
        stop = closing.start()
    return closings[-1] if closings and not (is_answer and text[start:stop].strip()) else None


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
