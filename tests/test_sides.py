"""Two runs side by side on the page: rows are paired by their cells, and only what differs is shown."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from conftest import Lab
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_runs import answering
from page_client import Client, page_of

import batcher
from batcher.reviewing.sides import Pairing

LABELS = ["good", "bad", "ugly"]
ROWS = 40


def run(lab: Lab, keyword: str, texts: Sequence[str], answers: Sequence[str], **options: Any) -> None:
    """Run a table whose rows have an id as well, which no prompt reads."""
    table = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    given = {"labels": LABELS, "prompt": "{text}", **options}
    lab.run(table, answering(dict(zip(texts, answers, strict=True))), keyword=keyword, **given)


TEXTS = [f"row {number}" for number in range(ROWS)]
MINE = [LABELS[number % 3] if number % 10 else "none of them" for number in range(ROWS)]
THEIRS = ["good" if number % 4 else MINE[number] for number in range(ROWS)]


@pytest.fixture
def two(lab: Lab) -> Lab:
    run(lab, "k", TEXTS, MINE)
    run(lab, "other", TEXTS, THEIRS)
    return lab


def whole(client: Client, **asked: Any) -> Any:
    """Return a page of all pairs: it may first show a part of them."""
    while (found := client.get("api/sides", other="other", **asked))["reading"] is not None:
        pass
    return found


def ended(answer: str) -> str:
    return answer if answer in LABELS else "(invalid)"


def test_only_what_differs_is_shown_with_both_answers(two: Lab) -> None:
    differing = [number for number in range(ROWS) if ended(MINE[number]) != ended(THEIRS[number])]
    with page_of(two.directory) as (client, _):
        assert client.get("api/run")["others"] == ["other"]
        found = whole(client)
    assert [row["position"] for row in found["rows"]] == [row["other_position"] for row in found["rows"]] == differing
    assert (found["total"], found["paired"], found["names"]) == (len(differing), ROWS, ["k", "other"])
    for row in found["rows"]:
        number = row["position"]
        assert row["cells"] == [str(number), f"row {number}"]
        is_ok = MINE[number] in LABELS
        assert (row["mine"]["status"], row["mine"]["answer"]) == (("ok" if is_ok else "invalid"), MINE[number])
        assert (row["theirs"]["status"], row["theirs"]["answer"], row["theirs"]["by"]) == ("ok", THEIRS[number], "m")
    counts = Counter((ended(MINE[number]), ended(THEIRS[number])) for number in differing)
    assert {(mine, theirs): rows for mine, theirs, rows in found["transitions"]} == counts
    assert f"differ in {len(differing)} of {ROWS} rows" in found["summary"]


def test_they_are_as_many_as_compare_counts(two: Lab) -> None:
    compared = batcher.compare("k", "other", two.directory)
    with page_of(two.directory) as (client, _):
        labels = whole(client, only="label")
        statuses = whole(client, only="status")
    assert labels["total"] == compared.both - compared.agree
    assert statuses["total"] == sum(
        MINE[number] not in LABELS and ended(THEIRS[number]) != "(invalid)" for number in range(ROWS)
    )
    assert {(mine, theirs): rows for mine, theirs, rows in labels["transitions"]} == {
        (each.answer, each.other): each.rows for each in compared.differences
    }


def test_pages_and_filters_lead_through_all_of_them(two: Lab) -> None:
    with page_of(two.directory) as (client, _):
        every = [row["position"] for row in whole(client)["rows"]]
        last = whole(client, limit=4)
        seen = [row["position"] for row in last["rows"]]
        while last["next"] is not None:
            last = whole(client, **{"from": last["next"], "limit": 4})
            assert last["before"] == len(seen)
            seen += [row["position"] for row in last["rows"]]
        assert seen == every
        back = whole(client, **{"from": last["previous"], "limit": 4})
        assert back["next"] == last["rows"][0]["position"]
        mine, theirs, rows = whole(client)["transitions"][0]
        one = whole(client, mine=mine, theirs=theirs)
        assert one["total"] == rows
        assert all(ended(row["mine"]["answer"]) == mine for row in one["rows"])
        assert one["transitions"] == whole(client)["transitions"]


def test_rows_that_moved_are_found_by_their_cells(lab: Lab) -> None:
    order = random.Random(3).sample(range(5, ROWS), ROWS - 5)
    run(lab, "k", TEXTS, MINE)
    run(lab, "other", [*(TEXTS[number] for number in order), "new"], [*(THEIRS[number] for number in order), "good"])
    with page_of(lab.directory) as (client, _):
        found = whole(client)
    differing = [number for number in range(5, ROWS) if ended(MINE[number]) != ended(THEIRS[number])]
    assert [row["position"] for row in found["rows"]] == differing
    assert [row["other_position"] for row in found["rows"]] == [order.index(number) for number in differing]
    assert (found["paired"], found["only_mine"], found["only_theirs"]) == (ROWS - 5, 5, 1)
    assert "5 rows are only in k" in found["summary"]


def test_the_order_of_the_fields_of_an_answer_is_no_difference(lab: Lab) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]}
    for keyword, names in (("k", ("a", "b")), ("other", ("b", "a"))):
        answers = [json.dumps({name: number % (2 if name == "a" else 3) for name in names}) for number in range(9)]
        answers[4] = json.dumps({"a": 7 if keyword == "k" else 8})
        run(lab, keyword, TEXTS[:9], answers, labels=None, schema=schema)
    with page_of(lab.directory) as (client, _):
        assert [row["position"] for row in whole(client)["rows"]] == [4]


def test_a_correction_counts_and_shows_who_made_it(two: Lab) -> None:
    with page_of(two.directory) as (client, _):
        before = whole(client)
        position = before["rows"][0]["position"]
        row = client.get(f"api/row/{position}")
        reply = client.post("api/correct", position=position, seen=row["result"], answer="good", why="")
        assert reply.status == 200, reply
        after = whole(client)
        while after["total"] == before["total"]:  # it is paired anew when a moment has passed
            after = whole(client)
    assert after["total"] == before["total"] - 1
    assert position not in [row["position"] for row in after["rows"]]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"other": "k"}, "choose another one"),
        ({"other": "none"}, "no run 'none'"),
        ({"other": "../x"}, "keyword"),
        ({"other": "other", "only": "colour"}, "label or status"),
        ({}, "other must name a run"),
    ],
)
def test_what_cannot_be_compared_is_said(two: Lab, asked: Mapping[str, str], said: str) -> None:
    with page_of(two.directory) as (client, _):
        reply = client.fetch("api/sides", **asked)
    assert reply.status == 400
    assert said in reply.json["error"]


def test_runs_of_different_tables_are_not_compared(lab: Lab) -> None:
    run(lab, "k", TEXTS, MINE)
    table = [{"name": text} for text in TEXTS]
    lab.run(table, answering(dict(zip(TEXTS, THEIRS, strict=True))), "{name}", keyword="other", labels=LABELS)
    with page_of(lab.directory) as (client, _):
        reply = client.fetch("api/sides", other="other")
    assert reply.status == 400
    assert "different tables" in reply.json["error"]


# -- The pairing alone


def paired_slowly(first: Sequence[tuple[int, str]], other: Sequence[tuple[int, str]]) -> list[tuple[int, int]]:
    """Return the pairs of rows that differ: those at the same place with the same cells, then in order."""
    left: list[dict[int, list[int]]] = [{}, {}]
    pairs = []
    for place in range(max(len(first), len(other))):
        one, two = (rows[place] if place < len(rows) else None for rows in (first, other))
        if one and two and one[0] == two[0]:
            pairs.append((place, place))
            continue
        for side, row in enumerate((one, two)):
            if row:
                left[side].setdefault(row[0], []).append(place)
    for mark, places in left[0].items():
        pairs += zip(places, left[1].get(mark, []), strict=False)
    return sorted((one, two) for one, two in pairs if first[one][1] != other[two][1])


ROW = st.tuples(st.integers(0, 5), st.sampled_from(["good", "bad", "", "ugly"]))


@settings(max_examples=200)
@given(st.lists(ROW, max_size=12), st.lists(ROW, max_size=12))
def test_any_two_tables_are_paired_row_by_row(first: list[tuple[int, str]], other: list[tuple[int, str]]) -> None:
    def rows(table: Sequence[tuple[int, str]]) -> Any:
        for position, (mark, answer) in enumerate(table):
            yield bytes([mark]), position, "ok" if answer else "error", answer

    pairing = Pairing("a", "b", max(len(first), len(other)), lambda answer: answer)
    pairing.read(rows(first), rows(other), lambda: False)
    found = pairing.found()
    assert [*zip(found.own.tolist(), found.other.tolist(), strict=True)] == paired_slowly(first, other)
    for one, two, number in zip(found.own, found.other, found.ends, strict=True):
        assert found.known[number].answers == (first[one][1], other[two][1])
    assert pairing.paired + pairing.only[0] == len(first)
    assert pairing.paired + pairing.only[1] == len(other)
