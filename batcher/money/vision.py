"""Counts the model tokens of an image as the service of a model documents it.

Invariant: a value called `most` is a true bound on what is documented, or None; services change their formulas, and a
server may count otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_USUAL_PIXELS = 784
"""Pixels of a model token if nothing is known of a model: a square of 28, as most open models have it."""
_USUAL_TOKENS = 765
"""An image of 1024 x 1024 in high detail at gpt-4o: what an image counts if not even its size is known."""


class Picture(NamedTuple):
    """An image as a request has it.

    Attributes:
        width, height: in pixels; 0 if they are not known, because the service fetches the image from a URL.
        detail: how closely the service shall look, or empty.
    """

    width: int = 0
    height: int = 0
    detail: str = ""

    @classmethod
    def of(cls, part: object) -> Picture | None:
        """Return the image that a part of a message is, or None if it is none."""
        match part:
            case {"type": "image", "size": [int(width), int(height)], "detail": str(detail)}:
                return cls(width, height, detail)
            case {"type": "image", "size": [int(width), int(height)]}:
                return cls(width, height)
            case {"type": "image_url", "image_url": Mapping() as image}:
                return cls(detail=str(image.get("detail", "")))
            case {"type": "image_url" | "image"}:
                return cls()
        return None

    @property
    def is_known(self) -> bool:
        return self.width > 0

    def within(self, longest: float) -> tuple[float, float]:
        """Return its sides if the longer one has at most this many pixels."""
        factor = min(longest / max(self.width, self.height), 1.0)
        return self.width * factor, self.height * factor


class Vision(NamedTuple):
    """How a model counts images.

    Attributes:
        estimate: returns the model tokens to expect of an image of known size.
        bound: returns the most model tokens of an image of known size; None if no formula is known.
        cap: the most model tokens of any image; None: there is no such number.
    """

    estimate: Callable[[Picture], float]
    bound: Callable[[Picture], float] | None = None
    cap: int | None = None

    def tokens(self, picture: Picture) -> int:
        """Return the model tokens to expect of an image."""
        if not picture.is_known:
            return min(_USUAL_TOKENS, self.cap or _USUAL_TOKENS)
        return math.ceil(self.estimate(picture))

    def most(self, picture: Picture) -> int | None:
        """Return the most model tokens of an image; None if nothing bounds them."""
        if not picture.is_known or self.bound is None:
            return self.cap
        most = math.ceil(self.bound(picture))
        return most if self.cap is None else min(most, self.cap)


def _squares(width: float, height: float, side: float) -> int:
    """Return the number of squares that cover an image."""
    return math.ceil(width / side) * math.ceil(height / side)


def _by_tiles(base: int, tile: int) -> Vision:
    """Return OpenAI's count by tiles.

    In high detail an image is scaled to fit into 2048 x 2048, then so that its shorter side has 768 pixels; each square
    of 512 pixels costs `tile`, and the image costs `base` more. In low detail it costs `base`. (OpenAI, "Images and
    vision", "Calculating costs".) Small images are not enlarged in practice, but the page does not say so: the bound
    enlarges them.
    """

    def count(picture: Picture, *, enlarges: bool) -> int:
        if picture.detail == "low":
            return base
        width, height = picture.within(2048)
        # With `enlarges` to 768 pixels of the shorter side, but no further than 2,048 of the longer one.
        factor = min(768 / min(width, height), 2048 / max(width, height) if enlarges else 1.0)
        return base + tile * _squares(round(width * factor, 3), round(height * factor, 3), 512)

    return Vision(
        lambda picture: count(picture, enlarges=False), lambda picture: count(picture, enlarges=True), base + 8 * tile
    )


def _by_patches(factor: float, usual: int = 1536, most: int = 1536) -> Vision:
    """Return OpenAI's count by patches.

    Squares of 32 pixels that cover the image, but at most 1,536 of them, to which it is scaled down; times a factor of
    the model. (OpenAI, "Images and vision", "Calculating costs".) Low detail changes nothing in practice.

    Args:
        factor: of the model.
        usual: the most patches in high detail.
        most: the most patches in any detail.
    """

    def count(picture: Picture, limit: int) -> float:
        return factor * min(_squares(picture.width, picture.height, 32), limit)

    return Vision(lambda picture: count(picture, usual), lambda picture: count(picture, most), math.ceil(factor * most))


def _claude() -> Vision:
    """Return Anthropic's count: `width * height / 750`.

    Larger images are scaled down: to 1,568 pixels of the longer side and about 1,600 tokens, since Claude Opus 4.7 to
    2,576 pixels and 4,784 tokens. (Anthropic, "Vision", "Evaluate image size".) The bound is the larger one, and counts
    whole squares of 28 pixels, as the newer pages do, if they are more.
    """

    def most(picture: Picture) -> float:
        return max(picture.width * picture.height / 750, _squares(picture.width, picture.height, 28))

    def usual(picture: Picture) -> float:
        width, height = picture.within(1568)
        return min(width * height / 750, 1600)

    return Vision(usual, most, 4784)


def _gemini() -> Vision:
    """Return Gemini's count of 1.5 to 2.5: 258 tokens for an image up to 384 x 384, else for each of its tiles.

    A tile is a square of `min(width, height) / 1.5` pixels, but of 256 at least and 768 at most. (Google, "Image
    understanding", "Token calculation"; "Understand and count tokens".) The two pages differ for some sizes: the bound
    is the larger count.
    """

    def usual(picture: Picture) -> float:
        width, height = picture.width, picture.height
        if max(width, height) <= 384:
            return 258
        return 258 * _squares(width, height, min(max(math.floor(min(width, height) / 1.5), 256), 768))

    return Vision(usual, lambda picture: max(usual(picture), 258 * _squares(picture.width, picture.height, 768)))


def _gemini_3() -> Vision:
    """Return Gemini 3's count: by `media_resolution` 280, 560, 1,120 (the default) or 2,240 tokens for any image.

    (Google, "Media resolution".)
    """
    return Vision(lambda _: 1120, lambda _: 2240, 2240)


def _qwen(side: int) -> Vision:
    """Return Qwen-VL's count: squares of 28 pixels (since Qwen3-VL 32), from 4 to 16,384 of them, and 2 marks.

    The sides are rounded to whole squares; larger images are scaled down. (Alibaba Cloud Model Studio, "Visual
    understanding", "Token calculation"; `smart_resize` of `qwen_vl_utils`.) The bound rounds up, on the finer grid.

    Args:
        side: of a square, in pixels.
    """

    def estimate(picture: Picture) -> float:
        squares = max(round(picture.width / side), 1) * max(round(picture.height / side), 1)
        return min(max(squares, 4), 16384) + 2

    def most(picture: Picture) -> float:
        # An image below 4 squares is enlarged, and each side is rounded up to a whole square then.
        longer, shorter = max(picture.width, picture.height), min(picture.width, picture.height)
        enlarged = math.ceil(2 * math.sqrt(longer / shorter)) * math.ceil(2 * math.sqrt(shorter / longer))
        return max(_squares(picture.width, picture.height, 28), enlarged, 4) + 2

    return Vision(estimate, most, 16384 + 2)


def _mistral(side: int, longest: int) -> Vision:
    """Return Mistral's count: squares of 16 pixels at Pixtral, else of 28, and a mark at the end of each row.

    An image is scaled down to 1,024 pixels of the longer side at Pixtral, else to 1,540. (Mistral AI, "Vision", "How
    many tokens correspond to an image"; `ImageEncoder` of `mistral_common`.)
    """

    def count(picture: Picture) -> float:
        width, height = picture.within(longest)
        return (math.ceil(width / side) + 1) * math.ceil(height / side)

    across = math.ceil(longest / side)
    return Vision(count, count, (across + 1) * across)


UNKNOWN = Vision(lambda picture: max(picture.width * picture.height / _USUAL_PIXELS, 1))
"""Counts for a model of which no formula is known: an estimate, and no bound."""

# The rest of a name: a date, a version, `latest`, `preview`.
_REST = r"(?:-(?:\d[\d-]*|latest|preview|exp)[\w.-]*)?"
_MODELS: tuple[tuple[str, Vision], ...] = (
    (rf"gpt-4o-mini{_REST}", _by_tiles(2833, 5667)),
    (rf"(?:chat)?gpt-(?:4o|4\.1|4\.5|4-turbo){_REST}", _by_tiles(85, 170)),
    (rf"gpt-5(?:-chat)?{_REST}", _by_tiles(70, 140)),
    (rf"(?:o1|o1-pro|o3){_REST}", _by_tiles(75, 150)),
    (rf"(?:gpt-5|gpt-4\.1)-mini{_REST}", _by_patches(1.62)),
    (rf"(?:gpt-5|gpt-4\.1)-nano{_REST}", _by_patches(2.46)),
    (rf"o4-mini{_REST}", _by_patches(1.72)),
    (rf"gpt-5\.2(?:-chat)?{_REST}", _by_patches(1.2)),
    (rf"gpt-5\.4{_REST}", _by_patches(1.2, 2500, 10_000)),
    (rf"gpt-5\.4-(?:mini|nano){_REST}", _by_patches(2.46)),
    (r"claude-.*", _claude()),
    (r"gemini-(?:1\.5|2\.0|2\.5)-(?!.*image).*", _gemini()),
    (r"gemini-3(?:\.\d)?-(?!.*image).*", _gemini_3()),
    (r"(?:qwen3-vl|qwen3\.[56]|qwen-vl-(?:max|plus)(?:-latest)?$).*", _qwen(32)),
    (r"(?:qwen-vl|qwen2-vl|qwen2\.5-vl|qvq).*", _qwen(28)),
    (r"pixtral.*", _mistral(16, 1024)),
    (r"(?:mistral-(?:small|medium)|magistral|ministral).*", _mistral(28, 1540)),
)


def vision_of(model: str) -> Vision:
    """Return how a model counts images; `UNKNOWN` if no formula is known.

    Args:
        model: as the service knows it. A relay's prefix `vendor/`, and what OpenAI adds to the name of a tuned model,
            are ignored.
    """
    name = model.rpartition("/")[2].lower()
    if name.startswith("ft:"):
        name = name.split(":")[1]
    name = name.partition(":")[0]
    return next((vision for pattern, vision in _MODELS if re.fullmatch(pattern, name)), UNKNOWN)


def pictures_in(parts: list[Any]) -> list[Picture] | None:
    """Return the images that parts of messages are; None if one of them is something else, such as audio."""
    found = [Picture.of(part) for part in parts]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else None
