"""batcher itself, as a client of a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_model import ByHand

import batcher
from batcher.server.hf.loading import load
from batcher.server.hf.options import ModelOptions
from batcher.server.hf.serve import embedded_model

if TYPE_CHECKING:
    from tiny_model import Paths

ROWS = [f"{'fox ' * (place % 5)}hello {place}" for place in range(30)]


def test_thirty_rows_get_their_own_answers_and_the_run_is_verified(tiny: Paths, tmp_path: Path) -> None:
    model, hand = load(ModelOptions(str(tiny.chat), only_cpu=True)), ByHand(tiny)
    with embedded_model(model) as (url, engine):
        report = batcher.run(
            ROWS,
            keyword="own",
            output_dir=tmp_path,
            base_url=url,
            model="chat",
            param={"temperature": 0, "max_tokens": 8, "logit_bias": {"2": -100}},
            quiet=True,
        )
    assert report.ok + report.invalid == len(ROWS)
    assert engine.answered == len(ROWS)
    assert batcher.verify("own", output_dir=tmp_path).ok
    frame = report.frame()
    for row, text in zip(ROWS, frame["infer"], strict=True):
        assert isinstance(text, str)
        prompt = f"<|user|>{row}</s><|assistant|>"
        assert text == _after_template(hand, prompt, 8)


def _after_template(hand: ByHand, prompt: str, count: int) -> str:
    """Return the answer to a prompt that the template begins, not the tokenizer."""
    import torch  # noqa: PLC0415 - present, or the module is skipped

    ids = torch.tensor([hand.ids(prompt)[1:]])
    found = hand.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        suppress_tokens=[2],
    )
    return str(hand.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


def test_labels_are_held_by_the_model_itself_and_a_schema_as_far_as_it_can(tiny: Paths, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output_dir": tmp_path, "model": "lora", "quiet": True}
    with embedded_model(load(ModelOptions(str(tiny.base), str(tiny.lora), only_cpu=True))) as (url, _):
        labels = batcher.run(
            ROWS[:20],
            "Is it good? {text}",
            keyword="labels",
            labels=["good", "bad", "不知道"],
            param={"max_tokens": 30},
            base_url=url,
            **options,
        )
        fields = batcher.run(
            ROWS[:5],
            "{text}",
            keyword="fields",
            schema={"type": "object", "properties": {"a": {"type": "string"}}},
            param={"max_tokens": 60, "seed": 1},
            base_url=url,
            **options,
        )
    assert labels.ok == 20
    assert set(labels.answers) <= {"good", "bad", "不知道"}
    assert batcher.verify("labels", output_dir=tmp_path).ok
    assert fields.error == 0, "a refused schema costs no row: it is asked for in another form"
    assert batcher.verify("fields", output_dir=tmp_path).ok
