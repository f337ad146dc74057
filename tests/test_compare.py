"""Two runs on one table are paired by what their questions read, and compared with a test and the noise floor."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service
from hypothesis import given
from hypothesis import strategies as st
from labelled_runs import answering, label_by_hand

import batcher
from batcher.cli import main
from batcher.errors import InputError, OutputError, SettingsError
from batcher.journal.comparing import Marked
from batcher.records import Completion, Usage
from batcher.reports.quality.compare import verdict_on
from batcher.reports.quality.compared import (
    Compared,
    Crossed,
    Difference,
    Example,
    Noise,
    OnGold,
    Ranged,
    Side,
)
from batcher.reports.quality.pairs import Agreement, paired, reading_of

LABELS = ["good", "bad", "so-so"]
TEXTS = [f"text {number}" for number in range(60)]

Answer = Callable[[str, Call], str]


def number_in(prompt: str) -> int:
    return int(prompt.rsplit(maxsplit=1)[-1])


def rightly(prompt: str, _call: Call) -> str:
    """Answer with the label that is right: it goes by the last number of the prompt's first line."""
    return LABELS[number_in(prompt) % 3]


def wrongly_each(step: int) -> Answer:
    """Return who answers `so-so` whenever the number is a multiple of `step`."""
    return lambda prompt, call: "so-so" if number_in(prompt) % step == 0 else rightly(prompt, call)


def run(
    lab: Lab, keyword: str, answer: Answer = rightly, rows: Any = TEXTS, prompt: str = "{text}", **options: Any
) -> None:
    def instead(call: Call) -> Completion:
        return Completion(answer(call.prompt.partition("\n")[0], call), "stop", Usage(10, 2))

    service = Service([], instead=instead)
    service.prompts = Anything()
    given: dict[str, Any] = {"labels": LABELS, "keyword": keyword} | options
    lab.run(rows, service, prompt, **given)


def compare(lab: Lab, **options: Any) -> Compared:
    return batcher.compare("a", "b", lab.directory, **options)


# -- Which rows are paired


def test_rows_are_paired_by_their_cells_wherever_they_stand_and_rows_of_one_run_alone_are_told(lab: Lab) -> None:
    shuffled = random.Random(1).sample(TEXTS, 50)
    run(lab, "a")
    run(lab, "b", rows=[*shuffled, "text 990", "text 993"], prompt="What is {text}")
    found = compare(lab)
    assert (found.rows, found.only_first, found.only_other) == (50, 10, 2)
    assert (found.both, found.agree, found.agreement, found.differences) == (50, 50, 1.0, ())
    assert found.columns == ("text",)
    assert found.differ_in == ("prompt",)


def test_equal_rows_are_paired_in_order_and_each_once(lab: Lab) -> None:
    run(lab, "a", rows=["same 1", "same 1", "same 1", "other 2"])
    run(lab, "b", rows=["same 1", "other 2", "same 1"])
    found = compare(lab)
    assert (found.rows, found.only_first, found.only_other) == (3, 1, 0)


def test_rows_are_paired_by_the_columns_of_both_questions_and_by_no_others(lab: Lab) -> None:
    rows = [{"a": f"x {n % 2}", "b": f"{n} 0", "note": str(n)} for n in range(8)]
    others = [{"note": str(-n), **{name: row[name] for name in ("b", "a")}} for n, row in enumerate(rows[::-1])]
    run(lab, "a", rows=rows, prompt="{a}")
    run(lab, "b", rows=others, prompt="{b}")
    found = compare(lab)
    assert set(found.columns) == {"a", "b"}
    assert (found.rows, found.only_first, found.only_other) == (8, 0, 0)


def test_runs_whose_questions_read_nothing_are_paired_by_all_columns_that_both_have(lab: Lab) -> None:
    rows = [{"text": text} for text in TEXTS]
    run(lab, "a", rows=rows, prompt="Pick 1", same_prompt=True)
    run(lab, "b", rows=rows[::-1], prompt="Pick 2", same_prompt=True)
    assert (compare(lab).columns, compare(lab).rows) == (("text",), 60)


def test_runs_of_different_tables_are_refused_with_the_reason(lab: Lab) -> None:
    run(lab, "a")
    run(lab, "b", rows=["else 1", "else 2"])
    with pytest.raises(InputError, match=r"none of the 60 rows of the one is among the 2 of the other; .* by 'text'"):
        compare(lab)
    run(lab, "c", rows=[{"review": "x 1"}], prompt="{review}")
    with pytest.raises(InputError, match="the question of c reads column 'review', which the table of a lacks"):
        batcher.compare("a", "c", lab.directory)


def test_a_run_that_is_missing_or_the_same_is_refused(lab: Lab) -> None:
    run(lab, "a")
    with pytest.raises(OutputError, match="there is no run 'b'"):
        compare(lab)
    with pytest.raises(SettingsError, match=r"'a' is one run: .* repeat_sample=100"):
        batcher.compare("a", "a", lab.directory)


def test_the_other_run_may_be_in_another_directory_under_the_same_keyword(lab: Lab) -> None:
    run(lab, "a")
    elsewhere = Lab(lab.directory.parent / "elsewhere")
    run(elsewhere, "a", wrongly_each(5))
    found = batcher.compare("a", "a", lab.directory, other_dir=elsewhere.directory)
    assert found.agree == 52
    assert "output/a" in str(found)
    assert "elsewhere/a" in str(found)


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_every_row_pairs_with_one_of_the_same_cells_and_as_many_as_can(these: list[int], those: list[int]) -> None:
    def rows(cells: Iterable[int]) -> list[Marked]:
        return sorted(Marked(b"%d" % cell, place, "ok", str(cell)) for place, cell in enumerate(cells))

    pairs = list(paired(rows(these), rows(those)))
    assert sorted(each.first.position for each in pairs if each.first) == list(range(len(these)))
    assert sorted(each.other.position for each in pairs if each.other) == list(range(len(those)))
    both = [(each.first, each.other) for each in pairs if each.first and each.other]
    assert all(first.mark == other.mark for first, other in both)
    assert len(both) == (Counter(these) & Counter(those)).total()
    assert both == sorted(both, key=lambda pair: (pair[0].mark, pair[0].position))
    assert both == sorted(both, key=lambda pair: (pair[1].mark, pair[1].position))


# -- How they differ


def test_pairs_of_answers_that_differ_come_with_rows_as_examples_and_the_most_frequent_first(lab: Lab) -> None:
    run(lab, "a", chunk_size=7)
    run(lab, "b", lambda prompt, call: "bad" if number_in(prompt) in {0, 2, 3} else rightly(prompt, call))
    found = compare(lab)
    assert [(each.answer, each.other, each.rows) for each in found.differences] == [
        ("good", "bad", 2),
        ("so-so", "bad", 1),
    ]
    assert sorted(found.differences[0].examples) == [(0, 0, "text 0"), (3, 3, "text 3")]
    assert found.kappa == pytest.approx(1 - (3 / 60) / (1 - (20 * 18 + 20 * 23 + 20 * 19) / 3600))


def test_texts_of_examples_come_from_the_other_run_or_the_input_if_chunk_files_are_gone(lab: Lab) -> None:
    table = lab.directory.parent / "table.csv"
    table.write_text("id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(TEXTS)))
    run(lab, "a", rows=table)
    run(lab, "b", wrongly_each(5), rows=table)
    expected = {example.text for each in compare(lab).differences for example in each.examples}
    assert all(text and text.startswith("text ") for text in expected)
    (lab.directory / "0_a.csv").unlink()
    (lab.directory / "0_b.csv").unlink()
    assert {example.text for each in compare(lab).differences for example in each.examples} == expected
    table.unlink()
    assert {example.text for each in compare(lab).differences for example in each.examples} == {None}


def test_rows_without_an_answer_count_in_no_agreement_but_in_the_shares_of_invalid(lab: Lab) -> None:
    run(lab, "a", lambda prompt, call: "as a model I" if number_in(prompt) < 6 else rightly(prompt, call), repair=0)
    run(lab, "b")
    found = compare(lab)
    assert (found.both, found.agree) == (54, 54)
    assert (found.first.invalid, found.first.invalid_share, found.other.invalid_share) == (6, 0.1, 0.0)


def test_numbers_are_compared_by_their_means(lab: Lab) -> None:
    scores = ["1", "2", "3", "4", "5"]
    run(lab, "a", lambda prompt, _call: scores[number_in(prompt) % 4], labels=scores)
    run(lab, "b", lambda prompt, _call: scores[number_in(prompt) % 4 + number_in(prompt) % 2], labels=scores)
    numbers = compare(lab).numbers
    assert numbers is not None
    assert numbers == (60, 2.5, 3.0, 0.5, 0.5)
    run(lab, "c")
    run(lab, "d")
    assert batcher.compare("c", "d", lab.directory).numbers is None


def test_the_fields_of_a_schema_are_compared_one_by_one_or_one_alone(lab: Lab) -> None:
    schema = {"type": "object", "properties": {"mood": {"type": "string"}, "score": {"type": "integer"}}}

    def answer(step: int) -> Answer:
        return lambda prompt, call: json.dumps(
            {"mood": rightly(prompt, call), "score": number_in(prompt) % step}, indent=step
        )

    run(lab, "a", answer(4), labels=None, schema=schema)
    run(lab, "b", answer(2), labels=None, schema=schema)
    whole = compare(lab)
    assert (whole.both, whole.agree) == (60, 30)
    assert sorted(whole.fields) == [("mood", 60, 60), ("score", 60, 30)]
    assert compare(lab, field="mood").agreement == 1.0
    score = compare(lab, field="score")
    assert score.numbers is not None
    assert (score.agreement, score.numbers.difference) == (0.5, -1.0)
    with pytest.raises(SettingsError, match=r"no field 'moods'; fields of both are: 'mood', 'score'"):
        compare(lab, field="moods")


def test_free_texts_agree_if_they_are_the_same_and_have_no_kappa(lab: Lab) -> None:
    texts = [f"text {number}" for number in range(250)]
    run(lab, "a", lambda prompt, _call: f"I say {prompt}", texts, labels=None)
    run(lab, "b", lambda prompt, _call: f"I say {number_in(prompt) // 2 * 2}", texts, labels=None)
    found = compare(lab)
    assert (found.both, found.agree, found.kappa) == (250, 0, None)


def test_more_different_answers_than_are_counted_take_no_memory() -> None:
    found, read = Agreement(), reading_of(None, is_object=False)
    for number in range(30_000):
        found.add(Marked(b"", number, "ok", f"this {number}"), Marked(b"", number, "ok", f"that {number}"), read)
    assert (found.both, found.agree, len(found.pairs), found.is_whole) == (30_000, 0, 10_000, False)


def test_labels_that_only_one_run_may_answer_are_told(lab: Lab) -> None:
    run(lab, "a")
    run(lab, "b", labels=[*LABELS, "mixed"])
    [note] = compare(lab).notes
    assert note == "only b may answer 'mixed': a row with such an answer never agrees"


# -- Accuracy


def fill(lab: Lab, keyword: str, n: int, **options: Any) -> None:
    """Draw a sample and label it by hand, rightly."""
    batcher.sample(keyword, n, output_dir=lab.directory, data=TEXTS, **options)
    path = lab.directory / f"sample_{keyword}.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["gold"] = LABELS[number_in(row["text"]) % 3]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    batcher.sample(keyword, read=path, output_dir=lab.directory, data=TEXTS)


@pytest.mark.parametrize("owner", ["a", "b"])
def test_one_sample_serves_both_runs_with_the_exact_test_and_the_interval_of_the_difference(
    lab: Lab, owner: str
) -> None:
    run(lab, "a", wrongly_each(4))
    run(lab, "b", wrongly_each(30), rows=TEXTS[::-1])
    fill(lab, owner, 60)
    gold = compare(lab).on_gold
    assert gold is not None
    wrong = [number for number in range(60) if number % 4 == 0 and number % 3 != 2]
    assert (gold.rows, gold.both, gold.only_first, gold.only_other, gold.neither) == (60, 49, 1, 9, 1)
    assert len(wrong) == 10
    assert gold.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert gold.difference == pytest.approx((8 / 60, 8 / 60, 8 / 60))  # all rows have a hand label
    first, other = compare(lab).first.accuracy, compare(lab).other.accuracy
    assert first is not None
    assert other is not None
    assert (first.value, other.value) == pytest.approx((50 / 60, 58 / 60))


def test_a_part_of_the_rows_labelled_by_hand_gives_an_interval_around_the_difference(lab: Lab) -> None:
    run(lab, "a", wrongly_each(4))
    run(lab, "b", wrongly_each(30))
    fill(lab, "a", 10, per_label=True)
    found = compare(lab)
    assert found.on_gold is not None
    assert found.on_gold.rows == 30
    value, low, high = found.on_gold.difference
    assert low is not None
    assert high is not None
    assert low <= value <= high
    assert low < 8 / 60 < high


@pytest.mark.parametrize("drawn", ["all", "unknown"])
def test_a_column_of_right_answers_serves_both_and_without_a_known_draw_there_is_no_interval(
    lab: Lab, drawn: str
) -> None:
    rows = [
        {"text": text, "truth": LABELS[number_in(text) % 3] if drawn == "all" or n < 30 else ""}
        for n, text in enumerate(TEXTS)
    ]
    for keyword, step in (("a", 4), ("b", 30)):
        run(lab, keyword, wrongly_each(step), rows=rows, gold="truth", gold_drawn=drawn)
    gold = compare(lab).on_gold
    assert gold is not None
    assert gold.rows == (60 if drawn == "all" else 30)
    assert (gold.difference.low is None) == (drawn == "unknown")
    assert ("unknown" in gold.note) == (drawn == "unknown")


# -- The noise floor


def test_without_a_repeated_sample_the_command_is_said_that_measures_the_noise(lab: Lab) -> None:
    run(lab, "a")
    run(lab, "b")
    found = compare(lab)
    assert found.first.noise is None
    assert "not known without hand labels: `batcher.sample('a', 100)` draws rows to label" in found.hint
    assert "`batcher.run` with the options of a and repeat_sample=100" in found.verdict


def test_the_noise_of_a_run_of_several_answers_is_that_of_what_they_agree_on(lab: Lab) -> None:
    def unsteady(prompt: str, call: Call) -> str:  # one of six answers, which is outvoted
        return "so-so" if call.nth == 5 else rightly(prompt, call)

    run(lab, "a", unsteady, samples=3, repeat_sample=60)
    run(lab, "b")
    noise = compare(lab).first.noise
    assert noise is not None
    assert (noise.rows, noise.changed) == (60, 0)


def test_a_difference_within_the_noise_is_said_to_say_nothing(lab: Lab) -> None:
    def unsteady(prompt: str, call: Call) -> str:
        return "so-so" if call.nth == 2 and number_in(prompt) % 3 == 0 else rightly(prompt, call)

    run(lab, "a", unsteady, repeat_sample=60)
    run(lab, "b", wrongly_each(5))
    found = compare(lab)
    noise = found.first.noise
    assert noise is not None
    assert (noise.rows, noise.changed) == (60, 20)
    assert noise.share == pytest.approx((20 / 60, 0.2169, 0.4669), abs=1e-3)  # Clopper and Pearson
    assert "no more than one run may differ from itself" in found.verdict
    run(lab, "c", lambda prompt, _call: LABELS[number_in(prompt) % 2])
    assert "more than one run differs from itself" in batcher.compare("a", "c", lab.directory).verdict


# -- How it is shown


def hostile(lab: Lab) -> Compared:
    texts = [
        f"<script>alert({number})</script> and \x1b[31m a long text of many words, {'so ' * 40} {number}"
        for number in range(9)
    ]
    run(lab, "a", rows=texts)
    run(lab, "b", wrongly_each(2), rows=texts)
    return compare(lab)


def test_a_page_escapes_all_text(lab: Lab) -> None:
    page = hostile(lab)._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page


def test_the_text_has_lines_of_eighty_columns_and_no_control_character(lab: Lab) -> None:
    text = str(hostile(lab))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_the_dictionary_is_json_and_has_what_the_text_says(lab: Lab) -> None:
    run(lab, "a", wrongly_each(4), repeat_sample=10)
    run(lab, "b")
    fill(lab, "a", 20)
    found = compare(lab)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["agreement"] == found.agreement
    assert values["on_gold"]["difference"].keys() == {"value", "low", "high"}
    assert values["first"]["noise"]["share"]["value"] == 0
    assert values["differences"][0]["examples"][0].keys() == {"row", "other_row", "text"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rows = 1  # type: ignore[misc]


GOLDEN = """\
mood_small and mood_large
  paired    9,980 rows by 'text'; 20 only in mood_small
  questions differ in model
  agreement 93.1%: 9,228 of 9,912 rows with an answer in both; Cohen's kappa
            0.87
  noise     asked again, 4 of 100 change: 4.0% (1.1% to 9.9%). The runs differ
            in 6.9%: no more than one run may differ from itself, so only hand
            labels show which is better
  accuracy  mood_large against mood_small: +5.0 points (-1.2 to +11.3) on 100
            rows with a hand label; exact McNemar test p = 0.18
            right in both 84, only in mood_small 2, only in mood_large 7, in
            neither 7

            mood_small                        mood_large
  asks      small                             large, larger
  ok        9,930                             9,950
  invalid   50 (0.5%)                         0
  error     0                                 30
  accuracy  86.0% (78.3% to 91.6%)            91.0% (84.0% to 95.6%)
  noise     4.0% (1.1% to 9.9%)               not measured
  money     $0.21                             unknown
  tokens    120,312 + 20,100                  unknown
  time      12m 05s                           0.8 s

  rows that differ, mood_small -> mood_large
      312  good -> so-so
           row 17: The kettle is loud, and it boils.
       20  (empty) -> an answer of more columns tha…
           row 4: (cells gone)"""


def test_the_text_is_this() -> None:
    noise = Noise(100, 4, Ranged(0.04, 0.011, 0.099))
    costs: dict[str, Any] = {
        "cost_usd": 0.21,
        "prompt_tokens": 120_312,
        "completion_tokens": 20_100,
        "elapsed_s": 725.0,
    }
    unknown: dict[str, Any] = dict.fromkeys(("cost_usd", "prompt_tokens", "completion_tokens")) | {"elapsed_s": 0.8}
    first = Side(
        keyword="mood_small", directory="output", asks=("small",), rows=9980, ok=9930, invalid=50, error=0, left=0,
        accuracy=Ranged(0.86, 0.783, 0.916), noise=noise, **costs,
    )  # fmt: skip
    other = Side(
        keyword="mood_large", directory="output", asks=("large", "larger"), rows=9980, ok=9950, invalid=0, error=30,
        left=0, accuracy=Ranged(0.91, 0.84, 0.956), noise=None, **unknown,
    )  # fmt: skip
    examples = Example(17, 17, "The kettle is loud,\nand it boils."), Example(4, 5, None)
    found = Compared(
        first=first, other=other, field=None, columns=("text",), differ_in=("model",), rows=9980, only_first=20,
        only_other=0, both=9912, agree=9228, kappa=0.87,
        differences=(
            Difference("good", "so-so", 312, examples[:1]),
            Difference("", "an answer of more columns than there is room for", 20, examples[1:]),
        ),
        kinds=2, crossed=Crossed(), hint="", numbers=None, fields=(),
        on_gold=OnGold(100, 84, 2, 7, 7, Ranged(0.05, -0.012, 0.113), 0.1797, "exact McNemar test"),
        verdict=verdict_on(9228 / 9912, [noise, None], "mood_small"),
    )  # fmt: skip
    assert str(found) == GOLDEN
    unfinished = str(replace(found, other=replace(other, left=40))).splitlines()
    assert unfinished[1:3] == [
        "  warning   mood_large is not finished: 40 of 9,980 rows have no result yet;",
        "            those with a hand label count as wrong",
    ]


def test_the_command_line_compares_runs_in_the_directory_of_the_job_and_writes_a_page(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(lab, "a")
    run(lab, "b", wrongly_each(5))
    monkeypatch.chdir(lab.directory.parent)
    lab.directory.rename("results")
    Path("batcher.toml").write_text('input = "x.csv"\nkeyword = "b"\noutput_dir = "results"\n')
    assert main(["compare", "a", "b", "--html", "page.html"]) == 0
    assert "agreement 86.7%" in capsys.readouterr().out
    assert "<!DOCTYPE html>" in Path("page.html").read_text()
    assert main(["compare", "a", "b", "--html", "page.html", "--json"]) == 0  # an older page is replaced
    assert json.loads(capsys.readouterr().out)["agree"] == 52
    Path("mine.html").write_text("mine")
    assert main(["compare", "a", "b", "--html", "mine.html"]) == 2
    assert main(["compare", "b", "c"]) == 2
    assert "batcher: there is no run 'c' in results" in capsys.readouterr().err


def test_a_number_that_is_written_in_another_way_is_right(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(60)]
    for keyword, ending in (("k", ""), ("other", ".0")):
        answers = {text: f"{number % 5}{ending}" for number, text in enumerate(texts)}
        Lab(tmp_path).run(texts, answering(answers), keyword=keyword)
    label_by_hand(tmp_path, {place: str(place % 5) for place in range(0, 60, 2)})
    found = batcher.compare("k", "other", tmp_path)
    assert found.on_gold is not None
    assert found.on_gold.both == 30
    assert found.first.accuracy is not None
    assert found.other.accuracy is not None
    assert found.first.accuracy.value == found.other.accuracy.value == 1
