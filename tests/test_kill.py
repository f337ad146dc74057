"""A run that is killed at any moment, or finds the disk full or its files damaged, loses nothing and pays once.

If its directory goes away while it works, it stops sending, and what it says of its rows is true.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from programs import LocalServer, environment, expected_answer, local_server, table, write_table

KILLED = Path(__file__).with_name("killed.py")
ROWS = 100
CHUNK = 20
CONCURRENCY = 8
PROMPTS = [f"Say something of item {n}" for n in range(ROWS)]


class Services(NamedTuple):
    """What all scenes share: who answers, and `killed.py`."""

    server: LocalServer
    nursery: subprocess.Popen[str]


class Scene:
    """Runs one table under the keyword `k` in one directory, each time in a process that the test may end.

    Attributes:
        folder: where it works; `output` is in it.
        server: whom it asks.
        whole: the files of a run that nothing interrupted.
    """

    def __init__(self, folder: Path, services: Services, whole: dict[str, bytes]) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.server = services.server
        self.whole = dict(whole)
        self._services = services

    def run(self, *extra: str, **ending: Any) -> int:
        """Run the table, with more options for the command line; see `call`."""
        options = {
            "--prompt": "Say something of {item}",
            "--keyword": "k",
            "--chunk-size": str(CHUNK),
            "--max-concurrency": str(CONCURRENCY),
            "--base-url": self.server.base_url,
            "--model": "m",
            "--canary": "0",  # the rows are asked in their order, so that it is known which file is written first
        }
        return self.call("run", "items.csv", *(word for option in options.items() for word in option), *extra, **ending)

    def call(
        self,
        *arguments: str,
        at: Sequence[Any] | None = None,
        largest: int | None = None,
        on_largest: str = "SIG_IGN",
        meanwhile: Callable[[int], object] = lambda _: None,
    ) -> int:
        """Run `batcher`; return its exit status, negative for the signal that ended it.

        Args:
            *arguments: the command line.
            at, largest, on_largest: as in `killed.py`.
            meanwhile: what to do while it works, with its process id.
        """
        order = {"at": at, "largest": largest, "on_largest": on_largest}
        orders, replies = self._services.nursery.stdin, self._services.nursery.stdout
        assert orders
        assert replies
        orders.write(json.dumps({"arguments": arguments, "folder": str(self.folder), **order}) + "\n")
        orders.flush()
        process = int(replies.readline())
        try:
            meanwhile(process)
            return int(replies.readline())
        except BaseException:  # a test that fails must not leave its process, or the reply about it, to the next one
            os.kill(process, signal.SIGKILL)
            replies.readline()
            raise

    @property
    def said(self) -> str:
        """What the last process wrote to stderr."""
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def files(self) -> dict[str, bytes]:
        """Read everything in the output directory but the journal, which is there in one file if it is whole."""
        return {path.name: b"" if "journal" in path.name else path.read_bytes() for path in self.output.iterdir()}

    def ask_journal(self, query: str) -> list[tuple[Any, ...]]:
        """Ask a copy: who opens a journal after a kill also repairs it, and that is batcher's task."""
        with tempfile.TemporaryDirectory() as copy:
            for path in self.output.glob("journal_k.sqlite*"):
                shutil.copy(path, copy)
            with contextlib.closing(sqlite3.connect(Path(copy) / "journal_k.sqlite")) as journal:
                has_tables = journal.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchone()
                return journal.execute(query).fetchall() if has_tables else []

    def in_flight(self) -> Counter[int]:
        """Count the requests that were noted as sent and have no end, by the row's position."""
        return Counter(row for (row,) in self.ask_journal("SELECT position FROM requests WHERE ended IS NULL"))

    def check(self, in_flight: Counter[int]) -> None:
        """See that a finished run has the files of an uninterrupted one, and asked twice only what was in flight."""
        assert self.files() == self.whole
        self.check_requests(in_flight)

    def check_requests(self, in_flight: Counter[int]) -> None:
        """See that every row was asked, and twice only if it was in flight; the server's books know."""
        books = self.server.books()
        asked = Counter(books["requests_by_prompt"])
        assert self.in_flight() == in_flight
        assert asked.keys() == set(PROMPTS)
        assert [prompt for row, prompt in enumerate(PROMPTS) if asked[prompt] > 1 + in_flight[row]] == []
        assert self.ask_journal("SELECT count(*) FROM requests WHERE outcome IS NOT 'unsent'") == [
            (ROWS + in_flight.total(),)
        ]
        assert books["requests"] <= ROWS + in_flight.total()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    nursery = subprocess.Popen(
        [sys.executable, KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    knobs = ("--latency", "0.015", "--latency-sigma", "0.5")
    with local_server(*knobs, cwd=tmp_path_factory.mktemp("server")) as server, nursery:
        yield Services(server, nursery)


def uninterrupted(folder: Path, services: Services, beside: str) -> Scene:
    """Run a table to its end.

    Args:
        folder: for its scene.
        services: who answers, and who runs.
        beside: what each row holds beside its part of the prompt.
    """
    write_table(folder / "items.csv", ["item", "beside"], [[f"item {n}", beside] for n in range(ROWS)])
    services.server.reset()
    scene = Scene(folder, services, {})
    assert scene.run() == 0, scene.said
    scene.whole = scene.files()
    scene.check(Counter())
    return scene


def another(first: Scene, folder: Path) -> Scene:
    """Return the scene of a new run of the same table."""
    (folder / "items.csv").hardlink_to(first.folder / "items.csv")
    first.server.reset()
    return Scene(folder, first._services, first.whole)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, services: Services) -> Scene:
    return uninterrupted(tmp_path_factory.mktemp("first"), services, "")


@pytest.fixture
def scene(first: Scene, tmp_path: Path) -> Scene:
    return another(first, tmp_path)


@pytest.fixture(scope="module")
def first_wide(tmp_path_factory: pytest.TempPathFactory, services: Services) -> Scene:
    """Rows of 100 kB: a chunk file (2 MB) and all_ (10 MB) are larger than the journal is when they are written."""
    return uninterrupted(tmp_path_factory.mktemp("first_wide"), services, "wide " * 20_000)


@pytest.fixture
def wide_scene(first_wide: Scene, tmp_path: Path) -> Scene:
    return another(first_wide, tmp_path)


def test_the_run_that_the_others_are_compared_with_is_right(first: Scene) -> None:
    rows = table(first.output / "all_k.csv")
    assert [row["item"] for row in rows] == [f"item {n}" for n in range(ROWS)]
    assert [row["infer"] for row in rows] == [expected_answer(prompt) for prompt in PROMPTS]
    assert first.whole.keys() == {
        *(f"{start}_k.csv" for start in range(0, ROWS, CHUNK)),
        "all_k.csv",
        "journal_k.sqlite",
        ".journal_k.lock",
    }


# -- Killed

# Each moment as `killed.py` takes it, and a file that stands then: so it is the moment that is meant.
WAL = "journal_k.sqlite-wal"
MOMENTS: dict[str, tuple[tuple[str, str, int], str]] = {
    "the journal is about to be made": (("sqlite3.connect", "mode=rwc", 1), ".journal_k.lock"),
    "the rows are being planned": (("asyncio", "execute", 5), WAL),
    "the first request is being noted": (("batcher-journal", "execute", 2), WAL),
    "the first request is about to leave": (("socket.connect", "127.0.0.1", 1), WAL),
    "the first answer is being noted": (("batcher-journal", "execute", 5), WAL),
    "a commit is about to begin or half done": (("batcher-journal", "execute", 100), WAL),
    "another commit is about to begin or half done": (("batcher-journal", "execute", 107), WAL),
    "answers have arrived and are not read": (("MainThread", "recv", 60), WAL),
    "a chunk file is about to be written": (("open", "/.0_k.csv.tmp", 1), WAL),
    "a chunk file is written and not flushed": (("asyncio", "fsync", 1), ".*0_k.csv.tmp"),
    "a chunk file is about to be renamed": (("os.rename", "/.20_k.csv.tmp", 1), ".20_k.csv.tmp"),
    "a chunk file is renamed and not noted": (("open", "('output',", 1), "*0_k.csv"),
    "the last chunk file is renamed and not noted": (("open", "('output',", ROWS // CHUNK), "80_k.csv"),
    "the chunks are about to be joined": (("open", "/.all_k.csv.tmp", 1), "80_k.csv"),
    "the chunks are being looked at": (("open", "/40_k.csv", 1), "80_k.csv"),
    "the chunks are half joined": (("open", "/40_k.csv", 2), ".all_k.csv.tmp"),
    "all_ is about to be renamed": (("os.rename", "/.all_k.csv.tmp", 1), ".all_k.csv.tmp"),
    "all_ is there and the end is not noted": (("open", "('output',", ROWS // CHUNK + 1), "all_k.csv"),
}


def go_on(scene: Scene) -> None:
    """Run once more to the end, after a kill."""
    in_flight = scene.in_flight()
    assert in_flight.total() <= CONCURRENCY
    assert scene.run() == 0, scene.said
    said = re.search(r"([0-9]+) requests? \w+ in flight", scene.said)
    assert int(said[1] if said else 0) == in_flight.total()
    scene.check(in_flight)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_goes_on_that_was_killed_when(scene: Scene, moment: str) -> None:
    at, there = MOMENTS[moment]
    assert scene.run(at=at) == -signal.SIGKILL, scene.said
    assert [*scene.output.glob(there)]
    go_on(scene)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_goes_on_that_was_killed_at_random(scene: Scene, seed: int) -> None:
    requests = random.Random(seed).randint(1, ROWS * 2 // 3)

    def kill(process: int) -> None:
        scene.server.wait_for(requests)
        os.kill(process, signal.SIGKILL)

    assert scene.run(meanwhile=kill) == -signal.SIGKILL, scene.said
    go_on(scene)


@pytest.mark.parametrize(
    ("largest", "torn"),
    [(33_000, WAL), (70_001, WAL), (200_001, WAL), (1_800_001, ".*0_k.csv.tmp"), (5_000_001, ".all_k.csv.tmp")],
)
def test_a_run_goes_on_that_was_killed_in_the_middle_of_a_write(wide_scene: Scene, largest: int, torn: str) -> None:
    assert wide_scene.run(largest=largest, on_largest="SIG_DFL") == -signal.SIGXFSZ, wide_scene.said
    [path] = wide_scene.output.glob(torn)
    assert path.stat().st_size == largest
    go_on(wide_scene)


def test_a_journal_whose_tidying_up_was_killed_is_whole_again(scene: Scene) -> None:
    assert scene.run(at=("os.rename", "/.60_k.csv.tmp", 1)) == -signal.SIGKILL, scene.said
    # The next run begins by moving what is in the journal's second file into the first one.
    assert scene.run(largest=33_001, on_largest="SIG_DFL") == -signal.SIGXFSZ
    assert (scene.output / "journal_k.sqlite").stat().st_size == 33_001
    go_on(scene)


def test_a_killed_run_goes_on_in_chunks_of_another_size(scene: Scene) -> None:
    assert scene.run(at=("os.rename", "/.40_k.csv.tmp", 1)) == -signal.SIGKILL, scene.said
    in_flight = scene.in_flight()
    assert scene.run("--chunk-size", "50") == 0, scene.said
    assert scene.files().keys() == {"0_k.csv", "50_k.csv", "all_k.csv", "journal_k.sqlite", ".journal_k.lock"}
    assert scene.files()["all_k.csv"] == scene.whole["all_k.csv"]
    scene.check_requests(in_flight)


def test_a_run_comes_to_its_end_though_it_is_killed_over_and_over(scene: Scene) -> None:
    """At each statement of opening and planning in turn, then ever later, until it survives."""
    kills, in_flight = 0, Counter[int]()
    statements = itertools.chain(range(1, 50), itertools.count(50, 5))
    while (status := scene.run(at=("", "execute", next(statements)))) == -signal.SIGKILL:
        kills += 1
        earlier, in_flight = in_flight, scene.in_flight()
        assert earlier <= in_flight, "what was noted is not taken back"
        assert in_flight.total() <= earlier.total() + CONCURRENCY
    assert status == 0, scene.said
    assert kills > 40
    scene.check(in_flight)


# -- Killed with answers by hand in the files

BY_HAND = {3: "plain", 25: "another form", 47: "workbook"}
HANDS: dict[str, tuple[str, str, int]] = {
    "the first correction is being noted": ("asyncio", "execute", 45),
    "the corrections are half noted": ("asyncio", "execute", 60),
    "the workbook is about to be set aside": ("os.rename", "40_k.xlsx.bak", 1),
    "a chunk file of the new size is about to be written": ("open", "/.0_k.csv.tmp", 1),
    "a chunk file of the new size is about to be renamed": ("os.rename", "/.0_k.csv.tmp", 1),
    "the other chunk file of the new size is about to be renamed": ("os.rename", "/.50_k.csv.tmp", 1),
    "the chunk file of another form is about to be set aside": ("os.rename", "20_k.csv.bak", 1),
    "a chunk file of the old size is about to be removed": ("os.remove", "/40_k.csv", 1),
    "all_ is about to be renamed": ("os.rename", "/.all_k.csv.tmp", 1),
}


@pytest.fixture
def corrected(first: Scene, scene: Scene) -> Scene:
    """A finished run in whose files three answers were corrected, each in its own way."""
    shutil.copytree(first.output, scene.output)
    for row, answer in BY_HAND.items():
        path = scene.output / f"{row - row % CHUNK}_k.csv"
        text = path.read_text(encoding="utf-8").replace(expected_answer(PROMPTS[row]), answer)
        assert answer in text
        if answer == "workbook":
            pd.read_csv(io.StringIO(text)).to_excel(path.with_suffix(".xlsx"), index=False)
        else:
            path.write_text(text, encoding="utf-8" if answer == "plain" else "utf-16")
    return scene


def answers_of(scene: Scene) -> list[str]:
    return [row["infer"] for row in table(scene.output / "all_k.csv")]


@pytest.mark.parametrize("moment", HANDS)
def test_no_answer_by_hand_is_lost_by_a_kill_when(corrected: Scene, moment: str) -> None:
    assert corrected.run("--chunk-size", "50", at=HANDS[moment]) == -signal.SIGKILL, corrected.said
    assert corrected.run("--chunk-size", "50") == 0, corrected.said
    assert answers_of(corrected) == [BY_HAND.get(n, expected_answer(prompt)) for n, prompt in enumerate(PROMPTS)]
    assert {name for name in corrected.files() if "bak" in name} == {"20_k.csv.bak", "40_k.xlsx.bak"}
    assert corrected.server.books()["requests"] == 0


@pytest.mark.parametrize(
    "moment", ["a chunk file of the new size is about to be written", "all_ is about to be renamed"]
)
def test_a_copy_with_the_answers_by_hand_of_rows_that_are_asked_again_survives_a_kill_when(
    corrected: Scene, moment: str
) -> None:
    plain = (corrected.output / "0_k.csv").read_bytes()
    assert corrected.run() == 0, corrected.said
    again = ("--system", "Again.", "--on-change", "redo", "--chunk-size", "50")
    assert corrected.run(*again, at=HANDS[moment]) == -signal.SIGKILL, corrected.said
    assert corrected.run(*again) == 0, corrected.said
    assert corrected.files()["0_k.csv.bak"] == plain
    assert not {*BY_HAND.values()} & {*answers_of(corrected)}


# -- A disk that is full, or not to be written


@pytest.mark.parametrize(
    ("largest", "named"), [(280_001, "journal_k.sqlite"), (1_800_001, "0_k.csv"), (5_000_001, "all_k.csv")]
)
def test_a_disk_that_becomes_full_stops_the_run_which_goes_on_when_there_is_room(
    wide_scene: Scene, largest: int, named: str
) -> None:
    assert wide_scene.run(largest=largest) == 3, wide_scene.said
    assert re.search(rf"{named} cannot be written: ", wide_scene.said)
    assert re.search(rf"[0-9]+ of {ROWS} rows are saved, and the same command goes on", wide_scene.said)
    assert "Traceback" not in wide_scene.said
    assert not [*wide_scene.output.glob(".*.tmp")]
    in_flight = wide_scene.in_flight()
    assert in_flight.total() <= (CONCURRENCY if "journal" in named else 0)
    assert wide_scene.run() == 0, wide_scene.said
    wide_scene.check(in_flight)


@pytest.mark.parametrize("largest", [100, 20_000, 33_000])
def test_a_disk_that_is_full_from_the_start_costs_nothing(scene: Scene, largest: int) -> None:
    assert scene.run(largest=largest) == 2, scene.said
    assert re.fullmatch(r"batcher: the journal output/journal_k\.sqlite cannot be .+\n", scene.said)
    assert scene.server.books()["requests"] == 0
    assert scene.run() == 0, scene.said
    scene.check(Counter())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_messages_that_nobody_can_hear_stop_nothing(scene: Scene) -> None:
    (scene.folder / "stderr").symlink_to("/dev/full")
    assert scene.run() == 0
    scene.check(Counter())


PLACES: dict[str, Callable[[Path], object]] = {
    "output is not a directory": Path.touch,
    "output cannot be used": lambda output: output.symlink_to("nowhere"),
    "journal_k.sqlite cannot be opened": lambda output: (output / "journal_k.sqlite").mkdir(parents=True),
    "journal_k.sqlite cannot be locked": lambda output: (output / ".journal_k.lock").mkdir(parents=True),
}


@pytest.mark.parametrize("said", PLACES)
def test_a_place_that_cannot_be_written_is_named_before_anything_is_sent(scene: Scene, said: str) -> None:
    PLACES[said](scene.output)
    assert scene.run() == 2
    assert re.fullmatch(rf"batcher: .*{said}.*\n", scene.said)
    assert scene.server.books()["requests"] == 0


def test_a_directory_that_has_become_read_only_is_left_as_it_is(first: Scene, scene: Scene) -> None:
    shutil.copytree(first.output, scene.output)
    scene.output.chmod(0o500)
    try:
        if os.access(scene.output, os.W_OK):
            pytest.skip("this user may write everywhere")
        assert scene.run() == 2
        assert re.fullmatch("batcher: .*output.* cannot be .+\n", scene.said)
        assert scene.files() == first.whole
    finally:
        scene.output.chmod(0o700)


# -- A directory, or the journal in it, that goes away


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    """Let a process do nothing meanwhile."""
    os.kill(process, signal.SIGSTOP)
    state = ["/bin/ps", "-o", "state=", "-p", str(process)]
    while not subprocess.check_output(state, text=True).startswith("T"):
        pass
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def run_until(scene: Scene, requests: int, happens: Callable[[], object]) -> None:
    """Run the table, and let something happen under it; see that it has sent nothing after that.

    Args:
        scene: of the run.
        requests: how many have arrived by then, at least.
        happens: what.
    """
    before = 0

    def meanwhile(process: int) -> None:
        nonlocal before
        scene.server.wait_for(requests)
        with stopped(process):
            happens()
            before = scene.server.books()["requests"]

    # At this pace it does not come to its end before it is stopped.
    assert scene.run("--rps", "50", meanwhile=meanwhile) == 3, scene.said
    assert scene.server.books()["requests"] <= before + CONCURRENCY, "only what was in the journal already has left"
    assert "Traceback" not in scene.said


def contents(directory: Path) -> list[Path] | None:
    return [*directory.iterdir()] if directory.exists() else None


@pytest.mark.parametrize("requests", [1, 30, 60])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_directory_that_is_removed_ends_the_run_which_says_that_nothing_is_saved(
    scene: Scene, requests: int, *, is_replaced: bool
) -> None:
    def remove() -> None:
        shutil.rmtree(scene.output)
        if is_replaced:
            scene.output.mkdir()

    run_until(scene, requests, remove)
    assert "the journal output/journal_k.sqlite was removed or replaced while the run worked\n" in scene.said
    assert f"\n0 of {ROWS} rows are saved: the answers of this run are lost" in scene.said
    assert contents(scene.output) == ([] if is_replaced else None), "nothing is made in its place"
    scene.server.reset()
    assert scene.run() == 0, scene.said
    scene.check(Counter())


@pytest.mark.parametrize("requests", [1, 30, 60])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_directory_that_is_moved_keeps_all_that_arrives_and_the_run_goes_on_there(
    scene: Scene, requests: int, *, is_replaced: bool
) -> None:
    moved = scene.folder / "moved"

    def move() -> None:
        scene.output.rename(moved)
        if is_replaced:
            scene.output.mkdir()

    run_until(scene, requests, move)
    assert f"the journal output/journal_k.sqlite is {moved}/journal_k.sqlite now" in scene.said
    assert contents(scene.output) == ([] if is_replaced else None), "nothing is made in its place"
    said = re.search(r"\n([0-9]+) of 100 rows are saved there: .* --output-dir (.*)\n", scene.said)
    assert said
    assert said[2] == str(moved)
    scene.output = moved
    assert scene.ask_journal("SELECT count(*) FROM rows WHERE result IS NOT NULL") == [(int(said[1]),)]
    assert scene.server.books()["requests"] == int(said[1]), "what was in flight is saved as well"
    assert scene.run("--output-dir", "moved") == 0, scene.said
    scene.check(Counter())


def test_a_journal_that_is_removed_alone_is_missed_and_its_log_is_no_journal(scene: Scene) -> None:
    run_until(scene, 50, (scene.output / "journal_k.sqlite").unlink)
    assert f"\n0 of {ROWS} rows are saved: " in scene.said
    scene.server.reset()
    assert scene.run() == 2
    assert f"journal_k.sqlite is gone, but its log {WAL} is there: put the journal that belongs to it" in scene.said
    assert scene.server.books()["requests"] == 0
    for path in scene.output.glob("journal_k.sqlite-*"):
        path.unlink()
    assert scene.run() == 0, scene.said
    assert scene.files() == scene.whole
    assert scene.server.books()["requests"] < ROWS, "chunk files that were left are taken over"


def test_an_older_copy_put_in_the_place_of_the_journal_is_found_by_the_run_and_by_the_next_one(scene: Scene) -> None:
    journal, aside = scene.output / "journal_k.sqlite", scene.folder / "aside"
    assert scene.run("--limit", "20") == 0, scene.said
    older = journal.read_bytes()
    assert scene.run("--limit", "40") == 0, scene.said

    def replace() -> None:
        journal.rename(aside)
        journal.write_bytes(older)

    run_until(scene, 60, replace)
    assert "the journal output/journal_k.sqlite was removed or replaced while the run worked\n" in scene.said
    assert f"\n0 of {ROWS} rows are saved: " in scene.said
    asked = scene.server.books()["requests"]
    assert scene.run() == 2
    assert re.search(rf"{WAL} does not belong to the journal beside it: .* is an older copy", scene.said)
    assert (journal.read_bytes(), scene.server.books()["requests"]) == (older, asked)
    aside.rename(journal)
    assert scene.run() == 0, scene.said
    scene.check(Counter())


# -- Files that were damaged


def test_after_a_kill_an_edited_chunk_file_is_kept_a_broken_one_refused_and_a_missing_one_made_anew(
    scene: Scene,
) -> None:
    assert scene.run(at=("os.rename", "/.80_k.csv.tmp", 1)) == -signal.SIGKILL, scene.said
    in_flight = scene.in_flight()
    answer = expected_answer(PROMPTS[3]).encode()
    edited, cut, gone = (scene.output / f"{start}_k.csv" for start in (0, 20, 40))
    edited.write_bytes(edited.read_bytes().replace(answer, b"by hand"))
    os.truncate(cut, cut.stat().st_size // 2)
    broken = cut.read_bytes()
    gone.unlink()
    assert scene.run() == 2, "it may hold corrections"
    assert "20_k.csv cannot be read: " in scene.said
    assert cut.read_bytes() == broken
    cut.replace(scene.output.parent / "moved.csv")
    assert scene.run() == 0, scene.said
    for name in ("0_k.csv", "all_k.csv"):
        scene.whole[name] = scene.whole[name].replace(answer, b"by hand")
    scene.check(in_flight)


def raise_version(journal: Path) -> None:
    with contextlib.closing(sqlite3.connect(journal)) as db:
        db.execute("PRAGMA user_version = 99")


def cut_off(part: float) -> Callable[[Path], None]:
    return lambda journal: os.truncate(journal, int(journal.stat().st_size * (1 - part)))


def overwrite(start: int, length: int) -> Callable[[Path], None]:
    def work(journal: Path) -> None:
        content = journal.read_bytes()
        garbage = random.Random(0).randbytes(len(content[start : start + length]))
        journal.write_bytes(content[:start] + garbage + content[start + length :])

    return work


PAGE = 4096
DAMAGE: dict[str, Callable[[Path], None]] = {
    "it is of a newer version": raise_version,
    "the half of it is missing": cut_off(0.5),
    "the last bytes are missing": cut_off(0.005),
    "little more than its name is left": cut_off(0.999),
    "it begins with garbage": overwrite(0, 100),
    "it is all garbage": overwrite(0, 10**9),
    **{f"page {number} is garbage": overwrite(number * PAGE, PAGE) for number in range(1, 12)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_journal_is_refused_and_left_as_it_is_when(first: Scene, scene: Scene, damage: str) -> None:
    shutil.copytree(first.output, scene.output)
    journal = scene.output / "journal_k.sqlite"
    DAMAGE[damage](journal)
    before = journal.read_bytes()
    assert scene.run() == 2, scene.said
    assert re.fullmatch(r"batcher: .*output/journal_k\.sqlite .+\n", scene.said)
    assert journal.read_bytes() == before
    assert scene.files() == first.whole
    assert scene.server.books()["requests"] == 0


@pytest.mark.parametrize("lost", ["journal_k.sqlite", WAL])
def test_a_journal_that_was_emptied_or_copied_without_its_second_file_costs_nothing(scene: Scene, lost: str) -> None:
    assert scene.run(at=("os.rename", "/.all_k.csv.tmp", 1)) == -signal.SIGKILL, scene.said
    os.truncate(scene.output / lost, 0)
    if lost != WAL:
        (scene.output / WAL).unlink()
    scene.server.reset()
    scene.run()
    assert scene.server.books()["requests"] == 0, "every row has its answer in a chunk file"
