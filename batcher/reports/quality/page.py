"""A page of its own for what a notebook shows: its path, its frame and its style.

Invariant: all text is escaped, nothing is loaded from elsewhere, and no script runs; no file is overwritten but a page.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path

from batcher.errors import SettingsError
from batcher.output.csv_file import as_output_errors, replace
from batcher.settings import home_expanded
from batcher.visible import harmless
from batcher.words import as_given, blamed

_GENERATOR = '<meta name="generator" content="batcher">'
"""By this a page is known again, which a later one may replace."""

_STYLE = """
:root { color-scheme: light dark; --batcher-accent: #2f74c8; }
@media (prefers-color-scheme: dark) { :root { --batcher-accent: #6aa9f0; } }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; max-width: 760px; margin: 0 auto;
  padding: 16px; }
h1 { font-size: 1.35em; line-height: 1.3; overflow-wrap: anywhere; }
h2 { font-size: 1.05em; margin: 1.8em 0 0.4em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 12px 2px 0; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
td:first-child, th:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 6em; }
.facts th, .facts th:first-child { white-space: nowrap; min-width: 0; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: 0.6em 0; }
@media (max-width: 480px) { th, td { white-space: normal; padding-right: 8px; } }
footer { margin-top: 2.5em; font-size: 0.85em; opacity: 0.7; }
"""


def path_of(value: object, name: str) -> Path:
    """Return the path of a file to write, that a user gave for an option.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(value, (str, os.PathLike)) or not (path := os.fspath(value)) or "\0" in path:
        raise SettingsError(f"{blamed(name)} must be the path of a file, not {value!r:.80}")
    return Path(home_expanded(path))


def page_path(given: object) -> Path:
    """Return the path of a page to write, after a check that it may be written.

    Raises:
        SettingsError: it is no path, another file is there, or there is no such directory.
    """
    path, where = path_of(given, "html"), as_given("html")
    if not path.parent.is_dir():
        raise SettingsError(f"{where}: there is no directory {path.parent}")
    if path.is_dir():
        raise SettingsError(f"{where}: {path} is a directory: name a file")
    if path.exists():
        with as_output_errors(path, "read"), path.open("rb") as file:
            is_ours = _GENERATOR.encode() in file.read(1000)
        if not is_ours:
            raise SettingsError(f"{where}: {path} is there, and is no page of batcher: name another file")
    return path


def write_page(path: Path, page: str) -> None:
    """Write a page.

    Raises:
        OutputError: the disk is full, the directory is read-only, ...
    """
    content = page.encode("utf-8", "backslashreplace")
    replace(path, lambda file: file.write(content))


def whole_page(name: str, title: str, facts: str, parts: Iterable[str], verb: str) -> str:
    """Return a page.

    Args:
        name: of the page, for the browser.
        title: its heading.
        facts: a table, as HTML.
        parts: what follows, as HTML.
        verb: that wrote it.
    """
    body = "\n".join([f"<h1>{html.escape(harmless(title))}</h1>", f'<div class="facts">{facts}</div>', *parts])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(harmless(name))}</title>\n{_GENERATOR}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<footer>Written by batcher {verb}. Intervals are 95% intervals.</footer>\n</body>\n</html>\n"
    )


def boxed(table: str) -> str:
    """Let what is too wide for the page be scrolled."""
    return f'<div style="overflow-x:auto">{table}</div>'
