"""Results show themselves: as text, and as a table of a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import batcher
from batcher.engine.by_hand import Change
from batcher.tables import Described, Line, cut, html_table, width


@dataclass(frozen=True)
class Found(Described):
    """A result that holds what a page could take for its own code."""

    keyword: str

    def _title(self) -> str:
        return f"{self.keyword}: done\nsecond line"

    def _lines(self) -> Iterator[Line]:
        yield Line("rows", "1 & 2")
        yield Line("", "<b>part</b>", is_part=True)


class Printer:
    """What IPython gives to `_repr_pretty_`."""

    def __init__(self) -> None:
        self.said = ""

    def text(self, said: str) -> None:
        self.said += said


def test_a_result_is_text_and_a_table_of_the_same_lines() -> None:
    found = Found("<script>")
    assert str(found) == "<script>: done\nsecond line\n  rows      1 & 2\n    <b>part</b>"
    assert repr(found) == "Found(keyword='<script>')"
    shown = found._repr_html_()
    assert shown.startswith("<div>&lt;script&gt;: done<br>second line</div>\n<table>")
    assert re.findall(r"<t[hd].*?>(.*?)</t[hd]>", shown) == ["rows", "1 &amp; 2", "", "&lt;b&gt;part&lt;/b&gt;"]


def results(directory: Path) -> list[Any]:
    options: dict[str, Any] = {"keyword": "k", "output_dir": directory, "provider": "offline", "quiet": True}
    planned = batcher.plan(["1 + 1"], **options)
    batcher.run(["1 + 1"], **options)
    verified = batcher.verify("k", output_dir=directory)
    return [planned, batcher.status("k", directory), verified, batcher.services()]


def test_plan_status_verify_and_services_show_what_they_print_on_a_light_and_on_a_dark_page(tmp_path: Path) -> None:
    for result in results(tmp_path):
        shown = result._repr_html_()
        assert re.findall(r'style="([^"]*)"', shown) == ["text-align: left"] * shown.count("style=")
        assert shown.count("<tr>") == shown.count("</tr>") > 1
        assert "class=" not in shown
        assert repr(result).startswith(f"{type(result).__name__}(")
        printer = Printer()
        result._repr_pretty_(printer, False)
        assert printer.said == str(result)


def test_a_change_by_hand_shows_itself_in_words() -> None:
    change, printer = Change("k", "paused"), Printer()
    change._repr_pretty_(printer, False)
    assert printer.said == str(change) == "k: paused (running process took it)"


def test_a_table_may_have_heads() -> None:
    shown = html_table("", [("a", "b\nc")], ("one", "two"), has_labels=True)
    assert re.sub(r' style="[^"]*"', "", shown) == (
        "<table>\n<tr><th>one</th><th>two</th></tr>\n<tr><th>a</th><td>b<br>c</td></tr>\n</table>"
    )


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("\u6570\u5b66", 4), ("e\u0301", 1), ("\uff08a\uff09", 5), ("", 0)]
)
def test_a_text_has_the_width_that_a_terminal_gives_it(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.mark.parametrize(
    ("columns", "kept"), [(4, "\u6570\u5b66"), (3, "\u6570\u2026"), (2, "\u2026"), (1, "\u2026"), (0, ""), (-3, "")]
)
def test_a_text_is_cut_between_characters(columns: int, kept: str) -> None:
    assert cut("\u6570\u5b66", columns) == kept
