"""Formats that batcher does not read in a place: known by their first bytes or their ending, with what to do.

Invariant: only files that are refused are looked at, and nothing of them is unpacked or run.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from batcher.input.compressed import packing_by_magic
from batcher.input.likely import likely_encoding
from batcher.words import by_reader

_MOST_SEARCHED = 2**26  # bytes of a container of Office, whose directory may stand anywhere
_HEAD = 2**16  # bytes

Way = Callable[[str], str]
"""Returns what to do about a file, by its name."""


class Format(NamedTuple):
    """A format.

    Attributes:
        what: a file of it, such as `a Stata file`.
        way: what to do about one.
        is_text: its files are texts.
    """

    what: str
    way: Way
    is_text: bool = False

    def refusal(self, name: str) -> str:
        """Return what it is and what to do, behind `is` or `it is`."""
        return f"{self.what}: {self.way(name)}"


def _say(advice: str) -> Way:
    return lambda _: advice


def _by(library: str, call: str, *, first: str = "", note: str = "", out: str = "to_csv(%r, index=False)") -> Way:
    """Return the way by a call of a library that gives a DataFrame.

    Args:
        library: to import.
        call: the function, with `%s` for the path.
        first: another way, which comes first.
        note: what else to know.
        out: writes a CSV file.
    """

    def way(name: str) -> str:
        path = Path(name)
        is_plain = path.suffix and name.isprintable() and not _NOT_PLAIN.intersection(name)
        free = (each for each in (path.with_suffix(".csv"), path.with_name(f"{path.stem}_table.csv")) if is_plain)
        written = str(next((each for each in free if not each.exists()), "table.csv"))
        read = call % repr(name if is_plain else "FILE")
        made = by_reader(
            command_line=f'write it as CSV: python -c "import {library}; {read}.{out % written}"',
            python=f"give {read}",
        )
        return f"{first}{', or ' * bool(first)}{made}{note and f' ({note})'}"

    return way


def _named(ending: str) -> Way:
    """Return the way of a file whose name has the wrong ending; standard input has no name."""
    return lambda name: (
        f"let its name end in {ending}" if Path(name).suffix else f"save it to a file whose name ends in {ending}"
    )


_NOT_PLAIN = frozenset("'\"\\$`!%")  # what shells read in another way

_UNPACK = "unpack it first"
AGAIN = "copy or download it again"
_NO_TABLE = "it holds no table: make a CSV or JSONL file with one row for each text"
_EXCEL = _by("pandas", "pandas.read_excel(%s, dtype=str)", first="save it as .xlsx")
_ARROW = _by("pyarrow.feather", "pyarrow.feather.read_table(%s).to_pandas()")
_STREAM = _by("pyarrow", "pyarrow.ipc.open_stream(%s).read_pandas()")

FORMATS = {
    "xlsx": Format("an Excel workbook", _named(".xlsx")),
    "zip": Format(
        "an Excel workbook or another ZIP file",
        _say(f"let its name end in .xlsx, or {_UNPACK.replace('it', 'the ZIP file')}"),
    ),
    "archive": Format("a ZIP file", _say(f"{_UNPACK}: a ZIP file may hold several tables")),
    "parquet": Format("a Parquet file", _say("save it to a file whose name ends in .parquet")),
    "parquet-encrypted": Format("an encrypted Parquet file", _say("write it anew without encryption")),
    "xlsb": Format("a binary Excel workbook (.xlsb)", _EXCEL),
    "xls": Format("an old Excel workbook (.xls)", _EXCEL),
    "password": Format(
        "an Excel workbook with a password",
        _say("save it without the password (in Excel: File, Info, Protect Workbook)"),
    ),
    "ole": Format("encrypted, or an .xls file with another ending", _say("save it as .xlsx without a password")),
    "ods": Format("an OpenDocument spreadsheet (.ods)", _EXCEL),
    "numbers": Format("a spreadsheet of Apple's Numbers", _say("export it as .xlsx or CSV (File, Export To)")),
    "word": Format("a Word document", _say(_NO_TABLE)),
    "powerpoint": Format("a PowerPoint presentation", _say(_NO_TABLE)),
    "opendocument": Format("an OpenDocument text or drawing", _say(_NO_TABLE)),
    "pdf": Format("a PDF document", _say(_NO_TABLE)),
    "rtf": Format("an RTF document", _say(_NO_TABLE), is_text=True),
    "image": Format("an image", _say("give a table with a row for each image")),
    "html": Format(
        "a web page (HTML)",
        _by(
            "pandas",
            "pandas.read_html(%s)[0]",
            note="is it what you meant to download? Without logging in, a page may come instead",
        ),
    ),
    "xml": Format("an XML file", _by("pandas", "pandas.read_xml(%s)"), is_text=True),
    "spss": Format("an SPSS file", _by("pandas", "pandas.read_spss(%s)", note="it needs pyreadstat")),
    "stata": Format("a Stata file", _by("pandas", "pandas.read_stata(%s)")),
    "sas": Format("a SAS file", _by("pandas", "pandas.read_sas(%s, encoding='utf-8')")),
    "feather": Format("an Arrow or Feather file", _ARROW),
    "arrow-stream": Format("an Arrow stream", _STREAM),
    "orc": Format("an ORC file", _by("pandas", "pandas.read_orc(%s)")),
    "avro": Format("an Avro file", _by("polars", "polars.read_avro(%s)", out="write_csv(%r)")),
    "pickle": Format(
        "a pickle", _by("pandas", "pandas.read_pickle(%s)", note="only if you trust it: a pickle can run any program")
    ),
    "numpy": Format("a NumPy array", _by("numpy, pandas", "pandas.DataFrame(numpy.load(%s))")),
    "hdf": Format("an HDF5 file", _by("pandas", "pandas.read_hdf(%s)", note="it needs tables")),
    "sqlite": Format(
        "an SQLite database",
        _say("write a table of it as CSV, or give pandas.read_sql('SELECT * FROM ...', sqlite3.connect(path))"),
    ),
    "access": Format("an Access database", _say("export the table as CSV or .xlsx")),
    "r": Format("a file of R", _say("in R, write.csv(data, 'data.csv', row.names = FALSE, fileEncoding = 'UTF-8')")),
    "xz": Format("an xz file", _say(_UNPACK)),
    "packed": Format("an archive", _say(_UNPACK)),
    "geojson": Format(
        "a GeoJSON file", _say("jq -c '.features[].properties' FILE > rows.jsonl takes out the rows"), is_text=True
    ),
    "yaml": Format("a YAML file", _say("write it as JSON or JSONL"), is_text=True),
    "markdown": Format("a Markdown text", _say(_NO_TABLE), is_text=True),
}

_BINARY = {
    b"PAR1": "parquet",
    b"PARE": "parquet-encrypted",
    b"ORC": "orc",
    b"ARROW1": "feather",
    b"FEA1": "feather",
    b"\xff\xff\xff\xff": "arrow-stream",
    b"Obj\x01": "avro",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "packed",
    b"Rar!\x1a": "packed",
    b"\x93NUMPY": "numpy",
    b"\x89HDF\r\n": "hdf",
    b"SQLite format 3\0": "sqlite",
    b"\x00\x01\x00\x00Standard": "access",
    b"$FL2": "spss",
    b"$FL3": "spss",
    b"\0" * 12 + b"\xc2\xea\x81\x60": "sas",
    b"RDX": "r",
    b"\x89PNG\r\n": "image",
    b"\xff\xd8\xff": "image",
    b"GIF8": "image",
    b"\x80\x02": "pickle",
    b"\x80\x03": "pickle",
    b"\x80\x04": "pickle",
    b"\x80\x05": "pickle",
}
"""The first bytes of formats; those that are letters count only if bytes follow that no text has."""

_TEXT = {
    b"<stata_dta>": "stata",
    b"%pdf-": "pdf",
    b"{\\rtf": "rtf",
    b"<!doctype html": "html",
    b"<html": "html",
    b"<?xml": "xml",
    b"header record*******": "sas",
}
"""How texts and half-texts begin, in lower case."""

_ENDINGS = {
    **dict.fromkeys((".xls", ".xlt"), "xls"),
    ".xlsb": "xlsb",
    **dict.fromkeys((".ods", ".fods"), "ods"),
    ".numbers": "numbers",
    **dict.fromkeys((".doc", ".docx", ".docm"), "word"),
    **dict.fromkeys((".ppt", ".pptx"), "powerpoint"),
    **dict.fromkeys((".odt", ".odp"), "opendocument"),
    ".pdf": "pdf",
    ".rtf": "rtf",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp"), "image"),
    **dict.fromkeys((".htm", ".html"), "html"),
    ".xml": "xml",
    **dict.fromkeys((".sav", ".zsav"), "spss"),
    ".dta": "stata",
    **dict.fromkeys((".sas7bdat", ".xpt"), "sas"),
    **dict.fromkeys((".feather", ".ft", ".arrow", ".ipc"), "feather"),
    ".orc": "orc",
    ".avro": "avro",
    **dict.fromkeys((".pkl", ".pickle"), "pickle"),
    **dict.fromkeys((".npy", ".npz"), "numpy"),
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), "hdf"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "sqlite"),
    **dict.fromkeys((".mdb", ".accdb"), "access"),
    **dict.fromkeys((".rds", ".rdata", ".rda"), "r"),
    ".zip": "archive",
    ".xz": "xz",
    **dict.fromkeys((".tgz", ".tar", ".7z", ".rar", ".lz4"), "packed"),
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
    ".geojson": "geojson",
    ".md": "markdown",
}

OLE = b"\xd0\xcf\x11\xe0"  # how the containers of Office begin: old formats, and encrypted new ones
_OLE_STREAMS = {"EncryptedPackage": "password", "WordDocument": "word", "PowerPoint": "powerpoint", "Workbook": "xls"}
_OLD_STATA = re.compile(rb"[\x69-\x73][\x01\x02]\x01\x00", re.DOTALL)
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_ZIP = b"PK\x03\x04"
_ZIP_NAMES = (
    ("xl/workbook.bin", "xlsb"),
    ("xl/", "xlsx"),
    ("word/", "word"),
    ("ppt/", "powerpoint"),
    ("Index/Document.iwa", "numbers"),
    ("Index.zip", "numbers"),
)


def format_of(beginning: bytes, path: str | None = None) -> Format | None:
    """Return the format of a file that is no text, or no table; None if its first bytes are of none known.

    Args:
        beginning: its first bytes.
        path: of the file itself, if the bytes are not unpacked ones.
    """
    if beginning.startswith(_ZIP):
        return FORMATS[_kind_of_zip(beginning, path)]
    if beginning.startswith(OLE):
        return FORMATS[_kind_of_office(beginning, path)]
    is_binary = _CONTROLS.search(beginning) is not None
    found = next((kind for magic, kind in _BINARY.items() if is_binary and beginning.startswith(magic)), None)
    if found is None and _OLD_STATA.match(beginning):
        found = "stata"
    text = beginning[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = found or next((kind for start, kind in _TEXT.items() if text.startswith(start)), None)
    return FORMATS[found] if found else None


def refusal_of(name: str, ending: str) -> str | None:
    """Return what a file is whose ending batcher does not read, and what to do; None if that is not known."""
    with Path(name).open("rb") as file:
        beginning = file.read(_HEAD)
    named = FORMATS.get(_ENDINGS.get(ending, ""))
    found = format_of(beginning, name)
    if named and not beginning:
        return f"the file is empty: {AGAIN}"
    if found is None and named and not (named.is_text or _CONTROLS.search(beginning)):
        return _text_instead(beginning)
    if named and found in {None, FORMATS["zip"]}:
        found = named
    return found and f"is {found.refusal(name)}"


def _text_instead(beginning: bytes) -> str:
    right = "json" if beginning.lstrip()[:1] in {b"{", b"["} else "csv"
    return f"it is a text file: if it is {right.upper()}, let its name end in .{right}"


def trouble(name: str, path: str, wanted: str) -> str:
    """Return why a file cannot be read as the format that its ending names, and what to do.

    Args:
        name: of the file, for messages.
        path: of the file.
        wanted: `xlsx` or `parquet`.
    """
    with Path(path).open("rb") as file:
        beginning = file.read(_HEAD)
    if not beginning:
        return f"the file is empty: {AGAIN}"
    if packing := packing_by_magic(beginning):
        return f"it is a {packing.name} file: {_UNPACK}"
    found = format_of(beginning, path)
    if found and found not in {FORMATS[wanted], FORMATS["zip"]}:
        return f"it is {found.refusal(name)}"
    if found is None and not _CONTROLS.search(beginning):
        return _text_instead(beginning)
    return f"the file is cut off or damaged: {AGAIN}, or save it anew"


def is_no_text(beginning: bytes) -> bool:
    """Return whether bytes are neither UTF-8 nor, by their many control characters, a text in another encoding."""
    if not beginning.strip(b"\0"):
        return bool(beginning)
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        is_odd = len(_CONTROLS.findall(beginning)) * 20 > len(beginning)
        return is_odd and not likely_encoding([beginning]).codec.startswith("utf-16")
    return False


def _kind_of_zip(beginning: bytes, path: str | None) -> str:
    names: list[str] = []
    document = b""
    broken = (OSError, ValueError, zipfile.BadZipFile, NotImplementedError)
    with contextlib.suppress(*broken), zipfile.ZipFile(path or "") as file:
        names = file.namelist()
        document = file.read("mimetype")[:200] if "mimetype" in names else b""
    if b"opendocument" in document:
        return "ods" if b"spreadsheet" in document else "opendocument"
    is_whole = bool(names)
    for start, kind in _ZIP_NAMES:
        if any(name.startswith(start) for name in names) or (not is_whole and start.encode() in beginning):
            return kind
    if not is_whole and b"opendocument.spreadsheet" in beginning:
        return "ods"
    if is_whole and all(name.endswith(".npy") for name in names):
        return "numpy"
    return "archive" if is_whole else "zip"


def _kind_of_office(beginning: bytes, path: str | None) -> str:
    content = beginning
    if path is not None:
        with contextlib.suppress(OSError), Path(path).open("rb") as file:
            content = file.read(_MOST_SEARCHED)
    found = (kind for stream, kind in _OLE_STREAMS.items() if stream.encode("utf-16-le") in content)
    return next(found, "ole")
