"""The blocks of docs/python.md, in their order: as one script, and as the cells of a notebook."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import diffpo
from tests.helpers.documents import ROOT, blocks_of

BLOCKS = [block for block in blocks_of(ROOT / "docs" / "python.md") if block.language == "python"]


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield 1
    torch.set_num_threads(before)


def test_the_blocks_run_as_a_script(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCKS:
        exec(compile(block.code, str(block), "exec"), names)
    base, run, longer, measured = (names[name] for name in ("base", "run", "longer", "measured"))
    assert isinstance(measured, diffpo.Measurement) and 2 <= measured.n <= 20 and len(measured.points) == 2
    assert [len(one.metrics) for one in (base, run, longer)] == [40, 2, 3] and base.metrics[-1]["loss"] < 2
    files = {path.name for path in (tmp_path / "runs" / "faster").iterdir()}
    assert {"recipe.toml", "metrics.jsonl", "rows.jsonl", "reward-source.py"} <= files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.slow
def test_the_blocks_run_as_a_notebook(tmp_path: Path) -> None:
    """Its kernel has a running event loop, which the async reward must get on with; no cell shows escape codes."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block.code) for block in BLOCKS])
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [str(output) for cell in notebook.cells for output in cell.outputs]
    assert any("<sft run runs/words, step 40, loss" in text for text in shown)
    assert any("step 3/3" in text for text in shown) and not any("\\x1b" in text or "\x1b" in text for text in shown)
