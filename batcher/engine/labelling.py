"""Labels a sample by hand in the terminal: shows row after row, without the model's answers.

Invariant: each label is in the journal before the next row is shown, so that nothing is lost however it ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from batcher.answer.gold import Golds, NoGold, listed
from batcher.errors import SettingsError
from batcher.journal.opening import read_samples
from batcher.journal.sampling import TYPED, Gold, labelling, record
from batcher.output.hand_labels import HandLabels
from batcher.output.opening import opened
from batcher.output.sample_file import Line
from batcher.output.so_far import input_of
from batcher.visible import harmless
from batcher.words import counted, print_err

if TYPE_CHECKING:
    from batcher.input.opening import Data

_FEW = 9  # labels that have a key each
_LONGEST = 3000  # characters of a cell
_MOST_LISTED = 30  # labels in a menu
_SKIP, _UNDO, _QUIT = "s", "u", "q"
_COMMANDS = (_SKIP, _UNDO, _QUIT)
_NOTHING = contextlib.nullcontext()


class _Quit(Exception):
    """The person wants to stop."""


class _Undo(Exception):
    """The person wants to label the row before again."""


def label(keyword: str, *, data: Data | None = None, output_dir: str | os.PathLike[str] = "output") -> int:
    """Let a person label the rows of a sample that have no hand label yet; return how many were labelled.

    Args:
        keyword: names the run.
        data: the run's input, if it is not where it was.
        output_dir: the run's output directory.

    Raises:
        SettingsError: there is no terminal.
        OutputError: there is no run.
        KeywordBusy: a run is at work.
    """
    if not sys.stdin.isatty():
        raise SettingsError("--label needs a terminal, with a keyboard: fill the file in with another program instead")
    with opened(keyword, output_dir, functools.partial(read_samples, alone=True)) as run:
        last = run.last()
        given = None if data is None else input_of(last.question, data)
        hand = HandLabels(run.store, run.journal, last, given)
        drawn, gold = run.journal.drawn(), run.journal.gold()
        lines = hand.lines(drawn, hand.places(drawn))
        open_ = [each for each in lines.values() if each.cells is not None and not _is_done(hand, gold.get(each.id))]
        path = run.store.journal_path
        desk = Desk(hand, open_, gold, lambda new: record(path, labelling([new])))
        with contextlib.suppress(_Quit, KeyboardInterrupt, EOFError), _each_key() if desk.has_keys else _NOTHING:
            desk.work()
        print_err()
        return desk.labelled


def _is_done(hand: HandLabels, gold: Gold | None) -> bool:
    return gold is not None and len(hand.by_field(gold.text)) == len(hand.file.fields)


class _Row(NamedTuple):
    """A row that is shown: its place among those that are open, and its hand label before."""

    place: int
    before: Gold


class Desk:
    """Shows rows and takes their labels.

    Args:
        hand: knows the columns, and what a label is.
        lines: the rows to label.
        gold: the hand labels so far.
        save: records a hand label.

    Attributes:
        labelled: rows that were labelled.
    """

    def __init__(
        self, hand: HandLabels, lines: Sequence[Line], gold: Mapping[int, Gold], save: Callable[[Gold], None]
    ) -> None:
        self._hand = hand
        self._lines = lines
        self._gold = dict(gold)
        self._save = save
        self._done: list[_Row] = []
        self._choice = _Choice(hand.golds)

    @property
    def has_keys(self) -> bool:
        """Whether each label has a key."""
        return self._choice.has_keys

    @property
    def labelled(self) -> int:
        return len({each.place for each in self._done})

    def work(self) -> None:
        """Show the rows, one after the other."""
        place = 0
        while place < len(self._lines):
            try:
                self._one(place)
                place += 1
            except _Undo:
                place = self._undone(place)
        print_err(f"\nThat was the last of {counted(len(self._lines), 'row')} without a hand label.")

    def _one(self, place: int) -> None:
        line = self._lines[place]
        print_err(harmless(f"\n-- {place + 1} of {len(self._lines)} ({self.labelled:,} labelled)"))
        for name, text in self._hand.file.shown(line):
            shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"
            print_err(harmless(f"{name}: {shown}"))
        before = self._gold.get(line.id, Gold(line.id, "", ""))
        found = self._hand.by_field(before.text)
        for field in self._hand.file.fields.values():
            if not found.get(field) and (text := self._choice.ask(field)):
                found[field] = text
        golds = self._hand.golds
        text = golds.joined(found) if golds.fields else found.get("", "")
        if text != before.text:
            self._put(Gold(line.id, text, TYPED))
            self._done.append(_Row(place, before))

    def _undone(self, place: int) -> int:
        """Take the latest label back; return the place of its row."""
        if not self._done:
            print_err("There is nothing to undo.")
            return place
        latest = self._done.pop()
        self._put(latest.before._replace(origin=latest.before.origin or TYPED))
        return latest.place

    def _put(self, gold: Gold) -> None:
        self._save(gold)
        self._gold[gold.drawn] = gold


class _Choice:
    """Asks for a label until one is given.

    Args:
        golds: knows the labels, and reads what is typed.
    """

    def __init__(self, golds: Golds) -> None:
        self._golds = golds
        self._labels = golds.labels
        self.has_keys = 0 < len(self._labels) <= _FEW

    def ask(self, field: str) -> str:
        """Return what was chosen; empty if the row, or the field, is skipped.

        Raises:
            _Undo, _Quit: the person asked for that.
        """
        self._show_menu(field)
        while True:
            typed = _key() if self.has_keys else _line(f"{field or 'label'}> ").strip()
            command = self._command(typed)
            if command == _QUIT:
                raise _Quit
            if command == _UNDO:
                raise _Undo
            if command == _SKIP:
                return ""
            try:
                chosen = self.meant(typed, field)
            except NoGold as error:
                print_err(harmless(str(error)))
                continue
            if self.has_keys or chosen != typed:
                print_err(harmless(f"= {chosen}"))
            return chosen

    def _command(self, typed: str) -> str | None:
        """Return the command that was typed; a text without labels needs a colon before it."""
        if typed in {"", "\r", "\n", "?"}:
            return _SKIP
        if typed in self._labels:
            return None
        said = typed.removeprefix(":")
        return said if said in _COMMANDS and (self._labels or said != typed) else None

    def meant(self, typed: str, field: str = "") -> str:
        """Return the label that was typed: its number, its text, or as much of that as is its alone.

        Raises:
            NoGold: it is none, or may be several.
        """
        labels = self._labels
        if not labels:
            return self._golds.read(typed, field or None)
        if typed in labels:
            return typed
        if typed.isdecimal() and 1 <= int(typed) <= len(labels):
            return labels[int(typed) - 1]
        if self.has_keys:
            raise NoGold(f"{typed!r} is no key of a label")
        text = typed.casefold()
        for found in (
            [each for each in labels if each.casefold().startswith(text)],
            [each for each in labels if text in each.casefold()],
        ):
            if len(found) == 1:
                return found[0]
            if found and not self._is_read(typed):
                raise NoGold(f"which one? {listed(found)}")
        return self._golds.read(typed)

    def _is_read(self, typed: str) -> bool:
        with contextlib.suppress(NoGold):
            return bool(self._golds.read(typed))
        return False

    def _show_menu(self, field: str) -> None:
        ways = "Enter or s skips, u undoes, q quits"
        if self.has_keys:
            print_err(harmless("   ".join(f"[{number}] {each}" for number, each in enumerate(self._labels, 1))))
        elif self._labels:
            shown = self._labels if len(self._labels) <= _MOST_LISTED else ()
            print_err(harmless("   ".join(f"[{number}] {each}" for number, each in enumerate(shown, 1)) or "(labels)"))
            ways = f"type a label, or as much as is its alone; {ways}"
        else:
            ways = f"type the right {field or 'answer'}; Enter or :s skips, :u undoes, :q quits"
        print_err(f"({ways})")


def _line(prompt: str) -> str:
    """Read a line from the terminal.

    Raises:
        EOFError: there is none any more.
    """
    print_err(harmless(prompt), end="")
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\r\n")


def _key() -> str:
    """Read a key from the terminal, without waiting for Enter.

    Raises:
        EOFError: there is none any more, or it ends the input.
        KeyboardInterrupt: it is Ctrl-C.
    """
    key = _read_key()
    if key == "\x03":
        raise KeyboardInterrupt
    if key in {"", "\x04", "\x1a"}:
        raise EOFError
    return key


if sys.platform == "win32":
    import msvcrt

    @contextlib.contextmanager
    def _each_key() -> Iterator[None]:
        yield

    def _read_key() -> str:
        return msvcrt.getwch()
else:
    import termios
    import tty

    @contextlib.contextmanager
    def _each_key() -> Iterator[None]:
        """Let the terminal pass each key on at once."""
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _read_key() -> str:
        return os.read(sys.stdin.fileno(), 1).decode("utf-8", "replace")
