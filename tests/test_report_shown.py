"""A report in a notebook: a picture and a table with the numbers of the files, and the page of `batcher report`."""

from __future__ import annotations

import html
import pickle
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, refusal
from programs import environment

from batcher.errors import Interrupted, OutputError
from batcher.output.report import Report
from batcher.records import Completion, Failure, Usage
from batcher.reports.card import counts_of, picture_of
from batcher.reports.whole.report import page_of_run

LABELS = ["<script>alert(1)</script>", 'a "quoted" </title> & more', "\u202eturned", "积极", "שלום", "often", "never"]
SVG = "{http://www.w3.org/2000/svg}"


def instead(call: Call) -> Completion | Failure | None:
    number = int(call.prompt.split()[1].rstrip(":"))
    if number % 10 == 3:
        return refusal(400)
    if number % 10 == 4:
        return Completion("nothing of the kind", "stop", Usage(10, 2))
    return Completion(LABELS[5] if number % 2 else LABELS[number // 10 % 5], "stop", Usage(10, 2))


def labelled(lab: Lab, rows: int = 100, **options: Any) -> Report:
    service = Service((), instead=instead)
    service.prompts = Anything()
    texts = [f"row {number}: text" for number in range(rows)]
    given: dict[str, Any] = {"labels": LABELS, "structured": "prompt"} | options
    return lab.run(texts, service, **given)


def picture_in(shown: str) -> ET.Element:
    [svg] = re.findall(r"<svg xmlns.*?\n</svg>", shown, re.DOTALL)
    return ET.fromstring(svg)  # noqa: S314 - our own


def texts_in(picture: ET.Element) -> list[str]:
    return [each.text or "" for each in picture.iter(f"{SVG}text")]


def test_the_numbers_of_the_picture_are_those_of_the_file(lab: Lab) -> None:
    picture = picture_in(labelled(lab)._repr_html_())
    rows = lab.rows()
    states = Counter(row["infer_status"] for row in rows)
    assert texts_in(picture)[:3] == [f"{states[name]} {name}" for name in ("ok", "invalid", "error")]
    counts = Counter(row["infer"] for row in rows if row["infer_status"] == "ok")
    shown = texts_in(picture)[4:]
    found = dict(zip(shown[::2], shown[1::2], strict=True))
    assert texts_in(picture)[3] == f"{states['ok']} rows with a label"
    assert found.pop("never") == "0 (0.0%)"
    named = {name.replace("\u202e", "\\u202e"): rows for name, rows in counts.items()}
    assert {name: int(text.split()[0]) for name, text in found.items()} == named
    bars = [each for each in picture.iter(f"{SVG}rect") if each.get("y") == "0"]
    widths = [float((each.get("width") or "").rstrip("%")) for each in bars]
    assert widths == [states[name] for name in ("ok", "invalid", "error")]  # of a hundred rows


def test_a_picture_says_in_words_what_it_shows_and_no_label_can_break_it(lab: Lab) -> None:
    shown = labelled(lab)._repr_html_()
    picture = picture_in(shown)
    assert picture.get("role") == "img"
    assert (picture.findtext(f"{SVG}title") or "") == "k: rows by status and by label"
    said = picture.findtext(f"{SVG}desc") or ""
    assert "often: " in said
    assert "<script>alert(1)</script>: " in said
    assert "<script" not in shown
    assert "\u202e" not in shown
    assert set(re.findall(r"<(\w+)", shown)) == {
        "div", "svg", "title", "desc", "rect", "text", "g", "table", "tr", "th", "td",
    }  # fmt: skip


def test_many_labels_are_counted_together(lab: Lab) -> None:
    labels = [f"label {number:02}" for number in range(40)]

    def answer(call: Call) -> Completion:
        return Completion(labels[int(call.prompt.split()[1].rstrip(":")) % 40], "stop", Usage(10, 2))

    service = Service((), instead=answer)
    service.prompts = Anything()
    report = lab.run([f"row {number}: text" for number in range(80)], service, labels=labels, structured="prompt")
    texts = texts_in(picture_in(report._repr_html_()))
    assert texts[-2:] == ["28 other labels", "56 (70.0%)"]


def test_without_labels_the_picture_has_the_rows_by_status_alone(lab: Lab) -> None:
    report = lab.run(["a", "b"], Service(["a", "b"]))
    assert texts_in(picture_in(report._repr_html_())) == ["2 ok"]
    assert counts_of("k", lab.directory) is None


def test_a_run_of_no_rows_has_a_picture() -> None:
    names = "rows ok invalid error requests answered failed out retries prompt_tokens completion_tokens unpriced"
    values: dict[str, Any] = dict.fromkeys(names.split(), 0) | {"cost_usd": 0.0, "uncertain_usd": 0.0, "elapsed_s": 0.0}
    now = {f"{name}_now": value for name, value in values.items() if name not in ("rows", "ok", "invalid", "error")}
    report = Report(keyword="k", status="done", output=None, **values, **now)
    assert texts_in(ET.fromstring(picture_of(report, None))) == ["0 ok"]  # noqa: S314 - our own
    assert "<svg" not in report._repr_html_()  # it was not made by a run
    with pytest.raises(OutputError, match="was not made by a run"):
        report.html()


def test_the_page_of_a_report_is_that_of_the_verb(lab: Lab) -> None:
    shown = labelled(lab).html()
    [source] = re.findall(r'srcdoc="([^"]*)"', shown._repr_html_())
    assert html.unescape(source) == shown.page
    moment = re.compile(r"\d\d:\d\d")
    assert moment.sub("", shown.page) == moment.sub("", page_of_run("k", lab.directory))
    assert not list(lab.directory.glob("*.html"))
    assert len(repr(shown)) + len(str(shown)) < 300


def test_a_stopped_run_shows_what_there_is(lab: Lab) -> None:
    with pytest.raises(Interrupted) as stopped:
        labelled(lab, at={3.5: lab.request_stop})
    report = stopped.value.report
    shown = report._repr_html_()
    assert texts_in(picture_in(shown))[:1] == [f"{report.ok} ok"]
    assert f"{report.left} left" in texts_in(picture_in(shown))
    assert f"k: stopped, {report.left} rows left" in shown
    assert report.html().page.startswith("<!DOCTYPE html>")


def test_after_another_run_a_report_still_shows_its_own_numbers_and_no_other_labels(lab: Lab) -> None:
    first = labelled(lab)
    before = texts_in(picture_in(first._repr_html_()))
    labelled(lab, 120)
    assert texts_in(picture_in(first._repr_html_())) == before[:3]
    with pytest.raises(OutputError, match="another run"):
        first.html()


def test_a_pickled_report_shows_itself_as_before(lab: Lab) -> None:
    report = labelled(lab)
    back = pickle.loads(pickle.dumps(report))  # noqa: S301 - our own
    assert back._repr_html_() == report._repr_html_()
    assert back.html().page.startswith("<!DOCTYPE html>")


def test_without_html_a_report_is_its_sentence(lab: Lab) -> None:
    class Printer:
        said = ""

        def text(self, said: str) -> None:
            self.said += said

    report, printer = labelled(lab), Printer()
    report._repr_pretty_(printer, False)
    assert printer.said == str(report)


def test_a_script_pays_nothing_for_what_it_does_not_show(tmp_path: Path) -> None:
    program = (
        "import sys, batcher\n"
        "report = batcher.run(['1 + 1'], keyword='k', provider='offline', quiet=True)\n"
        "print(report, [name for name in sys.modules if name in ('numpy', 'batcher.reports.card') or '.whole' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith(" []")
