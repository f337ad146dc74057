"""The pages of the documentation do what they say: their commands, their links, the files that they describe."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path

import pytest
from pages import PAGES, TRANSLATION, Block, blocks_of, differences, prose_of, steps_of
from programs import ROOT, call, table

README = ROOT / "README.md"
OUTPUT = ROOT / "docs" / "output.md"

# Every block that no test can run, by the first line of it.
NOT_RUN = {
    "cheaper.md": [
        'batcher run data/reviews.csv --prompt "{',
        "$ batcher rehearse data/reviews.csv --pr",
        'batcher run data/reviews.csv --prompt "O',
        "$ batcher status reviews",
        "$ batcher cancel reviews",
        'batcher run reviews.csv --prompt "Positi',
        '$ batcher plan test.csv --prompt "Which',
    ],
    "cluster.md": [
        "pip install 'batcher-llm[ray]'",
        "$ batcher run data/reviews.csv --prompt-f",
        "ray start --head --port=6379",
    ],
    "coverage.md": ["python benchmarks/coverage.py"],
    "README.md": ["pip install .", "cp .env.example .env"],
    "journal.md": ["ATTACH 'output/journal_reviews.sqlite'"],
    "limits.md": ["batcher run reviews.csv --prompt-file ask", "$ batcher limit reviews"],
    "output.md": ["$ pip install datasette", "ATTACH 'output/journal_reviews.sqlite'", "library(DBI)"],
    "performance.md": [
        "make bench",
        "python benchmarks/shapes.py",
        "python benchmarks/scaling.py",
        "python benchmarks/hedging.py",
        "python benchmarks/scaleout.py",
    ],
    "python.md": ["endpoints = ["],
    "serve.md": ['pip install "batcher-llm[hf]"', "batcher serve --backend hf", "curl http://localhost:19327"],
    "server.md": [
        "tmux new -s night",
        "nohup batcher run",
        "*/10 * * * * cd",
        "[Unit]",
        "FROM python:3.12-slim",
        "docker build -t batcher .",
    ],
    "windows.md": ["py -m venv .venv"],
}


def is_run(block: Block) -> bool:
    return block.note != "not run" and block.info in ("console", "python")


def name_of(page: Path) -> str:
    return page.stem


@pytest.mark.timeout(600)  # a page starts up to a dozen programs, on a machine that others may use
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, blocks_of(page)))], ids=name_of)
def test_the_commands_of_a_page_show_what_stands_below_them(page: Path) -> None:
    assert list(differences(page)) == []


def test_a_command_that_shows_something_else_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```text words.txt\none\n```\n\n```console\n$ cat words.txt\none\n$ cat words.txt \\\n    words.txt\none\n"
        "$ false\n$ echo $?\n1\n```\n\n```python\nprint(5)\n```\n\n```text\n4\n```\n"
        "\n<!-- numbers vary: a test -->\n```console\n$ echo took 12.5 of 7\ntook 3 of 9\n```\n",
        encoding="utf-8",
    )
    found = [(each.line, each.command, each.shown, each.found) for each in differences(page)]
    assert found == [
        (9, "cat words.txt \\\n    words.txt\n", "one\n", "one\none\n"),
        (20, "print(5)\n", "4\n", "5\n"),
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_written_or_drawn_or_says_why_not(page: Path) -> None:
    blocks = blocks_of(page)
    left_out = [block for block in blocks if block.note == "not run"]
    expected = NOT_RUN.get(page.name, [])
    assert len(left_out) == len(expected)
    for block, beginning in zip(left_out, expected, strict=True):
        assert block.text.startswith(beginning)
        assert block.reason
    for block in blocks:
        if block.note == "not run" or is_run(block) or block.file:
            continue
        assert block.info in ("text", "")
        assert not re.search(r"^(\$ |batcher )", block.text, re.MULTILINE), f"line {block.first}: is it run?"


def test_the_readme_is_short_and_shows_a_row_that_failed() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    first = next(block for block in blocks_of(README) if block.info == "console")
    [shown] = [shown for command, shown in steps_of(first.text) if command.startswith("head ")]
    assert ",error," in shown


def test_the_chinese_readme_has_the_blocks_sections_tables_and_links_of_the_english_one() -> None:
    assert len(TRANSLATION.read_text(encoding="utf-8").splitlines()) <= 150

    def blocks(page: Path) -> list[tuple[str, str, str]]:
        return [(block.info, block.text, block.note) for block in blocks_of(page)]

    def skeleton(page: Path) -> list[str]:
        return [
            line.split(" ")[0]
            for line in prose_of(page).splitlines()
            if line.startswith(("#", "|", "1", "2", "3", "4", "5"))
        ]

    def links(page: Path) -> set[str]:
        return set(re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))) - {README.name, TRANSLATION.name}

    assert blocks(TRANSLATION) == blocks(README)
    assert skeleton(TRANSLATION) == skeleton(README)
    assert links(TRANSLATION) == links(README)


@pytest.mark.parametrize("page", [*PAGES, TRANSLATION], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_pictures_are_small_shown_and_described() -> None:
    shown = [
        found for page in PAGES for found in re.findall(r"!\[([^]]*)\]\(pictures/([^)]+)\)", page.read_text("utf-8"))
    ]
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert {name for _, name in shown} == set(pictures)
    assert all(len(words) > 20 for words, _ in shown)
    assert max(pictures.values()) < 150_000


def test_every_page_is_linked_from_the_readme() -> None:
    links = re.findall(r"\]\(docs/([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert set(links) == {page.name for page in PAGES} - {README.name}


def test_an_output_directory_has_the_files_tables_and_columns_that_its_page_names(tmp_path: Path) -> None:
    done = call(
        "run", ROOT / "data" / "reviews.csv", "--prompt", "One of: good, bad. {review}", "--provider", "offline",
        "--chunk-size", "25", cwd=tmp_path,
    )  # fmt: skip
    assert done.status == 0, done.stderr
    page = OUTPUT.read_text(encoding="utf-8")
    files = {path.name for path in (tmp_path / "output").iterdir()}
    assert files == {
        "0_reviews.csv", "25_reviews.csv", "all_reviews.csv", "journal_reviews.sqlite", ".journal_reviews.lock",
    }  # fmt: skip
    assert all(name.replace("25_", "500_") in page for name in files)
    [answer] = re.findall(r"## Columns of the CSV files\n.*?(\| column .*?\n)\n", page, re.DOTALL)
    [row, *_] = table(tmp_path / "output" / "all_reviews.csv")
    assert list(row) == ["id", "review", "label", *_first_cells(answer)]
    described = {
        name: set(re.findall(r"^\| `(\w+)` \| ([A-Z]+) \|", body, re.MULTILINE))
        for name, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^### |\Z)", page, re.DOTALL | re.MULTILINE)
    }
    with contextlib.closing(sqlite3.connect(tmp_path / "output" / "journal_reviews.sqlite")) as journal:
        names = [name for (name,) in journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        there = {name: {each[1:3] for each in journal.execute(f"PRAGMA table_info({name})")} for name in names}
        [(question,)] = journal.execute("SELECT question FROM runs")
    assert described == there
    [parts] = re.findall(r"^\| `question` \| TEXT \| .*? as JSON: (.*) \|$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", parts)) == set(json.loads(question))


def _first_cells(markdown: str) -> list[str]:
    """Return the names in the first column of a table."""
    return re.findall(r"^\| `(\w+)` \|", markdown, re.MULTILINE)


def test_the_reviews_have_labels_and_every_kind_of_text() -> None:
    rows = table(ROOT / "data" / "reviews.csv")
    assert len(rows) == 40
    assert list(rows[0]) == ["id", "review", "label"]
    assert len({row["id"] for row in rows}) == len({row["review"] for row in rows}) == 40
    assert {row["label"] for row in rows} == {"positive", "negative", "neutral"}
    texts = "".join(row["review"] for row in rows)
    assert {"\n", '"', ",", "\N{SMILING FACE WITH SMILING EYES}"} <= set(texts)
    assert re.search(r"[\u4e00-\u9fff]", texts)
