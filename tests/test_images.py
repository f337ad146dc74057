"""Images: a cell names them, the request has them, and nothing else depends on where they are."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pytest
from conftest import Lab
from fake_service import Service
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from programs import finish, local_server, started, write_table

import batcher
from batcher.calls.fast_chat import as_text
from batcher.calls.texts import one_line
from batcher.endpoint import Endpoint
from batcher.errors import BudgetReached, ChangedError, InputError, SettingsError
from batcher.input.images import Images, loaded
from batcher.input.key import keyer
from batcher.input.picture import Unusable, look_at, prepared, scaled
from batcher.input.prompt import from_messages_column
from batcher.input.question import asking
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Message, Terms, Usage
from batcher.records import Image as ImagePart
from batcher.server.answers import answer

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def picture(
    color: Any = RED, size: tuple[int, int] = (40, 30), mode: str = "RGB", kind: str = "PNG", **more: Any
) -> bytes:
    made = io.BytesIO()
    Image.new(mode, size, color).save(made, kind, **more)
    return made.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Asked(NamedTuple):
    """What a service has got: the text of the last message, and the images in it."""

    text: str
    images: list[bytes]
    parts: list[Message]


def asked_by(messages: Sequence[Message]) -> Asked:
    content: Any = messages[-1]["content"]
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    images = [base64.b64decode(url.partition(";base64,")[2]) for url in urls if url.startswith("data:")]
    return Asked("".join(part["text"] for part in parts if part["type"] == "text"), images, parts)


class Gallery(Service):
    """A service that answers with the hashes of the images that it gets."""

    def __init__(self, tokens: int = 10) -> None:
        super().__init__([])
        self.seen: list[Asked] = []
        self._tokens = tokens

    def caller(self, endpoint: Endpoint) -> Any:  # noqa: ARG002 - one for all
        return self

    async def call(
        self,
        messages: Sequence[Message],
        timeout_s: float,  # noqa: ARG002 - it answers after a second
        params: Mapping[str, Any] = NO_PARAMS,  # noqa: ARG002 - there are none
        terms: Terms = NO_TERMS,  # noqa: ARG002 - the same
    ) -> Completion:
        self.seen.append(asked_by(messages))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(1)
        self.in_flight -= 1
        told = " ".join(map(sha256, asked_by(messages).images)) or "nothing to see"
        return Completion(told, "stop", Usage(self._tokens, 2))


def images(tmp_path: Path, longest: int = 2048, detail: str | None = None) -> Images:
    return Images("image", ("image",), tmp_path, longest, detail)


def put(tmp_path: Path, value: object, **options: Any) -> tuple[list[Message], str]:
    return images(tmp_path, **options).put((value,), [{"role": "user", "content": "What is it?"}])


def sent(tmp_path: Path, value: object, **options: Any) -> Asked:
    messages, fault = put(tmp_path, value, **options)
    assert not fault
    return asked_by(loaded(messages))


# --- what a cell may hold ---


def as_cell(kind: str, place: Path, content: bytes) -> object:
    place.write_bytes(content)
    return {
        "relative path": place.name,
        "absolute path": str(place),
        "Path": place,
        "file URL": f"file://{quote(str(place))}",
        "data URL": data_url(content),
        "data URL in lines": data_url(content).replace("AAA", "AA\nA"),
        "data URL without base64": f"data:image/png,{quote(content)}",
        "bytes": content,
        "bytearray": bytearray(content),
        "struct with bytes": {"bytes": content, "path": "as it was called.png"},
        "struct with a path": {"bytes": None, "path": place.name},
        "list": [place.name],
        "JSON list": json.dumps([place.name]),
        "tuple of bytes": (content, None),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("relative path", "absolute path", "Path", "file URL", "data URL", "data URL in lines"),
        *("data URL without base64", "bytes", "bytearray", "struct with bytes", "struct with a path"),
        *("list", "JSON list", "tuple of bytes"),
    ],
)
def test_an_image_comes_in_many_forms_and_is_the_same_question(tmp_path: Path, kind: str) -> None:
    content = picture()
    cell = as_cell(kind, tmp_path / "a photo of 大.png", content)
    messages, fault = put(tmp_path, cell)
    [part, text] = messages[0]["content"]
    assert (fault, part, text["text"]) == (
        "",
        {"type": "image", "sha256": sha256(content), "size": [40, 30]},
        "What is it?",
    )
    assert sent(tmp_path, cell).images == [content]
    assert sent(tmp_path, images(tmp_path).as_text(cell)).images == [content]


@pytest.mark.parametrize("cell", ["", "  ", None, float("nan"), pd.NA, "[]", [], {"bytes": None, "path": None}])
def test_an_empty_cell_is_no_image(tmp_path: Path, cell: object) -> None:
    assert put(tmp_path, cell) == ([{"role": "user", "content": "What is it?"}], "")


def test_several_images_stand_in_their_order_before_the_text(tmp_path: Path) -> None:
    for name, color in (("a", RED), ("b", GREEN)):
        (tmp_path / f"{name}.png").write_bytes(picture(color))
    asked = sent(tmp_path, json.dumps(["b.png", "https://example.com/c.png", "a.png"]), detail="low")
    assert [part["type"] for part in asked.parts] == ["image_url", "image_url", "image_url", "text"]
    assert [part["image_url"]["detail"] for part in asked.parts[:3]] == ["low"] * 3
    assert asked.parts[1]["image_url"]["url"] == "https://example.com/c.png"
    assert asked.images == [picture(GREEN), picture(RED)]


def test_a_path_in_the_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.png").write_bytes(picture())
    assert sent(tmp_path / "elsewhere", "~/a.png").images == [picture()]


def png_of(width: int, height: int) -> bytes:
    """Return the beginning of a PNG that says it is as large as that."""
    import struct  # noqa: PLC0415 - for this alone
    import zlib  # noqa: PLC0415

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


FAULTS: dict[str, tuple[bytes | None, str]] = {
    "none.png": (None, "there is no such file"),
    "page.jpg": (b"\n<!DOCTYPE html><html>404</html>", "is a page of HTML"),
    "paper.png": (b"%PDF-1.7 ...", "is a PDF: make an image of each page"),
    "drawing.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "large.png": (b"version https://git-lfs.github.com/spec/v1\noid", "run git lfs pull"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "is an HEIC image: pip install pillow-heif"),
    "empty.png": (b"", "is empty"),
    "words.png": (b"a photo of a cat", "is not an image of a known format"),
    "cut.png": (picture()[:20], "is damaged"),
    "bomb.png": (png_of(40_000, 40_000), "has more than"),
    "bomblet.png": (png_of(10_000, 10_000), "has more than"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_no_image_is_the_rows_fault_by_its_bytes(tmp_path: Path, name: str) -> None:
    content, said = FAULTS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    messages, fault = put(tmp_path, name)
    assert fault.startswith(f"image {name}: ")
    assert said in fault
    assert messages[0]["content"][0] == {"type": "image", "unusable": name}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (7, "a value of type int is not a path"),
        (Image.new("RGB", (1, 1)), "give the path of its file, or the bytes that its save() writes"),
        ([7], "a value of type int is not a path"),
        ("s3://bucket/a.png", "s3:// is not read: give a path, an http(s) URL or a data URL"),
        ("data:image/png;base64,AAA$", "the base64 of a data URL is damaged"),
        (base64.b64encode(picture(kind="JPEG")).decode(), "write data:image/jpeg;base64, before it"),
        ("a\0b.png", "cannot be read"),
        (".", "this is a directory"),
        ("x" * 5000, "cannot be read"),
        ("[not JSON.png", "there is no such file"),
        (["a.png", {"bytes": 5}], "a value of type int is not a path"),
    ],
)
def test_a_cell_that_holds_something_else_is_the_rows_fault(tmp_path: Path, cell: object, said: str) -> None:
    _, fault = put(tmp_path, cell)
    assert said in fault
    assert len(fault) < 400


# --- what is sent ---


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("WEBP", "RGB"), ("GIF", "P")],
)
def test_what_services_take_is_sent_byte_for_byte(kind: str, mode: str) -> None:
    content = picture(1, mode=mode, kind=kind) if mode not in {"RGB", "RGBA"} else picture(mode=mode, kind=kind)
    media, data = prepared(content, look_at(content)[1:])
    assert (media, data) == (f"image/{kind.lower()}", content)


def animated(kind: str) -> bytes:
    made = io.BytesIO()
    first, second = Image.new("RGB", (40, 30), RED), Image.new("RGB", (40, 30), BLUE)
    first.save(made, kind, save_all=True, append_images=[second], lossless=True)
    return made.getvalue()


def of_16_bits() -> bytes:
    made = io.BytesIO()
    Image.new("I;16", (40, 30), 200 * 256).save(made, "PNG")
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "color"),
    [
        (picture(kind="BMP"), RED),
        (picture(kind="TIFF"), RED),
        (picture((0, 255, 255, 55), mode="CMYK", kind="JPEG"), (200, 0, 0)),
        (picture((0, 255, 255, 55), mode="CMYK", kind="TIFF"), (200, 0, 0)),
        (of_16_bits(), (200, 200, 200)),
        (picture(200.0, mode="F", kind="TIFF"), (200, 200, 200)),
        (picture(200 * 257, mode="I", kind="TIFF"), (200, 200, 200)),
        (animated("GIF"), RED),
        (animated("WEBP"), RED),
        (animated("PNG"), RED),
    ],
)
def test_other_images_become_a_jpeg_of_the_same_colour(content: bytes, color: tuple[int, int, int]) -> None:
    media, data = prepared(content, look_at(content)[1:])
    with Image.open(io.BytesIO(data)) as made:
        assert (media, made.format, made.size, made.mode) == ("image/jpeg", "JPEG", (40, 30), "RGB")
        found: Any = made.getpixel((20, 15))
    assert all(abs(is_now - was) <= 3 for is_now, was in zip(found, color, strict=True))


def test_a_transparent_image_stays_so_if_it_is_made_smaller() -> None:
    media, data = prepared(picture((*RED, 0), (400, 300), "RGBA"), (40, 30))
    with Image.open(io.BytesIO(data)) as made:
        assert (media, made.mode, made.size) == ("image/png", "RGBA", (40, 30))
        alpha = made.getchannel("A")
        assert alpha.getextrema() == (0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_sent_upright_and_without_its_metadata(kind: str, turn: int) -> None:
    stored = Image.new("RGB", (60, 40), RED)
    stored.paste(BLUE, (0, 0, 15, 10))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = turn, "a camera"
    made = io.BytesIO()
    stored.save(made, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = {
        1: (2, 2), 2: (-2, 2), 3: (-2, -2), 4: (2, -2), 5: (2, 2), 6: (-2, 2), 7: (-2, -2), 8: (2, -2),
    }[turn]  # fmt: skip
    look = look_at(made.getvalue())
    assert (look.width, look.height) == ((60, 40) if turn < 5 else (40, 60))
    for size in ((look.width, look.height), scaled(look.width, look.height, 30)):
        media, data = prepared(made.getvalue(), size)
        with Image.open(io.BytesIO(data)) as shown:
            assert shown.size == size
            found: Any = shown.convert("RGB").getpixel((upright[0] % size[0], upright[1] % size[1]))
            assert found[2] > 150
            if data != made.getvalue():
                assert not shown.getexif()
        assert media in {"image/jpeg", "image/png", "image/webp"}


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(0, 3000))
def test_an_image_is_never_enlarged_and_keeps_its_shape(width: int, height: int, longest: int) -> None:
    wide, high = scaled(width, height, longest)
    assert 1 <= wide <= width
    assert 1 <= high <= height
    if longest:
        assert max(wide, high) <= longest or max(wide, high) == 1
        assert abs(wide * height - high * width) <= max(width, height)
    else:
        assert (wide, high) == (width, height)


def test_a_photo_is_made_as_small_as_asked(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(size=(3000, 1500), kind="JPEG"))
    [data] = sent(tmp_path, "a.jpg", longest=100).images
    with Image.open(io.BytesIO(data)) as made:
        assert (made.size, made.format) == ((100, 50), "JPEG")
    assert sent(tmp_path, "a.jpg", longest=0).images == [picture(size=(3000, 1500), kind="JPEG")]


def test_a_damaged_end_and_too_much_data_are_found_when_the_image_is_loaded(tmp_path: Path) -> None:
    noise = io.BytesIO()
    Image.effect_noise((300, 300), 99).save(noise, "PNG")
    (tmp_path / "cut.png").write_bytes(noise.getvalue()[:-5000])
    messages, fault = put(tmp_path, "cut.png")
    assert not fault
    with pytest.raises(Unusable, match=r"^image cut\.png: is damaged: "):
        loaded(messages)
    (tmp_path / "large.png").write_bytes(noise.getvalue() + bytes(16_000_000))
    messages, _ = put(tmp_path, "large.png")
    with pytest.raises(Unusable, match=r"make a request of 21\.\d MB, and services take about 20\.0 MB: .*image_size"):
        loaded(messages)


# --- keys ---


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([RED, GREEN])), min_size=2, max_size=2))
def test_a_key_depends_on_the_bytes_of_an_image_and_not_on_its_path(places: list[tuple[str, Any]]) -> None:
    key = keyer({})
    with contextlib.ExitStack() as stack:
        import tempfile  # noqa: PLC0415 - a fixture would be shared by all examples

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = []
        for number, (name, color) in enumerate(places):
            place = folder / f"{number}{name}"
            place.write_bytes(picture(color))
            keys.append(key(put(folder, place.name)[0]))
        assert (keys[0] == keys[1]) == (places[0][1] == places[1][1])


def test_a_key_depends_on_the_size_that_is_sent_and_on_the_detail(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    key = keyer({})
    plain = key(put(tmp_path, "a.png")[0])
    assert key(put(tmp_path, "a.png", longest=50)[0]) == plain  # it is smaller than that anyway
    assert key(put(tmp_path, "a.png", longest=20)[0]) != plain
    assert key(put(tmp_path, "a.png", detail="high")[0]) != plain


# --- runs ---


def given_table(tmp_path: Path, names: Sequence[str], colors: Sequence[Any] = (RED, GREEN, BLUE)) -> Path:
    for name, color in zip(names, colors, strict=False):
        (tmp_path / name).write_bytes(picture(color))
    return write_table(tmp_path / "t.csv", ["image"], [[name] for name in names])


def answers(lab: Lab) -> list[str]:
    return [row["infer"] for row in lab.rows()]


ASK: dict[str, Any] = {"prompt": "What is it?", "image_column": "image"}


def test_a_missing_image_is_its_rows_error_and_is_asked_when_it_is_there(tmp_path: Path, lab: Lab) -> None:
    path = given_table(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "b.png").unlink()
    service = Gallery()
    lab.run(path, service, **ASK)
    assert [row["infer_status"] for row in lab.rows()] == ["ok", "error", "ok"]
    assert lab.rows()[1]["infer_error"] == f"image b.png: there is no such file in {tmp_path}"
    assert len(service.seen) == 2
    lab.run(path, service, retry_failed=True, **ASK)
    assert len(service.seen) == 2
    (tmp_path / "b.png").write_bytes(picture(GREEN))
    lab.run(path, service, **ASK)
    assert answers(lab) == [sha256(picture(color)) for color in (RED, GREEN, BLUE)]
    assert len(service.seen) == 3
    assert batcher.verify("k", path, output_dir=str(lab.directory)).ok


def test_the_status_counts_images_by_what_is_wrong_with_them(tmp_path: Path, lab: Lab) -> None:
    path = given_table(tmp_path, ["a.png", "b odd.png", "c.png", "d.png"], [RED] * 4)
    for name in ("a.png", "c.png"):
        (tmp_path / name).unlink()
    (tmp_path / "d.png").write_bytes(b"")
    lab.run(path, Gallery(), **ASK)
    status = batcher.status("k", output_dir=str(lab.directory))
    missing = f"image: there is no such file in {tmp_path}"
    assert status.failures == ((missing, 2), ("image: is empty", 1))


def test_a_changed_image_is_a_changed_question(tmp_path: Path, lab: Lab) -> None:
    path = given_table(tmp_path, ["a.png", "b.png"])
    lab.run(path, Gallery(), **ASK)
    (tmp_path / "b.png").write_bytes(picture(BLUE))
    with pytest.raises(ChangedError, match=r"1 answered to another question \(the image changed\)"):
        lab.run(path, Gallery(), **ASK)
    with pytest.raises(ChangedError, match=r"\(image_size was 2048, is 20\)"):
        lab.run(path, Gallery(), **ASK, image_size=20)
    assert not batcher.verify("k", path, output_dir=str(lab.directory)).ok
    lab.run(path, again := Gallery(), on_change="redo", **ASK)
    assert [asked.images for asked in again.seen] == [[picture(BLUE)]]
    (tmp_path / "b.png").unlink()
    found = batcher.verify("k", path, output_dir=str(lab.directory))
    assert "could not be asked now, for example because an image is gone" in str(found)


def test_an_image_that_moves_or_is_renamed_keeps_its_answer(tmp_path: Path, lab: Lab) -> None:
    path = given_table(tmp_path, ["a.png", "b.png"])
    lab.run(path, Gallery(), **ASK)
    (tmp_path / "sub").mkdir()
    shutil.move(tmp_path / "a.png", tmp_path / "sub" / "z.png")
    write_table(path, ["image"], [["sub/z.png"], ["b.png"]])
    lab.run(path, again := Gallery(), **ASK)
    assert not again.seen
    assert answers(lab) == [sha256(picture(RED)), sha256(picture(GREEN))]


@pytest.mark.parametrize("happens", ["changes", "vanishes"])
def test_an_image_that_changes_while_the_run_works_is_its_rows_error(tmp_path: Path, lab: Lab, happens: str) -> None:
    path = given_table(tmp_path, ["a.png", "b.png", "c.png"])
    place = tmp_path / "c.png"

    def happen() -> None:
        place.unlink() if happens == "vanishes" else place.write_bytes(picture(GREEN, (9, 9)))

    service = Gallery()
    one: dict[str, Any] = {"endpoints": [Endpoint("m", max_concurrency=1)]}
    lab.run(path, service, at={1.5: happen}, **ASK, **one)
    *others, last = lab.rows()
    assert [row["infer_status"] for row in others] == ["ok", "ok"]
    said = "image c.png: " if happens == "vanishes" else "was changed while the run worked: run it again"
    assert said in last["infer_error"]
    assert len(service.seen) == 2
    place.write_bytes(picture(BLUE, (8, 8)))
    lab.run(path, service, **ASK, **one)
    assert answers(lab)[2] == sha256(picture(BLUE, (8, 8)))


def test_an_image_without_change_is_asked_once_with_dedup(tmp_path: Path, lab: Lab) -> None:
    path = given_table(tmp_path, ["a.png", "copy of a.png", "b.png"], [RED, RED, BLUE])
    lab.run(path, service := Gallery(), dedup=True, **ASK)
    assert len(service.seen) == 2
    assert answers(lab) == [sha256(picture(color)) for color in (RED, RED, BLUE)]


def test_images_are_in_memory_only_while_they_are_in_flight(tmp_path: Path, lab: Lab) -> None:
    """Two hundred images have 80 MB as data URLs; three of them are in flight."""
    noise = io.BytesIO()
    Image.effect_noise((100, 100), 99).save(noise, "PNG")
    padding = bytes(300_000)
    for number in range(200):
        (tmp_path / f"{number}.png").write_bytes(noise.getvalue() + padding + str(number).encode())
    path = write_table(tmp_path / "t.csv", ["image"], [[f"{number}.png"] for number in range(200)])

    class Blind(Gallery):
        async def call(self, *arguments: Any, **options: Any) -> Completion:
            came = await super().call(*arguments, **options)
            self.seen.clear()
            return came

    service = Blind()
    tracemalloc.start()
    try:
        lab.run(path, service, **ASK, endpoints=[Endpoint("m", max_concurrency=3)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(set(answers(lab))) == 200
    assert service.peak == 3
    assert peak < 25_000_000


@pytest.mark.parametrize("form", ["file", "frame", "table"])
def test_the_images_of_a_dataset_are_sent(tmp_path: Path, lab: Lab, form: str) -> None:
    cells = [{"bytes": picture(RED), "path": "a.png"}, {"bytes": picture(BLUE), "path": None}, None]
    made = pa.table({"image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    data: Any = {"table": made, "frame": made.to_pandas(), "file": tmp_path / "d.parquet"}[form]
    if form == "file":
        import pyarrow.parquet as pq  # noqa: PLC0415 - for this alone

        pq.write_table(made, data)
    lab.run(data, Gallery(), **ASK)
    assert answers(lab) == [sha256(picture(RED)), sha256(picture(BLUE)), "nothing to see"]
    lab.run(data, again := Gallery(), **ASK)
    assert not again.seen
    assert batcher.verify("k", data, output_dir=str(lab.directory)).ok


def test_lists_in_a_table_name_several_images(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    given_table(tmp_path, ["a.png", "b.png"])
    monkeypatch.chdir(tmp_path)  # relative paths of a table in memory begin here
    frame = pd.DataFrame({"image": [["a.png", "b.png"], [], ["b.png"]]})
    lab.run(frame, Gallery(), **ASK)
    assert answers(lab) == [
        f"{sha256(picture(RED))} {sha256(picture(GREEN))}",
        "nothing to see",
        sha256(picture(GREEN)),
    ]
    lab.run(["a.png", "b.png"], texts := Gallery(), "What?", image_column="text", keyword="texts")
    assert sorted(asked.images for asked in texts.seen) == sorted([[picture(RED)], [picture(GREEN)]])


def test_paths_begin_where_the_files_of_the_table_are(tmp_path: Path, lab: Lab) -> None:
    for name, color in (("one", RED), ("two", GREEN)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(picture(color))
        write_table(tmp_path / name / "t.csv", ["image"], [[f"{name}/a.png"]])
    lab.run([tmp_path / "one" / "t.csv", tmp_path / "two" / "t.csv"], Gallery(), **ASK)
    assert answers(lab) == [sha256(picture(RED)), sha256(picture(GREEN))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_paths_of_a_table_from_a_pipe_begin_in_the_working_directory(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_table(tmp_path, ["a.png"])
    pipe = tmp_path / "elsewhere" / "t.csv"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    monkeypatch.chdir(tmp_path)
    writing = threading.Thread(target=pipe.write_text, args=("image\na.png\n",))
    writing.start()
    lab.run(pipe, Gallery(), **ASK)
    writing.join()
    assert answers(lab) == [sha256(picture(RED))]


def test_an_image_joins_the_last_message_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    given_messages = [
        {"role": "system", "content": "See."},
        {"role": "user", "content": "Before"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "Now"}]},
        {"role": "assistant", "content": "It is"},
    ]
    columns = ("messages", "image")
    ask = asking(from_messages_column("messages", columns), images=Images("image", columns, tmp_path, 0, None))
    messages = ask((json.dumps(given_messages), "a.png")).messages
    assert [messages[at] for at in (0, 1, 2, 4)] == [given_messages[at] for at in (0, 1, 2, 4)]
    assert [part["type"] for part in messages[3]["content"]] == ["image", "text"]
    with pytest.raises(InputError, match="no message of the role user"):
        ask((json.dumps(given_messages[:1]), "a.png"))


def test_a_chat_model_gets_the_images_as_parts(tmp_path: Path) -> None:
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel  # noqa: PLC0415 - slow to load
    from langchain_core.messages import AIMessage  # noqa: PLC0415

    got: list[Any] = []

    class Model(GenericFakeChatModel):
        def _generate(self, messages: Any, *arguments: Any, **options: Any) -> Any:
            got.append(messages)
            return super()._generate(messages, *arguments, **options)

    path = given_table(tmp_path, ["a.png"])
    llm = Model(messages=iter([AIMessage("a red one")]))
    report = batcher.run(
        path, "What?", image_column="image", endpoints=[Endpoint(llm=llm)], output_dir=tmp_path / "o", quiet=True
    )
    assert list(report.answers) == ["a red one"]
    [[message]] = got
    assert message.content[0]["image_url"]["url"] == data_url(picture())
    assert message.content[1]["text"] == "What?"


def test_a_plan_names_images_and_counts_the_rows_that_cannot_be_asked(tmp_path: Path) -> None:
    path = given_table(tmp_path, ["a.png", "b.png"])
    (tmp_path / "b.png").unlink()
    plan = batcher.plan(
        path, "What?", image_column="image", model="gpt-4o", api_key_env="NONE", budget=1.0, output_dir=tmp_path / "o",
        param={"max_tokens": 5},
    )  # fmt: skip
    shown = str(plan)
    assert "[image a.png, 40 x 30]" in shown
    assert "base64" not in shown + json.dumps(plan.to_dict())
    assert "Note: 1 row cannot be asked and ends as error. It is" in shown
    assert plan.requests == 1
    assert 255 < plan.prompt_tokens < 300  # 85 + 170 for the image
    assert plan.most_usd is not None


def test_a_hole_for_the_image_is_remarked_on(tmp_path: Path) -> None:
    path = given_table(tmp_path, ["a.png", "b.png"])
    plan = batcher.plan(path, "What is {image}?", image_column="image", provider="offline", output_dir=tmp_path / "o")
    assert "{image} writes the cell into the prompt; the image itself is sent without a hole" in str(plan)


def test_what_people_read_has_no_data_of_images() -> None:
    url = data_url(picture(size=(300, 300)))
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    [shown] = as_text([message])
    assert shown.content == '[{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}]'
    assert one_line(f"cannot decode '{url}'!") == "cannot decode 'data:image/png;base64,...'!"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_column": "photo"}, "image_column: the table has no column 'photo'"),
        ({"image_size": 9}, "image_size needs image_column"),
        ({"image_column": "image", "task": "completion"}, "only a chat can have images"),
        ({"image_detail": "low"}, "image_detail needs image_column"),
        ({"image_column": "image", "image_detail": "best"}, "image_detail must be one of low, high, auto, original"),
        ({"image_column": "image", "image_size": -1}, "image_size"),
        ({"image_column": "image", "examples": "e.csv", "labels": "a,b"}, "image_column and examples exclude"),
        (
            {"image_column": "image", "budget": 1.0, "price_in": 1.0, "price_out": 1.0},
            "budget: how many tokens an image has at m is not known",
        ),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    path = given_table(tmp_path, ["a.png", "b.png"])
    more: dict[str, Any] = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "param": {"max_tokens": 5}}
    with pytest.raises(SettingsError if "column 'photo'" not in said else InputError) as error:
        batcher.plan(path, "What?", **more, **options)
    assert said in str(error.value)


def test_without_pillow_the_option_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(SettingsError, match=r'image_column needs Pillow: pip install "batcher-llm\[images\]"'):
        batcher.plan(given_table(tmp_path, ["a.png"]), "What?", image_column="image", provider="offline")


# --- money ---


def test_a_budget_holds_with_images_of_known_cost(tmp_path: Path, lab: Lab) -> None:
    """gpt-4o: at most 85 + 170 x 4 tokens an image, if a small one is enlarged."""
    path = given_table(tmp_path, ["a.png", "b.png", "c.png"])
    prices = {"in": 1e6, "out": 1e6}  # a dollar for each token
    endpoint = Endpoint("gpt-4o", base_url="http://127.0.0.1:9/v1", prices=prices, max_concurrency=1)
    one = batcher.plan(
        path, "What?", image_column="image", endpoints=[endpoint], limit=1, param={"max_tokens": 2}, budget=1e6
    )
    assert one.most_usd is not None
    assert one.most_usd > 85 + 170
    with contextlib.suppress(BudgetReached):
        lab.run(
            path, service := Gallery(tokens=300), **ASK, endpoints=[endpoint], param={"max_tokens": 2},
            budget=one.most_usd + 350,
        )  # fmt: skip
    assert len(service.seen) == 2


def test_an_image_that_costs_more_than_the_formula_says_widens_the_bound(tmp_path: Path, lab: Lab) -> None:
    path = given_table(tmp_path, ["a.png", "b.png", "c.png"])
    endpoint = Endpoint("gpt-4o", base_url="http://127.0.0.1:9/v1", prices={"in": 1e6, "out": 1e6}, max_concurrency=1)
    options: dict[str, Any] = {**ASK, "endpoints": [endpoint], "param": {"max_tokens": 2}}
    with contextlib.suppress(BudgetReached):
        lab.run(path, service := Gallery(tokens=9000), **options, budget=15_000)
    assert len(service.seen) == 1  # the next one may cost 9,000 too, and 6,000 are left
    with contextlib.suppress(BudgetReached):
        lab.run(path, service, **options, budget=15_000)
    assert len(service.seen) == 1  # the next process remembers it


# --- the real programs ---


def image_row(content: bytes) -> str:
    """Return the answer of the local server to a row with this very image."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(content)}}, {"type": "text", "text": "What is it?"}]
    return answer({"messages": [{"role": "user", "content": parts}]})


def test_each_row_sends_its_own_image_also_after_a_kill(tmp_path: Path) -> None:
    colors = [(number, 255 - number, 7) for number in range(60)]
    path = given_table(tmp_path, [f"{number:03}.png" for number in range(60)], colors)
    output = tmp_path / "output"
    with local_server("--latency", "0.05", cwd=tmp_path) as server:
        job: list[str | Path] = [
            *("run", path, "--prompt", "What is it?", "--image-column", "image", "--base-url", server.base_url),
            *("--model", "sim", "--max-concurrency", "4", "--chunk-size", "10", "--canary", "0"),
        ]
        with started(*job, cwd=tmp_path, API_KEY="k") as program:
            server.wait_for(20)
            program.kill()
            finish(program)
        endpoint = Endpoint("sim", base_url=server.base_url, api_key="k", max_concurrency=4)
        report = batcher.run(
            path,
            "What is it?",
            image_column="image",
            endpoints=[endpoint],
            chunk_size=10,
            canary=0,
            output_dir=output,
            quiet=True,
        )
        assert 60 <= server.books()["requests"] <= 64
    assert list(report.answers) == [image_row(picture(color)) for color in colors]
    assert batcher.verify("t", path, output_dir=str(output)).ok


def test_the_local_server_sees_images() -> None:
    def ask(content: bytes, text: str = "As cat, dog or cow?") -> str:
        parts = [{"type": "image_url", "image_url": {"url": data_url(content)}}, {"type": "text", "text": text}]
        return answer({"messages": [{"role": "user", "content": parts}]})

    assert {ask(picture((n, n, n))) for n in range(30)} == {"cat", "dog", "cow"}
    assert ask(picture(), "83 - 3 =") == "80"


def test_a_part_is_plain_json_but_for_what_it_loads(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    [message], _ = put(tmp_path, "a.png")
    part = message["content"][0]
    assert isinstance(part, ImagePart)
    assert json.loads(json.dumps(part)) == part
    assert str(tmp_path) not in json.dumps(message)
