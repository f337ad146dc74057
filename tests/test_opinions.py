"""Several answers to a row: each is journalled and paid once, and the one that most agree on is the row's result."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Lab
from fake_service import Call, Service, refusal

import batcher
from batcher.answer.labels import Labels
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted, RunStopped, SettingsError
from batcher.records import Completion, Failure, Usage

PROMPT = "Q {text}"
TEXTS = [f"t{number}" for number in range(8)]
ROWS = [{"text": text} for text in TEXTS]
QUESTIONS = [f"Q {text}" for text in TEXTS]
# What a row is told, in the order of its answers.
SAID = {
    "Q t0": ["yes", "yes", "yes", "yes", "yes"],
    "Q t1": ["no", "yes", "no", "yes", "yes"],
    "Q t2": ["yes", "no", "perhaps", "no", "no"],
    "Q t3": ["no", "no", "yes", "no", "no"],
    "Q t4": ["odd", "yes", "odd", "no", "no"],
    "Q t5": ["odd", "strange", "odd", "yes", "odd"],
    "Q t6": ["yes", "no", "yes", "no", "no"],
    "Q t7": ["no", "no", "no", "yes", "yes"],
}
USAGE = Usage(prompt_tokens=10, completion_tokens=2)
FEW = Endpoint("m", max_concurrency=4)
OF_THREE = ["yes", "no", "yes", "no", "odd", "odd", "yes", "no"]


class Oracle(Service):
    """Says of each prompt what it is to say, one answer after the other; what does not arrive is said next time.

    Args:
        said: the answers by prompt: texts, or failures.
        used: what each answer uses.
    """

    def __init__(self, said: Mapping[str, Sequence[str | Failure]], used: Usage = USAGE, **options: Any) -> None:
        super().__init__(said, instead=self.next, **options)
        self.used_each = used
        self.said = said
        self.told: Counter[str] = Counter()

    def next(self, call: Call) -> Completion | Failure:
        said = self.said[call.prompt][self.told[call.prompt]]
        self.told[call.prompt] += 1
        return said if isinstance(said, Failure) else Completion(said, "stop", self.used_each)


def run(lab: Lab, asked: Service, data: Any = ROWS, **options: Any) -> list[dict[str, str]]:
    given: dict[str, Any] = {"prompt": PROMPT, "chunk_size": 3, "samples": 3} | options
    lab.run(data, asked, **given)
    return lab.rows()


def column(rows: list[dict[str, str]], name: str = "infer") -> list[str]:
    return [row[name] for row in rows]


def check(lab: Lab, data: Any = ROWS) -> None:
    found = batcher.verify("k", data, output_dir=lab.directory)
    assert found.ok, str(found)


def test_the_answer_that_most_agree_on_counts_and_a_column_says_how_many_do(lab: Lab) -> None:
    asked = Oracle(SAID)
    rows = run(lab, asked)
    assert column(rows) == OF_THREE
    agreement = ["1", "0.6667", "0.3333", "0.6667", "0.6667", "0.6667", "0.6667", "1"]
    assert column(rows, "infer_agreement") == agreement
    assert asked.told == dict.fromkeys(QUESTIONS, 3)
    assert lab.query("SELECT id FROM votes WHERE is_tied") == lab.query("SELECT result FROM rows WHERE position = 2")
    assert lab.query("SELECT count(*), count(result) FROM opinions") == [(24, 24)]
    check(lab)


def test_one_answer_to_a_row_writes_no_opinion(lab: Lab) -> None:
    lab.run(ROWS, Oracle(SAID), prompt=PROMPT)
    assert lab.query("SELECT (SELECT count(*) FROM opinions), (SELECT count(*) FROM votes)") == [(0, 0)]
    assert "infer_agreement" not in lab.rows()[0]


def test_an_answer_is_in_the_journal_before_the_next_one_is_asked_for(lab: Lab) -> None:
    seen: list[tuple[int, int]] = []

    def looks(call: Call) -> float:
        seen.append((call.nth, lab.query("SELECT count(*) FROM opinions")[0][0]))
        return 1.0

    run(lab, Oracle(SAID, latency=looks), [ROWS[1]])
    assert seen == [(1, 0), (2, 1), (3, 2)]


def test_facts_of_a_row_are_of_the_answer_that_counts_and_sums_are_over_all(lab: Lab) -> None:
    facts = "raw,votes,tokens,cost,attempts,by,latency"
    asked = Oracle({"Q t1": ["no", " yes", "yes"]}, latency=lambda call: float(call.nth))
    endpoint = Endpoint("m", prices={"in": 1.0, "out": 1.0})
    [row] = run(lab, asked, [ROWS[1]], with_=facts, endpoints=[endpoint])
    names = ("infer", "infer_raw", "infer_tokens", "infer_cost", "infer_attempts", "infer_by")
    assert [row[name] for name in names] == [" yes", " yes", "36", "0.000036", "3", "m"]
    assert float(row["infer_latency"]) < 2.9  # of the answer that counts, in seconds of this machine
    assert json.loads(row["infer_votes"]) == {"no": 1, " yes": 1, "yes": 1}
    check(lab, [ROWS[1]])


def test_answers_with_half_a_character_are_votes_as_others_are(lab: Lab) -> None:
    rows = run(lab, Oracle({"Q t0": ["\ud800a", "b", "\ud800a"]}), [ROWS[0]], with_="votes,raw")
    assert json.loads(rows[0]["infer_votes"]) == {rows[0]["infer"]: 2, "b": 1}
    check(lab, [ROWS[0]])
    lab.path(0).unlink()
    assert run(lab, Oracle({}), [ROWS[0]], with_="votes,raw") == rows


def test_an_answer_that_never_came_is_no_vote_and_without_any_the_row_is_an_error(lab: Lab) -> None:
    refused = [refusal(400)] * 3  # as often as one row is refused before that is its end
    said: dict[str, list[str | Failure]]
    said = {"Q t0": ["yes", *refused, "no", "no"], "Q t1": [*refused, *refused, *refused], "Q t2": ["no"] * 3}
    said |= {"Q t3": ["no", "no", *refused], "Q t4": ["yes"] * 3}
    rows = run(lab, Oracle(said), ROWS[:5])
    assert column(rows) == ["yes", "", "no", "no", "yes"]
    assert column(rows, "infer_status") == ["ok", "error", "ok", "ok", "ok"]
    assert column(rows, "infer_agreement") == ["0.5", "", "1", "1", "1"]
    asked = Oracle({})
    assert run(lab, asked, ROWS[:5]) == rows
    assert not asked.calls
    check(lab, ROWS[:5])
    again = run(lab, Oracle({"Q t1": ["yes", "yes", "no"]}), ROWS[:5], retry_failed=True)
    assert column(again) == ["yes", "yes", "no", "no", "yes"]
    check(lab, ROWS[:5])


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
def test_a_stop_at_any_moment_pays_no_answer_twice_and_gives_the_same_bytes(
    lab: Lab, tmp_path: Path, seconds: float
) -> None:
    whole = Lab(tmp_path / "whole")
    run(whole, Oracle(SAID))
    asked = Oracle(SAID)
    with pytest.raises(Interrupted):
        run(lab, asked, at={seconds: lab.request_stop}, grace=0.0, endpoints=[FEW])
    told = asked.told.total()
    assert 0 <= told < 24
    run(lab, asked, endpoints=[FEW])
    assert asked.told.total() == 24
    assert lab.files() == whole.files()
    check(lab)


def test_more_answers_are_asked_for_and_those_that_are_there_count(lab: Lab) -> None:
    asked = Oracle(SAID)
    assert column(run(lab, asked, samples=1)) == ["yes", "no", "yes", "no", "odd", "odd", "yes", "no"]
    forecast = batcher.plan(ROWS, PROMPT, keyword="k", output_dir=lab.directory, samples=3, endpoints=[Endpoint("m")])
    assert (forecast.few, forecast.new, forecast.requests) == (8, 0, 16)
    assert "8 rows have fewer answers than" in forecast.summary
    assert column(run(lab, asked, samples=3)) == OF_THREE
    assert asked.told == dict.fromkeys(QUESTIONS, 3)
    check(lab)
    rows = run(lab, asked, samples=5)
    assert column(rows) == ["yes", "yes", "no", "no", "odd", "odd", "no", "no"]
    assert asked.told == dict.fromkeys(QUESTIONS, 5)
    check(lab)
    assert run(lab, asked, samples=5) == rows
    assert asked.told == dict.fromkeys(QUESTIONS, 5)
    assert not [*lab.directory.glob("*.bak")]


def test_with_fewer_answers_asked_for_results_of_more_stay(lab: Lab) -> None:
    asked = Oracle(SAID)
    rows = run(lab, asked)
    fewer = run(lab, asked, samples=2)
    assert (fewer, asked.told.total()) == (rows, 24)
    assert column(run(lab, asked, samples=1)) == OF_THREE
    assert asked.told.total() == 24
    check(lab)


@pytest.mark.parametrize("samples", [1, 2])
def test_after_a_stop_fewer_answers_may_be_asked_for_and_all_that_came_count(lab: Lab, samples: int) -> None:
    asked = Oracle(SAID)
    with pytest.raises(Interrupted):
        run(lab, asked, at={3.5: lab.request_stop}, grace=0.0)
    told = dict.fromkeys(QUESTIONS, 2) | {"Q t0": 3}  # it goes alone, because the endpoint has never answered
    assert asked.told == told
    rows = run(lab, asked, samples=samples)
    assert asked.told == told
    assert column(rows) == OF_THREE
    check(lab)


def test_a_raise_that_was_stopped_gives_the_earlier_results_back_for_nothing(lab: Lab) -> None:
    asked = Oracle(SAID)
    first = run(lab, asked, samples=1)
    with pytest.raises(Interrupted):
        run(lab, asked, samples=3, at={0.5: lab.request_stop}, grace=0.0)
    assert run(lab, asked, samples=1) == first
    assert asked.told == dict.fromkeys(QUESTIONS, 1)
    check(lab)


def test_equal_rows_never_share_an_answer_and_moved_rows_keep_theirs(lab: Lab) -> None:
    said = {"Q t0": ["a", "b", "a", "c", "c", "c"], "Q t1": ["d"] * 3}
    asked = Oracle(said)
    twins = [ROWS[0], ROWS[0], ROWS[1]]
    with pytest.raises(Interrupted):
        run(lab, asked, twins, at={2.5: lab.request_stop}, grace=0.0)
    assert asked.told == {"Q t0": 3, "Q t1": 1}
    run(lab, asked, [ROWS[1], ROWS[0], ROWS[0]])
    assert asked.told == {"Q t0": 6, "Q t1": 3}
    assert lab.query("SELECT count(*), count(DISTINCT id), count(result) FROM opinions") == [(9, 9, 9)]
    check(lab, [ROWS[1], ROWS[0], ROWS[0]])


def test_one_row_is_asked_several_times_for_all_that_ask_the_same(lab: Lab) -> None:
    asked = Oracle({"Q t0": ["a", "b", "b"]})
    rows = run(lab, asked, [ROWS[0]] * 4, dedup=True)
    assert (column(rows), asked.told.total()) == (["b"] * 4, 3)
    check(lab, [ROWS[0]] * 4)


def test_answers_of_a_source_that_left_the_pool_do_not_count(lab: Lab) -> None:
    asked = Oracle({"Q t0": ["a", "b", "b", "c"]})
    with pytest.raises(Interrupted):
        run(lab, asked, [ROWS[0]], at={1.5: lab.request_stop}, grace=0.0)
    rows = run(lab, asked, [ROWS[0]], endpoints=[Endpoint("other")], samples=2)
    assert (column(rows), asked.told.total()) == (["b"], 3)
    assert lab.query("SELECT count(*) FROM opinions WHERE result IS NULL") == [(1,)]
    check(lab, [ROWS[0]])


def test_a_person_s_answer_stays_when_more_are_asked_for(lab: Lab) -> None:
    asked = Oracle(SAID)
    run(lab, asked, samples=1)
    path = lab.path(0)
    path.write_text(path.read_text().replace("t0,yes,", "t0,certainly,"))
    rows = run(lab, asked, samples=3)
    assert column(rows)[0] == "certainly"
    assert asked.told["Q t0"] == 1
    assert asked.told["Q t1"] == 3
    check(lab)


def test_answers_are_read_again_for_other_labels_and_voted_on_again(lab: Lab) -> None:
    said = {"Q t0": ["The answer: high", "low", "the answer: high"], "Q t1": ["low", "middle", "middle"]}
    line = Labels.of(["low", "high"], "labels").line
    asked = Oracle({f"{question}\n\n{line}": answers for question, answers in said.items()})
    options: dict[str, Any] = {"structured": "prompt", "with_": "raw,votes,tokens"}
    first = run(lab, asked, ROWS[:2], labels=["low", "high"], **options)
    assert [(row["infer"], row["infer_status"], row["infer_agreement"]) for row in first] == [
        ("high", "ok", "0.6667"),
        ("low", "ok", "0.3333"),
    ]
    rows = run(lab, asked, ROWS[:2], labels=["low", "middle", "high"], on_change="reuse", **options)
    assert asked.told.total() == 6
    assert [(row["infer"], row["infer_agreement"], row["infer_tokens"]) for row in rows] == [
        ("high", "0.6667", "36"),
        ("middle", "0.6667", "36"),
    ]
    assert rows[0]["infer_raw"] == "The answer: high"
    assert json.loads(rows[1]["infer_votes"]) == {"middle": 2, "low": 1}
    check(lab, ROWS[:2])


def test_answers_read_again_vote_with_those_that_come_later(lab: Lab) -> None:
    line = Labels.of(["low", "high"], "labels").line
    more = Labels.of(["low", "middle", "high"], "labels").line
    asked = Oracle({f"Q t0\n\n{line}": ["the answer: high"], f"Q t0\n\n{more}": ["middle", "low", "middle", "low"]})
    options: dict[str, Any] = {"structured": "prompt", "with_": "raw,votes"}
    run(lab, asked, ROWS[:1], labels=["low", "high"], samples=1, **options)
    reused = options | {"labels": ["low", "middle", "high"], "on_change": "reuse"}
    [row] = run(lab, asked, ROWS[:1], samples=3, **reused)
    assert (row["infer"], asked.told.total()) == ("high", 1)  # a kept answer stays, whatever is asked for now
    check(lab, ROWS[:1])


def test_the_plan_of_other_labels_reads_the_answers_again_without_a_trace(lab: Lab) -> None:
    line = Labels.of(["low", "high"], "labels").line
    asked = Oracle({f"Q t0\n\n{line}": ["middle", "low", "middle"]})
    options: dict[str, Any] = {"structured": "prompt", "samples": 3}
    run(lab, asked, ROWS[:1], labels=["low", "high"], **options)
    before = lab.journal()
    forecast = batcher.plan(
        ROWS[:1],
        PROMPT,
        labels=["low", "middle", "high"],
        on_change="reuse",
        keyword="k",
        output_dir=lab.directory,
        endpoints=[Endpoint("m")],
        **options,
    )
    assert (forecast.reread, forecast.requests) == (1, 0)
    assert lab.journal() == before


def test_a_raise_for_a_part_of_the_table_leaves_the_other_rows_their_results(lab: Lab) -> None:
    asked = Oracle(SAID)
    whole = run(lab, asked, samples=1)
    assert column(run(lab, asked, limit=4)) == OF_THREE[:4]
    assert asked.told == dict.fromkeys(QUESTIONS, 1) | dict.fromkeys(QUESTIONS[:4], 3)
    again = run(lab, asked, samples=1)
    assert column(again)[4:] == column(whole)[4:]
    assert asked.told.total() == 16
    check(lab)


def test_chunk_files_without_a_journal_count_as_one_answer_to_each_row(lab: Lab) -> None:
    asked = Oracle(SAID)
    run(lab, asked, samples=1)
    (lab.directory / "journal_k.sqlite").unlink()
    assert column(run(lab, asked, samples=3)) == OF_THREE
    assert asked.told == dict.fromkeys(QUESTIONS, 3)
    check(lab)


def test_corrections_of_rows_with_several_answers_are_kept(lab: Lab) -> None:
    asked = Oracle(SAID)
    run(lab, asked, with_="tokens,votes")
    path = lab.path(0)
    path.write_text(path.read_text().replace("t1,no,", "t1,certainly,"))
    rows = run(lab, asked, with_="tokens,votes")
    assert (rows[1]["infer"], rows[1]["infer_agreement"], rows[1]["infer_tokens"]) == ("certainly", "0.6667", "36")
    lab.path(0).unlink()
    assert run(lab, asked, with_="tokens,votes") == rows
    assert (asked.told.total(), column(rows)[2:]) == (24, OF_THREE[2:])
    check(lab)


def test_answers_of_several_endpoints_vote_together(lab: Lab) -> None:
    asked = Service(QUESTIONS, instead=lambda call: Completion(call.endpoint, "stop", USAGE))
    pool = [Endpoint("one", max_concurrency=2), Endpoint("two", max_concurrency=2)]
    rows = run(lab, asked, endpoints=pool, with_="by,raw")
    assert {row["infer"] for row in rows} <= {"one", "two"}
    assert all(row["infer"] == row["infer_by"] == row["infer_raw"] for row in rows)
    check(lab)


def test_rows_that_are_asked_first_are_asked_as_often_as_the_others(lab: Lab) -> None:
    data = [{"text": f"t{number}"} for number in range(50)]
    asked = Service([f"Q {row['text']}" for row in data])
    run(lab, asked, data, canary=5)
    assert {*asked.answered.values()} == {3}
    check(lab, data)


def test_a_budget_bounds_several_answers_as_it_does_one(lab: Lab) -> None:
    endpoint = Endpoint("m", prices={"in": 1.0, "out": 1.0})
    options: dict[str, Any] = {"endpoints": [endpoint], "param": {"max_tokens": 200}}
    asked = Oracle(SAID, Usage(10, 200))
    with pytest.raises(RunStopped, match="budget"):
        run(lab, asked, budget=0.003, **options)
    [(spent,)] = lab.query("SELECT sum(cost) FROM requests")
    assert spent <= 3_000_000
    before = asked.told.total()
    assert 0 < before < 24
    assert column(run(lab, asked, budget=1.0, **options)) == OF_THREE
    assert asked.told.total() == 24
    check(lab)


def test_status_and_report_count_tied_votes_and_no_further_answer_as_a_retry(lab: Lab) -> None:
    report = lab.run(ROWS, Oracle(SAID), prompt=PROMPT, samples=3)
    assert (report.tied, report.requests, report.retries, report.rows) == (1, 24, 0, 8)
    assert "1 vote was tied, and the answer that came first counts" in str(report)
    assert "1 vote was tied" in str(batcher.status("k", lab.directory))
    failing = Lab(lab.directory.with_name("failing"))
    report = failing.run([ROWS[0]], Oracle({"Q t0": ["a", refusal(500), "a", "b"]}), prompt=PROMPT, samples=3)
    assert (report.requests, report.retries, report.failed) == (4, 1, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "embedding"}, "gives vectors"),
        ({"param": {"n": 2}}, "n=2"),
        ({"requests": True}, "asked as it stands"),
    ],
)
@pytest.mark.parametrize("name", ["samples", "repeat_sample"])
def test_several_answers_are_refused_if_there_is_no_vote(
    lab: Lab, name: str, options: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {name: 3} | options
    with pytest.raises(SettingsError, match=said):
        lab.run(ROWS, Oracle({}), None if "requests" in options else PROMPT, **given)


def test_the_plan_says_that_equal_answers_say_little_with_temperature_0_or_a_seed(lab: Lab) -> None:
    for param in ({"temperature": 0}, {"seed": 1}):
        options: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "endpoints": [Endpoint("m")]}
        forecast = batcher.plan(ROWS, PROMPT, samples=3, param=param, **options)
        assert "agreement says little" in forecast.summary
        assert forecast.requests == 24
        assert "agreement" not in batcher.plan(ROWS, PROMPT, param=param, **options).summary


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("UPDATE votes SET for_it = 3 WHERE id = (SELECT result FROM rows WHERE position = 1)", "other-vote"),
        ("UPDATE opinions SET answer = 'yes', status = 'ok' WHERE id = 2", "other-vote"),
        ("DELETE FROM opinions WHERE id = 2", "too-few"),
        ("UPDATE opinions SET id = 1000 WHERE id = 2", "opinion-of-none"),
        ("UPDATE opinions SET key = x'00' WHERE id = 2", "request-other"),
        ("UPDATE opinions SET round = 1 WHERE id = (SELECT result FROM rows WHERE position = 1)", "counted-twice"),
    ],
)
def test_verify_finds_what_was_changed_of_a_vote(lab: Lab, change: str, kind: str) -> None:
    run(lab, Oracle(SAID), endpoints=[Endpoint("m", max_concurrency=1)])
    lab.change(change)
    found = batcher.verify("k", ROWS, output_dir=lab.directory)
    assert kind in {finding.kind for finding in found.findings}


def test_a_row_is_cut_off_if_the_answer_that_counts_is(lab: Lab) -> None:
    first, second = ("a", "length"), ("b", "stop")
    ends = {"Q t0": iter([first, second, second]), "Q t1": iter([second, first, first])}

    def said(call: Call) -> Completion:
        text, finish_reason = next(ends[call.prompt])
        return Completion(text, finish_reason, USAGE)

    options: dict[str, Any] = {"prompt": PROMPT, "samples": 3}
    report = lab.run(ROWS[:2], Service(QUESTIONS, instead=said), **options, with_="finish")
    assert report.cut == 1
    assert column(lab.rows(), "infer_finish") == ["stop", "length"]


def test_the_agreement_is_a_number_in_parquet_and_missing_of_a_row_without_an_answer(lab: Lab) -> None:
    said: dict[str, list[str | Failure]] = {
        "Q t0": ["a", "b", "a", "b"],
        "Q t1": [refusal(400)] * 12,
        "Q t2": ["c"] * 4,
    }
    options: dict[str, Any] = {"prompt": PROMPT, "samples": 4, "format": "parquet"}
    lab.run(ROWS[:3], Oracle(said), **options)
    found = pq.read_table(lab.directory / "all_k.parquet").column("infer_agreement")
    assert found.to_pylist() == [0.5, None, 1.0]
    check(lab, ROWS[:3])


def test_a_completion_may_be_asked_for_several_times(lab: Lab) -> None:
    assert column(run(lab, Oracle(SAID), task="completion")) == OF_THREE


def test_rows_that_cannot_be_asked_and_late_answers_leave_no_task_behind(lab: Lab) -> None:
    asked = Oracle(SAID, latency=lambda call: 50.0 if call.prompt == "Q t3" else 1.0)
    run(lab, asked, timeout=200.0)
    assert not [task for task in _all_tasks() if not task.done()]


def _all_tasks() -> set[asyncio.Task[Any]]:
    try:
        return asyncio.all_tasks()
    except RuntimeError:  # no loop is running
        return set()


def test_a_request_that_never_left_is_no_attempt_of_a_row_whose_answers_were_there(lab: Lab) -> None:
    asked = Oracle(SAID)
    with pytest.raises(Interrupted):
        run(lab, asked, at={1.5: lab.request_stop})
    run(lab, asked, samples=1, with_="attempts,latency,cost", chunk_size=1)
    assert column(lab.rows(), "infer_attempts") == [str(asked.told[question]) for question in QUESTIONS]
    check(lab)


def test_a_cost_that_is_unknown_is_empty_and_not_0(lab: Lab) -> None:
    said = {"Q t0": ["yes"] * 2, "Q t1": ["no"] * 2}
    for samples in (1, 2):
        run(lab, Oracle(said), ROWS[:2], samples=samples, with_="cost,latency", keyword="k")
        assert column(lab.rows(), "infer_cost") == ["", ""]
        assert all(float(row["infer_latency"]) >= 0 for row in lab.rows())


# -- Other labels while rows have only some of their answers

LABELS = {"A": ["low", "high"], "B": ["low", "middle", "high"], "C": ["high", "middle", "odd"]}


def said_of(number: int, shape: str, *answers: str) -> dict[str, list[str]]:
    return {f"Q t{number}\n\n{Labels.of(LABELS[shape], 'labels').line}": [*answers]}


def under(lab: Lab, asked: Service, shape: str, rows: Sequence[int] = (0, 1), **options: Any) -> list[dict[str, str]]:
    given: dict[str, Any] = {"structured": "prompt", "with_": "raw,votes,tokens,cost"} | options
    return run(lab, asked, [ROWS[row] for row in rows], labels=LABELS[shape], **given)


def stopped_under(lab: Lab, asked: Service, shape: str, *, after: float, **options: Any) -> None:
    with pytest.raises(Interrupted):
        under(lab, asked, shape, at={after: lab.request_stop}, grace=0.0, **options)


def test_answers_that_wait_for_others_count_under_other_labels_and_are_not_paid_again(lab: Lab) -> None:
    # Two answers to the first row and one to the second have come when the run is stopped.
    said = said_of(0, "A", "the answer: middle", "low") | said_of(1, "A", "high")
    asked = Oracle(said | said_of(0, "B", "middle") | said_of(1, "B", "low", "low"))
    stopped_under(lab, asked, "A", after=2.5)
    assert lab.query("SELECT count(*), count(result) FROM opinions") == [(3, 0)]
    before = asked.told.total()
    forecast = batcher.plan(
        ROWS[:2], PROMPT, labels=LABELS["B"], on_change="reuse", samples=3, structured="prompt",
        keyword="k", output_dir=lab.directory, endpoints=[Endpoint("m")],
    )  # fmt: skip
    assert forecast.requests == 3
    rows = under(lab, asked, "B", on_change="reuse")
    assert asked.told.total() - before == 3
    assert [(row["infer"], row["infer_agreement"]) for row in rows] == [("middle", "0.6667"), ("low", "0.6667")]
    assert [row["infer_tokens"] for row in rows] == ["36", "36"]
    assert rows[0]["infer_raw"] == "the answer: middle"
    assert json.loads(rows[0]["infer_votes"]) == {"middle": 2, "low": 1}
    check(lab, ROWS[:2])
    assert under(lab, asked, "B", on_change="reuse") == rows
    assert asked.told.total() - before == 3


def test_without_reuse_such_answers_stay_under_their_own_labels(lab: Lab) -> None:
    asked = Oracle(said_of(0, "A", "high", "low") | said_of(0, "B", "low", "low", "low"))
    stopped_under(lab, asked, "A", after=2.5, rows=[0])
    under(lab, asked, "B", [0], on_change="redo")
    assert asked.told.total() == 2 + 3
    check(lab, ROWS[:1])


def test_labels_that_change_back_find_their_answers_once(lab: Lab) -> None:
    said = said_of(0, "A", "high", "low") | said_of(0, "B", "middle")
    asked = Oracle(said)
    stopped_under(lab, asked, "A", after=1.5, rows=[0])
    stopped_under(lab, asked, "B", after=1.5, rows=[0], on_change="reuse")
    # The answer under A counts once, though it was read again for B, and that under B counts as well.
    [row] = under(lab, asked, "A", [0], on_change="reuse")
    assert json.loads(row["infer_votes"]) == {"high": 1, "invalid": 1, "low": 1}
    assert asked.told.total() == 1 + 1 + 1
    check(lab, ROWS[:1])


def test_what_a_result_is_made_of_serves_no_other_row(lab: Lab) -> None:
    asked = Oracle(said_of(0, "A", "high") | said_of(0, "B", "low", "low") | said_of(0, "C", "odd", "odd", "odd"))
    stopped_under(lab, asked, "A", after=1.5, rows=[0])
    under(lab, asked, "B", [0], on_change="reuse")
    told = asked.told.total()
    rows = under(lab, asked, "C", [0, 0], on_change="reuse")  # a second row asks the same
    assert asked.told.total() - told == 3
    assert [json.loads(row["infer_votes"]) for row in rows] == [{"invalid": 2, "high": 1}, {"odd": 3}]
    check(lab, [ROWS[0], ROWS[0]])


def test_labels_that_change_back_give_no_other_row_an_answer_that_counts_already(lab: Lab) -> None:
    asked = Oracle(said_of(0, "A", "high", "low", "low", "low") | said_of(0, "B", "low", "low"))
    stopped_under(lab, asked, "A", after=1.5, rows=[0])
    under(lab, asked, "B", [0], on_change="reuse")
    forecast = batcher.plan(
        [ROWS[0], ROWS[0]], PROMPT, labels=LABELS["A"], on_change="reuse", samples=3, structured="prompt",
        keyword="k", output_dir=lab.directory, endpoints=[Endpoint("m")],
    )  # fmt: skip
    assert forecast.requests == 3
    told = asked.told.total()
    rows = under(lab, asked, "A", [0, 0], on_change="reuse")
    assert asked.told.total() - told == 3
    assert [json.loads(row["infer_votes"]) for row in rows] == [{"low": 2, "high": 1}, {"low": 3}]
    check(lab, [ROWS[0], ROWS[0]])


def test_another_prompt_finds_none_of_them(lab: Lab) -> None:
    others = {text.replace("Q ", "R "): answers for text, answers in said_of(0, "B", "low", "low", "low").items()}
    asked = Oracle(said_of(0, "A", "high") | others)
    stopped_under(lab, asked, "A", after=1.5, rows=[0])
    under(lab, asked, "B", [0], on_change="reuse", prompt="R {text}")
    assert asked.told.total() == 1 + 3
    check(lab, ROWS[:1])


@pytest.mark.parametrize("prompt", [PROMPT, lambda row: f"Q {row['text']}"], ids=["template", "function"])
def test_such_answers_go_with_their_rows_wherever_they_stand_and_also_from_no_labels(lab: Lab, prompt: Any) -> None:
    line = Labels.of(LABELS["B"], "labels").line
    said = {"Q t0": ["high", "low"], "Q t1": ["middle"], f"Q t0\n\n{line}": ["low"]}
    asked = Oracle(said | {f"Q t1\n\n{line}": ["middle"] * 2} | {f"Q t2\n\n{line}": ["high"] * 3})
    with pytest.raises(Interrupted):
        run(lab, asked, ROWS[:2], prompt=prompt, at={2.5: lab.request_stop}, grace=0.0)
    rows = under(lab, asked, "B", [2, 1, 0], on_change="reuse", prompt=prompt)
    assert asked.told == {question: len(answers) for question, answers in asked.said.items()}
    assert [json.loads(row["infer_votes"]) for row in rows] == [{"high": 3}, {"middle": 3}, {"low": 2, "high": 1}]
    found = batcher.verify("k", [ROWS[number] for number in (2, 1, 0)], prompt=prompt, output_dir=lab.directory)
    assert found.ok, str(found)


def test_a_kill_after_such_a_change_pays_nothing_twice(lab: Lab) -> None:
    asked = Oracle(said_of(0, "A", "high") | said_of(0, "B", "low", "low"))
    stopped_under(lab, asked, "A", after=1.5, rows=[0])
    stopped_under(lab, asked, "B", after=1.5, rows=[0], on_change="reuse")
    lab.change("UPDATE runs SET ended = NULL, outcome = NULL, host = 'elsewhere'")
    [row] = under(lab, asked, "B", [0])  # without another word, as any run goes on
    assert json.loads(row["infer_votes"]) == {"low": 2, "high": 1}
    check(lab, ROWS[:1])
