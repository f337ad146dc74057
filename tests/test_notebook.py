"""Real notebooks in a real kernel."""

from __future__ import annotations

import asyncio
import html
import re
import signal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from programs import ROOT, local_server, table, write_table


def client(notebook: Any, folder: Path, **options: Any) -> NotebookClient:
    where = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=100, kernel_name="python3", resources=where, **options)


def texts(cell: Any) -> str:
    """Return what a cell shows: what it printed, and its value as text."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(shown)


@pytest.fixture(autouse=True)
def kernel_finds_batcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_the_quickstart_runs_from_top_to_bottom_in_one_kernel(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    client(notebook, tmp_path).execute()
    first, frame, more, page, awaited, status = [cell for cell in notebook.cells if cell.cell_type == "code"]
    [shown] = [output.data for output in first.outputs if "sums: done" in output.get("data", {}).get("text/html", "")]
    assert '>rows</th><td style="text-align: left">3: 3 ok, 0 invalid, 0 error</td>' in shown["text/html"]
    assert '<svg xmlns="http://www.w3.org/2000/svg" role="img"' in shown["text/html"]
    assert shown["text/plain"].startswith("sums: 3 rows, 3 ok; 3 requests in ")
    [page] = page.outputs
    assert "<iframe title=" in page.data["text/html"]
    assert "<title>sums" in html.unescape(page.data["text/html"])
    assert page.data["text/plain"].startswith("the report of sums: a notebook shows it as a page")
    assert "79" in texts(frame)
    assert "1 request" in texts(more)
    assert "42" in texts(awaited)
    assert "4 of 4 (100%)" in texts(status)
    assert [row["infer"] for row in table(tmp_path / "output" / "all_sums.csv")] == ["79", "44", "42", "42"]


def test_the_notebook_about_labels_shows_what_is_stored_in_it(tmp_path: Path) -> None:
    stored, notebook = (nbformat.read(ROOT / "examples" / "labels.ipynb", as_version=4) for _ in range(2))
    for cell in notebook.cells:
        cell.pop("outputs", None)
        cell.update({"outputs": []} if cell.cell_type == "code" else {})
    client(notebook, tmp_path).execute()
    [before, now] = [[texts(cell) for cell in each.cells if cell.cell_type == "code"] for each in (stored, notebook)]
    assert now == before
    assert "0 sent; 5 ok, 1 invalid" in now[-2]
    assert all(now)


# A category for each topic of the notebook, as the dataset that it reads has them.
CATEGORIES = ["card_arrival", "top_up_failed", "pending_transfer", "atm_support", "exchange_rate", "request_refund"]


def test_the_notebook_about_an_honest_number_runs_on_a_table_like_that_which_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[f"Message {number}, as written.", CATEGORIES[number % 6]] for number in range(900)]
    rows += [[f"Message {number}, as written.", "change_pin"] for number in range(900, 1_000)]
    monkeypatch.setenv("BANKING77", str(write_table(tmp_path / "messages.csv", ["text", "category"], rows)))
    stored, notebook = (nbformat.read(ROOT / "examples" / "honest_number.ipynb", as_version=4) for _ in range(2))
    client(notebook, tmp_path).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [texts(cell) for cell in cells]
    assert "1000 messages, 7 categories" in shown[0]
    assert "1000 of 1000 rows have a label" in shown[3]
    assert "<svg" in str(cells[7].outputs)
    assert shown[8].count("True") >= 6  # of seven intervals
    assert "in truth" in shown[9]
    # What is stored is of the real table, and nothing of this machine is in it.
    assert "3080 messages, 77 categories" in str(stored)
    assert str(Path.home()) not in str(stored)


def test_a_notebook_shows_a_real_bar(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    source = "import batcher; batcher.run(['1 + 1', '2 + 2'], keyword='bar', provider='offline')"
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    client(notebook, tmp_path).execute()
    assert "application/vnd.jupyter.widget-view+json" in str(notebook.cells[0].outputs)


async def test_an_interrupted_cell_saves_what_arrived_and_the_kernel_goes_on(tmp_path: Path) -> None:
    with local_server("--latency", "0.1", cwd=tmp_path) as server:
        call = (
            f"batcher.run([f'item {{n}}' for n in range(400)], keyword='many', model='m',"
            f" base_url={server.base_url!r}, max_concurrency=10)"
        )
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [
            nbformat.v4.new_code_cell(f"import batcher\n{call}"),
            nbformat.v4.new_code_cell(call.replace("max_concurrency=10", "max_concurrency=100")),
        ]
        notebook_client = client(notebook, tmp_path)
        async with notebook_client.async_setup_kernel():
            interrupted = notebook_client.async_execute_cell(notebook.cells[0], 0)
            with pytest.raises(CellExecutionError, match=r"interrupted; \d+ of 400 rows are saved, and the same cell"):
                await _interrupt_during(interrupted, notebook_client, server)
            answered = server.books()["answered"]
            assert server.books()["requests"] == answered < 400
            await notebook_client.async_execute_cell(notebook.cells[1], 1)
        assert server.books()["requests"] == 400
    assert len(table(tmp_path / "output" / "all_many.csv")) == 400


async def _interrupt_during(cell: Any, notebook_client: NotebookClient, server: Any) -> None:
    running = asyncio.ensure_future(cell)
    await asyncio.to_thread(server.wait_for, 50)
    kernel: Any = notebook_client.km
    await kernel.signal_kernel(signal.SIGINT)
    await running


WRONG_OPTION = """
import batcher
def label():
    return batcher.run(["a"], keyword="k", provider="offline", temperature=0)
label()
"""
WRONG_FUNCTION = """
import pandas as pd
def ask(row):
    return row["none"]
batcher.run(pd.DataFrame({"a": ["b"]}), ask, keyword="k", provider="offline")
"""
RUN = "report = batcher.run([*map(str, range(60))], keyword='k', model='m', base_url=URL, max_concurrency=2, canary=0)"
TAB = """
from IPython.core.completer import provisionalcompleter
with provisionalcompleter():
    print(*(each.text for each in get_ipython().Completer.completions("batcher.run(df, chunk", 21)))
"""
CELLS = [WRONG_OPTION, "batcher.Endpoint('m', rpm=0)", WRONG_FUNCTION, RUN, "batcher.status('k')", TAB]


async def test_without_widgets_a_run_is_one_output_and_errors_hide_the_frames_of_batcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSCODE_PID", "1")  # as in Visual Studio Code, where widgets are uncertain
    with local_server("--latency", "0.1", cwd=tmp_path) as server:
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(cell.replace("URL", repr(server.base_url))) for cell in CELLS]
        await client(notebook, tmp_path, allow_errors=True).async_execute()
    wrong_option, wrong_endpoint, wrong_function, run, status, completed = notebook.cells
    assert frames(wrong_option) == ["Cell", "Cell"]
    assert frames(wrong_endpoint) == ["Cell"]
    assert frames(wrong_function) == ["Cell", "Cell"]
    assert "in ask(row)" in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(wrong_function.outputs[-1].traceback))
    said, bar = run.outputs
    assert said.name == "stdout"
    assert re.fullmatch(r"k: 60 rows: 60 new; asks m at http://127\.0\.0\.1:\d+/v1, no key\n", said.text)
    assert bar.data["text/plain"].startswith("k: 60 of 60 rows (100%), ")
    assert '<progress value="60" max="60"' in bar.data["text/html"]
    [table_of_status] = status.outputs
    assert "60 of 60 (100%)" in table_of_status.data["text/html"]
    assert table_of_status.data["text/plain"].startswith("k: done (host ")
    assert texts(completed) == "chunk_size=\n"


def frames(cell: Any) -> list[str]:
    """Return where the frames of a cell's error are: `Cell` or `File`."""
    [error] = [output for output in cell.outputs if output.output_type == "error"]
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    return re.findall(r"^(Cell|File) ", plain, re.MULTILINE)
