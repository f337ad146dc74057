from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from batcher.server.answers import answer
from batcher.server.sums import value_of

TABLE = Path(__file__).parents[1] / "data" / "arithmetic.csv"


def ask(prompt: str) -> str:
    return answer({"messages": [{"role": "user", "content": prompt}]})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("83 x 76 + 77", "6385"),
        ("19 x 93 x 37", "65379"),
        ("Compute 19X93X37.", "65379"),
        ("What is 83x76?", "6308"),
        ("Work out 3 x 4 and reply with JSON only", "12"),
        ("58 - 76 x 68", "-5110"),
        ("(12 + 7) x 3", "57"),
        ("3 x 3 x (2 - 5)", "-27"),
        ("2 x -3 =", "-6"),
        ("2.5 x 4 =", "10"),
        ("1,234 x 2 =", "2468"),
        ("20 ÷ 4 x 3", "15"),
        ("12 : 4 =", "3"),
        ("3·4=", "12"),
        ("8３ｘ７6＋７７＝？", "6385"),  # noqa: RUF001 - as typed
        ("１２　×　３", "36"),  # noqa: RUF001 - as typed
        ("计算 58 – 76 – 68", "-86"),  # noqa: RUF001 - as typed
        ("How much is 7 times 8?", "56"),
        ("calculate 83 times 76 plus 77", "6385"),
        ("83乘以76加77等于多少", "6385"),
        (r"Solve $83 \times 76 + 77$", "6385"),
        ("Q: 2 x 3 = 6\nQ: 4 x 5 =", "20"),
    ],
)
def test_a_sum_is_found_however_its_signs_are_typed(text: str, value: str) -> None:
    assert value_of(text)[0] == value


@pytest.mark.parametrize(
    "text",
    [
        "a box of 3 x 4 cm",
        "What is a 3 x 4 cm tile?",
        "Compute the price of a 3 x 4 cm tile",
        "A 1920 x 1080 monitor, or one of 1920x1080",
        "a 2x4, the 3x3x3 cube and the 4 x 100 m relay",
        "Solve 3 x + 2 = 11",
        "Solve 3 x - 2 = 7",
        "0x10 + 3x",
        "2024-01-05 x 3 tickets",
        "at 12:30, with a ratio of 3 : 1",
        "I ran 3 times 5 km",
        "2024 · 5 min read, pages 10 – 20",  # noqa: RUF001 - as typed
    ],
)
def test_a_size_a_variable_or_a_range_is_no_sum(text: str) -> None:
    assert value_of(text) == ("", None)


@pytest.mark.parametrize(
    "prompt",
    [
        '请计算下面的式子：{}\n请以json格式回答，格式为 {{"infer": ?}}',  # noqa: RUF001 - as typed
        '{} = ? Output json: "infer": ?',
        "{} = ?\n{{'infer': ？}}",  # noqa: RUF001 - as typed
        '{} = ? JSON: {{"infer": <the answer>}}',
        '{} = ? JSON: {{"infer": "..."}}',
        "请你回答这个数学题：{} = ? 请以 json 的格式输出,键为 infer, 值为答案数字",  # noqa: RUF001 - as typed
        "请以 json 的格式输出，以 infer 为键。题目：{}",  # noqa: RUF001 - as typed
        "{} = ? Reply as JSON with the key infer and the number as its value.",
        'Reply with a JSON object with "infer" as its key: {} =',
    ],
)
def test_the_arithmetic_of_the_older_demos_is_all_right(prompt: str) -> None:
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:200]:
        expression = row["expression"].replace("*", "x")
        assert int(json.loads(ask(prompt.format(expression)))["infer"]) == int(row["result"]), expression


def test_words_about_keys_are_no_field() -> None:
    far = f"Write JSON.{' blah' * 30} The key is under the mat."
    assert ask(far).startswith("Echo ")
    assert ask("No JSON. Key facts: the key to it is good. One of: good, bad.") in {"good", "bad"}


@pytest.mark.parametrize(
    "piece", ["1 x ", "1x", "1 : ", "( 1 x", "1 times ", "key is ", '"a": ?', "a: ", "1 " * 50 + "x"]
)
def test_a_long_text_is_no_trap(piece: str) -> None:
    assert isinstance(ask("Compute json " + piece * (100_000 // len(piece))), str)
