"""Looks at the bytes of an image, and makes the bytes that are sent.

Invariant: what an image is, is decided by its bytes, never by a name. What cannot be sent is refused with a reason, and
nothing is enlarged.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import math
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.errors import SettingsError
from batcher.words import blamed

if TYPE_CHECKING:
    from PIL import Image

_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""The formats that services take, with their media types."""
_PLAIN_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
"""Pillow's names of what such files hold if services can read it; not of CMYK, nor of 16 bits a pixel."""
# Not all that Pillow reads: it would start Ghostscript for an EPS.
_READ = (*_AS_THEY_ARE, "MPO", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "TGA", "PCX", "ICNS")
_QUALITY = 90  # of a JPEG: above it, files grow and no difference can be seen
_ORIENTATION = 0x0112  # the tag of EXIF
_ON_THE_SIDE = 5  # from this value on, width and height change places
_BEGINNING = 1024  # bytes to tell a text by


class Unusable(Exception):
    """An image cannot be sent; the text says why, and what to do."""


class Look(NamedTuple):
    """What is known of an image without decoding it.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        width: in pixels, as it is shown: turned as its EXIF orientation says.
        height: likewise.
    """

    sha256: str
    width: int
    height: int


def check_pillow() -> None:
    """Refuse images if Pillow is not installed.

    Raises:
        SettingsError: it is not.
    """
    try:
        importlib.import_module("PIL.Image")
    except ImportError as error:
        raise SettingsError(f'{blamed("image_column")} needs Pillow: pip install "batcher-llm[images]"') from error


def look_at(content: bytes) -> Look:
    """Return what the header of an image says.

    Raises:
        Unusable: it is not an image, or one that must not be decoded.
    """
    with _opened(content) as image:
        width, height = image.size
        if _turn(image) >= _ON_THE_SIDE:
            width, height = height, width
    return Look(hashlib.sha256(content).hexdigest(), width, height)


def scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return the size of an image whose longer side has at most this many pixels; 0: any number."""
    if not longest or max(width, height) <= longest:
        return width, height
    factor = longest / max(width, height)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def prepared(content: bytes, size: tuple[int, int]) -> tuple[str, bytes]:
    """Return an image as it is sent: its media type and its bytes.

    A JPEG, PNG, WebP or GIF of this size stays as it is, if services can read it and it stands upright. Otherwise the
    image (of an animation the first one) becomes a PNG if it is transparent, else a JPEG, without metadata.

    Args:
        content: its bytes.
        size: width and height to send.

    Raises:
        Unusable: it is damaged.
    """
    with _opened(content) as image:
        kind, turn = str(image.format), _turn(image)
        is_plain = image.mode in _PLAIN_MODES and not getattr(image, "is_animated", False)
        as_stored = size[::-1] if turn >= _ON_THE_SIDE else size
        try:
            if kind in _AS_THEY_ARE and is_plain and turn == 1 and image.size == size:
                image.load()
                return _AS_THEY_ARE[kind], content
            image.draft(image.mode, as_stored)  # a JPEG is decoded at a half, a quarter or an eighth of its size
            image.load()
            return _converted(image, size, turn)
        except Exception as error:
            raise Unusable(f"is damaged: {_said(error)}") from error


def _converted(image: Image.Image, size: tuple[int, int], turn: int) -> tuple[str, bytes]:
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    if turn > 1:
        image = ImageOps.exif_transpose(image)
    image = _in_8_bits(image)
    is_transparent = image.has_transparency_data
    image = image.convert("RGBA" if is_transparent else "RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    # A new image has none of the old one's metadata: a place, a camera, a profile.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    made = io.BytesIO()
    if is_transparent:
        bare.save(made, "PNG")
        return "image/png", made.getvalue()
    bare.save(made, "JPEG", quality=_QUALITY, subsampling=0)  # with all colours, so that coloured text stays sharp
    return "image/jpeg", made.getvalue()


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits a pixel as one of 8; Pillow would cut off what is brighter than 255."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode not in {"I", "F"}:
        return image
    tops = (255.0, 65535.0) if image.mode == "I" else (1.0, 255.0, 65535.0)
    image = image.convert("F")
    extrema: Any = image.getextrema()
    low, high = extrema
    if low >= 0:
        low, high = 0.0, next((top for top in tops if high <= top), high)
    factor = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * factor + -low * factor).convert("L")


def _opened(content: bytes) -> Image.Image:
    """Read the header of an image.

    Raises:
        Unusable: it has none, or of too large an image.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an extra

    too_large = f"has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels: it is damaged, or has to be made smaller"
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        raise Unusable(_what_else(content)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable(too_large) from error
    except Exception as error:
        raise Unusable(f"is damaged: {_said(error)}") from error
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        image.close()
        raise Unusable(too_large)
    return image


@cache
def _formats() -> list[str]:
    """Return the formats that this Pillow reads, and for HEIC `pillow-heif` if it is installed."""
    from PIL import Image  # noqa: PLC0415 - an extra

    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in _READ if name in Image.OPEN]


def _turn(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1: it stands upright."""
    # Pillow turns a TIFF itself, and would decode a PNG to search it for EXIF.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    with suppress(Exception):  # what is damaged says nothing
        turn = image.getexif().get(_ORIENTATION, 1)
        return turn if turn in range(1, 9) else 1
    return 1


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


_KNOWN_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")
_BEGINNINGS = {
    b"%pdf": "is a PDF: make an image of each page first, for example with pdftoppm -r 150 -png",
    b"<svg": "is an SVG drawing: save it as PNG first",
    b"version https://git-lfs": "is a pointer of Git LFS, not the image: run git lfs pull",
} | dict.fromkeys(
    (b"<!doctype html", b"<html", b"<head", b"<body"),
    "is a page of HTML, not an image: was an error page saved under this name?",
)


def _what_else(content: bytes) -> str:
    """Return what bytes are that are not an image, and what to do."""
    if not content:
        return "is empty"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
        return "is an HEIC image: pip install pillow-heif, or save it as JPEG"
    if content.startswith(_KNOWN_BYTES):
        return "is damaged: its header cannot be read"
    beginning = content[:_BEGINNING].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if beginning.startswith(b"<?xml") and b"<svg" in beginning:
        beginning = b"<svg"
    known = (said for mark, said in _BEGINNINGS.items() if beginning.startswith(mark))
    return next(known, "is not an image of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)")
