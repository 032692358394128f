"""The notebook runs from top to bottom, and shows what its text says."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.documents import ROOT

NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is stored as it is before it runs"
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert "'dcba' in 5 calls" in said and "_____  after call 0" in said and "dcba·  after call 5" in said
    found = re.findall(r"^(base|quick) +entropy bound (\S+) +(\S+)% of 92 words in (\S+) calls$", said, re.MULTILINE)
    accuracy = {(name, float(bound)): float(share) for name, bound, share, _ in found}
    assert len(accuracy) == 10 and accuracy["quick", 3.0] > accuracy["base", 3.0] + 10
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)
