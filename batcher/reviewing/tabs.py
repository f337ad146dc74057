"""The routes of the sample, of the run as it works, and of two runs side by side.

Invariant: no route of the sample but `api/sample/result` says anything that a model has answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from batcher.errors import OutputError
from batcher.reviewing.desk import MOST_ROWS
from batcher.reviewing.exchange import Reply, Request, Routes, as_json, invalid
from batcher.reviewing.page import Page

_ROWS, _MOST_SIDES = 200, 1000


# -- The sample


async def _sample(page: Page, _request: Request) -> Reply:
    return as_json(await page.desk.overview())


async def _sample_rows(page: Page, request: Request) -> Reply:
    return as_json(await page.desk.rows(request.numbers("at", MOST_ROWS)))


async def _label(page: Page, request: Request) -> Reply:
    return as_json(await page.desk.label(request.whole("drawn"), request.body))


async def _draw(page: Page, request: Request) -> Reply:
    per_label = request.body.get("per_label", False)
    if not isinstance(per_label, bool):
        raise invalid("per_label must be true or false")
    if (rows := request.whole("n")) < 1:
        raise invalid("n must be a whole number of at least 1")
    return as_json(await page.desk.draw(rows, per_label=per_label))


async def _result(page: Page, request: Request) -> Reply:
    return as_json(await page.desk.result(request.one("field") or None))


# -- The run as it works


async def _live(page: Page, _request: Request) -> Reply:
    return Reply(page.live.events(), "text/event-stream")


async def _pause(page: Page, _request: Request) -> Reply:
    return await _changed(page.live.pause)


async def _resume(page: Page, _request: Request) -> Reply:
    return await _changed(page.live.resume)


async def _changed(change: Callable[[], Awaitable[str]]) -> Reply:
    try:
        return as_json({"said": await change()})
    except OutputError as error:  # no process works, or it does not answer
        raise invalid(str(error)) from error


# -- Two runs


async def _sides(page: Page, request: Request) -> Reply:
    if not (other := request.one("other")):
        raise invalid("other must name a run in the same directory")
    mine, theirs = (request.one(name) if name in request.query else None for name in ("mine", "theirs"))
    return as_json(
        await page.sides.page(
            other,
            start=request.number("from", 0),
            limit=max(request.number("limit", _ROWS, _MOST_SIDES), 1),
            only=request.one("only"),
            transition=(mine, theirs),
        )
    )


ROUTES: Routes = {
    ("GET", "api/sample"): _sample,
    ("GET", "api/sample/rows"): _sample_rows,
    ("POST", "api/sample/label"): _label,
    ("POST", "api/sample/draw"): _draw,
    ("GET", "api/sample/result"): _result,
    ("GET", "api/live"): _live,
    ("POST", "api/pause"): _pause,
    ("POST", "api/resume"): _resume,
    ("GET", "api/sides"): _sides,
}
