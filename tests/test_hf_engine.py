"""The engine of a Hugging Face model: every choice of a batch is the one that it would be alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tiny_model import ByHand, torch

from batcher.server.hf.choice import Order, Piece
from batcher.server.hf.engine import Engine, Inputs
from batcher.server.hf.loading import Model, load
from batcher.server.hf.options import ModelOptions
from batcher.server.hf.sampling import Past, Sampling, choose

if TYPE_CHECKING:
    from tiny_model import Paths

PROMPTS = [f"{'fox ' * (place % 7)}{'数学' * (place % 3)} hello {place}" for place in range(12)]
GREEDY = Sampling(max_tokens=8, temperature=0, is_drawn=False)


@pytest.fixture(scope="module")
def model(tiny: Paths) -> Model:
    return load(ModelOptions(str(tiny.base), only_cpu=True))


@pytest.fixture(scope="module")
def hand(tiny: Paths) -> ByHand:
    return ByHand(tiny)


class Asked:
    """An order, and what comes of it."""

    def __init__(self, ids: Sequence[int], sampling: Sampling, count: int = 1, **options: Any) -> None:
        self.pieces: list[Piece] = []
        self._left = threading.Semaphore(0)
        self._count = count
        self.order = Order(ids, sampling, count, 0, self._tell, **options)

    def _tell(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if piece.finish or piece.fault:
            self._left.release()

    def wait(self) -> list[str]:
        """Return the texts of all choices."""
        for _ in range(self._count):
            self._left.acquire()
        texts = dict.fromkeys(range(self._count), "")
        for piece in self.pieces:
            texts[piece.place] += piece.text
        return list(texts.values())


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    made = Engine(model)
    yield made
    made.close()


def all_at_once(engine: Engine, asked: Sequence[Asked]) -> list[str]:
    """Order everything before the first step."""
    for each in asked:
        engine.order(each.order)
    engine.start()
    return [text for each in asked for text in each.wait()]


def test_a_batch_gives_each_prompt_the_answer_that_it_gets_alone(engine: Engine, hand: ByHand) -> None:
    limits = [3 + 2 * place for place in range(len(PROMPTS))]  # they leave the batch one after another
    asked = [
        Asked(hand.ids(prompt), replace(GREEDY, max_tokens=limit))
        for prompt, limit in zip(PROMPTS, limits, strict=True)
    ]
    found = all_at_once(engine, asked)
    assert found == [hand.text(prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert engine.most_together == len(PROMPTS)


def test_a_request_joins_what_is_running(engine: Engine, hand: ByHand) -> None:
    first = Asked(hand.ids("hello"), replace(GREEDY, max_tokens=200), is_streamed=True)
    late = Asked(hand.ids("the quick brown fox jumps"), GREEDY)
    tell = first.order.tell

    def tell_and_order(piece: Piece) -> None:
        if not first.pieces:
            engine.order(late.order)
        tell(piece)

    engine.order(first.order._replace(tell=tell_and_order))
    engine.start()
    assert late.wait() == [hand.text("the quick brown fox jumps", 8)]
    assert first.wait() == [hand.text("hello", 200)]
    assert engine.most_together == 2


def test_more_requests_than_have_room_wait_for_it(model: Model, hand: ByHand) -> None:
    engine = Engine(model, most=3)
    found = all_at_once(engine, [Asked(hand.ids(prompt), GREEDY) for prompt in PROMPTS])
    engine.close()
    assert (found, engine.most_together) == ([hand.text(prompt, 8) for prompt in PROMPTS], 3)


def test_a_seed_gives_the_same_choices_in_any_company(model: Model, hand: ByHand) -> None:
    drawn = Sampling(max_tokens=15, temperature=0.9, top_p=0.95, top_k=50, seed=7)
    alone, crowded = Engine(model), Engine(model)
    [*first] = all_at_once(alone, [Asked(hand.ids("hello"), drawn, 3)])
    others = [Asked(hand.ids(prompt), replace(drawn, seed=None)) for prompt in PROMPTS]
    *_, a, b, c = all_at_once(crowded, [*others, Asked(hand.ids("hello"), drawn, 3)])
    alone.close()
    crowded.close()
    assert [a, b, c] == first
    assert len({a, b, c}) == 3, "each choice draws anew"


def test_without_a_seed_no_two_answers_are_alike(engine: Engine, hand: ByHand) -> None:
    found = all_at_once(engine, [Asked(hand.ids("hello"), Sampling(max_tokens=20)) for _ in range(5)])
    assert len(set(found)) == 5


def test_a_repetition_penalty_is_that_of_transformers(engine: Engine, hand: ByHand) -> None:
    [found] = all_at_once(engine, [Asked(hand.ids("hello"), replace(GREEDY, repetition_penalty=1.7, max_tokens=40))])
    assert found == hand.text("hello", 40, repetition_penalty=1.7) != hand.text("hello", 40)


def test_beams_are_those_of_transformers_and_the_others_go_on_meanwhile(engine: Engine, hand: ByHand) -> None:
    searching = Asked(hand.ids("hello"), replace(GREEDY, num_beams=3), 2)
    running = Asked(hand.ids("fox"), replace(GREEDY, max_tokens=60))
    *best, other = all_at_once(engine, [searching, running])
    assert best[0] == hand.text("hello", 8, num_beams=3)
    assert best[0] != best[1]
    assert other == hand.text("fox", 60)


def test_many_inputs_to_embed_do_not_hold_up_what_is_generated(engine: Engine, hand: ByHand) -> None:
    told: list[str] = []
    over = threading.Event()

    def tell(vectors: list[list[float]] | str) -> None:
        told.append(f"{len(vectors)} vectors")
        over.set()

    def tell_and_note(piece: Piece) -> None:
        told.append("answer")
        running._tell(piece)

    running = Asked(hand.ids("fox"), GREEDY)
    engine.order(running.order._replace(tell=tell_and_note))
    inputs = [hand.ids("fox " * 500)] * (16 * GREEDY.max_tokens)  # 16 of them are a step
    engine.embed(Inputs(inputs, tell, lambda: False))
    engine.start()
    assert running.wait() == [hand.text("fox", 8)]
    over.wait()
    assert told == ["answer", f"{len(inputs)} vectors"]


def test_what_is_cancelled_leaves_the_batch(engine: Engine, hand: ByHand) -> None:
    gone = Asked(hand.ids("hello"), replace(GREEDY, max_tokens=10**6), is_streamed=True)
    beams = Asked(hand.ids("hello"), replace(GREEDY, max_tokens=100, num_beams=4))
    tickets = [engine.order(gone.order), engine.order(beams.order)]
    tickets[1].cancel()
    begun = threading.Event()
    stays = Asked(hand.ids("fox"), GREEDY)

    def tell_and_begin(piece: Piece) -> None:
        begun.set()
        stays._tell(piece)

    engine.order(stays.order._replace(tell=tell_and_begin))
    engine.start()
    begun.wait()
    tickets[0].cancel()
    assert stays.wait() == [hand.text("fox", 8)]
    last = Asked(hand.ids("dog"), GREEDY)
    engine.order(last.order)
    assert last.wait() == [hand.text("dog", 8)]
    assert engine.counts()["running"] == 0


class ShortOfMemory:
    """A model that has no room for more than a few rows."""

    def __init__(self, model: Model, rows: int) -> None:
        self._model = model
        self._rows = rows
        self.largest = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, ids: Any, mask: Any, cache: Any) -> Any:
        if len(mask) > self._rows:
            raise torch.OutOfMemoryError
        self.largest = max(self.largest, len(mask))
        return self._model.forward(ids, mask, cache)


def test_a_lack_of_memory_makes_the_batch_smaller_and_costs_no_answer(model: Model, hand: ByHand) -> None:
    short: Any = ShortOfMemory(model, 5)
    engine = Engine(short)
    found = all_at_once(engine, [Asked(hand.ids(prompt), GREEDY) for prompt in PROMPTS])
    engine.close()
    assert found == [hand.text(prompt, 8) for prompt in PROMPTS]
    assert engine.most == short.largest == 3


def test_a_request_that_has_no_room_alone_is_refused_and_the_next_one_is_answered(model: Model, hand: ByHand) -> None:
    short: Any = ShortOfMemory(model, 0)
    engine = Engine(short)
    refused = Asked(hand.ids("hello"), GREEDY)
    engine.order(refused.order)
    engine.start()
    refused.wait()
    short._rows = 1
    answered = Asked(hand.ids("hello"), GREEDY)
    engine.order(answered.order)
    assert answered.wait() == [hand.text("hello", 8)]
    engine.close()
    assert "memory" in refused.pieces[0].fault


def test_a_fault_of_the_model_fails_what_runs_and_nothing_else(
    model: Model, hand: ByHand, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(ShortOfMemory):
        def forward(self, ids: Any, mask: Any, cache: Any) -> Any:
            if ids.shape[1] == 13:
                raise RuntimeError("a broken kernel")
            return self._model.forward(ids, mask, cache)

    broken: Any = Broken(model, 0)
    engine = Engine(broken)
    failed, answered = Asked([5] * 13, GREEDY), Asked(hand.ids("hello"), GREEDY)
    engine.order(failed.order)
    engine.start()
    failed.wait()
    engine.order(answered.order)
    assert answered.wait() == [hand.text("hello", 8)]
    engine.close()
    assert failed.pieces[0].fault == "the model failed: RuntimeError: a broken kernel"
    assert "Traceback" in capsys.readouterr().err


def test_draws_have_the_probabilities_of_the_model() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    source = random.Random(0)
    cases = {
        (1.0, 1.0, 0): torch.softmax(logits, -1),
        (0.5, 1.0, 0): torch.softmax(logits / 0.5, -1),
        (1.0, 1.0, 2): torch.softmax(torch.tensor([2.0, 1.0, -torch.inf, -torch.inf]), -1),
        (1.0, 0.7, 0): torch.softmax(torch.tensor([2.0, 1.0, -torch.inf, -torch.inf]), -1),
        (1.0, 0.0, 0): torch.tensor([1.0, 0.0, 0.0, 0.0]),
    }
    for (temperature, top_p, top_k), expected in cases.items():
        sampling = Sampling(1, temperature=temperature, top_p=top_p, top_k=top_k)
        rows = [Past(sampling, source, [0], []) for _ in range(4000)]
        tokens = [each.token for each in choose(logits.repeat(4000, 1), rows)]
        shares = torch.bincount(torch.tensor(tokens), minlength=4) / 4000
        assert torch.allclose(shares, expected, atol=0.03), (temperature, top_p, top_k, shares)
        assert not shares[expected == 0].any()


def test_penalties_and_biases_change_the_choice() -> None:
    logits = torch.tensor([[2.0, 1.5, 1.4, 0.0]])

    def chosen(answer: Sequence[int], **options: Any) -> int:
        past = Past(Sampling(1, is_drawn=False, **options), random.Random(0), [3], answer)
        return choose(logits.clone(), [past])[0].token

    assert chosen([]) == 0
    assert chosen([0], presence_penalty=1.0) == 1
    assert chosen([0, 0, 1], frequency_penalty=0.4) == 2
    assert chosen([], logit_bias={3: 5.0}) == 3
    assert chosen([0], repetition_penalty=2.0) == 1


def test_a_logprob_is_that_of_the_model_whatever_the_request_asks_for() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = Sampling(1, temperature=0.1, logprobs=2, logit_bias={3: 100.0})
    [chosen] = choose(logits.clone(), [Past(sampling, random.Random(0), [0], [])])
    expected = torch.log_softmax(logits[0], -1)
    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(float(expected[3]))
    assert [token for token, _ in chosen.top] == [0, 1]
    assert [logprob for _, logprob in chosen.top] == pytest.approx(expected[:2].tolist())
