"""A table whose truth is known, labelled for real by a model with stated errors: the intervals of its estimate hold."""

from __future__ import annotations

import csv
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import batcher
from batcher.server.confusion_file import confusion_of
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs

LEAST = 0.92  # of the intervals of 95% that cover the truth; of 200 the share varies by 0.015 by chance alone
SHARES = {"card": 0.5, "payment": 0.3, "account": 0.15, "fraud": 0.05}
# The model finds twice the fraud that there is.
CHANCES = {
    "card": {"card": 0.85, "fraud": 0.07},
    "payment": {"payment": 0.8, "fraud": 0.08, "unsure": 0.03},
    "account": {"account": 0.75, "card": 0.2},
    "fraud": {"fraud": 0.8, "payment": 0.15},
}


class Table(NamedTuple):
    """A labelled table: its texts with their true labels, and the directory of its run."""

    truth: dict[str, str]
    directory: Path

    @property
    def shares(self) -> dict[str, float]:
        return {label: count / len(self.truth) for label, count in Counter(self.truth.values()).items()}

    @property
    def answers(self) -> dict[str, str]:
        """The model's labels of the rows that have one."""
        with (self.directory / "all_known.csv").open(encoding="utf-8", newline="") as file:
            return {row["text"]: row["infer"] for row in csv.DictReader(file) if row["infer_status"] == "ok"}

    @property
    def accuracy(self) -> float:
        answers = self.answers
        return sum(self.truth[text] == label for text, label in answers.items()) / len(answers)

    @contextmanager
    def copied(self, to: Path) -> Iterator[Path]:
        """Copy the run, so that it can be sampled with another seed."""
        shutil.copytree(self.directory, to)
        yield to
        shutil.rmtree(to)

    def sampled(self, directory: Path, n: int, seed: int, **options: Any) -> Any:
        """Draw rows, label them by hand with the truth, and estimate."""
        drawn = batcher.sample("known", n, seed=seed, output_dir=directory, data=list(self.truth), **options)
        with drawn.path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{**row, "gold": self.truth[row["text"]]} for row in csv.DictReader(file)]
        with drawn.path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        batcher.sample("known", read=drawn.path, output_dir=directory, data=list(self.truth))
        return batcher.estimate("known", directory)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A table that a model has labelled, wrongly now and then."""
    draw = random.Random(11)
    topics = draw.choices(list(SHARES), list(SHARES.values()), k=2_000)
    truth = {f"Message {number} to the bank.": topic for number, topic in enumerate(topics)}
    confusion = confusion_of({"truth": truth, "chances": CHANCES, "spread": 0.5})
    directory = tmp_path_factory.mktemp("known")
    with embedded(Knobs(confusion=confusion, seed=5)) as server:
        batcher.run(
            list(truth), "What is this about? {text}", labels=list(SHARES), keyword="known", model="any",
            base_url=server.base_url, output_dir=directory, quiet=True,
        )  # fmt: skip
        assert server.books.without_truth == 0
    return Table(truth, directory)


def test_the_labels_alone_are_far_from_the_truth(labelled: Table) -> None:
    assert labelled.shares["fraud"] < 0.06
    raw = sum(label == "fraud" for label in labelled.answers.values()) / len(labelled.truth)
    assert raw > 0.1


@pytest.mark.parametrize(("design", "rows"), [({}, 100), ({"per_label": True}, 25)])
def test_the_intervals_cover_the_truth_whichever_rows_are_drawn(
    labelled: Table, tmp_path: Path, design: dict[str, Any], rows: int
) -> None:
    covered: Counter[str] = Counter()
    shares, accuracy, seeds = labelled.shares, labelled.accuracy, 100 if design else 200
    for seed in range(seeds):
        with labelled.copied(tmp_path / str(seed)) as directory:
            found = labelled.sampled(directory, rows, seed, **design)
        figures = {each.label: each.share for each in found.labels}
        covered["accuracy"] += found.accuracy.low <= accuracy <= found.accuracy.high
        for label, share in shares.items():
            covered[label] += figures[label].low <= share <= figures[label].high
    assert {name: count for name, count in covered.items() if count < LEAST * seeds} == {}
    assert covered.total() < len(covered) * seeds  # an interval that is always right is too wide
