"""What answers teach of a prompt's length: a bound that holds for every tokenizer within its assumptions."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batcher.input.prompt import Template
from batcher.money.overhead import Overhead
from batcher.records import Message

WIDEST = 1_000
AGREEING = 20  # answers before the bound becomes narrower
MARKS = 8  # tokens of a message by which overheads may differ

# The patterns by which byte-level tokenizers split a text: GPT-2's, and those of GPT-4 (Llama 3, Qwen) and GPT-4o; and
# pieces as SentencePiece makes them, which does not split but has no token with a space behind another character.
PATTERNS = {
    "gpt-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt-4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "gpt-4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "sentencepiece": r"[ ]+(?=[ ])|[ ]?[^ \n]+|[ ]|\n+",
}


def asked(text: str, role: str = "user") -> list[Message]:
    return [{"role": role, "content": text}]


def taught(*counts: int, fixed_bytes: int = 0, text: str = "") -> Overhead:
    """Return what is learnt of a text whose prompts had these numbers of tokens."""
    overhead = Overhead("q", fixed_bytes)
    for tokens in counts:
        overhead.learn(asked(text), tokens, WIDEST)
    return overhead


class Tokenizer:
    """Counts as badly as the assumptions allow: any number of tokens for a text up to its bytes, the same each time."""

    def __init__(self, overhead: int, seed: int) -> None:
        self.overhead = overhead
        self.seed = seed

    def count(self, text: str) -> int:
        draw = random.Random(f"{self.seed} {text}")
        extreme = draw.choice([0, 1, draw.random()])
        return max(self.overhead + draw.choice([0, MARKS]) + round(extreme * len(text.encode())), 1)


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=30, max_size=60, unique=True)


@given(st.integers(0, 900), st.integers(), texts, st.data())
def test_no_prompt_is_longer_than_its_bound_whatever_a_tokenizer_makes_of_the_rows(
    overhead: int, seed: int, texts: list[str], data: st.DataObject
) -> None:
    tokenizer = Tokenizer(overhead, seed)
    learning, states = Overhead("q"), []
    for text in texts:
        assert tokenizer.count(text) <= learning.most(asked(text), WIDEST)
        states.append(learning.learn(asked(text), tokenizer.count(text), WIDEST))
    # Any part of what was learnt is a bound in the next process.
    kept = data.draw(st.lists(st.sampled_from(states)))
    later = Overhead("q")
    for state in kept:
        later.recall(json.loads(json.dumps(state)))
    for text in texts:
        assert tokenizer.count(text) <= later.most(asked(text), WIDEST)


LETTERS = "aB. \n'5é"
PAIRS = [f"{one}{other}".encode() for one in LETTERS for other in LETTERS]
TRIPLES = [f"{one}{pair.decode()}".encode() for one in LETTERS for pair in PAIRS]


def tables() -> st.SearchStrategy[set[bytes]]:
    """Draw the tokens of a tokenizer: most pairs of characters and some triples."""
    missing, triples = st.sets(st.sampled_from(PAIRS)), st.sets(st.sampled_from(TRIPLES))
    return st.builds(lambda without, more: (set(PAIRS) - without) | more, missing, triples)


def encoding(pattern: str, tokens: set[bytes]) -> tiktoken.Encoding:
    """Return tiktoken's tokenizer with this table; it merges what makes a token, in the order of the table."""
    every = [*(bytes([byte]) for byte in range(256)), *sorted(tokens)]
    return tiktoken.Encoding(
        "drawn",
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(every)},
        special_tokens={},
    )


literals = st.text(LETTERS, max_size=8)


@pytest.mark.parametrize("kind", PATTERNS)
@given(tables(), st.tuples(literals, literals, literals), literals, literals)
@example({b". ", b": a"}, ("Is it good? ", " or ", ": yes"), "  ", "\n")
@settings(max_examples=150)
def test_the_fixed_words_of_a_template_have_the_same_tokens_whatever_stands_in_its_holes(
    kind: str, table: set[bytes], literals: tuple[str, str, str], one: str, other: str
) -> None:
    exact = encoding(PATTERNS[kind], table)
    template = Template(literals, ("one", "other"), "--prompt")
    pieces, own = [], ""
    for (before, fixed, behind), hole in zip(template.parts, (one, other, ""), strict=True):
        own += before
        if fixed:
            pieces += [own, fixed]
            own = ""
        own += behind + hole
    prompt = "".join([*pieces, own])
    assert prompt == f"{literals[0]}{one}{literals[1]}{other}{literals[2]}"
    assert len(exact.encode_ordinary(prompt)) == sum(len(exact.encode_ordinary(piece)) for piece in [*pieces, own])
    assert template.fixed_bytes == sum(len(fixed.encode()) for _, fixed, _ in template.parts)


long, short = st.integers(300, 1000), st.integers(1, 50)  # bytes of rows


@given(st.integers(0, 500), st.lists(long, min_size=25, max_size=40), st.lists(short, min_size=5), st.data())
def test_no_bound_is_too_low_unless_as_many_answers_as_have_to_agree_reported_too_little(
    overhead: int, lengths: list[int], later_lengths: list[int], data: st.DataObject
) -> None:
    """Long rows do not show how low their overhead can be, so they contradict no false report."""
    lengths = [*lengths, *later_lengths]
    learning, later = Overhead("q"), Overhead("q")
    lies = data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=AGREEING - 1), "places of false reports")
    for place, length in enumerate(lengths):
        text, widest, tokens = asked("x" * length), WIDEST + length, overhead + length // 4 + 1
        assert tokens <= learning.most(text, widest)
        said = data.draw(st.integers(1, tokens), "false report") if place in lies else tokens
        later.recall(json.loads(json.dumps(learning.learn(text, said, widest))))
    for length in lengths:
        assert overhead + length // 4 + 1 <= later.most(asked("x" * length), WIDEST + length)


LONG = "x" * 400


def test_a_lower_report_alone_lowers_no_bound_and_as_many_as_have_to_agree_do() -> None:
    learnt = taught(*[300] * AGREEING, text=LONG)
    for _ in range(AGREEING - 1):
        assert learnt.learn(asked(LONG), 40, WIDEST) is None
        assert learnt.most(asked("four"), WIDEST) == 300 + MARKS + 4
    assert learnt.learn(asked(LONG), 40, WIDEST)
    assert learnt.most(asked("four"), WIDEST) == 40 + MARKS + 4


def test_a_report_in_the_next_process_lowers_nothing_alone_either() -> None:
    earlier, later = taught(*[300] * (AGREEING - 1), text=LONG), Overhead("q")
    later.recall(earlier.learn(asked(LONG), 300, WIDEST))
    assert later.learn(asked(LONG), 40, WIDEST) is None
    assert later.most(asked("four"), WIDEST) == 300 + MARKS + 4


def test_a_bound_is_the_shorter_prompts_tokens_and_the_bytes_of_the_rows_own_text() -> None:
    learnt = taught(60, 44, *[52] * (AGREEING - 1), 90, fixed_bytes=100, text="x" * 140)
    assert learnt.most(asked("x" * 140), WIDEST) == 52 + MARKS + 40
    assert learnt.most(asked("x" * 100 + "é" * 10), WIDEST) == 52 + MARKS + 20


@pytest.mark.parametrize("answers", [0, 1, AGREEING - 1])
def test_before_enough_answers_agree_the_bound_stays_wide(answers: int) -> None:
    assert taught(*[15] * answers).most(asked("four"), WIDEST) == WIDEST
    assert taught(*[15] * AGREEING).most(asked("four"), WIDEST) == 15 + MARKS + 4


def test_prompts_of_another_shape_or_question_are_learnt_apart() -> None:
    learnt = taught(*[15] * AGREEING)
    pair: list[Message] = [*asked("be brief", "system"), *asked("four")]
    named: list[Message] = [{"role": "user", "content": "four", "name": "Ada"}]
    parts: list[Message] = [{"role": "user", "content": [{"type": "text", "text": "four"}]}]
    for other in (pair, named, parts, asked("four", "system")):
        assert learnt.most(other, WIDEST) == WIDEST
    for _ in range(AGREEING):
        assert learnt.learn(parts, 5, WIDEST) is None
    assert learnt.most(parts, WIDEST) == WIDEST


def test_prompts_of_any_number_of_shapes_take_no_more_memory() -> None:
    learnt = Overhead("q")
    for count in range(1, 200):
        many = asked("four") * count
        for _ in range(AGREEING):
            learnt.learn(many, 15, WIDEST)
    assert learnt.most(asked("four") * 60, WIDEST) < WIDEST
    assert learnt.most(asked("four") * 150, WIDEST) == WIDEST


def test_what_contradicts_the_other_answers_widens_the_bound_for_good() -> None:
    learnt = taught(*[15] * AGREEING, text="four")
    state = learnt.learn(asked("four"), 15 + MARKS + 4 + 1, WIDEST)
    assert state
    assert learnt.most(asked("four"), WIDEST) == WIDEST
    for _ in range(100):
        assert learnt.learn(asked("four"), 15, WIDEST) is None
    later = Overhead("q")
    later.recall(state)
    for found in (learnt, later):
        assert found.most(asked("four"), WIDEST) == WIDEST
        assert found.learn(asked("four"), WIDEST + 500, WIDEST)
        assert found.most(asked("four"), WIDEST) == WIDEST + 500 + MARKS  # 500 more than it can have by any template


def test_the_answers_that_come_first_may_be_the_long_ones() -> None:
    learnt = taught(500, *[15] * AGREEING, text="four")
    assert learnt.most(asked("four"), WIDEST) == WIDEST


def test_a_hidden_prompt_longer_than_any_template_is_in_the_bound_from_its_first_answer_on() -> None:
    learnt = Overhead("q")
    state = learnt.learn(asked("four"), 3000, WIDEST)
    later = Overhead("q")
    later.recall(state)
    for found in (learnt, later):
        assert found.most(asked("a longer text"), WIDEST) == 3000 + MARKS + len("a longer text")


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_fewer_tokens_than_the_text_can_have_teach_nothing(tokens: int) -> None:
    assert taught(*[tokens] * 50, text="x" * 1000).most(asked("x" * 1000), 9999) == 9999


def test_a_state_that_is_not_one_is_ignored() -> None:
    states: list[Any] = [None, 5, [], {}, {"of": 1, "least": 1, "most": 1}, {"of": "x", "least": "1", "most": None}]
    learnt = Overhead("q")
    for state in states:
        learnt.recall(state)
    assert learnt.most(asked("four"), WIDEST) == WIDEST
