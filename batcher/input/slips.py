"""Finds slips in a template: a hole as another program writes it, the name of a file or of a column.

Invariant: a slip is only pointed out; no template is changed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from batcher.input.column_names import like, meant, shown
from batcher.words import option

# Holes of other programs: the whole, and what stands in it. No text has them by chance, or hardly ever.
_FOREIGN = (
    re.compile(r"(?<!\{)\{\{-?\s*([^{}\n]+?)\s*-?\}\}(?!\})"),  # Jinja, Mustache
    re.compile(r"[{｛]\s*([^{}｛｝\n]+?)\s*｝|｛\s*([^{}｛｝\n]+?)\s*\}"),  # noqa: RUF001 - full width
    re.compile(r"\$\{\s*([^{}\n]+?)\s*\}"),  # shells, JavaScript
    re.compile(r"(?<![\w$])\$([^\W\d]\w*)"),
    re.compile(r"%\(([^()\n]+)\)[srdf]"),  # Python before format()
    re.compile(r"<%=?\s*([^<>%\n]+?)\s*%>"),
)
# Brackets that texts have, too: they count only around the name of a column.
_BRACKETS = re.compile(
    r"<{1,2}\s*([^<>\n]+?)\s*>{1,2}|\[{1,2}\s*([^\[\]\n]+?)\s*\]{1,2}|%([^%\s]+)%|[【《〈「『〔＜［]\s*([^\n]+?)\s*[】》〉」』〕＞］]"  # noqa: RUF001 - full width
)
_EXPRESSION = re.compile(r"""[^\s"':,][^:,]*""")  # not the braces of a JSON object
_FILE = re.compile(r"@?(\S+\.(?:txt|text|md|prompt|jinja2?|j2|tmpl|tpl|json|ya?ml|toml))")
_LONGEST_NAME = 255  # of a file
_MOST_NOTES = 3  # about one template


def advice(templates: Sequence[tuple[str, str]], columns: Sequence[str]) -> str:
    """Return what to do about templates without a hole: the likely slip, or else what a hole is.

    Args:
        templates: each with the name of its option, as Python spells it; the prompt comes first.
        columns: of the table.
    """
    found = next(filter(None, (_slip(text, columns, name) for name, text in templates)), "")
    return found or next(filter(None, (_mentioned(text, columns) for _, text in templates)), "") or _holes(columns)


def _slip(text: str, columns: Sequence[str], name: str) -> str:
    if found := file_named(text, name):
        return found
    if column := next(iter(like(text, columns)), None):
        other = f" or {option('prompt_column', column)}" if name.startswith("prompt") else ""
        return f"{column!r} is a column: write {{{column}}}{other}"
    return next(_foreign(text, columns), "") or _bracketed(text, columns)


def _holes(columns: Sequence[str]) -> str:
    example = next(iter(columns), "column")
    return f"a hole is the name of a column in braces, as in {{{example}}}; of the table {shown('', columns)}"


def notes(text: str, columns: Sequence[str], holes: Collection[str], name: str) -> list[str]:
    """Return what is odd about a template that has holes, or whose prompt has some.

    Holes of another program are named only if they hold a column: doubled braces are the escape of a brace.
    """
    if found := file_named(text, name):
        return [found]
    odd = []
    named = ((whole, column) for whole, inner in _holes_of_others(text) for column in like(inner, columns))
    for whole, column in named:
        if whole == f"${{{column}}}":
            odd.append(f"of {whole!r} the $ is sent, too: a hole is {{{column}}}")
        elif column not in holes:
            odd.append(f"{whole!r} is no hole, and is sent as a text: a hole is {{{column}}}")
    return odd[:_MOST_NOTES]


def file_named(text: str, name: str) -> str:
    """Return the advice on a template that is the name of a file, or an empty text."""
    path = text.strip().removeprefix("@")
    if not path or "\n" in path or len(path) > _LONGEST_NAME:
        return ""
    way = "system_file" if name.startswith("system") else "prompt_file"
    with contextlib.suppress(OSError, ValueError):
        if Path(path).is_file():
            return f"there is a file {path}: {option(way, path)} reads it"
    if found := _FILE.fullmatch(text.strip()):
        return f"it looks like the name of a file, and there is no file {found[1]}: {option(way, 'FILE')} reads one"
    return ""


def _foreign(text: str, columns: Sequence[str]) -> Iterator[str]:
    """Yield the advice on holes as other programs write them, those with a column first."""
    found = [(whole, inner) for whole, inner in _holes_of_others(text) if _EXPRESSION.fullmatch(inner)]
    for whole, inner in found:
        words = [inner, *re.findall(r"\w+", inner)]  # row['text'], text|trim
        if column := next((each for word in words for each in like(word, columns)), None):
            yield f"{whole!r} is not a hole: write {{{column}}}"
    for whole, inner in found:
        yield f"{whole!r} is not a hole, and the table has no column {inner!r}{meant(inner, columns)}"


def _holes_of_others(text: str) -> Iterator[tuple[str, str]]:
    """Yield the holes of other programs: the whole, and what stands in it."""
    for pattern in _FOREIGN:
        for found in pattern.finditer(text):
            yield found[0], _inner(found)


def _bracketed(text: str, columns: Sequence[str]) -> str:
    for found in _BRACKETS.finditer(text):
        if column := next(iter(like(_inner(found), columns)), None):
            return f"{found[0]!r} is not a hole: write {{{column}}}"
    return ""


def _mentioned(text: str, columns: Sequence[str]) -> str:
    """Return the advice on a template that has the name of a column among its words, the last one of them."""
    places = {column: match for column in columns if (match := _last(column, text)) >= 0}
    if not places:
        return ""
    column = max(places, key=lambda each: (places[each], len(each)))
    return f"{column!r} is a column, and a hole has braces: write {{{column}}} where its text belongs"


def _last(column: str, text: str) -> int:
    """Return where a text has a column's name last, as a word; -1 if it does not."""
    name = column.strip()
    if not name:
        return -1
    # Chinese has no spaces between words.
    bound = r"(?<!\w){}(?!\w)" if name.isascii() else "{}"
    return max((found.start() for found in re.finditer(bound.format(re.escape(name)), text)), default=-1)


def _inner(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)
