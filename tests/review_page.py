"""The page of `batcher review` for tests: runs made by the real program, and the page served by a real process."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from browser import Visit
from playwright.sync_api import Locator, Page, expect
from programs import ROOT, Program, call, local_server, started, table, write_table

MESSAGES = ROOT / "data" / "messages.csv"
TOPICS = sorted({row["topic"] for row in table(ROOT / "data" / "topics.csv")})
INTENTS = [f"{what}_{how}" for what in ("card", "cash", "fee", "loan", "pin", "rate", "rent") for how in "abcdefghijk"]
"""77 labels: more than there are keys."""
KEYS = dict(zip(TOPICS, "123456789abcdfghilmo", strict=True))
"""The key of each topic on the page."""

# All that could become more than text, or turn the text around it.
HOSTILE = [
    '<script>alert("row")</script>',
    '<img src="http://198.51.100.7/x" onerror="alert(1)">',
    "\u202egnp.exe",
    "</script></title></textarea><svg onload=alert(2)>",
    "javascript:alert(3)",
    '" onmouseover="alert(4)" x="',
    "\u0634\u0643\u0648\u0649 من الخدمة",
    "שלום, הכרטיס אבד",
    "退款还没有到账",
    "a\nb\tc",
]
EVIL_LABELS = ["<script>alert(5)</script>", "\u202elive", "<img src=x onerror=alert(6)>", "退款", "تحويل"]
EVIL_COLUMN = "<svg onload=alert(7)>"
EVIL_ANSWER = "</td><script>alert(8)</script>"


class Reviewed(NamedTuple):
    """A page that is served.

    Attributes:
        url: its address.
        folder: in which the programs work.
        keyword: of the run.
        program: that serves it.
    """

    url: str
    folder: Path
    keyword: str
    program: Program

    def result(self) -> list[dict[str, str]]:
        """Read the run's file."""
        return table(self.folder / "output" / f"all_{self.keyword}.csv")


@contextlib.contextmanager
def serving(folder: Path, keyword: str) -> Iterator[Reviewed]:
    """Serve the page of a run."""
    with started("review", keyword, "--no-browser", "--who", "Ada", cwd=folder) as program:
        assert program.stdout
        try:
            yield Reviewed(program.stdout.readline().strip(), folder, keyword, program)
        finally:
            program.kill()
            _, said = program.communicate()
            assert "fault in batcher" not in said, said


@contextlib.contextmanager
def reviewed(visit: Visit, folder: Path, keyword: str) -> Iterator[Reviewed]:
    """Serve the page of a run for one test; its windows are closed before the page ends."""
    with serving(folder, keyword) as served:
        try:
            yield served
        finally:
            visit.close()


def copied(runs: Path, folder: Path) -> Path:
    """Copy runs into a folder of one's own."""
    return Path(shutil.copytree(runs, folder / "runs"))


def _job(folder: Path, name: str, **options: object) -> None:
    lines = "".join(f"{key} = {_toml(value)}\n" for key, value in options.items())
    (folder / f"{name}.toml").write_text(lines, encoding="utf-8")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def run(folder: Path, name: str, *more: str) -> None:
    """Run the job of a file."""
    done = call("run", "--config", f"{name}.toml", "--quiet", *more, cwd=folder)
    assert done.status in (0, 1), done.stderr


def make_messages(folder: Path, drawn: int) -> None:
    """Run the table of messages under the keyword `messages`, with every kind of result, and draw a sample."""
    model = {"table": str(ROOT / "data" / "topics.csv"), "text": "message", "gold": "topic", "accuracy": 0.8}
    chances = {"app_login": {"app_login": 0.6, "login trouble": 0.4}}
    (folder / "model.json").write_text(json.dumps({**model, "spread": 1, "stay": 0.4, "chances": chances}))
    (folder / "refused.toml").write_text('[[fault]]\nmatch = "Lima|Lyon|Japan"\nstatus = 400\nbody = "not this one"\n')
    knobs = ("--confusion", "model.json", "--faults", "refused.toml", "--seed", "5")
    with local_server(*knobs, cwd=folder) as server:
        _job(
            folder, "messages", input=str(MESSAGES), keyword="messages", labels=TOPICS, samples=2, max_attempts=1,
            prompt="What is this message to a bank about? {message}", model="any", base_url=server.base_url,
            param={"temperature": 1}, **{"with": ["confidence"]},
        )  # fmt: skip
        run(folder, "messages")
        run(folder, "messages", "--samples", "1", "--keyword", "again", "--model", "other")
    sample(folder, "messages", drawn)


def make_intents(folder: Path) -> None:
    """Run a table whose labels are more than there are keys, under the keyword `intents`."""
    texts = [f"Message {number} is about {label}" for number, label in enumerate(INTENTS)]
    write_table(folder / "intents.csv", ["text"], [[text] for text in texts])
    write_table(folder / "truth.csv", ["text", "label"], list(zip(texts, INTENTS, strict=True)))
    (folder / "intents.json").write_text(
        json.dumps({"table": "truth.csv", "text": "text", "gold": "label", "accuracy": 0.9})
    )
    with local_server("--confusion", "intents.json", cwd=folder) as server:
        given = {"labels": INTENTS, "model": "any", "base_url": server.base_url}
        _job(folder, "intents", input="intents.csv", prompt="{text}", **given)
        run(folder, "intents")
    sample(folder, "intents", 5)


def make_hostile(folder: Path) -> None:
    """Run a table full of what is dangerous in HTML, under the keyword `hostile`: cells, labels, answers, errors."""
    rows = [[text, f"{text} (beside)"] for text in HOSTILE]
    write_table(folder / "hostile.csv", ["text", EVIL_COLUMN], rows)
    labels = [*EVIL_LABELS, *EVIL_LABELS]
    truth = dict(zip(HOSTILE, labels, strict=True))
    chances = {EVIL_LABELS[0]: {EVIL_ANSWER: 1.0}}
    (folder / "hostile.json").write_text(json.dumps({"truth": truth, "accuracy": 1.0, "chances": chances}))
    said = json.dumps(f"refused: {HOSTILE[1]} {HOSTILE[2]}")
    fault = f'[[fault]]\nmatch = "gnp"\nstatus = 400\nbody = {{error = {{message = {said}}}}}\n'
    (folder / "faults.toml").write_text(fault, encoding="utf-8")
    with local_server("--confusion", "hostile.json", "--faults", "faults.toml", cwd=folder) as server:
        given = {"labels": EVIL_LABELS, "model": "any", "max_attempts": 1, "base_url": server.base_url}
        _job(folder, "hostile", input="hostile.csv", prompt="{text}", **given)
        run(folder, "hostile")
    sample(folder, "hostile", len(HOSTILE))


def sample(folder: Path, keyword: str, count: int) -> None:
    """Draw a sample."""
    done = call("sample", keyword, "-n", str(count), cwd=folder)
    assert done.status == 0, done.stderr


def label_some(folder: Path, keyword: str, labels: Sequence[str]) -> None:
    """Fill the first hand labels into the file of a sample, and have it read."""
    path = folder / "output" / f"sample_{keyword}.csv"
    rows = table(path)
    for row, label in zip(rows, labels, strict=False):
        row["gold"] = label
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = call("sample", keyword, cwd=folder)
    assert done.status == 0, done.stderr


# -- What people do on the page


def opened(visit: Visit, served: Reviewed, query: str = "", **window: object) -> Page:
    """Open the page, and wait until it shows rows."""
    page = visit.open(served.url + query, **window)  # type: ignore[arg-type]
    expect(page.locator("#rows-body tr").first).to_be_visible()
    return page


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, target: Locator, most: int = 80) -> None:
    """Press Tab until an element has the focus."""
    element = target.element_handle()
    for _ in range(most):
        if page.evaluate("one => document.activeElement === one", element):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {target}")


def correct(page: Page, label: str, why: str = "") -> None:
    """Correct the row that is open, by keyboard."""
    expect(page.locator("#row-body .part.answer")).to_be_visible()
    press(page, "e")
    expect(page.locator("#correct")).to_be_visible()
    press(page, KEYS[label])
    if why:
        tab_to(page, page.locator("#correct-why"))
        page.keyboard.type(why)
    press(page, "Enter")


def saved(page: Page, count: int) -> None:
    """Return when the server has this number of labels."""
    while page.evaluate("fetch('api/sample').then(said => said.json()).then(said => said.done)") != count:
        pass
