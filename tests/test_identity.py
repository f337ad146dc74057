"""Equal questions have equal keys, different ones different keys, in every process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.input.key import keyer
from batcher.records import Task, Terms

# Few and short, so that two that are drawn are often equal or nearly so. No booleans: to Python, True equals 1.
texts = st.text("a\ud800", max_size=2)
values = st.recursive(
    st.none() | texts | st.integers(0, 2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
params = st.dictionaries(texts, values, max_size=2)
questions = st.lists(st.fixed_dictionaries({"role": texts, "content": values}), max_size=2)


def asked(content: object, **options: object) -> bytes:
    return keyer(options)([{"role": "user", "content": content}])


@given(params, questions, params, questions)
def test_keys_are_equal_exactly_where_questions_are(
    these: dict[str, Any], ask: list[dict[str, Any]], those: dict[str, Any], other: list[dict[str, Any]]
) -> None:
    assert (keyer(these)(ask) == keyer(those)(other)) == ((these, ask) == (those, other))
    assert (keyer(these)(ask) == keyer(these)(other)) == (ask == other)


@pytest.mark.parametrize("other", ["Say 1.", "say 1", "Say 1 ", "Say \uff11", "S\u0430y 1", ["Say 1"], ""])
def test_the_smallest_change_of_the_text_makes_another_key(other: object) -> None:
    assert asked(other) != asked("Say 1")


@pytest.mark.parametrize("options", [{"temperature": 1}, {"temperature": "0"}, {"top_p": 0}, {}])
def test_the_smallest_change_of_the_parameters_makes_another_key(options: dict[str, object]) -> None:
    assert asked("x", **options) != asked("x", temperature=0)


def test_messages_do_not_run_into_each_other() -> None:
    def key(*contents: str) -> bytes:
        return keyer({})([{"role": "user", "content": content} for content in contents])

    assert len({key("ab"), key("a", "b"), key("b", "a"), key("a", "", "b")}) == 4


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(each) for each in value] if isinstance(value, list) else value


@given(params, questions)
def test_the_order_of_names_does_not_matter(options: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert keyer(options)(messages) == keyer(backwards(options))(backwards(messages))


any_text = st.text(st.characters(exclude_categories=()), max_size=8)
plain = st.fixed_dictionaries({"role": any_text, "content": any_text}, optional={"name": any_text})


@given(params, st.lists(plain | questions.flatmap(lambda found: st.sampled_from(found or [{}])), max_size=3))
def test_a_key_hashes_sorted_json_so_that_keys_of_older_runs_match(
    options: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    asked = "".join(json.dumps(each, sort_keys=True, separators=(",", ":")) for each in (options, messages))
    hashed = hashlib.blake2b(asked.encode(), digest_size=16, person=b"batcher.row.1")
    for shared in ([], messages[:1]):
        assert keyer(options, shared=shared)(messages) == hashed.digest()


def test_half_a_character_has_a_key() -> None:
    assert len({asked("\ud800"), asked("\udc00"), asked("?"), asked("")}) == 4


def test_the_terms_of_a_row_are_a_part_of_its_question() -> None:
    key, messages = keyer({}), [{"role": "user", "content": "a"}]
    terms = [
        Terms(),
        Terms(Task.COMPLETION),
        Terms(Task.EMBEDDING),
        Terms(model="m"),
        Terms(params={"seed": 1}),
        Terms(params={"seed": 2}),
        Terms(params={"n": 1, "seed": 2}),
    ]
    assert len({key(messages, each) for each in terms}) == len(terms)
    assert key(messages, Terms()) == key(messages)
    assert key(messages, Terms(params={"a": 1, "b": 2})) == key(messages, Terms(params={"b": 2, "a": 1}))


def test_a_keyer_keeps_no_trace_of_earlier_rows() -> None:
    key = keyer({"temperature": 0})
    first = key([{"role": "user", "content": "a"}])
    key([{"role": "user", "content": "b"}])
    assert key([{"role": "user", "content": "a"}]) == first


@pytest.mark.parametrize("seed", ["0", "1"])
def test_a_key_is_the_same_in_every_process(seed: str) -> None:
    """The value itself is written down: a release that changes it would ask every answered row again."""
    program = (
        "from batcher.input.key import keyer\n"
        "key = keyer({'temperature': 0, 'stop': ['\\n']})\n"
        "print(key([{'content': '数 \\ud800', 'role': 'user'}]).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "f101a1667cc1ef47bf3a0e7ba273557a\n"
