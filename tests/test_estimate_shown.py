"""An estimate as text of 80 columns, as JSON, and as HTML that no label can break."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.quality.cascade import Bin, Calibration
from batcher.quality.estimating import Sampled
from batcher.quality.estimating import estimate as estimated
from batcher.quality.figures import Figure
from batcher.reports.pages.pictures import Mark, Scale, heat_table, marks_picture
from batcher.reports.quality.estimated import Certainty, Design, Estimate, Kind, Quantity, Uncertain
from batcher.reports.quality.estimated_page import html_of, page_of
from batcher.reports.quality.texts import text_of
from batcher.tables import width
from batcher.words import command_line, percent

EVIL = [
    '<script>alert("1")</script>',
    "\u0634\u0643\u0648\u0649 من الخدمة",
    "\u202eevil\u202c",
    "退款" * 20,
    "a\nb",
    "",
]
LINE = Estimate(keyword="mood", output_dir=Path("output"), rows=1000, ok=990, invalid=7, error=3, left=0)


def made(counts: dict[str | None, int], sampled: list[Sampled], **more: Any) -> Estimate:
    """Return an estimate with the numbers of a sample."""
    found = estimated(counts, sampled, draws=400)
    rows = sum(counts.values())
    design = Design("random", len(sampled), len(sampled), 0, None, f"{len(sampled)} rows drawn at random (seed 0)")
    return replace(
        LINE,
        rows=rows,
        ok=rows - counts.get(None, 0),
        invalid=counts.get(None, 0),
        error=0,
        design=design if sampled else Design(),
        accuracy=found.accuracy,
        labels=found.labels,
        confusion=found.confusion if sampled else LINE.confusion,
        kappa=found.kappa,
        alpha=found.alpha,
        **more,
    )


def mood() -> Estimate:
    pairs = [("good", "good", 40), ("good", "bad", 6), ("bad", "bad", 30), ("bad", "good", 3), (None, "good", 1)]
    sampled = [Sampled(label, gold, 0.08) for label, gold, rows in pairs for _ in range(rows)]
    bins = (Bin(0.3, 0.7, 20, 0.6, Figure(0.5, 0.3, 0.7)), Bin(1.0, 1.0, 60, 1.0, Figure(0.95, 0.86, 0.99)))
    least = (Uncertain(17, "good", 0.33), Uncertain(1041, "b\nad", 0.4))
    return made(
        {"good": 600, "bad": 390, None: 10},
        sampled,
        notes=("one note",),
        warnings=("the run is not finished: 5 of 1,000 rows have no result yet, and count as rows without an answer",),
        certainty=(Certainty(by="agreement", rows=990, calibration=Calibration(bins, 0.04, 0.8), least=least),),
    )


TEXT = """\
mood: accuracy 87.7%, 95% interval 79.1% to 93.5%
  warning   the run is not finished: 5 of 1,000 rows have no result yet, and
            count as rows without an answer
  rows      1,000: 990 with a label, 10 invalid
  by hand   80 rows drawn at random (seed 0)
"""


def test_a_text_begins_with_the_number_and_what_it_rests_on() -> None:
    with command_line():
        text = text_of(mood())
    shape = re.sub(r"\d+(\.\d+)?", "N", text)
    assert shape.startswith(re.sub(r"\d+(\.\d+)?", "N", TEXT))
    assert re.sub(r" +", " ", shape[len(re.sub(r"\d+(\.\d+)?", "N", TEXT)) :]) == GOLDEN


GOLDEN = """\
 kappa N (N to N): substantial agreement beyond chance (Cohen)
 alpha N (N to N): good enough for tentative conclusions only
 (Krippendorff)
 to halve about N more hand labels would make the interval of the accuracy
 half as wide: batcher sample mood -n N
 note one note

 share of all rows rows raw estimate N% interval by hand
 good N N% N% N% to N% N
 bad N N% N% N% to N% N

 of each label precision recall FN
 good N% (N% to N%) N% (N% to N%) N% (N% to N%)
 bad N% (N% to N%) N% (N% to N%) N% (N% to N%)

 model \\ by hand good bad
 good N N
 bad N N
 (no label) N N

 agreement by hand mean right N% interval
 N to N N N N% N% to N%
 N N N N% N% to N%
 of a right and a wrong answer, the right one has the higher
 agreement in N% of all pairs (N%: it says nothing)"""


def test_without_hand_labels_a_certainty_is_an_order_and_with_them_a_table() -> None:
    least = (Uncertain(17, "good", 0.33), Uncertain(1041, "b\nad", 0.4))
    text = text_of(made({"good": 600, "bad": 390}, [], certainty=(Certainty(by="agreement", rows=990, least=least),)))
    assert "without hand labels it is an order, and no probability" in re.sub(r"\s+", " ", text)
    assert text.splitlines()[-3:] == [
        "  least certain first, by agreement; rows are counted from 0",
        "  row        17  0.33  good",
        "  row     1,041  0.40  b\\nad",
    ]


def test_rows_that_are_drawn_are_labelled_before_more_are_drawn() -> None:
    sampled = [Sampled("good", "good", 0.5)] * 40 + [Sampled("good", "bad", 0.5)] * 10
    found = made({"good": 600, "bad": 390}, sampled)
    assert found.more
    for drawn, said in ((990, "that many rows of the sample have none yet"), (60, f"-n {50 + found.more}")):
        with command_line():
            text = text_of(replace(found, design=found.design._replace(drawn=drawn)))
        assert said in re.sub(r"\s+", " ", text)


def test_the_remark_of_a_long_command_has_a_line_of_its_own() -> None:
    steps = (
        "batcher sample mood -n 100  # then fill the column gold of output/sample_mood.csv",
        "batcher estimate mood",
    )
    lines = text_of(made({"good": 600, "bad": 390}, [], steps=steps)).splitlines()
    at = lines.index("  next      batcher sample mood -n 100")
    assert lines[at + 1 : at + 3] == [
        "            # then fill the column gold of output/sample_mood.csv",
        "            batcher estimate mood",
    ]


def test_labels_that_begin_alike_are_told_apart_in_a_text_and_in_a_picture() -> None:
    labels = [f"a customer of the bank asks about the topic number {number} of many" for number in range(10, 16)]
    found = made(dict.fromkeys(labels, 100), [Sampled(each, each, 0.1) for each in labels * 9])
    lines = [line for line in text_of(found).splitlines() if "of many" in line or "\u2026" in line]
    assert all(width(line) <= 80 for line in lines)
    for number in range(10, 16):
        assert sum(f"\u2026{number} " in line for line in lines) == 2  # their shares, their figures
        assert f">a customer of \u2026{number} of many</text>" in html_of(found)


def test_with_many_labels_the_most_frequent_ones_and_the_most_frequent_mistakes_are_shown() -> None:
    labels = [f"label_number_{number:02}" for number in range(77)]
    counts: dict[str | None, int] = {label: 100 - number for number, label in enumerate(labels)}
    sampled = [Sampled(label, labels[(place + place % 3) % 77], 0.02) for place, label in enumerate(labels * 2)]
    with command_line():
        text = text_of(made(counts, sampled))
    assert "47 other labels, together" in text
    assert "most frequent mistakes: the model's" in text
    assert "other pairs of labels: --json and --html show all" in text
    assert "label_number_29" in text
    assert len(text.splitlines()) < 110
    page = page_of(made(counts, sampled))
    assert page.count("label_number_76") > 3
    assert "the whole matrix" in page


def test_numbers_show_their_mean_and_quantiles() -> None:
    found = replace(
        LINE,
        kind=Kind.NUMBERS,
        design=Design("random", 50, 50, 0, None, "50 rows drawn at random (seed 0)"),
        accuracy=Figure(0.4, 0.3, 0.5),
        quantities=(
            Quantity("mean", 5.123, Figure(5.5, 5.0, 6.25, 150)),
            Quantity("median", 5, Figure(6, 5, 7)),
            Quantity("90%", None, Figure(12345.6)),
        ),
    )
    text = text_of(found)
    assert text.startswith("mood: mean 5.5, 95% interval 5 to 6.25\n")
    assert "equal     40.0% (30.0% to 50.0%) of the answers are the number given by hand" in text
    assert re.search(r"mean +5\.123 +5\.5 +5 to 6\.25\n", text)
    assert "12,346" in text
    assert "<svg" in page_of(found)


def test_the_json_is_stable_and_holds_everything() -> None:
    values = mood().to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["labels"][0].keys() == {
        *("label", "rows", "raw", "share", "precision", "recall", "f1", "hand", "checked", "few")
    }
    assert values["confusion"].keys() == {"model", "gold", "counted", "estimated"}
    assert values["certainty"][0]["calibration"]["bins"][0].keys() == {"low", "high", "hand", "score", "accuracy"}


# -- HTML


class Checked(HTMLParser):
    """Checks that tags are closed in order, and collects their names and the text."""

    VOID = frozenset({"meta", "br", "line", "circle"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def evil() -> Estimate:
    counts: dict[str | None, int] = {label: 10 + place for place, label in enumerate(EVIL)} | {None: 3}
    sampled = [Sampled(label, EVIL[(place * 5) % 6], 0.2) for place, label in enumerate(EVIL * 2)]
    least = tuple(Uncertain(place, label, 0.5) for place, label in enumerate(EVIL))
    found = made(counts, sampled, certainty=(Certainty(by="confidence", rows=9, least=least),), notes=tuple(EVIL))
    return replace(found, keyword="<b>k</b>")


def test_labels_are_text_in_html_whatever_they_hold() -> None:
    for page in (html_of(evil()), page_of(evil())):
        checked = Checked(page)
        assert not {"script", "b"} & checked.names
        assert EVIL[0] in checked.text
        assert "\u202e" not in page
        assert not re.search(r"(?:src|href)=|https?://(?!www\.w3\.org/2000/svg)", page)


def test_a_picture_is_well_formed_and_says_what_it_shows() -> None:
    marks = [Mark(label, 0.2, 0.3, 0.1, 0.5, f"{label} text") for label in EVIL if label != "a\nb"]
    for scale in (Scale.of_shares(marks), Scale.of_numbers(marks)):
        root = ET.fromstring(marks_picture("Shares & <more>", marks, scale))  # noqa: S314 - our own
        assert root.get("role") == "img"
        assert root[0].text == "Shares & <more>"
        assert "<script>" in (root[1].text or "")
        assert root.findall(".//{http://www.w3.org/2000/svg}script") == []


def test_a_picture_leaves_out_what_is_not_known() -> None:
    marks = [Mark("only raw", 0.2, None, None, None, "20%")]
    picture = marks_picture("Shares", marks, Scale.of_shares(marks))
    assert picture.count("<circle") == 2, "the ring of the legend and that of the mark"
    assert "interval" not in picture


@pytest.mark.parametrize(
    ("numbers", "steps"),
    [
        ([0.0, 0.0], 1),
        ([-3.0, 12.0], 2),
        ([1e-9, 2e-9], 2),
        ([5.0, 5.0], 2),
        ([-1e12, 1e12], 2),
    ],
)
def test_a_scale_of_numbers_has_a_few_round_steps_around_all_of_them(numbers: list[float], steps: int) -> None:
    scale = Scale.of_numbers([Mark("x", each, None, None, None, "") for each in numbers])
    assert scale.left <= min(numbers) <= max(numbers) <= scale.right
    assert steps <= len(scale.steps) <= 8


def test_a_heat_table_marks_agreement_and_mistakes_apart() -> None:
    table = heat_table("Rows", ["a", "b"], ["a", "b"], [[9, 1], [0, 5]], "model")
    shades = re.findall(r"rgba\((\d+),", table)
    assert shades == ["59", "224", "59"]
    assert "&middot;" in table


# -- Extremes


LABELS = st.text(max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> Estimate:
    """Draw a table: one row or many, one label or 77, with any hand labels, also none and all wrong."""
    labels = draw(st.lists(LABELS, min_size=1, max_size=draw(st.sampled_from([1, 2, 6, 77])), unique=True))
    counts: dict[str | None, int] = {label: draw(st.integers(0, 50)) for label in labels}
    counts[None] = draw(st.integers(0, 5))
    if not sum(counts.values()):
        counts[labels[0]] = 1
    gold = st.one_of(st.sampled_from(labels), LABELS)
    sampled = [
        Sampled(label, draw(gold), draw(st.sampled_from([0.1, 0.5])))
        for label, rows in counts.items()
        for _ in range(draw(st.integers(0, min(rows, 3))))
    ]
    return made(counts, sampled)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables())
def test_any_table_is_shown_in_80_columns_and_in_html_that_is_closed(found: Estimate) -> None:
    assert max(map(width, text_of(found).splitlines())) <= 80
    Checked(html_of(found))
    Checked(page_of(found))
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0%"), (0.00001, "<0.01%"), (0.0004, "0.04%"), (0.5, "50.0%"), (0.9995, "99.95%"), (0.99999, ">99.99%")],
)
def test_a_share_that_is_not_nothing_or_everything_does_not_look_so(share: float, text: str) -> None:
    assert percent(share) == text
    assert percent(1) == "100.0%"
