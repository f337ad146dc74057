"""The queue of batches, whatever is done with it."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batcher.server.batch_lines import Line, LineError
from batcher.server.batch_queue import BATCH, BatchQueue, LineAnswer, QueuedBatch, StoredFile, new_file
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, Slip, State
from batcher.server.responses import Refusal

URL = "/v1/chat/completions"
# What can come after a state; a state can also stay.
NEXT = {
    State.VALIDATING: {State.IN_PROGRESS, State.FAILED, State.CANCELLING},
    State.IN_PROGRESS: {State.FINALIZING, State.EXPIRED, State.FAILED, State.CANCELLED, State.CANCELLING},
    State.FINALIZING: {State.COMPLETED, State.CANCELLING},
    State.CANCELLING: {State.CANCELLED},
}


class Model:
    """Answers every line once, except those that it refuses."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def prompts(self, line: Line) -> tuple[str, ...]:
        return (line.body["prompt"],)

    def check(self, _url: str, _model: str, _lines: int, _size: int) -> tuple[LineError, ...]:
        return ()

    def answer(self, line: Line, _key: str) -> LineAnswer:
        prompts = self.prompts(line)
        self.asked.update(prompts)
        return LineAnswer(400 if "refused" in prompts[0] else 200, b"{}", prompts, 1, 1)


def can_follow(before: State, after: State) -> bool:
    """Return whether a state can be reached from another one."""
    return before is after or any(can_follow(each, after) for each in NEXT.get(before, ()))


def file_with(queue: BatchQueue, name: str, lines: int) -> StoredFile:
    content = new_file()
    for number in range(lines):
        prompt = f"{name} {number}{' refused' if number % 4 == 3 else ''}"
        body = {"model": "m", "prompt": prompt}
        content.write(json.dumps({"custom_id": prompt, "method": "POST", "url": URL, "body": body}).encode() + b"\n")
    return queue.add(f"{name}.jsonl", BATCH, content)


def results_of(queue: BatchQueue, batch: QueuedBatch) -> tuple[list[str], list[str]]:
    """Return the names of the lines in the output and error file of a batch."""
    found = []
    for name in queue.shown_files(batch):
        file = queue.file(name) if name else None
        raw = b"".join(file.parts()) if isinstance(file, StoredFile) else b""
        found.append([json.loads(each)["custom_id"] for each in raw.splitlines()])
    return found[0], found[1]


rules = st.lists(
    st.one_of(
        st.builds(
            BatchRule,
            end=st.sampled_from([State.EXPIRED, State.FAILED, State.CANCELLED]),
            answered=st.floats(0, 1),
            is_listed=st.sampled_from([None, True, False]),
            first=st.integers(1, 3),
        ),
        st.builds(BatchRule, takes=st.floats(0, 1e6), times=st.integers(0, 2)),
        st.builds(BatchRule, lines=st.just(Slip.DROP), share=st.floats(0.1, 1)),
        st.builds(BatchRule, at=st.sampled_from([Place.LIST, Place.CONTENT]), late=st.floats(1, 100)),
    ),
    max_size=4,
).map(tuple)
knobs = st.builds(
    BatchKnobs,
    latency=st.floats(0, 2e5),
    idle=st.floats(0, 0.99),
    window=st.floats(1, 2e5),
    cancelling=st.floats(0, 1000),
    speed=st.sampled_from([1.0, 60.0, 3600.0]),
    queue_requests=st.sampled_from([0, 12]),
    rules=rules,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 2e5)),
        st.tuples(st.just("make"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
    ),
    max_size=12,
)


@given(knobs, steps, st.sampled_from([1, 3, float("inf")]))
def test_states_move_forward_and_each_line_is_answered_and_billed_once(
    knobs: BatchKnobs, steps: list[tuple[str, float]], at_once: float
) -> None:
    now = [1_796_000_000.0]
    model = Model()
    queue = BatchQueue(knobs, model, lambda: now[0], at_once=at_once)
    seen: dict[str, State] = {}
    for what, amount in [*steps, ("wait", 1e9)]:
        if what == "wait":
            now[0] += amount
        elif what == "make":
            made = queue.create(file_with(queue, f"file {len(seen)}", int(amount)).id, URL, "24h")
            assert isinstance(made, QueuedBatch)
            assert made.state is State.VALIDATING
            seen[made.id] = made.state
        elif amount < len(seen):
            queue.cancel([*seen][int(amount)])
        for name, before in seen.items():
            batch = queue.batch(name)
            assert isinstance(batch, QueuedBatch)
            assert can_follow(before, batch.state)
            assert batch.completed + batch.failed <= batch.total
            assert (batch.output_file is None and batch.error_file is None) or batch.state.is_over
            seen[name] = batch.state
    while queue.advance():
        pass
    check_the_end(queue, model)


def check_the_end(queue: BatchQueue, model: Model) -> None:
    books = queue.books
    billed, refused = 0, 0
    for batch in queue.batches():
        assert batch.state.is_over
        output, errors = results_of(queue, batch)
        assert len({*output, *errors}) == len(output) + len(errors)
        assert not batch.checked.errors or not (output or errors)
        assert batch.created <= (batch.started or batch.created) <= (batch.ended or 0)
        billed += len(output)
        refused += len(errors)
    assert max(model.asked.values(), default=0) <= 1
    assert books.billed == billed == books.billed_by_prompt.total()
    assert books.answered == books.billed + books.lost
    assert books.answered + books.refused == model.asked.total() <= books.lines
    assert books.made == sum(books.by_end.values())


def test_a_file_can_be_removed_while_its_batch_works_on_it() -> None:
    now = [0.0]
    queue = BatchQueue(BatchKnobs(latency=100), Model(), lambda: now[0])
    file = file_with(queue, "a", 3)
    batch = queue.create(file.id, URL, "24h")
    queue.delete(file.id)
    assert isinstance(queue.create(file.id, URL, "24h"), Refusal)
    now[0] = 100
    assert isinstance(batch, QueuedBatch)
    queue.advance()
    assert len(results_of(queue, batch)[0]) == 3


def test_a_longer_completion_window_lasts_longer() -> None:
    queue = BatchQueue(BatchKnobs(window=240), Model(), lambda: 0.0)
    file = file_with(queue, "a", 1)
    made = [queue.create(file.id, URL, window) for window in ("24h", "48h", "14d")]
    assert [each.expires for each in made if isinstance(each, QueuedBatch)] == [240, 480, 14 * 240]


def test_nothing_is_answered_before_a_batch_has_idled() -> None:
    now = [0.0]
    queue = BatchQueue(BatchKnobs(latency=100, idle=0.5), Model(), lambda: now[0])
    batch = queue.create(file_with(queue, "a", 10).id, URL, "24h")
    assert isinstance(batch, QueuedBatch)
    done = []
    for now[0] in (1, 3, 49, 60, 80, 97, 99, 100):
        queue.advance()
        done.append((batch.state, batch.done))
    assert done == [
        (State.VALIDATING, 0),
        (State.IN_PROGRESS, 0),
        (State.IN_PROGRESS, 0),
        (State.IN_PROGRESS, 2),
        (State.IN_PROGRESS, 6),
        (State.IN_PROGRESS, 9),
        (State.FINALIZING, 10),
        (State.COMPLETED, 10),
    ]


def test_a_batch_that_idles_beyond_its_window_expires_without_an_answer() -> None:
    now = [0.0]
    queue = BatchQueue(BatchKnobs(latency=4, idle=0.5, window=2), Model(), lambda: now[0])
    batch = queue.create(file_with(queue, "a", 2).id, URL, "24h")
    assert isinstance(batch, QueuedBatch)
    now[0] = 1
    queue.advance()
    assert (batch.state, batch.done) == (State.IN_PROGRESS, 0)
    now[0] = 2
    queue.advance()
    assert batch.state is State.EXPIRED
    assert [len(each) for each in results_of(queue, batch)] == [0, 2]
