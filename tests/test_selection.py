"""A sample is drawn at random, is the same each time, and its answers are kept."""

from __future__ import annotations

import csv
import json
import tracemalloc
from array import array
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service, refusal

import batcher
from batcher.errors import ChangedError, Interrupted, SettingsError
from batcher.input.opening import open_dataset
from batcher.input.selection import Selection, draw

TEXTS = [f"text {number:03}" for number in range(200)]
PROMPT = "{text}"


def asked(lab: Lab, data: Any = TEXTS, **options: Any) -> list[str]:
    """Run, and return the prompts that were sent."""
    service = Service(data if isinstance(data, list) else list(data["text"]))
    lab.run(data, service, PROMPT, **options)
    return sorted(call.prompt for call in service.calls)


def sampled(rows: int, of: int = 200) -> list[str]:
    return [TEXTS[place] for place in draw("k", rows, of)]


def has_verified(lab: Lab, data: Any = TEXTS) -> bool:
    found = batcher.verify("k", data, output_dir=lab.directory)
    assert not found.findings
    return found.ok


# --- the draw ---


def test_places_are_drawn_by_the_documented_hash() -> None:
    def number(place: int) -> bytes:
        digest = blake2b(b"k\0%d" % (place // 8)).digest()
        return digest[place % 8 * 8 :][:8]

    assert draw("k", 7, 100) == array("q", sorted(sorted(range(100), key=number)[:7]))


@pytest.mark.parametrize(("rows", "of"), [(1, 1), (3, 2), (5, 5), (2, 9), (1, 0)])
def test_no_place_is_drawn_twice_and_a_sample_of_all_is_the_table(rows: int, of: int) -> None:
    found = draw("k", rows, of)
    assert len(found) == len(set(found)) == min(rows, of)
    assert list(found) == sorted(found)
    assert set(found) <= set(range(of))


def test_a_larger_sample_holds_a_smaller_one_and_appended_rows_displace_few() -> None:
    small = set(draw("k", 20, 3000))
    assert small < set(draw("k", 100, 3000))
    assert len(small & set(draw("k", 20, 3300))) >= 15
    assert small != set(draw("other", 20, 3000))


def test_each_place_is_drawn_equally_often() -> None:
    drawn = Counter(place for number in range(4000) for place in draw(str(number), 3, 12))
    # 1,000 each are expected, with a standard deviation of 27.
    assert all(abs(drawn[place] - 1000) < 140 for place in range(12))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "frame", "list"])
def test_a_sample_has_the_drawn_rows_in_the_order_of_any_table(tmp_path: Path, kind: str) -> None:
    frame, path = pd.DataFrame({"text": TEXTS, "n": range(200)}), tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(path)
    data: Any = {"frame": frame, "list": TEXTS}.get(kind, path)
    selection = Selection(open_dataset(data), "k", sample=25)
    parts = list(selection.slices(10))
    assert [part.start for part in parts] == [0, 10, 20]
    assert [row[0] for part in parts for row in part.rows] == sampled(25)
    assert f"row {draw('k', 25, 200)[3]} " in selection.where(3)


# --- runs ---


def test_a_sample_asks_the_drawn_rows_and_the_result_has_them_in_input_order(lab: Lab) -> None:
    frame = pd.DataFrame({"id": range(200), "text": TEXTS})
    assert asked(lab, frame, sample=20) == sampled(20)
    assert [row["text"] for row in lab.rows()] == sampled(20)
    assert [int(row["id"]) for row in lab.rows()] == list(draw("k", 20, 200))
    assert batcher.status("k", lab.directory).rows == 20
    assert has_verified(lab, frame)


def test_the_same_sample_is_not_asked_again_and_a_larger_one_asks_only_what_is_new(lab: Lab) -> None:
    assert len(asked(lab, sample=20)) == 20
    before = lab.files()
    assert asked(lab, sample=20) == []
    assert lab.files() == before
    assert asked(lab, sample=100) == sorted({*sampled(100)} - {*sampled(20)})
    assert [row["text"] for row in lab.rows()] == sampled(100)
    assert has_verified(lab)


def test_a_run_without_a_sample_asks_only_the_other_rows(lab: Lab) -> None:
    asked(lab, sample=30, chunk_size=7)
    assert lab.path(0).exists()
    assert lab.path(28).exists()
    assert asked(lab, chunk_size=7) == sorted({*TEXTS} - {*sampled(30)})
    assert [row["text"] for row in lab.rows()] == TEXTS
    assert has_verified(lab)


@pytest.mark.parametrize("chunk_size", [7, 500])
def test_any_series_of_samples_and_limits_asks_each_row_once(lab: Lab, chunk_size: int) -> None:
    seen: list[str] = []
    series: list[dict[str, Any]] = [
        {"sample": 10}, {"limit": 20}, {"sample": 50}, {}, {"sample": 5}, {"sample": 120}, {"limit": 3}, {},
        {"limit": 30}, {"sample": 30}, {},
    ]  # fmt: skip
    for options in series:
        seen += asked(lab, chunk_size=chunk_size, **options)
        expected = sampled(options["sample"]) if "sample" in options else TEXTS[: options.get("limit")]
        assert [row["text"] for row in lab.rows()] == expected
        assert all(row["infer_status"] == "ok" for row in lab.rows())
        assert has_verified(lab)
    assert sorted(seen) == TEXTS
    assert lab.query("SELECT count(*) FROM rows WHERE position >= 200") == [(0,)]


def test_rows_with_equal_texts_are_asked_as_often_as_they_stand_in_the_table(lab: Lab) -> None:
    texts = ["a", "b"] * 50
    assert len(asked(lab, texts, sample=30)) == 30
    assert len(asked(lab, texts)) == 70
    assert len(asked(lab, texts, sample=40)) == 0
    assert has_verified(lab, texts)


def test_with_dedup_a_sample_sends_each_text_once(lab: Lab) -> None:
    texts = ["a", "b"] * 50
    assert asked(lab, texts, sample=30, dedup=True) == ["a", "b"]
    assert len(lab.rows()) == 30
    assert asked(lab, texts, dedup=True) == []
    assert has_verified(lab, texts)


@pytest.mark.parametrize(
    ("first", "then"), [({"sample": 20}, {"sample": 90}), ({}, {"sample": 90}), ({"sample": 20}, {})]
)
def test_rows_that_failed_stay_so_in_another_selection_until_they_are_retried(
    lab: Lab, first: dict[str, Any], then: dict[str, Any]
) -> None:
    bad = sampled(20)[3]
    lab.run(TEXTS, Service(TEXTS, instead=lambda call: refusal(400) if call.prompt == bad else None), PROMPT, **first)
    assert bad not in asked(lab, **then)
    assert [row["infer_status"] for row in lab.rows() if row["text"] == bad] == ["error"]
    assert asked(lab, **then, retry_failed=True) == [bad]


def test_answers_to_an_earlier_question_are_kept_in_another_selection(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), "{text}", sample=20)
    lab.run(TEXTS, Service(TEXTS), "Is {text}?", sample=20, on_change="reuse")
    assert sum(call.prompt != "" for call in _calls(lab, "Is {text}?", sample=90)) == 70
    assert len(_calls(lab, "Is {text}?")) == 110
    assert has_verified(lab)
    assert len(_calls(lab, "Is {text}?", sample=5)) == 0
    assert len(_calls(lab, "Is {text}?")) == 0


def _calls(lab: Lab, prompt: str, **options: Any) -> list[Any]:
    service = Service([prompt.format(text=text) for text in TEXTS])
    lab.run(TEXTS, service, prompt, **options)
    return service.calls


def test_rows_of_a_sample_that_were_changed_stop_the_run_in_any_selection(lab: Lab) -> None:
    frame = pd.DataFrame({"id": range(200), "text": TEXTS})
    asked(lab, frame, sample=20)
    edited = frame.copy()
    edited.loc[draw("k", 20, 200)[5], "text"] = "edited"
    for options in ({"sample": 20}, {"sample": 100}, {}):
        with pytest.raises(ChangedError, match="1 answered to another question"):
            asked(lab, edited, **options)
    with pytest.raises(ChangedError, match="20 answered to another question"):
        lab.run(frame, Service([]), "Is {text}?")


def test_a_sample_that_was_stopped_goes_on(lab: Lab) -> None:
    service = Service(TEXTS, lambda call: 1 if call.prompt < TEXTS[100] else 1e4)
    with pytest.raises(Interrupted):
        lab.run(TEXTS, service, PROMPT, at={50: lab.request_stop, 60: lab.request_stop}, timeout=1e5, sample=40)
    assert asked(lab, sample=40) == [text for text in sampled(40) if text >= TEXTS[100]]
    assert has_verified(lab)


def test_corrections_of_a_sample_stay_with_their_rows_in_other_samples_and_in_the_table(lab: Lab) -> None:
    asked(lab, sample=20)
    path, first = lab.path(0), sampled(20)[0]
    path.write_text(path.read_text(encoding="utf-8").replace(",ok,", ",ok,corrected", 1), encoding="utf-8")
    for options in ({"sample": 30}, {"sample": 10}, {"sample": 20}, {}):
        asked(lab, **options)
        found = {row["text"]: row["infer_error"] for row in lab.rows()}
        assert found == {text: "corrected" if text == first else "" for text in found}, options
        assert (first in found) == (options != {"sample": 10} or first in sampled(10))
    assert [each.name for each in lab.directory.iterdir() if "bak" in each.name] == []


def test_verify_draws_the_sample_from_the_table_as_it_was(lab: Lab) -> None:
    asked(lab, sample=20)
    assert has_verified(lab, [*TEXTS, *("appended" for _ in range(300))])
    assert not batcher.verify("k", [*reversed(TEXTS)], output_dir=lab.directory).ok
    [note] = [note for note in batcher.verify("k", output_dir=lab.directory).notes if "drawn" in note]
    assert note.startswith("The run is about 20 rows drawn at random from 200.")


def test_a_plan_says_from_how_many_rows_the_sample_is_drawn(lab: Lab) -> None:
    found = batcher.plan(TEXTS, PROMPT, keyword="k", output_dir=lab.directory, provider="offline", sample=20)
    assert (found.rows, found.requests) == (20, 20)
    assert str(found).startswith("k: 20 rows drawn at random from 200: 20 new\n")
    asked(lab, sample=20)
    [(question,)] = lab.query("SELECT question FROM runs")
    assert json.loads(question)["sample"] == {"rows": 20, "of": 200}


def test_a_row_of_a_sample_is_named_by_its_place_in_the_table(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    place = draw("k", 20, 200)[7]

    def prompt(row: Any) -> str:
        if row["text"] == TEXTS[place]:
            raise ValueError
        return str(row["text"])

    with pytest.raises(SettingsError, match=rf"row {place} \(counted from 0\)"):
        batcher.plan(path, prompt, keyword="k", output_dir=lab.directory, provider="offline", sample=20)


def test_sample_and_limit_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="limit and sample exclude each other"):
        batcher.plan(TEXTS, keyword="k", provider="offline", limit=5, sample=5)


def test_a_sample_holds_a_slice_of_the_table_and_not_the_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([[f"{number} {'x' * 1000}"] for number in range(5_000)])

    selection = Selection(open_dataset(path), "k", sample=50)
    tracemalloc.start()
    try:
        assert sum(len(part.rows) for part in selection.slices(10)) == 50
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
