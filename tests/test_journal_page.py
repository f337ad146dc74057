"""The queries of the page about the journal find what the files, the report and the service say, by SQLite alone."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, refusal
from journals import begun, come, out
from labelled_runs import label_by_hand
from pages import blocks_of
from programs import ROOT

from batcher.endpoint import Endpoint
from batcher.output.directory import Store
from batcher.output.report import Report
from batcher.records import Completion, Failure, Result, Status, Usage
from batcher.reviewing.deciding import Decisions

QUERIES = {
    block.file.removesuffix(".sql"): block.text
    for block in blocks_of(ROOT / "docs" / "journal.md")
    if block.file.endswith(".sql")
}
ODD = "good \ud83d"  # UTF-8 cannot hold it


class Past(NamedTuple):
    """A run with everything that the queries are about."""

    lab: Lab
    service: Service
    report: Report

    def ask(self, query: str) -> list[dict[str, Any]]:
        path = self.lab.directory / "journal_k.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
            journal.row_factory = sqlite3.Row
            return [dict(row) for row in journal.execute(query)]


def instead(call: Call) -> Completion | Failure | None:
    number = int(call.prompt.partition(":")[0].removeprefix("row "))
    if number == 3:
        return Completion(ODD, "stop", Usage(10, 2))
    if number == 5 and call.nth == 1:
        return refusal(500)
    if number == 7:
        return refusal(400)
    return Completion("good" if number % 3 else "bad", "stop", Usage(10, 2))


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    lab = Lab(tmp_path_factory.mktemp("queries"))
    service = Service((), instead=instead)
    service.prompts = Anything()
    texts = [f"row {number}: text" for number in (*range(12), 2)]
    options: dict[str, Any] = {
        "labels": ["good", "bad"],
        "chunk_size": 4,
        "dedup": True,
        "param": {"max_tokens": 5},
        "endpoints": [Endpoint("m", prices={"in": 1.0, "out": 2.0})],
    }
    lab.run(texts, service, **options)
    chunk = lab.path(0)
    chunk.write_text(chunk.read_text(encoding="utf-8").replace("row 1: text,good", "row 1: text,bad"), encoding="utf-8")
    report = lab.run(texts, service, **options)
    for answer in ("bad", None):
        asyncio.run(_decide(lab, 4, answer))
    label_by_hand(lab.directory, {0: "good", 1: "bad", 2: "bad"}, drawn=range(5))
    return Past(lab, service, report)


async def _decide(lab: Lab, position: int, answer: str | None) -> None:
    """Give a row an answer of a person; None takes it back."""
    decisions = Decisions(Store(lab.directory, "k"), "Ada")
    [(seen,)] = lab.query(f"SELECT result FROM rows WHERE position = {position}")  # noqa: S608 - our own
    if answer is None:
        await decisions.undo(position, seen, "it was right")
    else:
        await decisions.correct(position, seen, Result(Status.OK, answer, ""), "seems so")


def test_every_query_of_the_page_has_a_test() -> None:
    tested = {name.removeprefix("test_the_query_") for name in globals() if name.startswith("test_the_query_")}
    assert set(QUERIES) == tested


def test_the_query_answers(past: Past) -> None:
    found = past.ask(QUERIES["answers"])
    rows = past.lab.rows()
    assert [row["position"] for row in found] == list(range(len(rows)))
    assert [row["status"] for row in found] == [row["infer_status"] for row in rows]
    texts = [row["answer"].decode("utf-8", "replace") if row["position"] == 3 else row["answer"] for row in found]
    assert [text.rstrip("\ufffd") for text in texts] == [row["infer"].rstrip("\ufffd") for row in rows]
    assert [row["model"] for row in found] == ["m", "corrected by hand", *["m"] * (len(rows) - 2)]


def test_the_query_labels(past: Past) -> None:
    found = past.ask(QUERIES["labels"])
    counts = Counter(row["infer"].rstrip("\ufffd") for row in past.lab.rows() if row["infer_status"] == "ok")
    assert {row["answer"]: row["rows"] for row in found if row["status"] == "ok"} == counts
    assert sum(row["rows"] for row in found) == past.report.rows
    assert sum(row["percent"] for row in found) == pytest.approx(100, abs=0.5)


def test_the_query_failures(past: Past) -> None:
    found = past.ask(QUERIES["failures"])
    assert {(row["status"], row["first"], row["rows"]) for row in found} == {("invalid", 3, 1), ("error", 7, 1)}
    assert not any("gave up" in row["reason"] for row in found)


def test_the_query_outcomes(past: Past) -> None:
    found = {row["outcome"]: row["requests"] for row in past.ask(QUERIES["outcomes"])}
    assert sum(found.values()) == past.report.requests == len(past.service.calls)
    assert found["500"] == 1
    assert sum(found.get(name, 0) for name in ("answered", "unfit")) == past.report.answered


def test_the_query_attempts(past: Past) -> None:
    assert "position = 11\n" in QUERIES["attempts"]
    for position in (0, 1, 5, 7):
        found = past.ask(QUERIES["attempts"].replace("position = 11\n", f"position = {position}\n"))
        calls = [call for call in past.service.calls if call.prompt.startswith(f"row {position}:")]
        assert len(found) == len(calls) > 0
    assert [row["outcome"] for row in past.ask(QUERIES["attempts"].replace("= 11", "= 5"))] == ["500", "answered"]


def test_the_query_costs(past: Past) -> None:
    [found] = past.ask(QUERIES["costs"])
    assert found["usd"] == past.report.cost_usd == pytest.approx(past.report.answered * (10 * 1.0 + 2 * 2.0) / 1e6)
    assert found["usd_at_most_besides"] >= (past.report.uncertain_usd or 0)
    assert found["requests"] == past.report.requests
    assert found["prompt_tokens"] == past.report.prompt_tokens
    assert found["completion_tokens"] == past.report.completion_tokens
    assert found["unpriced"] == past.report.unpriced == 0


def test_the_query_latency(past: Past) -> None:
    [found] = past.ask(QUERIES["latency"])
    path = past.lab.directory / "journal_k.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as journal:
        asked = journal.execute("SELECT ended - sent AS s FROM requests WHERE outcome = 'answered' ORDER BY s")
        seconds = [each for (each,) in asked]
    assert found["answered"] == len(seconds)
    for name, part in (("median", 0.5), ("p95", 0.95), ("longest", 1.0)):
        assert found[name] == round(seconds[math.ceil(part * len(seconds)) - 1], 2)


def test_the_query_minutes(past: Past) -> None:
    found = past.ask(QUERIES["minutes"])
    assert sum(row["ended"] for row in found) == past.report.requests
    assert [row["minute"] for row in found] == sorted(row["minute"] for row in found)


def test_the_query_batches(past: Past, tmp_path: Path) -> None:
    assert past.ask(QUERIES["batches"]) == []
    with begun(tmp_path / "journal_k.sqlite") as journal:
        batch = asyncio.run(out(journal, [0, 1, 2]))
        asyncio.run(come(journal, batch, most=1))
        asyncio.run(journal.batch_done(batch, "expired", 0, submitted=0.0, ended=7200.0, completed=1, failed=2))
        asyncio.run(out(journal, [1]))
    with contextlib.closing(sqlite3.connect(tmp_path / "journal_k.sqlite")) as db:
        name = "0123456789abcdef"
        assert db.execute(QUERIES["batches"]).fetchall() == [
            (1, "done", name, 2.0, 3, 1, 2, 0, 0, 1, 2, 2e-8),
            (2, "made", name, None, 1, 0, 0, 0, 1, None, None, 0.0),
        ]


def test_the_query_tiers(past: Past) -> None:
    [found] = past.ask(QUERIES["tiers"])
    assert (found["tier"], found["answers"]) == ("", past.report.answered)


def test_the_query_corrections(past: Past) -> None:
    found = past.ask(QUERIES["corrections"])
    assert [(row["position"], row["from"], row["to"], row["is_undo"]) for row in found] == [
        (1, "good", "bad", 0),
        (4, "good", "bad", 0),
        (4, "bad", "good", 1),
    ]
    assert [row["origin"] for row in found] == ["0_k.csv", "review", "review"]
    assert [row["who"] for row in found[1:]] == ["Ada", "Ada"]
    assert [row["why"] for row in found[1:]] == ["seems so", "it was right"]


def test_the_query_hand_labels(past: Past) -> None:
    found = past.ask(QUERIES["hand_labels"])
    rows = past.lab.rows()
    assert [(row["position"], row["gold"]) for row in found] == [(0, "good"), (1, "bad"), (2, "bad")]
    assert [row["answer"] for row in found] == [row["infer"] for row in rows[:3]]
    assert [row["is_right"] for row in found] == [0, 1, 0]


def test_an_odd_text_is_found_and_written_as_the_page_says(past: Past) -> None:
    answer = "iif(typeof(answer) = 'blob', hex(answer), answer) AS answer"
    assert f"`{answer}`" in (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
    [found] = past.ask(f"SELECT {answer} FROM results WHERE typeof(results.answer) = 'blob'")  # noqa: S608 - the page's
    assert bytes.fromhex(found["answer"]).decode("utf-8", "surrogatepass") == ODD


def test_who_reads_as_the_page_says_sees_each_commit_and_who_says_immutable_misses_those_of_the_log(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal_x.sqlite"

    def runs(how: str) -> int:
        with contextlib.closing(sqlite3.connect(f"file:{path}?{how}", uri=True)) as journal:
            [(count,)] = journal.execute("SELECT count(*) FROM runs")
        return int(count)

    with begun(path):
        assert runs("mode=ro") == 1
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            runs("immutable=1")
    assert runs("immutable=1") == 1
    assert not path.with_name(f"{path.name}-wal").exists()
    assert runs("mode=ro") == 1


def test_a_copy_as_the_page_makes_it_is_one_whole_file(past: Past, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    path = past.lab.directory / "journal_k.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        journal.execute(f"VACUUM INTO '{copy}'")
    renamed = copy.rename(tmp_path / "journal_k.sqlite")
    with contextlib.closing(sqlite3.connect(renamed)) as journal:
        assert journal.execute("SELECT count(*) FROM rows").fetchone() == (past.report.rows,)
        assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_correction_of_one_of_equal_rows_is_listed_for_it_alone(lab: Lab) -> None:
    service = Service((), instead=instead)
    service.prompts = Anything()
    report = lab.run(["row 2: text"] * 2, service, labels=["good", "bad"], dedup=True)
    for answer in ("bad", None, "bad"):
        asyncio.run(_decide(lab, 1, answer))
    found = Past(lab, service, report).ask(QUERIES["corrections"])
    assert [(row["position"], row["to"], row["is_undo"]) for row in found] == [
        (1, "bad", 0),
        (1, "good", 1),
        (1, "bad", 0),
    ]
