"""Finds the sum that a text asks for, and computes it exactly.

Invariant: what may be a date, a size, a range or a score is a sum only if the text around it asks for its value.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from operator import add, mul, sub, truediv

_LONGEST = 200  # characters of a sum; bounds the parser, too

# Signs as typed. Those that may be something else than a sign keep a character of their own: x, ⊕, ⊖, ⊘ and the colon.
_TYPED = str.maketrans(
    "×✕✖⨯∗＊÷∕⁄／−－﹣＋﹢（）．＝０１２３４５６７８９ｘＸ·⋅∙–",  # noqa: RUF001 - as typed
    "******////---++().=0123456789xxxxx⊖",
) | dict.fromkeys((0xA0, 0x2009, 0x202F, 0x3000), " ")  # spaces of other widths
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/"}
_SPOKEN = {
    **dict.fromkeys(("times", "multiplied by", "乘以", "乘"), "x"),
    **dict.fromkeys(("plus", "加上", "加"), "⊕"),
    **dict.fromkeys(("minus", "减去", "减"), "⊖"),
    **dict.fromkeys(("divided by", "除以"), "⊘"),
}
_WORD = re.compile(
    rf"(?:(?<=[0-9)])|(?<=[0-9)] ))({'|'.join(_SPOKEN)})(?=[ ]?[-+]?[ ]?\(?[0-9])"
    rf"|({'|'.join(map(re.escape, _LATEX))})(?![A-Za-z])",
    re.IGNORECASE,
)
_PYTHON = str.maketrans("xX⊕⊖⊘:", "**+-//", ",")

# Regular expressions find candidates; Python's own parser decides.
_BY = r"[xX][ \t(]{0,20}-?\(?(?=[0-9])"  # not `3 x + 2`, in which x is a variable
_NUMBER = (
    r"[0-9]{1,30}(?:,[0-9]{3}){0,9}(?:\.[0-9]{1,30})?"
    rf"(?!(?!{_BY})[A-Za-z0-9_]|\.[0-9])[ \t)]{{0,20}}"
)
# `**` is not a sign here, and `//` is part of addresses; a leading sign apart from its number marks a list item.
_SUM = re.compile(
    r"(?<![A-Za-z0-9_.])(?<![*/^])(?<![*/^] )[-+]?(?:\([ \t]*[-+]?){0,20}"
    rf"(?>{_NUMBER}(?:(?:[-+*/⊕⊖⊘][-+( \t]{{0,20}}|{_BY}|(?<=[ \t]):[ \t][-+( \t]{{0,20}}){_NUMBER})+)(?![*/^])"
)
_DIGIT = re.compile("[0-9]")
_UNSURE = re.compile("[xX⊕⊖⊘:]")
_CLOSE = re.compile(r"[^+* \t]*")
_HEXADECIMAL = re.compile(r"(?<![0-9.,])0[xX]")
_DATED = re.compile(
    r"(?:19|20)[0-9]{2}(?:-(?:0[1-9]|1[0-2])|([-/])[0-9]{1,2}\1[0-9]{1,2})"  # a month, a date
    r"|[0-9]{1,2}([-/])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2})"  # a date
    r"|\+?(?:[0-9]{1,4}-)+[0-9]{3}-[0-9]{4}"  # a telephone number
)

# What asks for a value: anywhere in a text, right before a sum, right behind it.
_CALCULATE = re.compile(
    r"=|\b(?:calculat|comput|evaluat|solve|work out|how much|what(?: is|'s) [-+(0-9])|计算|求值|等于|多少|\A[\W0-9]*\Z",
    re.IGNORECASE,
)
_WORDLESS = re.compile(r"[\W0-9xX]*")
_BEFORE = re.compile(
    r"(?:\b(?:calculat\w*|comput\w*|evaluat\w*|solve|work out|how much is|multiply|maths?|mathematic\w*|arithmetic"
    r"|expression|equation)\b|计算|求|数学|算[一术式出]|等于|多少)[^0-9]{0,60}\Z"
    r"|(?:答案|题目?|结果)[^0-9]{0,12}\Z"
    r"|\b(?:what(?: is|'s)(?: the (?:result|value|product|sum) of)?|question|problem|exercise|sum)\b\W{0,9}\Z",
    re.IGNORECASE,
)
_BEHIND = re.compile(r"\s*(?:=|等于|是多少|得多少|得几|equals?\b|is equal to\b)", re.IGNORECASE)
_UNIT = re.compile(
    r"\s*(?:(?:[cdmk]?m|inch(?:es)?|ft|feet|yd|px|pixels?|m?g|kg|m?l|oz|lbs?|mph|MB|GB)(?![A-Za-z])"
    r"|in(?=\s*(?:[.,;)\n]|\Z))|厘米|毫米|分米|公分|米|像素|英寸|寸|克|升)"
)
_NEAR = 90  # characters before a sum


def value_of(text: str) -> tuple[str, Fraction | None]:
    """Compute the last sum that a text asks for.

    Returns:
        Its value as text and as a number. The text is empty if there is no sum, and `undefined` if its value is not a
        number.
    """
    found = _find_sum(text)
    try:
        number = None if found is None else _evaluate(found)
    except ZeroDivisionError:
        return "undefined", None
    return "" if number is None else _decimal(number), number


def _find_sum(text: str) -> ast.expr | None:
    """Return the last sum that a text asks for."""
    text = text.translate(_TYPED)
    if not _DIGIT.search(text):
        return None
    text = _WORD.sub(lambda found: _SPOKEN[found[1].lower()] if found[1] else _LATEX[found[2].lower()], text)
    sure: list[str] = []
    unsure: list[str] = []
    for match in _SUM.finditer(text):
        if len(match[0]) > _LONGEST:
            continue
        source = _in_brackets(match[0])
        if _UNSURE.search(source):
            if _is_meant(source) or _is_asked(text, match):
                sure.append(source)
        elif not _DATED.fullmatch(source):
            (unsure if _CLOSE.fullmatch(source) else sure).append(source)
    for source in reversed(sure or (unsure if _CALCULATE.search(text) else [])):
        # Python does not read thousands separators or leading zeros.
        plain = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", source.translate(_PYTHON))
        with contextlib.suppress(SyntaxError):  # brackets without a partner
            return ast.parse(plain, mode="eval").body
    return None


def _is_meant(source: str) -> bool:
    """Return whether a sign that can only be one stands beside one that may be something else, as in `83 x 76 + 77`."""
    parts = [part.strip() for part in _UNSURE.split(source)]
    certain = any(re.search(r"[0-9)][ \t]*[-+*/]", part) and not _CLOSE.fullmatch(part) for part in parts)
    return certain and not _HEXADECIMAL.search(source) and not any(map(_DATED.fullmatch, parts))


def _is_asked(text: str, match: re.Match[str]) -> bool:
    """Return whether the text around a match asks for its value, so that it is not a size, a range or a ratio."""
    start, end = match.span()
    if _HEXADECIMAL.search(match[0]) or _UNIT.match(text, end):
        return False
    if _BEHIND.match(text, end) or _BEFORE.search(text, max(start - _NEAR, 0), start):
        return True
    return _WORDLESS.fullmatch(text) is not None


def _in_brackets(source: str) -> str:
    """Strip the brackets at the ends that have no partner."""
    source = source.strip()
    while source[0] == "(" and source.count("(") > source.count(")"):
        source = source[1:].lstrip()
    while source[-1] == ")" and source.count(")") > source.count("("):
        source = source[:-1].rstrip()
    return source


_OPERATORS: dict[type, Callable[..., Fraction]] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: truediv}


def _evaluate(node: ast.AST) -> Fraction:
    """Compute a sum exactly, or raise `ZeroDivisionError`."""
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp):
        return _evaluate(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    # `repr` gives the decimal as written; the float itself is only close to it.
    return Fraction(repr(node.value)) if isinstance(node, ast.Constant) else Fraction(0)


def _decimal(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    with localcontext(prec=10):
        return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")
