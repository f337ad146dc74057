"""Runs whose rows have labels, and hand labels for some of them, written into the journal as `batcher sample` does."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from conftest import Lab
from fake_service import Call, Service

from batcher.records import Completion


class _AnyPrompt(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


def answering(answers: Mapping[str, str]) -> Service:
    """Return a service that gives each prompt, which begins with one of these texts, its own answer."""

    def instead(call: Call) -> Completion:
        return Completion(answers[call.prompt.partition("\n")[0]])

    service = Service((), latency=lambda _call: 0.0, instead=instead)
    service.prompts = _AnyPrompt()
    return service


def run_with(lab: Lab, answers: Sequence[str], **options: Any) -> None:
    """Run a table of the rows `row 0`, `row 1`, ... whose answers are these."""
    texts = [f"row {number}" for number in range(len(answers))]
    lab.run(texts, answering(dict(zip(texts, answers, strict=True))), **options)


def label_by_hand(
    directory: Path,
    gold: Mapping[int, str],
    *,
    drawn: Sequence[int] | None = None,
    design: str = "random",
    keyword: str = "k",
    seed: int = 0,
) -> None:
    """Record that rows were drawn at random, and the hand labels of some of them.

    Args:
        directory: of the run.
        gold: the hand labels, by position.
        drawn: the positions that were drawn; default: those with a hand label.
        design: `random`, or `per label`: the chances are then those of the labels.
        keyword: of the run.
        seed: of the draw.
    """
    drawn = sorted(gold) if drawn is None else drawn
    with closing(sqlite3.connect(directory / f"journal_{keyword}.sqlite")) as db, db:
        rows = db.execute(
            "SELECT r.position, r.key, r.cells, iif(a.status = 'ok', a.answer, NULL) FROM rows r"
            " LEFT JOIN results a ON a.id = r.result ORDER BY r.position"
        ).fetchall()
        stratum = {position: label if design == "per label" else None for position, _, _, label in rows}
        taken = dict.fromkeys(drawn, 0)
        sizes = {label: [*stratum.values()].count(label) for label in {*stratum.values()}}
        of_label = {label: sum(stratum[position] == label for position in taken) for label in sizes}
        strata = [[label, sizes[label], of_label[label], 0.5] for label in sizes]
        db.execute(
            "INSERT INTO draws (id, at, design, rows, seed, strata) VALUES (1, 0, ?, ?, ?, ?)",
            (design, len(drawn), seed, json.dumps(strata)),
        )
        for number, position in enumerate(drawn, 1):
            _, key, cells, label = rows[position]
            chance = of_label[stratum[position]] / sizes[stratum[position]]
            db.execute("INSERT INTO drawn VALUES (?, 1, ?, ?, ?, ?, ?)", (number, position, key, cells, label, chance))
            if position in gold:
                db.execute(
                    "INSERT INTO gold (drawn, at, gold, origin) VALUES (?, 0, ?, 'sample_k.csv')",
                    (number, gold[position]),
                )


def noisy(truth: Sequence[str], labels: Sequence[str], accuracy: float, seed: int = 1) -> list[str]:
    """Return labels of which a share is right, and the others are drawn at random."""
    draw = random.Random(seed)
    return [each if draw.random() < accuracy else draw.choice(labels) for each in truth]
