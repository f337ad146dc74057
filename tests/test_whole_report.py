"""The report of a run: what stands on the page, that no text can break it, and that no run breaks it."""

from __future__ import annotations

import html
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from labelled_runs import answering, label_by_hand, run_with
from test_embeddings import EMBED, Vectors

import batcher
from batcher.cli.verbs import main
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted, OutputError, SettingsError
from batcher.journal.times import ANSWERED, FAILED, FURTHER, LIMITED, OUT, Event, Process
from batcher.records import Completion, Failure, Fault, Usage
from batcher.reports.pages.escape import text
from batcher.reports.whole.facts import Facts, Timeline
from batcher.reports.whole.hints import RULES, hints_of
from batcher.reports.whole.page import page_of
from batcher.reports.whole.report import page_of_run
from batcher.reports.whole.timeline import BINS, Latencies, WorkTime, timeline_of

LABELS = ["good", "bad", "so"]


class Page(HTMLParser):
    """A page as a browser sees it: its elements with the names of their attributes, its text and its headings."""

    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"style", "script"}:
            return
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data


def shown(lab: Lab, keyword: str = "k") -> Page:
    return Page(page_of_run(keyword, lab.directory))


def facts_of(lab: Lab) -> Facts:
    return batcher.report("k", lab.directory).facts


def labelled(lab: Lab, rows: int = 60, **options: Any) -> None:
    """Run rows with labels, of which a few fail in different ways, and label 40 of them by hand."""
    answers = [LABELS[number % 3] for number in range(rows)]
    answers[7:10] = ["goood", "goood", "none of them"]
    run_with(lab, answers, labels=LABELS, **options)
    label_by_hand(lab.directory, {number: LABELS[(number % 3 + (number % 9 == 0)) % 3] for number in range(40)})


# -- What stands on the page


def test_the_number_with_its_interval_comes_first_and_the_parts_follow_in_order(lab: Lab) -> None:
    labelled(lab)
    page = shown(lab)
    assert re.search(r"\d\d\.\d% ?of the answers are right; 95% interval \d\d\.\d% to \d\d\.\d%", page.text)
    assert page.text.index("95% interval") < page.text.index("What ran")
    assert page.headings == [
        "What ran",
        "Rows by status",
        "Answers",
        "Over time",
        "How long answers took",
        "Tokens and money",
        "Model against hand labels",
        "Failures",
        "Rows where people and the model differ",
        "What to look at",
    ]


def test_without_hand_labels_the_rows_come_first_and_the_command_that_leads_to_an_interval(lab: Lab) -> None:
    run_with(lab, ["good", "bad", "so", "bad"], labels=LABELS)
    page = shown(lab)
    assert "4 of 4 rows" in page.text[:400]
    assert f"batcher.sample('k', n=4, output_dir='{lab.directory}')" in page.text[:700]


def test_what_ran_is_the_question_whom_it_was_put_to_and_by_what(lab: Lab, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("text\nrow 0\n", encoding="utf-8")
    options: dict[str, Any] = {"system": "Be brief.", "labels": LABELS, "param": {"top_p": 0.5}}
    lab.run(table, answering({"row 0": "good"}), "{text}", **options)
    page = shown(lab)
    for part in ("{text}", "Be brief.", '"top_p": 0.5', "good, bad, so", str(table), "the file is unchanged since"):
        assert part in page.text, part
    assert re.search(r"versions ?batcher \d+\.\d+\.\d+, Python 3", page.text)
    table.write_text("text\nrow 1\n", encoding="utf-8")
    assert "the file has changed since" in shown(lab).text
    table.unlink()
    assert "the file is gone" in shown(lab).text


def test_what_was_planned_stands_beside_what_was_spent(lab: Lab) -> None:
    endpoint = Endpoint("m", prices={"in": 1.0, "out": 2.0})
    rows = [f"row {number}" for number in range(20)]
    service = answering({})
    service.instead = lambda _call: Completion("good", "stop", Usage(10, 2))
    options: dict[str, Any] = {"endpoints": [endpoint], "labels": LABELS, "budget": 1, "param": {"max_tokens": 9}}
    lab.run(rows, service, **options)
    [process] = facts_of(lab).ran.processes
    assert process.is_recorded
    assert (process.requests, process.sent) == (20, 20)
    assert process.budget_usd == 1
    assert process.prompt_tokens
    assert process.completion_tokens
    assert process.cost_usd == pytest.approx((process.prompt_tokens + 2 * process.completion_tokens) / 1e6)
    assert process.spent_usd == pytest.approx(20 * 14 / 1e6)
    assert lab.run(rows, service, **options).requests_now == 0
    assert lab.query("SELECT count(*) FROM events WHERE kind = 'planned'") == [(1,)]


def test_a_process_of_an_older_batcher_has_no_plan_and_the_page_says_so(lab: Lab) -> None:
    run_with(lab, ["good"])
    lab.change("DELETE FROM events")
    page = shown(lab)
    assert "not recorded by older versions" in page.text
    assert "versionsnot recorded" in page.text


def test_failures_have_their_reason_and_the_cells_of_a_few_rows(lab: Lab) -> None:
    labelled(lab)
    failures = {each.reason: each for each in facts_of(lab).failures}
    assert failures["the answer is not one of the labels"].rows == 3
    [first, *_] = failures["the answer is not one of the labels"].examples
    assert (first.position, first.answer, first.cells) == (7, "goood", (("text", "row 7"),))


def test_rows_that_people_and_the_model_see_otherwise_are_shown_with_both(lab: Lab) -> None:
    labelled(lab)
    facts = facts_of(lab)
    assert facts.disagreements == 7  # each ninth of 40 rows, and three that are invalid, of which one is both
    assert {(each.position, each.answer, each.other) for each in facts.disagreeing} >= {(0, "good", "bad")}
    assert all(each.cells == (("text", f"row {each.position}"),) for each in facts.disagreeing)


def test_the_answers_of_people_are_shown_with_what_they_replace(lab: Lab) -> None:
    run_with(lab, ["good", "bad"], labels=LABELS)
    chunk = lab.path(0)
    chunk.write_text(chunk.read_text(encoding="utf-8").replace("row 1,bad", "row 1,so"), encoding="utf-8")
    run_with(lab, ["good", "bad"], labels=LABELS)
    [corrected] = facts_of(lab).corrected
    assert (corrected.position, corrected.answer, corrected.other) == (1, "bad", "so")


def test_split_votes_are_shown_with_their_votes(lab: Lab) -> None:
    said = {"row 0": ["good", "good", "good"], "row 1": ["good", "bad", "good"]}
    service = Service([], instead=lambda call: Completion(said[call.prompt.partition("\n")[0]][call.nth - 1], "stop"))
    service.prompts = set(said) | {f"{row}\n" for row in said}
    service.prompts = answering({}).prompts
    lab.run([*said], service, labels=LABELS, samples=3)
    [split] = facts_of(lab).split
    assert (split.position, split.answer, split.votes) == (1, "good", (("good", 2), ("bad", 1)))


# -- The file


def test_the_page_is_written_whole_into_the_output_directory_and_replaces_only_a_page_of_batcher(
    lab: Lab, tmp_path: Path
) -> None:
    run_with(lab, ["good"])
    written = batcher.report("k", lab.directory)
    assert written.path == lab.directory / "report_k.html"
    assert batcher.report("k", lab.directory).path == written.path
    written.path.write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"report_k\.html is there, and is no page of batcher"):
        batcher.report("k", lab.directory)
    other = tmp_path / "other.html"
    assert batcher.report("k", lab.directory, html=other).path == other
    assert written.path.read_text(encoding="utf-8") == "mine"
    with pytest.raises(OutputError, match="there is no run 'x'"):
        batcher.report("x", lab.directory)
    assert [path.name for path in lab.directory.glob("*report*")] == ["report_k.html"]


def test_the_command_line_prints_the_path_alone_or_one_json_object(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(lab)
    assert main(["report", "k", "--output-dir", str(lab.directory)]) == 0
    assert capsys.readouterr().out == f"{lab.directory / 'report_k.html'}\n"
    assert main(["report", "k", "-o", str(lab.directory), "--json", "--html", str(lab.directory / "a.html")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(lab.directory / "a.html")
    assert said["figures"]["ok"] == 57
    assert said["estimates"][0]["gold"] == 40


def test_in_a_notebook_the_page_has_a_frame_of_its_own(lab: Lab) -> None:
    run_with(lab, ["good"])
    shown_there = batcher.report("k", lab.directory)._repr_html_()
    [frame] = re.findall(r"<iframe[^>]*>", shown_there)
    [page] = re.findall(r'srcdoc="([^"]*)"', frame)
    assert 'sandbox="allow-scripts"' in frame
    assert Page(html.unescape(page)).headings[0] == "What ran"


def test_the_page_loads_nothing_and_lets_nothing_run_but_its_own_script(lab: Lab) -> None:
    run_with(lab, ["good"])
    page = page_of_run("k", lab.directory)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert not re.search(r"\bsrc=|url\(|@import", page)
    assert {*re.findall(r'href="(.)', page)} == {"#"}
    for part in ('<html lang="en">', "@media print", "prefers-color-scheme: dark", 'name="viewport"', "<main", "<nav"):
        assert part in page


# -- Text that means harm

HARM = "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>-->]]>\"'javascript:alert(1)"
WORSE = f"{HARM}\u202e\u2066\x00\x1b[0m\ud800"


def hostile_run(lab: Lab, harm: str, worse: str) -> str:
    """Run a table in which every text has this at its end, and return the page.

    The answers are labels, texts that are none, failures and corrections; what a run would refuse is written into its
    journal.
    """
    labels = [f"{label} {harm}" for label in LABELS]
    rows = [{f"col {harm}": f"row {number} {worse}", "other": worse} for number in range(30)]
    answers = {f"row {number} ": labels[number % 3 * (number % 2)] for number in range(30)}

    def instead(call: Call) -> Completion | Failure:
        number = int(call.prompt.split()[1])
        if number == 4:
            return Completion(f"nothing like it {worse}", "stop")
        if number == 5:
            return Failure(Fault.STATUS, f"refused {harm}", 413)
        return Completion(answers[f"row {number} "], "stop")

    service = answering({})
    service.instead = instead
    endpoint = Endpoint("m", base_url="http://127.0.0.1:1/v1", name="a name")
    options: dict[str, Any] = {"labels": labels, "endpoints": [endpoint], "system": f"system {harm}"}
    lab.run(rows, service, f"{{col {harm}}}", **options)
    label_by_hand(lab.directory, {number: labels[number % 2] for number in range(28)})
    with closing(sqlite3.connect(lab.directory / "journal_k.sqlite")) as db, db:
        end = worse.encode("utf-8", "surrogatepass")
        for table, column in [
            *(("sources", name) for name in ("model", "base_url")),
            *(("runs", name) for name in ("host", "outcome")),
            *(("results", name) for name in ("error",)),
        ]:
            where = "model <> 'corrected by hand'" if table == "sources" else f"length({column}) > 0"
            db.execute(f"UPDATE {table} SET {column} = CAST({column} || ? AS BLOB) WHERE {where}", (end,))  # noqa: S608
        db.execute("UPDATE requests SET outcome = 'odd ' || ? WHERE outcome = '413'", (harm,))
        db.execute(
            "INSERT INTO events (run, at, kind, subject, detail) SELECT 1, sent, 'paused', ?, ? FROM requests LIMIT 1",
            (end, end),
        )
        _correct(db, end)
        _vote(db, end)
        [(question,)] = db.execute("SELECT question FROM runs")
        asked = json.loads(question)
        asked |= {"input": [f"/a/file {harm}"], "params": {f"p {harm}": harm}, "sheet": harm, "prompt": f"ask {harm}"}
        db.execute("UPDATE runs SET question = ?", (json.dumps(asked),))
        detail = {"versions": {f"batcher {harm}": harm}, "input": [{"path": f"/a {harm}", "sha256": harm}]}
        db.execute("UPDATE events SET detail = ? WHERE kind = 'planned'", (json.dumps(detail),))
    return page_of_run("k", lab.directory)


def _correct(db: sqlite3.Connection, end: bytes) -> None:
    """Let a person give a row another answer."""
    [(before, key)] = db.execute("SELECT result, key FROM rows WHERE position = 20")
    db.execute("INSERT INTO sources (id, model, base_url, params) VALUES (99, 'corrected by hand', '', '')")
    db.execute(
        "INSERT INTO results (id, key, source, status, answer, error) VALUES (-1, ?, 99, 'ok', ?, '')", (key, end)
    )
    db.execute("INSERT INTO rereads VALUES (-1, ?, ?)", (before, before))
    db.execute("INSERT INTO corrections (id, at, who, why, origin, is_undo) VALUES (-1, 0, ?, ?, ?, 0)", (end,) * 3)
    db.execute("UPDATE rows SET result = -1 WHERE position = 20")


def _vote(db: sqlite3.Connection, end: bytes) -> None:
    """Make a row's answer one of two, and all answers uncertain."""
    db.execute("UPDATE responses SET confidence = 0.5")
    [(result,)] = db.execute("SELECT result FROM rows WHERE position = 22")
    db.execute("INSERT INTO votes VALUES (?, 2, 1, 1, NULL)", (result,))
    opinion = "INSERT INTO opinions SELECT {0}, key, 22, source, status, {1}, '', 0, id FROM results WHERE id = ?"
    db.execute(opinion.format("id", "answer"), (result,))
    db.execute(opinion.format("-2", f"CAST(answer || x'{end.hex()}' AS BLOB)"), (result,))


def test_no_text_changes_the_elements_of_the_page(tmp_path: Path) -> None:
    harmless, hostile = (
        hostile_run(Lab(tmp_path / name), *harm) for name, harm in (("a", ("x", "x")), ("b", (HARM, WORSE)))
    )
    assert Page(hostile).elements == Page(harmless).elements
    assert {*Page(hostile).headings} >= {"Failures", "Least certain rows", "Corrections by people", "Over time"}
    assert hostile.count("<script>") == 1
    assert not set("\u202e\u2066\x00\x1b\ud800") & set(hostile)
    assert Page(hostile).text.count("alert(1)") > 60
    hostile.encode()


@pytest.mark.parametrize("name", ["数学计算", "k'k", "شكوى", "a&lt;b", "--&gt; onerror=x"])
def test_a_keyword_is_text(tmp_path: Path, name: str) -> None:
    lab = Lab(tmp_path / "output")
    run_with(lab, ["good"], keyword=name)
    page = Page(page_of_run(name, lab.directory))
    assert f"{name}: report" in page.text


def test_what_cannot_be_in_a_page_is_shown_as_python_shows_it() -> None:
    assert text("a\x00\u202e\ud800<") == r"a\x00\u202e\ud800&lt;"


# -- Runs of every kind


def of_no_rows(lab: Lab) -> None:
    lab.run([], Service([]))


def of_one_row(lab: Lab) -> None:
    run_with(lab, ["good"])


def of_no_answer(lab: Lab) -> None:
    lab.run(["a", "b"], Service(["a", "b"], instead=lambda _call: refusal(413)))


def stopped(lab: Lab) -> None:
    rows = [f"row {number}" for number in range(50)]
    with pytest.raises(Interrupted):
        lab.run(rows, Service(rows), at={2.5: lab.request_stop}, endpoints=[Endpoint("m", max_concurrency=2)])


def of_vectors(lab: Lab) -> None:
    lab.run([f"t{number}" for number in range(20)], Vectors(), **EMBED)


def of_fields(lab: Lab) -> None:
    properties = {"mood": {"enum": LABELS}, "score": {"type": "number"}, "why": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    answers = [json.dumps({"mood": LABELS[n % 3], "score": n, "why": f"because {n}"}) for n in range(30)]
    run_with(lab, answers, schema=schema)
    label_by_hand(lab.directory, {n: json.dumps({"mood": "good", "score": str(n)}) for n in range(20)})


def of_numbers(lab: Lab) -> None:
    run_with(lab, [str(number / 7) for number in range(40)])
    label_by_hand(lab.directory, {number: str(number / 7) for number in range(20)})


def of_texts(lab: Lab) -> None:
    run_with(lab, [f"some words about {number}, 中文与阿拉伯文 شكوى" for number in range(150)])


def of_long_texts(lab: Lab) -> None:
    lab.run([{"a": "x" * 100_000, "b": "y"}], Service([], instead=lambda _call: Completion("z" * 100_000)), "{b}")


def gone_on(lab: Lab) -> None:
    """The journal of a process whose question a disk has changed, among others."""
    run_with(lab, ["good", "bad"])
    run_with(lab, ["good", "bad", "so"])
    lab.change("UPDATE runs SET question = 'broken', ended = NULL WHERE id = 1")


KINDS: list[Callable[[Lab], None]] = [
    *(of_no_rows, of_one_row, of_no_answer, stopped, of_vectors, of_fields, of_numbers, of_texts, gone_on)
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_any_kind_has_a_page(lab: Lab, kind: Callable[[Lab], None]) -> None:
    kind(lab)
    written = batcher.report("k", lab.directory)
    page = Page(written.path.read_text(encoding="utf-8"))
    assert page.headings[:2] == ["What ran", "Rows by status"]
    assert json.loads(json.dumps(written.to_dict()))["keyword"] == "k"


def test_a_run_at_work_has_a_page_that_says_so(lab: Lab) -> None:
    rows = [f"row {number}" for number in range(30)]
    seen: list[Facts] = []
    lab.run(
        rows,
        Service(rows),
        at={2.5: lambda: seen.append(facts_of(lab))},
        endpoints=[Endpoint("m", max_concurrency=4)],
    )
    [facts] = seen
    assert facts.state == "running"
    assert 0 < facts.figures.ok < 30
    assert "still to do" in page_of(facts)


def test_each_field_of_a_schema_has_its_own_figures(lab: Lab) -> None:
    of_fields(lab)
    facts = facts_of(lab)
    assert [each.field for each in facts.estimates] == ["mood", "score", "why"]
    assert "mood: of the answers are right" in shown(lab).text


def test_vectors_have_no_estimate_and_rows_that_share_a_request_count_each(lab: Lab) -> None:
    of_vectors(lab)
    facts = facts_of(lab)
    assert "vectors" in facts.no_estimate
    assert facts.timeline is not None
    assert sum(facts.timeline.answered) * facts.timeline.width == pytest.approx(20, rel=0.01)
    assert sum(each.requests for each in facts.endpoints.each) == facts.figures.requests < 20


# -- Over time


def moments(*lines: tuple[int, float, float | None, int]) -> Any:
    found = np.zeros(len(lines), [("run", "i4"), ("source", "i4"), ("sent", "f8"), ("ended", "f8"), ("how", "u1")])
    for place, (run, sent, ended, how) in enumerate(lines):
        found[place] = (run, 1, sent, np.nan if ended is None else ended, how)
    return found


def process(number: int, started: float, ended: float | None) -> Process:
    return Process(number, "host", 1, started, ended, "done", {}, {})


def timeline(
    processes: list[Process], lines: Any, events: list[Event] | None = None, now: float | None = None
) -> Timeline:
    found = timeline_of(WorkTime(processes, lines, now), lines, events or [])
    assert found is not None
    return found


def test_the_time_between_two_processes_is_left_out() -> None:
    day = 86_400.0
    lines = moments((1, 0.0, 10.0, ANSWERED), (2, day, day + 20.0, ANSWERED))
    found = timeline([process(1, 0.0, 10.0), process(2, day, day + 20.0)], lines)
    assert found.seconds == 30.0
    assert [(each.place, each.at) for each in found.begun] == [(10.0, day)]


def test_what_is_in_flight_is_the_time_of_requests_in_each_bin() -> None:
    lines = moments((1, 0.0, 24.0, ANSWERED), (1, 12.0, None, OUT), (1, 0.0, 24.0, ANSWERED + FURTHER))
    found = timeline([process(1, 0.0, 24.0)], lines)
    half = len(found.in_flight) // 2
    assert np.allclose(found.in_flight[:half], 1.0, atol=0.02)
    assert np.allclose(found.in_flight[half:], 2.0, atol=0.02)
    assert sum(found.answered) * found.width == pytest.approx(2, abs=0.01)  # rows, and not requests


def test_refusals_and_failures_are_counted_apart_and_bins_are_few_however_long_it_takes() -> None:
    lines = moments(*((1, float(at), at + 1.0, (LIMITED, FAILED)[at % 2]) for at in range(5000)))
    found = timeline([process(1, 0.0, None)], lines)
    assert len(found.answered) == BINS
    assert sum(found.limited) * found.width == pytest.approx(2500, abs=1)
    assert sum(found.failed) * found.width == pytest.approx(2500, abs=1)


def test_pauses_have_their_place_and_one_without_an_end_lasts_to_the_end_of_its_process() -> None:
    lines = moments((1, 0.0, 100.0, ANSWERED))
    events = [
        Event(1, 20.0, "paused", "one", "HTTP 500"),
        Event(1, 30.0, "resumed", "one", ""),
        Event(1, 60.0, "paused by hand", "request 1", "paused"),
        Event(7, 60.0, "paused", "of no process", ""),
    ]
    found = timeline([process(1, 0.0, 100.0)], lines, events)
    assert sorted(found.pauses) == [(20.0, 30.0, "one", "HTTP 500"), (60.0, 100.0, "by hand", "paused")]


def test_a_clock_that_was_set_back_breaks_nothing() -> None:
    lines = moments((1, 50.0, 40.0, ANSWERED), (1, 10.0, 90.0, ANSWERED))
    found = timeline([process(1, 60.0, 20.0)], lines)
    assert found.seconds > 0
    assert all(np.isfinite(found.in_flight))
    assert Latencies(lines).of(1)[0][-1] == 80.0


def test_percentiles_are_those_of_answered_requests() -> None:
    lines = moments(*((1, 0.0, 0.01 * (number + 1), ANSWERED) for number in range(100)), (1, 0.0, 99.0, FAILED))
    quantiles, histogram = Latencies(lines).of(1)
    assert quantiles == pytest.approx((0.505, 0.901, 0.9505, 0.9901, 1.0))
    assert sum(histogram) == 100


# -- Hints


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A run without anything to look at."""
    lab = Lab(tmp_path_factory.mktemp("calm"))
    run_with(lab, [LABELS[number % 3] for number in range(300)], labels=LABELS)
    label_by_hand(lab.directory, {number: LABELS[number % 3] for number in range(100)})
    return facts_of(lab)


def figures(calm: Facts, **changed: Any) -> Facts:
    return replace(calm, figures=replace(calm.figures, **changed))


def endpoints(calm: Facts, *each: dict[str, Any]) -> Facts:
    [one] = calm.endpoints.each
    return replace(calm, endpoints=replace(calm.endpoints, each=tuple(replace(one, **changed) for changed in each)))


def planned(calm: Facts, **changed: Any) -> Facts:
    [one] = calm.ran.processes
    return replace(calm, ran=replace(calm.ran, processes=(one._replace(**changed),)))


def share(calm: Facts, rows: int, ok: int = 300) -> Facts:
    """Return facts of a run in which one label has this number of rows."""
    [found] = calm.estimates
    [first, *others] = found.labels
    left = (ok - rows) // 2
    labels = (replace(first, rows=rows), *(replace(each, rows=left) for each in others))
    return replace(calm, estimates=(replace(found, labels=labels, ok=ok),))


def gold(calm: Facts, number: int) -> Facts:
    [found] = calm.estimates
    return replace(calm, estimates=(replace(found, design=found.design._replace(gold=number)),))


SLOW = {"answered": 50, "quantiles": (3.0, 4.0, 4.0, 5.0, 6.0), "name": "slow"}
QUICK = {"answered": 50, "quantiles": (1.0, 2.0, 2.0, 2.0, 2.0), "name": "quick"}


@pytest.mark.parametrize(
    ("rule", "below", "above", "said"),
    [
        ("unfinished", lambda f: f, lambda f: replace(figures(f, ok=290), state="stopped"), "10 rows have no result"),
        ("failed rows", lambda f: figures(f, error=2), lambda f: figures(f, error=3), "3 rows (1.0%) ended without"),
        ("invalid answers", lambda f: figures(f, invalid=5), lambda f: figures(f, invalid=6), "6 answers (2.0%) came"),
        (
            "near misses",
            lambda f: replace(f, near=(("good", 2),)),
            lambda f: replace(f, near=(("good", 12),)),
            "12 invalid rows are near misses of good",
        ),
        ("cut off", lambda f: figures(f, cut=2), lambda f: figures(f, cut=12), "4.0% of the answers (12) end at max"),
        ("empty answers", lambda f: replace(f, empty=1), lambda f: replace(f, empty=2), "2 answers are empty (0.7%)"),
        ("one label", lambda f: share(f, 284), lambda f: share(f, 291), "takes 97.0% of the rows"),
        ("one label", lambda f: share(f, 10, 10), lambda f: share(f, 300), "All 300 rows have the same answer"),
        ("labels that never occur", lambda f: f, lambda f: share(f, 300), "2 labels of 3 never occur: "),
        ("few hand labels", lambda f: gold(f, 50), lambda f: gold(f, 49), "Only 49 rows have a hand label"),
        (
            "429",
            lambda f: endpoints(f, {"limited": 14}),
            lambda f: endpoints(f, {"limited": 15}),
            "5.0% of the requests were refused",
        ),
        ("retries", lambda f: figures(f, retries=29), lambda f: figures(f, retries=30), "10.0% of the requests were"),
        (
            "slow endpoint",
            lambda f: endpoints(f, SLOW | {"quantiles": (2.9, 4.0, 4.0, 5.0, 6.0)}, QUICK),
            lambda f: endpoints(f, SLOW, QUICK),
            "slow takes 3.0 times as long as the others",
        ),
        (
            "slow answers",
            lambda f: endpoints(f, QUICK | {"answered": 200, "quantiles": (1.0, 1.0, 1.0, 9.0, 9.0)}),
            lambda f: endpoints(f, QUICK | {"answered": 200, "quantiles": (1.0, 1.0, 1.0, 10.0, 99.0)}),
            "1 in 100 answers of quick takes 10 s or longer",
        ),
        (
            "budget",
            lambda f: planned(figures(f, cost_usd=0.79), budget_usd=1.0),
            lambda f: planned(figures(f, cost_usd=0.8), budget_usd=1.0),
            "$0.80 of the budget of $1.00 may be spent (80.0%)",
        ),
        (
            "over the plan",
            lambda f: planned(f, cost_usd=1.0, spent_usd=1.5),
            lambda f: planned(f, cost_usd=1.0, spent_usd=2.0),
            "cost 2.0 times what was planned",
        ),
        (
            "unknown prices",
            lambda f: figures(f, unpriced=3),
            lambda f: planned(figures(f, unpriced=3), budget_usd=1.0),
            "price of 3 requests is unknown",
        ),
        (
            "thinking",
            lambda f: endpoints(f, {"reasoning_tokens": 79, "completion_tokens": 100}),
            lambda f: endpoints(f, {"reasoning_tokens": 80, "completion_tokens": 100}),
            "80.0% of the completion tokens",
        ),
        ("tied votes", lambda f: figures(f, tied=14), lambda f: figures(f, tied=15), "15 votes were tied (5.0%"),
    ],
)
def test_a_hint_is_given_from_its_threshold_on(
    calm: Facts, rule: str, below: Callable[[Facts], Facts], above: Callable[[Facts], Facts], said: str
) -> None:
    assert rule not in {each.rule for each in hints_of(below(calm))}
    [hint] = [each for each in hints_of(above(calm)) if each.rule == rule]
    assert said in hint.said


def test_a_run_without_anything_odd_has_no_hint(calm: Facts) -> None:
    assert [*hints_of(calm)] == []
    assert "What to look at" not in page_of(calm)


def test_a_label_that_is_taken_for_another_and_a_long_pause_are_hints(lab: Lab, calm: Facts) -> None:
    run_with(lab, [LABELS[number % 3] for number in range(120)], labels=LABELS)
    wrong = {number: LABELS[(number % 3 + (number % 3 == 0)) % 3] for number in range(60)}
    label_by_hand(lab.directory, wrong)
    assert "20 of 20 mistakes are bad taken for good." in {each.said for each in facts_of(lab).hints}
    lines = moments((1, 0.0, 100.0, ANSWERED))
    paused = [Event(1, 10.0, "paused", "one", ""), Event(1, 70.0, "resumed", "one", "")]
    facts = replace(calm, timeline=timeline([process(1, 0.0, 100.0)], lines, paused))
    assert [each.rule for each in hints_of(facts)] == ["pauses"]


def test_the_page_about_reports_names_every_rule() -> None:
    page = (Path(__file__).parent.parent / "docs" / "report.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| {rule} |" in page, rule
