"""`batcher review`: serves the page of a run until it is told to end, and then writes the files that it changed.

Invariant: the address is printed once the page answers there, and is the only line on stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batcher.engine.stop import Stop
from batcher.errors import BatcherError, SettingsError, outermost
from batcher.journal.opening import read_journal
from batcher.output.directory import Store
from batcher.output.opening import opened
from batcher.reviewing.app import App
from batcher.reviewing.guard import Guard, HandOver, Hosts, new_token
from batcher.reviewing.page import Page
from batcher.server.listening import is_local, listen, root_url, served_on
from batcher.words import blamed, by_reader, print_out, say

if TYPE_CHECKING:
    from batcher.input.opening import Data

HOST, PORT = "127.0.0.1", 0
"""Where the page listens if nothing else is said: on this machine alone, at a free port."""
_LOOK_S = 0.1
_SWITCH_S = 0.0005
"""How long a thread computes before another one may. Python's own 5 ms come at each step of a request that reads."""
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Reviewed:
    """What became of a page when it ended.

    Attributes:
        keyword: of the run.
        directory: of its files.
        said: what was written at the end, in words; empty: nothing was to be written.
    """

    keyword: str
    directory: Path
    said: str = ""

    def __str__(self) -> str:
        return self.said or f"{self.keyword}: nothing was changed that the files do not have"

    def _repr_pretty_(self, printer: object, _cycle: object) -> None:
        printer.text(str(self))  # type: ignore[attr-defined]


class Served:
    """A page that is served.

    Attributes:
        url: its address, with the token.
        page: what it shows.
        listener: the socket.
        said: what was written at its end.
    """

    def __init__(self, page: Page, listener: socket.socket, token: str, guard: Guard) -> None:
        self.page = page
        self.listener = listener
        self.url = f"{root_url(listener)}/{token}/"
        self.said = ""
        self._guard = guard

    def url_for_once(self) -> str:
        """Return an address that leads to the page once, and soon: others can read the arguments of a process."""
        self._guard.hand_over = HandOver()
        return f"{root_url(self.listener)}/{self._guard.hand_over.token}/"

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Let the page work during the block, and write the files that it changed at its end."""
        async with self.page.at_work():
            yield
            try:
                if await asyncio.to_thread(self.page.decisions.pending):
                    self.said = await self.page.decisions.finish()
            except BatcherError as error:
                self.said = f"the files are not written: {error}. The journal has every decision"


@contextlib.contextmanager
def served_page(
    store: Store, who: str, data: Data | None = None, host: str = HOST, port: int = PORT
) -> Iterator[Served]:
    """Serve the page of a run from a thread, for a `with` block.

    Args:
        store: the files of the run.
        who: the name of the person.
        data: the run's input, if it is not where it was.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.

    Raises:
        SettingsError: it cannot listen there.
        OutputError: the journal cannot be read.
    """
    page, token = Page(store, who, data), new_token()
    guard = Guard(App(page), token, Hosts(host))
    listener = listen(host, port)
    served = Served(page, listener, token, guard)
    with _switching_often(), served_on(guard, listener, served.at_work):
        yield served


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    """Let a request interrupt what is read beside it, during the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@outermost
def review(
    keyword: str,
    data: Data | None = None,
    *,
    output_dir: str | os.PathLike[str] = "output",
    host: str = HOST,
    port: int = PORT,
    browser: bool = True,
    who: str | None = None,
) -> Reviewed:
    """Serve a local page to read, filter, label and correct the rows of a run; it blocks until it is interrupted.

    The page is served from a thread of its own, so that it works in a notebook as well: there the cell runs until its
    kernel is interrupted. It blocks a loop that runs in the calling thread; another thread can call it, but then only
    the end of the process ends it.

    Args:
        keyword: names the run.
        data: the run's input, if it is not where it was.
        output_dir: the run's output directory.
        host: the address to listen on. Beyond this machine everyone who reaches it and knows the address of the page
            can read and change everything there; nothing is encrypted.
        port: the port to listen on; 0 takes a free one.
        browser: open the page in the browser, if there is one.
        who: the name that is recorded with corrections and hand labels; default: the user's login name.

    Raises:
        SettingsError: the keyword is invalid, or it cannot listen at that address.
        OutputError: there is no run, or its journal cannot be read.
    """
    name = _name(who)
    with opened(keyword, output_dir, read_journal) as run:
        run.last()
        store = run.store
    stop = Stop()
    with stop.on_signals(), served_page(store, name, data, host, port) as served:
        _announce(served, name, has_browser=browser and _has_browser())
        with contextlib.suppress(KeyboardInterrupt):
            while not stop.requests and not _is_cancelled():
                time.sleep(_LOOK_S)
        say("The page ends.")
    if served.said:
        say(served.said)
    return Reviewed(keyword, store.directory, served.said)


def _is_cancelled() -> bool:
    """Return whether the task that this blocks is to end: `asyncio.run` treats a first Ctrl-C so."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return False
    return task is not None and task.cancelling() > 0


def _announce(served: Served, name: str, *, has_browser: bool) -> None:
    keyword, directory = served.page.store.keyword, served.page.store.directory
    end = by_reader(command_line="Ctrl-C ends it", python="interrupting it ends it")
    say(f"The page of {keyword!r} in {directory}, for {name}; {end}, and writes the files that it changed.")
    say("Its address holds a secret token: whoever has it can read and change what the page shows.")
    if not is_local(served.listener):
        say(
            "It listens beyond this machine: everyone who reaches the address and knows the token can read all rows and"
            " change answers, and nothing is encrypted. Without --host it listens on this machine alone.",
            "warning",
        )
    print_out(served.url)
    if has_browser:
        threading.Thread(target=_open, args=(served.url_for_once(),), name="batcher-browser", daemon=True).start()


def _has_browser() -> bool:
    """Return whether a browser would show on the screen before which the person sits."""
    if any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT")):
        return False
    if sys.platform in {"win32", "darwin"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(url: str) -> None:
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(url)


def _name(who: str | None) -> str:
    """Return the name of the person.

    Raises:
        SettingsError: it is empty, or too long.
    """
    if who is None:
        try:
            return getpass.getuser()
        except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
            return "unknown"
    name = who.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise SettingsError(f"{blamed('who')}: give a name of 1 to {_LONGEST_NAME} characters, on one line")
    return name
