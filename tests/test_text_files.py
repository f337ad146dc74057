"""Text files as people have them are read cell for cell, or refused with the place and what to do."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import os
import random
import resource
import signal
import stat
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import expected_answer, table

import batcher
from batcher.cli import main
from batcher.errors import InputError, SettingsError
from batcher.input.dataset import Dataset
from batcher.input.likely import likely_encoding
from batcher.input.opening import Reading, open_dataset
from batcher.input.text_file import TextFile
from batcher.records import Values
from batcher.words import command_line

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
CHINESE = "好评差评质量服务快递包装价格"


def opened(path: Path | str, encoding: str | None = None, separator: str | None = None) -> Dataset:
    return open_dataset(path, Reading.of(encoding, separator))


def rows_of(dataset: Dataset) -> list[Values]:
    return [row for part in dataset.slices(7) for row in part.rows]


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fault(path: Path | str, encoding: str | None = None, separator: str | None = None) -> str:
    """Read a table to its end, and return what is said, without the file's directory."""
    with pytest.raises(InputError) as caught:
        rows_of(opened(path, encoding, separator))
    return str(caught.value).replace(f"{Path(path).parent}{os.sep}", "")


# --- what was written is read back -----------------------------------------------------------------

ALPHABETS = {
    "utf-8": "aé数😀\u2028",
    "utf-8-sig": "aé数😀",
    "utf-16": "aé数😀",
    "utf-32": "aé数😀",
    "gb18030": CHINESE + "é€",
    "big5": "好評差質量",
    "cp932": "とても良いカメラ",
    "cp949": "정말좋습니다",
    "cp1252": "aéß€“",
    "cp1251": "хорошо",
}
MARKED = {"utf-8-sig", "utf-16", "utf-32"}


@st.composite
def tables(draw: st.DrawFn, alphabet: str, separator: str) -> list[list[str]]:
    """Make a header and up to six rows, of the characters that CSV has a use for and some others."""
    char = st.sampled_from([*"ab 1'", separator, '"', "\n", "\r", "\\", *alphabet])
    # A carriage return that pandas leaves unquoted at the end of a line is a part of the line's end.
    cell = st.text(char, max_size=8).map(lambda text: text.rstrip("\r"))
    name = st.text(st.sampled_from([*"abc ", *alphabet]), min_size=1, max_size=4)
    header = draw(st.lists(name, min_size=1, max_size=4, unique=True))
    width = len(header)
    return [header, *draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=6))]


def as_csv(rows: list[list[str]], separator: str, line_end: str, writer: str) -> str:
    if writer == "pandas":
        frame = pd.DataFrame(rows[1:], columns=rows[0], dtype=str)
        return str(frame.to_csv(index=False, sep=separator, lineterminator=line_end))
    text = io.StringIO(newline="")
    # Without quotes around everything, csv.writer leaves line ends bare that are not its own.
    quoting: Any = csv.QUOTE_MINIMAL if line_end == "\r\n" else csv.QUOTE_ALL
    csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(rows)
    return text.getvalue()


@given(st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_back_in_every_encoding_separator_and_compression(
    tmp_path: Path, data: st.DataObject
) -> None:
    encoding = data.draw(st.sampled_from(sorted(ALPHABETS)))
    separator = data.draw(st.sampled_from([",", ";", "\t", "|", "~"]))
    writer, line_end = data.draw(st.sampled_from([("pandas", "\n"), ("csv", "\n"), ("csv", "\r\n"), ("csv", "\r")]))
    ending = data.draw(st.sampled_from(list(PACKED)))
    rows = data.draw(tables(ALPHABETS[encoding], separator))
    content = as_csv(rows, separator, line_end, writer).encode(encoding)
    path = saved(tmp_path, f"t.csv{ending}", PACKED[ending](content))
    given_encoding = None if encoding == "utf-8" or encoding in MARKED else encoding
    dataset = opened(path, given_encoding, None if separator == "," else separator)
    assert dataset.columns == tuple(rows[0])
    assert rows_of(dataset) == [tuple(row) for row in rows[1:]]
    assert rows_of(dataset) == [tuple(row) for row in rows[1:]]


@given(st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_back_as_an_array_or_by_lines(tmp_path: Path, data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(["utf-8", "utf-16", "gb18030"]))
    kind, ending = (
        data.draw(st.sampled_from([".json", ".jsonl", ".ndjson", ".txt"])),
        data.draw(st.sampled_from(list(PACKED))),
    )
    value = (
        st.text('ab\n"\\,[]{}' + CHINESE, max_size=6)
        | st.integers()
        | st.booleans()
        | st.none()
        | st.lists(st.integers())
    )
    pairs = data.draw(st.lists(st.tuples(value, value), min_size=2, max_size=5))
    rows = [{"a": first, "b": second} for first, second in pairs]
    is_array, indent = data.draw(st.booleans()), data.draw(st.sampled_from([None, 2]))
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = json.dumps(rows, ensure_ascii=False, indent=indent) if is_array else "\n".join(lines)
    path = saved(tmp_path, f"t{kind}{ending}", PACKED[ending](text.encode(encoding)))
    dataset = opened(path, "gb18030" if encoding == "gb18030" else None)
    assert dataset.columns == ("a", "b")
    assert rows_of(dataset) == pairs


# --- encodings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("好评\n2,差评", "gbk", "byte 0xba is not UTF-8: it is likely gb18030 (Chinese, also called GBK)"),
        ("這個商品品質很好,下次還會再來購買", "big5", "it is likely big5 (traditional Chinese)"),
        ("とても良い商品です", "shift_jis", "it is likely cp932 (Japanese, also called Shift-JIS)"),
        ("とても良い商品です", "euc_jp", "it is likely euc_jp"),
        ("배송이 빠르고 품질이 좋습니다", "euc_kr", "it is likely cp949 (Korean, also called EUC-KR)"),
        ("café", "cp1252", "byte 0xe9 is not UTF-8: it is likely cp1252 (Western European)"),
        ("it\u2019s \u201cgood\u201d \u2013 très bon", "cp1252", "it is likely cp1252"),
        ("\u00bfQué tal? El niño comió", "cp1252", "it is likely cp1252"),
        ("Été à Paris et déjà vu", "mac_roman", "it is likely mac_roman (Western European, of an old Mac)"),
        ("Zażółć gęślą jaźń", "cp1250", "it is likely cp1250 (Central European)"),
        ("Хороший товар", "cp1251", "it is likely cp1251 (Cyrillic)"),
        ("Хороший товар", "koi8_r", "it is likely koi8_r"),
        ("Хороший товар", "cp866", "it is likely cp866"),
        ("Хороший товар", "iso8859_5", "it is likely iso8859_5"),
        ("Το προϊόν είναι πολύ καλό και έφτασε γρήγορα", "cp1253", "it is likely cp1253 (Greek)"),  # noqa: RUF001
        ("Çok güzel bir ürün ve teşekkürler", "cp1254", "it is likely cp1254 (Turkish)"),
        ("המוצר טוב מאוד והגיע מהר", "cp1255", "it is likely cp1255 (Hebrew)"),
        ("منتج جيد جدا", "cp1256", "it is likely cp1256 (Arabic)"),
        ("สินค้าดีมาก", "cp874", "it is likely cp874 (Thai)"),
    ],
)
def test_another_encoding_is_refused_with_the_line_and_the_likely_name(
    tmp_path: Path, text: str, encoding: str, said: str
) -> None:
    text = text if encoding == "gbk" else text.replace(",", "\uff0c")
    path = saved(tmp_path, "t.csv", f"id,text\n1,{text}\n".encode(encoding))
    message = fault(path)
    assert message.startswith("t.csv, line 2: ")
    assert said in message
    codec = message.partition("likely ")[2].partition(" ")[0]
    assert f'add input_encoding="{codec}"' in message
    assert rows_of(opened(path, codec))[0][1] == text.partition("\n")[0]


def test_the_likely_name_holds_for_most_short_chinese_texts() -> None:
    draw = random.Random(1)
    common = [bytes([lead, trail]).decode("gbk") for lead in range(0xB0, 0xD7) for trail in range(0xA1, 0xFF)]
    texts = ["".join(draw.choices("的一是不好了在有人这我大来很" * 20 + "".join(common), k=8)) for _ in range(300)]
    found = [likely_encoding([f"id,text\n1,{text}\n".encode("gbk")]) for text in texts]
    assert sum(each.codec == "gb18030" for each in found) >= 285
    assert sum(each.is_mixed for each in found) <= 3


@pytest.mark.parametrize("first", ["gbk", "utf-8"])
def test_lines_in_two_encodings_are_named_and_no_name_is_proposed_for_all(tmp_path: Path, first: str) -> None:
    second = {"gbk": "utf-8", "utf-8": "gbk"}[first]
    path = saved(tmp_path, "t.csv", "id,text\n1,好评\n".encode(first) + "2,差评\n".encode(second))
    message = fault(path)
    assert message.startswith(f"t.csv, line {2 if first == 'gbk' else 3}: byte 0x")
    assert "but other lines are (this one is likely gb18030" in message
    assert "input_encoding" not in message
    assert "has text in UTF-8, of which gb18030 would make nonsense" in fault(path, "gb18030")


def test_lines_in_two_encodings_are_noticed_far_apart(tmp_path: Path) -> None:
    ascii_lines = b"1,plain\n" * 200_000
    path = saved(tmp_path, "t.csv", b"id,text\n" + "1,好评\n".encode() + ascii_lines + "2,差评\n".encode("gbk"))
    message = fault(path)
    assert message.startswith("t.csv, line 200003: ")
    assert "but other lines are" in message
    path = saved(tmp_path, "u.csv", b"id,text\n" + "2,差评\n".encode("gbk") + ascii_lines + "1,好评\n".encode())
    assert "but other lines are" in fault(path)
    cafe = "id,text\n1,café\n".encode() + "2,café\n".encode("cp1252")
    assert "but other lines are" in fault(saved(tmp_path, "v.csv", cafe))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,text\n1,好\n2,好".encode()[:-1], "line 3: the file ends within a character (byte 0xe5 in column 3), and"),
        ("text\n好评\nab".encode() + b"\xffc\n", "line 3: byte 0xff in column 3 is not UTF-8, and all else is: mend"),
        ("text\n1,好".encode()[:-1], "(or is the file cut off? It may end within a character of UTF-8)"),
        ("text\nとても良い\n".encode("iso2022_jp"), 'is in iso2022_jp: add input_encoding="iso2022_jp"'),
    ],
)  # fmt: skip
def test_a_damaged_character_in_utf_8_is_named_with_its_column(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in fault(saved(tmp_path, "t.csv", content))


def test_the_column_of_a_damaged_character_counts_from_the_line_in_an_earlier_block(tmp_path: Path) -> None:
    content = "text\n好评\n".encode() + b"x" * 200_000 + b"\xff\n"
    assert "line 3: byte 0xff in column 200001 is not UTF-8" in fault(saved(tmp_path, "t.csv", content))


def test_quotes_after_an_accent_are_not_taken_for_utf_8(tmp_path: Path) -> None:
    content = "text\n\u201ccaf\u00e9\u201d\u2026\nCAF\u00c9\u201d\n"
    path = saved(tmp_path, "t.csv", content.encode("cp1252"))
    assert "it is likely cp1252" in fault(path)
    assert rows_of(opened(path, "cp1252")) == [("\u201ccaf\u00e9\u201d\u2026",), ("CAF\u00c9\u201d",)]
    assert "has text in UTF-8, of which cp1252" in fault(saved(tmp_path, "t.csv", "text\ncaf\u00e9\n"), "cp1252")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_wide_encoding_without_a_mark_is_refused_with_its_name(tmp_path: Path, encoding: str) -> None:
    path = saved(tmp_path, "t.csv", "id,text\n1,good\n2,好\n".encode(encoding))
    message = fault(path)
    assert f'looks like {encoding.upper()} without a byte order mark: add input_encoding="{encoding}"' in message
    assert rows_of(opened(path, encoding)) == [("1", "good"), ("2", "好")]
    assert rows_of(opened(path, encoding.rpartition("-")[0])) == [("1", "good"), ("2", "好")]


def test_an_encoding_that_contradicts_the_mark_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv", "\ufeffid,text\n1,好\n".encode())
    assert "begins with the byte order mark of UTF-8: leave out" in fault(path, "gb18030")
    assert rows_of(opened(path, "utf-8")) == [("1", "好")]


def test_a_given_encoding_that_does_not_fit_a_later_line_names_it(tmp_path: Path) -> None:
    lines = [f"{number},好评" for number in range(30_000)]
    good = "\n".join(["id,text", *lines]).encode("gbk")
    path = saved(tmp_path, "t.csv", good + b"\n30000,\xff\n")
    dataset = opened(path, "gbk")
    assert len([None for part in dataset.slices(1, 30_000) for _ in part.rows]) == 30_000
    message = fault(path, "gbk")
    assert message.startswith("t.csv, line 30002: byte 0xff is not gbk: ")


def test_a_character_may_be_cut_between_two_blocks(tmp_path: Path) -> None:
    for encoding in ("utf-8", "gb18030", "utf-16"):
        for shift in range(4):
            text = "x" * shift + CHINESE * 6000
            path = saved(tmp_path, "t.csv", f"text\n{text}\n".encode(encoding))
            assert rows_of(opened(path, encoding if encoding == "gb18030" else None)) == [(text,)]


def test_utf_16_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    assert "line 3: byte 0x0a is not UTF-16-LE" in fault(
        saved(tmp_path, "t.csv", b"\xff\xfe" + "a,b\n1,2\n\n".encode("utf-16-le")[:-1])
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [("gb18031", "did you mean gb18030?"), ("base64", "there is no encoding 'base64'"), ("", "must be a text")],
)
def test_an_unknown_encoding_is_refused_with_a_near_one(tmp_path: Path, name: str, said: str) -> None:
    path = saved(tmp_path, "t.csv", "text\n1\n")
    with pytest.raises(SettingsError) as caught:
        batcher.plan(path, "{text}", provider="offline", input_encoding=name)
    assert str(caught.value).startswith("input_encoding")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["prompt_file", "system_file"])
def test_a_prompt_file_is_read_like_a_table(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, "t.csv", "text\n好\n")
    other: Any = {"prompt": "{text}"} if name == "system_file" else {}

    def plan(content: bytes, **options: Any) -> str:
        file = saved(tmp_path, "p.txt", content)
        given_options: Any = {**other, **options, name: file}
        return str(batcher.plan(path, provider="offline", **given_options))

    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert "1 row" in plan("情感\uff1a{text}\r\n".encode(encoding))
    with pytest.raises(InputError, match=rf"^{name} .*p\.txt, line 1: byte 0xc7 is not UTF-8: it is likely gb18030"):
        plan("情感如何\uff1a{text}".encode("gbk"))
    with pytest.raises(InputError, match="looks like UTF-16-LE without a byte order mark"):
        plan("label {text}".encode("utf-16-le"))
    gbk = saved(tmp_path, "t.csv", "text\n好\n".encode("gbk"))
    assert gbk == path
    for encoding in ("gbk", "utf-8"):  # of a table in GBK, the prompt may be in either
        assert "1 row" in plan("情感\uff1a{text}".encode(encoding), input_encoding="gb18030")


# --- separators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("char", [";", "\t", "|"])
def test_a_separator_is_found_if_the_header_leaves_no_doubt(tmp_path: Path, char: str) -> None:
    for kind in (".csv", ".txt"):
        path = saved(tmp_path, f"t{kind}", f'id{char}"a, b"\n1{char}good, but\n2{char}"x{char}y"\n')
        header_has_comma = saved(tmp_path, f"u{kind}", f'id{char}text\n1{char}good, but\n2{char}"x{char}y"\n')
        assert rows_of(opened(header_has_comma)) == [("1", "good, but"), ("2", f"x{char}y")]
        assert opened(path, separator=char).columns == ("id", "a, b")


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a;b\n1;2;3\n", ("a;b",)),  # the rows disagree
        ("a;b|c\n1;2|3\n", ("a;b|c",)),  # two kinds
        ("a;b,c\n1,2\n", ("a;b", "c")),  # with a comma there: comma
        ("a;b\n", ("a;b",)),  # no row agrees
        ("question: yes; or no\nplain\nalso; here\n", ("question: yes; or no",)),
        ('"a;b"\n"1;2"\n', ("a;b",)),  # in quotes
    ],
)
def test_a_doubtful_separator_is_a_comma(tmp_path: Path, content: str, columns: tuple[str, ...]) -> None:
    assert opened(saved(tmp_path, "t.csv", content)).columns == columns


def test_a_text_without_a_sure_separator_is_refused(tmp_path: Path) -> None:
    for content in ("one line\nanother\n", "a;b|c\n1;2|3\n"):
        assert "it is not certain which character separates the columns: add separator=" in fault(
            saved(tmp_path, "t.txt", content)
        )
    assert rows_of(opened(saved(tmp_path, "t.txt", "a,b\n1,2\n"))) == [("1", "2")]


@pytest.mark.parametrize("first", ["review", "I like it, really", "x" * 50])
def test_a_text_of_one_text_a_line_is_told_what_to_give(tmp_path: Path, first: str) -> None:
    path = saved(tmp_path, "t.txt", f"{first}\nsecond\n")
    message = fault(path)
    shown = first if len(first) < 40 else first[:40] + "..."
    assert f"If each line is a text, also the first, {shown!r}" in message
    way = message.partition("give ")[2].partition(", and the column is called text")[0]
    data = eval(way, {"open": lambda *_, **__: io.StringIO(path.read_text("utf-8"))})  # noqa: S307 - our own words
    assert rows_of(open_dataset(data)) == [(first,), ("second",)]
    with command_line():
        assert "jq -Rc '{text: .}' " in fault(path)
    for content in ("", "\n\n"):
        assert "the file is empty" in fault(saved(tmp_path, "t.txt", content))


@pytest.mark.parametrize(
    ("content", "option"), [("id;text\n1;x;y\n", 'separator=";"'), ("id|text\n1|x|y\n", 'separator="|"')]
)
def test_the_error_about_a_missing_column_names_the_separator(tmp_path: Path, content: str, option: str) -> None:
    path = saved(tmp_path, "t.csv", content)
    with pytest.raises(InputError) as caught:
        batcher.plan(path, "{text}", provider="offline")
    assert f"separates the columns, add {option}" in str(caught.value)


def test_the_command_line_spells_the_separator_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for char, spelled in ((";", "--separator ';'"), ("\t", "--separator tab")):
        saved(tmp_path, "t.csv", f"id{char}text\n1{char}x{char}y\n")
        assert main(["plan", "t.csv", "--prompt", "{text}", "--provider", "offline"]) == 2
        assert f"add {spelled}" in capsys.readouterr().err
    saved(tmp_path, "t.csv", "id\ttext\n1\tx\n")
    for given_as in ("tab", "\\t", "\t"):
        assert main(["plan", "t.csv", "--prompt", "{text}", "--provider", "offline", "--separator", given_as]) == 0
    for wrong in ("", ";;", "a", '"', " "):
        assert main(["plan", "t.csv", "--prompt", "{text}", "--provider", "offline", "--separator", wrong]) == 2
        assert "--separator must be one character" in capsys.readouterr().err


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_line_above_the_header_that_excel_reads_is_used_and_skipped(tmp_path: Path, line_end: str) -> None:
    content = line_end.join(["sep=;", "id;text, all", "1;good", "2;bad;worse", ""])
    path = saved(tmp_path, "t.csv", content)
    assert opened(path).columns == ("id", "text, all")
    assert fault(path).startswith("t.csv, line 4: the row has 3 fields, the header has 2")


@pytest.mark.parametrize("name", ["t.csv", "t.txt"])
def test_the_unicode_text_of_excel_is_read(tmp_path: Path, name: str) -> None:
    """Excel writes it in UTF-16 with tabs, and puts cells with a comma, a quote or a line break in quotes."""
    content = 'id\ttext\tlabel, or none\r\n1\t"好评, ""very"""\tx\r\n2\t"two\nlines"\t\r\n'
    path = saved(tmp_path, name, b"\xff\xfe" + content.encode("utf-16-le"))
    assert opened(path).columns == ("id", "text", "label, or none")
    assert rows_of(opened(path)) == [("1", '好评, "very"', "x"), ("2", "two\nlines", "")]


def test_a_separator_for_a_table_that_has_none_is_refused(tmp_path: Path) -> None:
    for name in ("t.jsonl", "t.json"):
        assert "only a CSV file has a separator: leave out" in fault(saved(tmp_path, name, '{"a": 1}'), separator=";")


def test_a_separator_for_a_table_in_memory_is_refused() -> None:
    with pytest.raises(InputError, match="the list: only a CSV file has a separator"):
        open_dataset(["a"], Reading(separator=";"))


# --- lines, quotes, the first column ---------------------------------------------------------------


def test_a_lone_carriage_return_is_text_where_lines_end_otherwise(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv", 'id,text\n1,one\rtwo\n2,"a\rb\r\nc"\n3,\r\rx\r\n4,\n')
    assert rows_of(opened(path)) == [("1", "one\rtwo"), ("2", "a\rb\r\nc"), ("3", "\r\rx"), ("4", "")]


def test_what_to_csv_writes_of_carriage_returns_is_read_back(tmp_path: Path) -> None:
    """On Python before 3.11.9 it leaves them unquoted."""
    frame = pd.DataFrame({"id": ["1", "2"], "text": ["a\rb", "\r"], "n": ["x", "y"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert rows_of(opened(tmp_path / "t.csv")) == list(frame.itertuples(index=False, name=None))


def test_a_file_of_an_old_mac_is_read_with_true_line_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv", 'id,text\r1,good\r2,"two\rlines\n"\r\r3,x\r')
    assert rows_of(opened(path)) == [("1", "good"), ("2", "two\rlines\n"), ("3", "x")]
    assert fault(saved(tmp_path, "t.csv", "id,text\r1,good\r2\r")).startswith("t.csv, line 3: the row has 1 field")
    assert fault(saved(tmp_path, "t.csv", b"id,text\r1,good\r2,\xff\r")).startswith("t.csv, line 3: byte 0xff")


def test_mixed_line_ends_that_would_move_cells_are_refused(tmp_path: Path) -> None:
    assert "the header has a carriage return" in fault(saved(tmp_path, "t.csv", "id,text\r1,good\r2,bad\n"))
    filler = "1,good\r" * 20_000
    assert "line 20002: a line feed (\\n) is outside quotes" in fault(
        saved(tmp_path, "u.csv", f"id,text\r{filler}2,a\nb\r")
    )


SPACES = "there is a space before a quote"
BACKSLASH = 'a quote is written as \\"'


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ('id, text\n1, "hello, world"\n', 2, SPACES),
        ('id,text\n1,x\n2, "hello"\n', 3, SPACES),
        ('id,text\n1,  ""\n', 2, SPACES),
        ('id,text\n1, ""\n2,x\n', 2, SPACES),
        ('id,text,n\n1, ",", 2\n', 2, SPACES),
        (' "id","text"\n1,x\n', 1, SPACES),
        ('id,text\n1,"he said \\"hi\\" to me"\n', 2, BACKSLASH),
        ('id,text\n1,x\n2,he said \\"hi\\"\n', 3, BACKSLASH),
        ('id,text\n1,"say \\"hi\\""\n', 2, BACKSLASH),
        ('id,text,n\n1,"say \\"hi\\", then",x\n', 2, BACKSLASH),
        ('id,text\n1,"5\\""\n2,"6\\""\n', 2, BACKSLASH),
        ('id;text\n1; "a"\n', 2, SPACES),
    ],
)
def test_quotes_that_readers_disagree_about_are_refused(tmp_path: Path, content: str, line: int, said: str) -> None:
    message = fault(saved(tmp_path, "t.csv", content))
    assert message.startswith(f"t.csv, line {line}: {said}")


def test_such_quotes_are_found_in_a_row_over_several_blocks(tmp_path: Path) -> None:
    filler = "x\n" * 100_000
    path = saved(tmp_path, "t.csv", f'id,text,n\n1,"{filler}", "y"\n')
    assert fault(path).startswith(f"t.csv, line 2: {SPACES}")
    path = saved(tmp_path, "u.csv", f'id,text,n\n1, "y","{filler}"\n')
    assert fault(path).startswith(f"u.csv, line 2: {SPACES}")


def test_what_only_looks_like_such_quotes_is_read(tmp_path: Path) -> None:
    rows = [
        ("C:\\dir\\", 'said, "yes", and left', '{"a": "say \\"hi\\""}'),
        ("ends, ", ' "spaced"', '\\", \\"'),
        ('"Hello, ",', "\\", 'a, "'),
        ("two\nlines", ', ""', "x"),
    ]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    path = saved(tmp_path, "t.csv", text.getvalue())
    assert rows_of(opened(path)) == rows
    path = saved(tmp_path, "u.csv", 'a,b\n5" pipe, a "quoted" word\n')
    assert rows_of(opened(path)) == [('5" pipe', ' a "quoted" word')]


def test_an_index_without_a_name_gets_the_name_that_pandas_gives(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["good", "bad"]}, index=[7, 9])
    frame.to_csv(tmp_path / "t.csv")
    dataset = opened(tmp_path / "t.csv")
    assert dataset.columns == tuple(pd.read_csv(tmp_path / "t.csv").columns) == ("Unnamed: 0", "text")
    assert rows_of(dataset) == [("7", "good"), ("9", "bad")]
    pd.read_csv(tmp_path / "t.csv").to_csv(tmp_path / "again.csv")
    assert opened(tmp_path / "again.csv").columns == tuple(pd.read_csv(tmp_path / "again.csv").columns)
    two = frame.set_index(pd.MultiIndex.from_tuples([(0, 2), (1, 3)]))
    two.to_csv(tmp_path / "two.csv")
    assert opened(tmp_path / "two.csv").columns == ("Unnamed: 0", "Unnamed: 1", "text")
    assert "column 2 of 2 has no name" in fault(saved(tmp_path, "u.csv", "a,\n1,2\n"))


# --- JSON ------------------------------------------------------------------------------------------


def test_what_pandas_writes_as_json_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": range(5000), "text": ['好, "x"\n'] * 5000})
    rows = list(frame.itertuples(index=False, name=None))
    for name, options in (("t.json", {"indent": 2}), ("u.jsonl", {}), ("v.json", {"lines": True}), ("w.json.gz", {})):
        frame.to_json(tmp_path / name, orient="records", **options)
        assert rows_of(opened(tmp_path / name)) == rows, name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"a": 1},\n {"a": 2},]', "line 2, column 11: not JSON: an object is missing"),
        ('[{"a": 1},\n {"a" 2}]', "line 2, column 7: not JSON: Expecting ':' delimiter"),
        ('[{"a": 1}\n {"a": 2}]', "line 2, column 2: not JSON: ',' is missing"),
        ('[{"a": 1}, 5]', "line 1, column 12: each item of the array must be an object, this one is a number"),
        ('[{"a": 1}, [1]]', "this one is a list"),
        ('["x"]', "this one is a string"),
        ('[{"a": 1}', "not JSON: ',' is missing"),
        ('[{"a": 1}, {"a": "x', "line 1, column 18: not JSON: Unterminated string"),
        ('[{"a": 1}] {"a": 2}', "line 1, column 12: there is text after the end of the array"),
        ('[{"a": 1, "a": 2}]', "an object has more than one key 'a'"),
        ('[{"a": ' + "[" * 300 + "]" * 300 + "}]", "it is nested deeper than 200 levels"),
        ('[{"a": ' + "[" * 100_000, "the JSON cannot be read"),
        ('{\n  "a": 1\n}\n{\n  "a": 2\n}\n', "line 1, column 2: not JSON"),
        ('{"id":{"0":1,"1":2},"text":{"0":"x","1":"y"}}', "holds one object instead of rows"),
        ('{"data": [{"a": 1}, {"a": 2}]}', "holds one object instead of rows: the list is in 'data': give json.load("),
        ('{\n "data": [\n  {"a": 1}]}', "holds one object instead of rows: the list is in 'data': give json.load("),
        ('{"n": 2, "rows": [{"a": 1}, {"a": 2}]}', "holds one object instead of rows: the list is in 'rows'"),
        ('{"a": {"data": [{"a": 1}]}}', "the list is in 'a.data'"),
        ('{"x": [{"a": 1}], "y": [{"a": 1}]}', "the lists are in 'x' and 'y'"),
        ('{"type": "FeatureCollection", "features": []}', "a GeoJSON, with the rows in its features"),
        ('{"id": [1, 2], "text": ["x", "y"]}', "it has a list for each column: give pandas.DataFrame(json.load("),
        ('["x"]', "this one is a string; of texts, give json.load("),
        ("[[1]]", "this one is a list; of lists, give pandas.DataFrame(json.load("),
    ],
)
def test_broken_json_is_named_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    assert said in fault(saved(tmp_path, "t.json", content))


@pytest.mark.parametrize("orient", ["split", "columns", "index", "table"])
def test_what_pandas_writes_in_one_object_is_told_with_the_call_that_reads_it(tmp_path: Path, orient: Any) -> None:
    frame = pd.DataFrame({"id": ["007", "1"], "text": ["good", "2024-01-01"]}).set_index("id", drop=False)
    frame.index.name = None
    path = tmp_path / "t.json"
    (frame if orient != "columns" else frame.reset_index(drop=True)).to_json(path, orient=orient)
    message = fault(path)
    assert "holds one object instead of rows" in message
    names = {"pandas": pd, "json": json, "open": lambda *_, **__: io.StringIO(path.read_text("utf-8"))}
    data = eval(message.partition("give ")[2], names)  # noqa: S307 - our own words
    rows = rows_of(open_dataset(data))
    assert [row[-2:] for row in rows] == [("007", "good"), ("1", "2024-01-01")]


def test_an_object_that_is_a_row_stays_one(tmp_path: Path) -> None:
    for row in (
        {"id": 1, "text": "x", "tags": [{"n": 1}, {"n": 2}]},
        {"id": 1, "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]},
    ):
        assert rows_of(opened(saved(tmp_path, "t.json", json.dumps(row)))) == [tuple(row.values())]
    wrapped = '{"data": [{"a": 1}, {"a": 2}]}'
    assert opened(saved(tmp_path, "t.jsonl", wrapped)).columns == ("data",)


def test_an_object_over_several_lines_is_told_what_to_do(tmp_path: Path) -> None:
    assert "this one does not end on its line (`jq -c .` writes it on one)" in fault(
        saved(tmp_path, "t.jsonl", '{\n  "a": 1\n}\n')
    )


@pytest.mark.parametrize("content", ["[]", " [ ] \n", ""])
def test_json_without_rows_is_an_empty_table(tmp_path: Path, content: str) -> None:
    assert rows_of(opened(saved(tmp_path, "t.json", content))) == []


def test_an_array_is_read_over_many_blocks(tmp_path: Path) -> None:
    rows = [{"n": number, "text": "x" * (200_000 if number == 70 else 2000)} for number in range(200)]
    path = saved(tmp_path, "t.json", json.dumps(rows))
    assert rows_of(opened(path)) == [tuple(row.values()) for row in rows]
    broken = saved(tmp_path, "u.json", json.dumps(rows)[:-1] + ", {'a'}]")
    assert f"line 1, column {len(json.dumps(rows)) + 3}: not JSON" in fault(broken)


# --- compressed files ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_an_archive_that_is_cut_off_or_damaged_is_refused(tmp_path: Path, ending: str) -> None:
    content = "id,text\n" + "".join(f"{number},{random.Random(number).random()}\n" for number in range(30_000))
    packed = PACKED[ending](content.encode())
    assert len(rows_of(opened(saved(tmp_path, f"t.csv{ending}", packed)))) == 30_000
    message = fault(saved(tmp_path, f"t.csv{ending}", packed[: len(packed) * 2 // 3]))
    assert message.startswith(f"t.csv{ending}, line ")
    assert message.endswith("file is cut off: copy or download it again")
    assert (int(message.split()[2]) > 1) is (ending != ".bz2")  # whose blocks are longer than this text
    assert "is cut off" in fault(saved(tmp_path, f"t.csv{ending}", packed[:-1]))
    middle = len(packed) // 2
    damaged = packed[:middle] + bytes(byte ^ 0xFF for byte in packed[middle : middle + 40]) + packed[middle + 40 :]
    assert fault(saved(tmp_path, f"t.csv{ending}", damaged)).endswith("file is damaged: copy or download it again")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_archives_that_were_joined_are_read_to_their_end(tmp_path: Path, ending: str) -> None:
    packed = PACKED[ending](b"id,text\n1,x\n") + PACKED[ending](b"2,y\n")
    assert rows_of(opened(saved(tmp_path, f"t.csv{ending}", packed))) == [("1", "x"), ("2", "y")]


def test_line_numbers_in_a_compressed_file_are_those_of_its_text(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv.gz", gzip.compress(b"id,text\n1,x\n2\n", mtime=0))
    assert fault(path).startswith("t.csv.gz, line 3: the row has 1 field")
    path = saved(tmp_path, "t.jsonl.zst", PACKED[".zst"](b'{"a": 1}\n\n{"a": }\n'))
    assert fault(path).startswith("t.jsonl.zst, line 3, column 7: not JSON")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", gzip.compress(b"a\n", mtime=0), "t.csv is a gzip file: name it t.csv.gz"),
        ("t.jsonl", bz2.compress(b"a\n"), "t.jsonl is a bzip2 file: name it t.jsonl.bz2"),
        ("t.csv", PACKED[".zst"](b"a\n"), "t.csv is a Zstandard file: name it t.csv.zst"),
        ("t.csv.gz", b"a,b\n", "t.csv.gz is no gzip file: if it is complete, name it t.csv"),
        ("t.csv.gz", bz2.compress(b"a\n"), "t.csv.gz is a bzip2 file: if it is complete, name it t.csv.bz2"),
        ("t.csv.zip", b"PK\x03\x04", "is a ZIP file: unpack it first"),
        ("t.zip", b"PK\x03\x04", "unpack it first: a ZIP file may hold several tables"),
        ("t.csv", b"PK\x03\x04", "is an Excel workbook or another ZIP file"),
        ("t.csv.xz", b"\xfd7zXZ\x00", "unpack it first"),
        ("t.csv", b"\xfd7zXZ\x00", "is an xz file: unpack it first"),
        ("t.tar.gz", gzip.compress(b"a\n", mtime=0), "the ending .tar.gz is not known"),
        ("t.gz", gzip.compress(b"a\n", mtime=0), "the file name has no ending before .gz"),
        ("t.csv.gz", gzip.compress(gzip.compress(b"a\n", mtime=0), mtime=0), "is a gzip file inside a gzip file"),
        ("t.parquet.gz", gzip.compress(b"PAR1", mtime=0), "the ending .parquet.gz is not known"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    assert said in fault(saved(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "keyword"), [("data.csv.gz", "data"), ("my.data.csv", "my.data"), ("my.data.jsonl.zst", "my.data")]
)
def test_a_run_is_named_after_its_input_without_the_endings(tmp_path: Path, name: str, keyword: str) -> None:
    content = b'{"text": "x"}\n' if "jsonl" in name else b"text\nx\n"
    path = saved(tmp_path, name, PACKED[Path(name).suffix if Path(name).suffix in PACKED else ""](content))
    assert batcher.plan(path, "{text}", provider="offline", output_dir=tmp_path).keyword == keyword


# --- standard input and pipes ----------------------------------------------------------------------


@contextlib.contextmanager
def piped(content: bytes) -> Iterator[None]:
    """Let the standard input of this process be a pipe with this content."""
    before, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    writer = threading.Thread(target=_write, args=(writing, content))
    writer.start()
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        writer.join()


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as file:
        file.write(content)


def is_open_in(folder: Path) -> bool:
    """Return whether this process has a file of a directory open, which need not have a name in it any more."""
    links = [each for each in Path("/proc/self/fd").iterdir() if os.path.lexists(each)]
    return any(str(each.readlink()).startswith(str(folder)) for each in links)


@pytest.mark.skipif(os.name != "posix", reason="file descriptors are replaced")
@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"id;text\n1;x\n", [("1", "x")]),
        (b'{"id": 1, "text": "x"}\n', [(1, "x")]),
        (b'[{"id": 1, "text": "x"}]', [(1, "x")]),
        (gzip.compress(b"id,text\n1,x\n", mtime=0), [("1", "x")]),
        ("id\ttext\n1\t好\n".encode("utf-16"), [("1", "好")]),
        (b"id,text\n" + b"1,x\n" * 300_000, [("1", "x")] * 300_000),
    ],
)
def test_standard_input_is_read_by_its_content_as_often_as_needed(content: bytes, rows: list[Values]) -> None:
    for name in ("-", "/dev/stdin"):
        with piped(content):
            dataset = opened(name)
        assert dataset.name == "standard input" if name == "-" else name
        assert rows_of(dataset) == rows
        assert rows_of(dataset) == rows
        assert not dataset.has_changed()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone shows what is open")
def test_the_copy_of_standard_input_is_nowhere_on_the_disk_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with piped(b"id,text\n1,x\n"):
        dataset = opened("-")
    assert list(tmp_path.iterdir()) == []
    assert is_open_in(tmp_path)
    assert rows_of(dataset) == [("1", "x")]
    del dataset
    assert not is_open_in(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="POSIX alone has this limit")
def test_a_pipe_that_does_not_fit_on_the_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with piped(b"text\n" + b"x\n" * 2**20), pytest.raises(InputError) as caught:
            opened("-")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "standard input cannot be copied to" in str(caught.value)
    assert "let TMPDIR name a larger directory, or save the table to a file" in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_read_by_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(gzip.compress(b"id,text\n1,x\n", mtime=0),))
    writer.start()
    dataset = opened(path)
    writer.join()
    assert rows_of(dataset) == rows_of(dataset) == [("1", "x")]
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="process substitution needs /dev/fd")
def test_a_substituted_process_is_read_by_its_content() -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=_write, args=(writing, b'{"a": 1}\n{"a": 2}\n'))
    writer.start()
    dataset = opened(f"/dev/fd/{reading}")
    writer.join()
    os.close(reading)
    assert rows_of(dataset) == [(1,), (2,)]


@pytest.mark.skipif(os.name != "posix", reason="file descriptors are replaced")
def test_a_run_from_standard_input_resumes_and_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = "id;text\n1;好评\n2;差评\n3;x\n".encode("gbk")
    command = ["-", "--prompt", "Label: {text}", "--provider", "offline", "--input-encoding", "gb18030"]
    with piped(content):
        assert main(["run", *command]) == 2
    assert "standard input has no file name to name the run after: give --keyword" in capsys.readouterr().err
    with piped(content):
        assert main(["run", *command, "--keyword", "k", "--limit", "2"]) == 0
    with piped(content):
        assert main(["plan", *command, "--keyword", "k"]) == 0
    assert "3 rows: 2 answered, 1 new" in capsys.readouterr().out
    with piped(content):
        assert main(["run", *command, "--keyword", "k"]) == 0
    result = table(tmp_path / "output" / "all_k.csv")
    assert [(row["id"], row["text"], row["infer"]) for row in result] == [
        (name, text, expected_answer(f"Label: {text}")) for name, text in (("1", "好评"), ("2", "差评"), ("3", "x"))
    ]
    with piped(content):
        assert main(["verify", "k", "-"]) == 0
    as_utf8 = saved(tmp_path, "t.csv", content.decode("gbk"))
    assert main(["verify", "k", str(as_utf8), "--input-encoding", "utf-8"]) == 0
    assert main(["verify", "k", str(as_utf8)]) == 2
    assert "has text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", "id,text\n1,好评\n2,差评\n".encode("gbk"), {"input_encoding": "gbk"}),
        ("t.csv.zst", PACKED[".zst"](b"id|text\n1|x\n2|y|z\n".replace(b"|z", b"")), {"separator": "|"}),
        ("t.json.bz2", bz2.compress(b'[{"id": 1, "text": "x"},\n{"id": 2, "text": "y"}]'), {}),
        ("t.csv", b",text\n0,good\n1,a\rb\n", {}),
        ("t.txt", "id\ttext\r\n1\t好\r\n2\tx\r\n".encode("utf-16"), {}),
    ],
)
def test_each_kind_of_file_is_run_resumed_and_verified(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any]
) -> None:
    path = saved(tmp_path, name, content)
    given_options: Any = {"provider": "offline", "output_dir": tmp_path / "o", "quiet": True, **options}
    first = batcher.run(path, "Label: {text}", limit=1, **given_options)
    assert (first.keyword, first.ok) == ("t", 1)
    report = batcher.run(path, "Label: {text}", **given_options)
    assert (report.ok, report.rows) == (2, 2)
    assert batcher.verify("t", path, output_dir=tmp_path / "o").ok


@pytest.mark.parametrize(
    ("kind", "ending"), [(".csv", ""), (".jsonl", ""), (".json", ""), (".csv", ".zst"), (".json", ".gz")]
)
def test_memory_does_not_grow_with_the_text(tmp_path: Path, kind: str, ending: str) -> None:
    peaks = []
    for count in (3000, 12_000):
        lines = [f'{{"id": {number}, "text": "{"好" * 50}"}}' for number in range(count)]
        text = {".csv": "id,text\n" + "".join(f"{n},{'好' * 60}\n" for n in range(count)), ".jsonl": "\n".join(lines)}
        content = text.get(kind, f"[{','.join(lines)}]").encode()
        path = saved(tmp_path, f"{count}{kind}{ending}", PACKED[ending](content))
        del lines, text, content
        dataset = opened(path)
        tracemalloc.start()
        try:
            for _ in dataset.slices(100):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 50_000


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    bomb = zstandard.ZstdCompressor().compress(b"text\n" + b"x" * 2**28)
    path = saved(tmp_path, "t.csv.zst", bomb)
    assert "a line has more than 134,217,728 characters" in fault(path)
    assert TextFile("t", str(saved(tmp_path, "s.csv", "a\n"))).is_whole


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("rows", [2, 50])
def test_chinese_utf_16_without_a_mark_is_named_as_such(tmp_path: Path, codec: str, rows: int) -> None:
    text = "编号,评论\n" + "".join(f"{number},服务很好上菜也快\n" for number in range(rows))
    assert codec in fault(saved(tmp_path, "t.csv", text.encode(codec)))
