"""What may follow in an answer that must be a JSON object."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from batcher.server.hf.json_form import JsonForm

VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(), inner, max_size=4),
    max_leaves=12,
)


@hypothesis.given(
    value=strategies.dictionaries(strategies.text(), VALUES, max_size=4),
    indent=strategies.sampled_from([None, 2]),
    is_ascii=strategies.booleans(),
)
def test_every_object_is_accepted_and_complete_at_its_end_alone(value: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    state: JsonForm | None = JsonForm()
    for place in range(len(text)):
        assert state is not None
        assert not state.is_complete
        state = state.after(text[place : place + 1])
    assert state is not None
    assert state.is_complete


@hypothesis.given(text=strategies.text('{}[]",:\\ntrue-01.eE u', max_size=14))
def test_what_is_complete_can_be_read(text: str) -> None:
    state = JsonForm().after(f'{{"a":{text}'.encode())
    if state is not None and state.is_complete:
        assert isinstance(json.loads(f'{{"a":{text}'), dict)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "1",
        "{,",
        '{"a" 1',
        '{"a":01',
        '{"a":1.,',
        '{"a":-}',
        '{"a":tru}',
        '{"a":1,}',
        '{"a":[1,]',
        '{"a":"\n',
        '{"a":"\\x',
        '{"a":"\\u12g',
        '{"a":1]',
        '{"a":1}}',
        "{]",
    ],
)
def test_what_belongs_to_no_object_is_refused(text: str) -> None:
    assert JsonForm().after(text.encode()) is None
