"""Real notebooks in a real kernel."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from programs import ROOT, local_server, table


def client(notebook: Any, folder: Path) -> NotebookClient:
    return NotebookClient(notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(folder)}})


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
    first, frame, more, awaited, status = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "<th>ok</th><td>3</td>" in str(first.outputs)
    assert "79" in texts(frame)
    assert "1 request" in texts(more)
    assert "42" in texts(awaited)
    assert "4 of 4 (100%)" in texts(status)
    assert [row["infer"] for row in table(tmp_path / "output" / "all_sums.csv")] == ["79", "44", "42", "42"]


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
            with pytest.raises(CellExecutionError, match="stopped by Ctrl-C"):
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
