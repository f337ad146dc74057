"""What images cost: the examples of the services' pages, and bounds that hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.money.tokens import ESTIMATE, most_prompt_tokens, prompt_tokens
from batcher.money.vision import UNKNOWN, Picture, vision_of
from batcher.records import Message

MODELS = [
    *("gpt-4o", "gpt-4o-mini", "gpt-5", "o3", "gpt-5-mini", "gpt-4.1-nano", "o4-mini", "gpt-5.2", "gpt-5.4"),
    *("claude-sonnet-4-5", "gemini-2.5-flash", "gemini-3-pro-preview", "qwen2.5-vl-72b-instruct", "qwen3-vl-plus"),
    *("pixtral-12b", "mistral-small-latest"),
]


@pytest.mark.parametrize(
    ("model", "picture", "tokens"),
    [
        # OpenAI, "Images and vision", "Calculating costs"
        ("gpt-4o", Picture(1024, 1024, "high"), 765),
        ("gpt-4o-2024-08-06", Picture(2048, 4096), 1105),
        ("openai/gpt-4o", Picture(4096, 8192, "low"), 85),
        ("ft:gpt-4o-2024-08-06:us::abc", Picture(300, 200), 255),
        ("gpt-4o-mini", Picture(1024, 1024), 2833 + 4 * 5667),
        ("gpt-5", Picture(1024, 1024), 70 + 4 * 140),
        ("gpt-5-mini", Picture(1024, 1024), 1659),
        ("o4-mini", Picture(5000, 5000), 2642),
        # Anthropic, "Vision", "Evaluate image size"
        ("claude-opus-4-1", Picture(200, 200), 54),
        ("anthropic/claude-sonnet-4.5", Picture(1000, 1000), 1334),
        ("claude-3-5-haiku-latest", Picture(4000, 3000), 1600),
        # Google, "Image understanding", "Token calculation"
        ("gemini-2.5-flash", Picture(384, 384), 258),
        ("gemini-2.0-flash", Picture(960, 540), 6 * 258),
        ("gemini-3-pro-preview", Picture(9, 9), 1120),
        # Alibaba Cloud Model Studio, "Visual understanding", "Token calculation"
        ("qwen2.5-vl-72b-instruct", Picture(1024, 1024), 37 * 37 + 2),
        ("qwen3-vl-plus", Picture(1024, 1024), 32 * 32 + 2),
        ("qwen-vl-ocr", Picture(10, 10), 4 + 2),
        # Mistral AI, "Vision"
        ("pixtral-12b", Picture(1024, 1024), 64 * 65),
        # unknown: by squares of 28 pixels
        ("my-own-model", Picture(280, 280), 100),
        ("my-own-model", Picture(), 765),
    ],
)
def test_an_image_is_counted_as_its_service_documents_it(model: str, picture: Picture, tokens: int) -> None:
    assert vision_of(model).tokens(picture) == tokens


SIDES = st.integers(1, 5000)


@given(st.sampled_from(MODELS), SIDES, SIDES, st.sampled_from(["", "low", "high"]))
def test_a_bound_is_never_below_what_is_expected(model: str, width: int, height: int, detail: str) -> None:
    vision, picture = vision_of(model), Picture(width, height, detail)
    most = vision.most(picture)
    assert most is not None
    assert vision.tokens(picture) <= most
    if vision.cap is not None:
        assert most <= vision.cap


@pytest.mark.parametrize(
    "model", ["gpt-4", "deepseek-chat", "glm-4.5v", "gpt-4o-audio-preview", "gemini-2.5-flash-image"]
)
def test_nothing_is_known_of_other_models(model: str) -> None:
    assert vision_of(model) is UNKNOWN


def asked(*parts: object) -> list[Message]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


FILE = {"type": "image", "sha256": "00", "size": [1024, 1024]}
URL = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


def test_a_prompt_is_bounded_if_each_of_its_images_is() -> None:
    known, capless = vision_of("gpt-4o"), vision_of("gemini-2.5-pro")
    text = most_prompt_tokens(asked(), 0)
    assert text is not None
    assert most_prompt_tokens(asked(FILE), 0, known) == text + 765 + 16
    assert most_prompt_tokens(asked(FILE, FILE), 0, known) == text + 2 * (765 + 16)
    assert most_prompt_tokens(asked(URL), 0, known) == text + 85 + 8 * 170 + 16  # the largest image
    assert most_prompt_tokens(asked(FILE), 0, capless) is not None
    for unbounded, vision in ((URL, capless), (FILE, UNKNOWN), (AUDIO, known)):
        assert most_prompt_tokens(asked(FILE, unbounded), 0, vision) is None


def test_a_prompt_is_estimated_with_its_images() -> None:
    text = prompt_tokens(asked(), ESTIMATE)
    assert prompt_tokens(asked(FILE, AUDIO), ESTIMATE.seeing("gpt-5")) == text + 630 + 765
    assert prompt_tokens(asked(URL), ESTIMATE) == text + 765
