"""The rows that the filters show as a file to keep: CSV or Parquet, in the columns of the run's result.

Invariant: all rows that the filters show are in it, in order, or the download breaks off; it is never short unseen.
"""

from __future__ import annotations

import asyncio
import io
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

from batcher.errors import BatcherError, OutputError
from batcher.output.chosen import CSV, FORMATS, ends_of, write_chosen
from batcher.output.directory import Store
from batcher.output.file_format import Block
from batcher.output.so_far import with_by
from batcher.reviewing.exchange import Reply, Request, Routes, invalid
from batcher.reviewing.filters import Filters, Positions
from batcher.reviewing.page import Page, View
from batcher.reviewing.rows import shown_by

_AT_ONCE = 1000  # rows
_PARTS = 16  # that wait to be sent
_SOON_S = 0.1
_KINDS = {CSV: "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


class _Pipe(io.RawIOBase):
    """A file whose content is read at the other end while it is written.

    Attributes:
        is_broken: the reader has gone.
    """

    def __init__(self) -> None:
        self._parts: queue.Queue[bytes | BaseException | None] = queue.Queue(_PARTS)
        self.is_broken = False

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if len(content):
            self._put(bytes(content))
        return len(content)

    def _put(self, part: bytes | BaseException | None) -> None:
        while not self.is_broken:
            try:
                self._parts.put(part, timeout=1)
            except queue.Full:
                continue
            return
        raise BrokenPipeError

    def end(self, error: BaseException | None = None) -> None:
        """Let the reader come to the end, or to an error."""
        try:
            self._put(error)
        except BrokenPipeError:
            return

    async def parts(self, write: Callable[[], None]) -> AsyncIterator[bytes]:
        """Yield what a function writes, which works in a thread of its own from now on."""
        threading.Thread(target=write, name="batcher-review-export", daemon=True).start()
        try:
            while (part := await asyncio.to_thread(self._next)) is not None:
                if isinstance(part, BaseException):
                    raise part
                if part:
                    yield part
        finally:
            self.is_broken = True

    def _next(self) -> bytes | BaseException | None:
        try:
            return self._parts.get(timeout=1)
        except queue.Empty:
            return b""


async def _export(page: Page, request: Request) -> Reply:
    kind = request.one("format", CSV)
    if kind not in FORMATS:
        raise invalid(f"format must be csv or parquet, not {kind[:40]!r}")
    view, filters = page.view, Filters.of(request)
    await _until(view, lambda: view.indexed.is_set() and view.table.is_whole)
    shown, searching = await shown_by(page, view, filters)
    while searching:
        await _until(view, lambda: True)
        shown, searching = await shown_by(page, view, filters)
    positions = shown.positions
    if lacking := await asyncio.to_thread(view.table.lacking, positions):
        raise invalid(f"{lacking:,} of these {len(positions):,} rows cannot be exported: {view.table.why_not(0)}")
    pipe = _Pipe()
    store, _ = await page.read(lambda journal: with_by(view.store, journal))
    write = partial(_write, pipe, store, kind, _blocks(page, view, store, positions))
    name = f"review_{store.keyword}.{kind}"
    plain = name.encode("ascii", "replace").decode().translate(str.maketrans('"\\?', "___"))
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"
    return Reply(pipe.parts(write), _KINDS[kind], headers=[("content-disposition", disposition)])


async def _until(view: View, is_so: Callable[[], bool]) -> None:
    """Wait a moment, and until something is so.

    Raises:
        NotServed: another plan is in the journal.
    """
    await asyncio.sleep(_SOON_S)
    while not (view.stops() or is_so()):  # noqa: ASYNC110 - it comes true in a thread
        await asyncio.sleep(_SOON_S)
    if view.stops():
        raise invalid("the rows of the run have changed meanwhile: export them again")


def _write(pipe: _Pipe, store: Store, kind: str, blocks: Iterator[Block]) -> None:
    try:
        write_chosen(pipe, store, kind, blocks)  # type: ignore[arg-type]
    except BrokenPipeError:
        return
    except (BatcherError, OSError) as error:
        pipe.end(error)
        return
    pipe.end()


def _blocks(page: Page, view: View, store: Store, positions: Positions) -> Iterator[Block]:
    for start in range(0, len(positions), _AT_ONCE):
        part = positions[start : start + _AT_ONCE].tolist()
        cells = view.table.at(part)
        if len(cells) < len(part):
            raise OutputError("rows have gone from the table meanwhile")
        ends = page.looks.look(lambda journal, part=part: ends_of(store, journal, part))  # type: ignore[misc]
        yield Block([cells[at] for at in part], None, ends)


ROUTES: Routes = {("GET", "api/export"): _export}
