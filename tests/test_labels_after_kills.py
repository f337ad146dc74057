"""A run with labels or a schema that is killed at any moment yields the same bytes, and pays for no answer twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import LocalServer, call, local_server, started, table, write_table

from batcher.answer.labels import Labels
from batcher.server.answers import label_for

ROWS = 240
LABELS = ["card_arrival", "lost_card", "top_up"]
TEXTS = [f"Message {number} about money" for number in range(ROWS)]
SCHEMA = {
    "type": "object",
    "properties": {"why": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["why"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("server")
    with local_server("--forms", "groq", "--latency", "0.05", "--dressed", "0.3", cwd=folder) as running:
        yield running


def command(folder: Path, server: LocalServer, *form: str) -> list[str]:
    write_table(folder / "t.csv", ["text"], [[text] for text in TEXTS])
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    options = ["--base-url", server.base_url, "--model", "m", "--chunk-size", "30", "--max-concurrency", "8", "-q"]
    return ["run", "t.csv", "--prompt", "Classify: {text}", "--keyword", "k", *options, *form]


FORMS = [
    ["--labels", ",".join(LABELS)],
    ["--schema", "schema.json"],
    ["--schema", "schema.json", "--format", "parquet"],
]


@pytest.mark.parametrize("form", FORMS)
def test_kills_change_no_byte_and_no_answer_is_paid_twice(tmp_path: Path, server: LocalServer, form: list[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert call(*command(whole, server, *form), cwd=whole).status == 0
    server.reset()
    arguments = command(killed, server, *form)
    lost = 0
    for answered in (2, 90, 200):
        with started(*arguments, cwd=killed) as program:
            server.wait_for(answered, "answered")
            program.kill()
            program.wait()
        lost += 8  # at most what was in flight
    assert call(*arguments, cwd=killed).status == 0
    names, others = (
        sorted(path.name for path in (folder / "output").glob("[0-9a]*_k.*")) for folder in (whole, killed)
    )
    assert names == others
    assert len(names) == ROWS // 30 + 1
    assert all((whole / "output" / name).read_bytes() == (killed / "output" / name).read_bytes() for name in names)
    assert call("verify", "k", "t.csv", cwd=killed).status == 0
    assert server.books()["answered"] <= ROWS + lost
    if form[0] == "--labels":
        line = Labels.of(LABELS, "").line
        found = [row["infer"] for row in table(killed / "output" / "all_k.csv")]
        assert found == [label_for(f"Classify: {text}\n\n{line}", LABELS) for text in TEXTS]
