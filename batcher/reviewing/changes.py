"""What a person changes on the page: corrections, their undoing, and the writing of the files.

Invariant: an answer is what the run's answers may be, or is refused with what was probably meant.
"""

from __future__ import annotations

import json

from batcher.answer.gold import NoGold
from batcher.answer.schema import Schema
from batcher.records import Result, Status
from batcher.reviewing.exchange import Reply, Request, Routes, as_json, gone, invalid
from batcher.reviewing.page import Page
from batcher.reviewing.rows import row_of


async def _correct(page: Page, request: Request) -> Reply:
    position = _position(page, request)
    answer = await _answer(page, request, position)
    seen = request.body.get("seen")
    if seen is not None and (not isinstance(seen, int) or isinstance(seen, bool)):
        raise invalid("seen must be the id of the result that the row had, or null")
    decided = await page.decisions.correct(position, seen, Result(Status.OK, answer, ""), request.text("why", ""))
    await page.decided([position])
    return as_json({"row": await row_of(page, position), "via": decided.via, "said": decided.said})


async def _undo(page: Page, request: Request) -> Reply:
    position = _position(page, request)
    decided = await page.decisions.undo(position, request.whole("seen"), request.text("why", ""))
    await page.decided([position])
    return as_json({"row": await row_of(page, position), "via": decided.via, "said": decided.said})


async def _files(page: Page, _request: Request) -> Reply:
    return as_json({"said": await page.decisions.finish()})


def _position(page: Page, request: Request) -> int:
    position = request.whole("position")
    if not 0 <= position < page.view.index.rows:
        raise gone(f"there is no row at position {position}")
    return position


async def _answer(page: Page, request: Request, position: int) -> str:
    """Return the answer that a person gives, as the journal has such answers.

    Raises:
        NotServed: it is not what the run's answers may be.
    """
    golds = page.view.golds
    fields = request.body.get("fields")
    if fields is None:
        answer = request.text("answer")
    elif golds.fields and isinstance(fields, dict) and all(isinstance(each, str) for each in fields.values()):
        answer = await _joined(page, fields, position)
    else:
        raise invalid("fields must be an object of texts, and the answers must have a schema")
    if golds.shape is None:
        return answer
    if golds.labels:
        try:
            return golds.read(answer)
        except NoGold as error:
            raise invalid(str(error)) from error
    read = golds.shape.read(answer)
    if read.status is not Status.OK:
        raise invalid(f"this does not fit the schema: {read.error}")
    return read.answer


async def _joined(page: Page, fields: dict[str, str], position: int) -> str:
    """Return an answer with some fields as a person gives them; the others stay as they are in the row."""
    shape = page.view.shape
    if not isinstance(shape, Schema):
        raise invalid("the answers have no fields")
    if other := next((name for name in fields if name not in shape.fields), None):
        raise invalid(f"the schema has no field {other[:40]!r}; it has {', '.join(shape.fields)}")
    line = (await page.read(lambda journal: journal.lines_at([position]))).get(position)
    if line is not None and line.status == Status.OK.value:
        had = dict(zip(shape.fields, shape.cells(line.answer), strict=True))
        return shape.with_cells(line.answer, [*(had | fields).values()])
    given = {name: shape.typed(name, text) for name, text in fields.items() if text}
    return json.dumps(given, ensure_ascii=False)


ROUTES: Routes = {
    ("POST", "api/correct"): _correct,
    ("POST", "api/undo"): _undo,
    ("POST", "api/files"): _files,
}
