"""Checks `all_<keyword>.jsonl` of a requests file against the chunk files and the journal.

Invariant: one line of each is in memory, and each row whose line differs is named.
"""

from __future__ import annotations

from itertools import zip_longest

from batcher.errors import OutputError
from batcher.journal.entries import LastRun
from batcher.journal.reading import Reader
from batcher.output.csv_file import as_output_errors
from batcher.output.directory import Store
from batcher.output.responses import lines_of_chunks
from batcher.reports.verification.findings import Found, Kind


def check_responses(store: Store, journal: Reader, last: LastRun, rows: int, found: Found) -> None:
    """Compare the responses with what the chunk files and the journal make of them."""
    path = store.responses_path
    if not path.exists():
        found.place(Kind.RESPONSES_LOST, str(path))
        return
    try:
        with as_output_errors(path, "read"), path.open("rb") as file:
            for position, (wanted, line) in enumerate(zip_longest(lines_of_chunks(store, journal, last, rows), file)):
                if wanted == line:
                    continue
                if position < rows:
                    found.rows(Kind.RESPONSES_OTHER, position, place=f"{path}, line {position + 1}")
                else:
                    found.place(Kind.RESPONSES_OTHER, f"{path}, line {position + 1}")
    except OutputError as error:  # a chunk file is missing or damaged, which is reported already
        found.place(Kind.RESPONSES_OTHER, str(error))
