"""The frame of a page: its head with style and script, its heading, its sections and its foot.

Invariant: all text is escaped, nothing is loaded from elsewhere, and no script runs but that of `script`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from batcher.reports.pages.escape import Html, joined, text
from batcher.reports.pages.files import GENERATOR
from batcher.reports.pages.script import SCRIPT
from batcher.reports.pages.style import STYLE


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        id: of its heading, for links.
        title: its heading.
        parts: its contents, as HTML.
    """

    id: str
    title: str
    parts: Sequence[str]


def whole_page(name: str, title: str, facts: str, parts: Iterable[str], verb: str) -> str:
    """Return a page of a table of facts and what follows.

    Args:
        name: of the page, for the browser.
        title: its heading.
        facts: a table, as HTML.
        parts: what follows, as HTML.
        verb: that wrote it.
    """
    body = "\n".join([f"<h1>{text(title)}</h1>", f'<div class="facts">{facts}</div>', *parts])
    return _document(name, f"<main>\n{body}\n</main>", verb, "")


def report_page(name: str, title: str, lead: Sequence[str], sections: Sequence[Section], verb: str) -> str:
    """Return a page of sections with a list of them.

    Args:
        name: of the page, for the browser.
        title: its heading.
        lead: what stands below that, as HTML.
        sections: in their order.
        verb: that wrote it.
    """
    links = "".join(f'<li><a href="#{each.id}">{text(each.title)}</a></li>' for each in sections)
    head = "\n".join([f"<h1>{text(title)}</h1>", *lead])
    body = "\n".join(_section(each) for each in sections)
    return _document(
        name,
        '<a class="skip" href="#main">Skip to the contents</a>\n'
        f'<header>\n{head}\n</header>\n<nav aria-label="On this page"><ul>{links}</ul></nav>\n'
        f'<main id="main">\n{body}\n</main>',
        verb,
        SCRIPT,
    )


def _section(section: Section) -> str:
    parts = "\n".join(section.parts)
    return (
        f'<section aria-labelledby="{section.id}">\n<h2 id="{section.id}">{text(section.title)}</h2>\n'
        f"{parts}\n</section>"
    )


def _document(name: str, body: str, verb: str, script: str) -> str:
    ran = f"<script>{script}</script>\n" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        f"<title>{text(name)}</title>\n{GENERATOR}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        f"<footer>Written by batcher {text(verb)}. Intervals are 95% intervals.</footer>\n"
        f"{ran}</body>\n</html>\n"
    )


@cache
def _policy(script: str) -> str:
    """Return what the browser may do: use this style and this script, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"


def boxed(table: str, name: str = "table") -> Html:
    """Let what is too wide for the page be scrolled, also by keyboard."""
    return joined(f'<div class="scroll" role="group" tabindex="0" aria-label="{text(name)}">', table, "</div>")
