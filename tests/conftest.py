"""What tests of several packages share: one trained model for the whole session, and that shapes are checked."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

SOURCE = Path(__file__).parent.parent / "src"
WITHIN_A_FORWARD_PASS = {"dream", "kv_cache", "layers", "llada", "lm_head"}
"""Modules of `diffpo.models` that are called thousands of times a test, and compared number by number anyway."""


def modules_to_check() -> list[str]:
    """Return the names of modules that have shapes in their annotations: of all others mypy has said what there is."""
    found = [file for file in (SOURCE / "diffpo").rglob("*.py") if "from jaxtyping import" in file.read_text()]
    checked = (file for file in found if file.parent.name != "models" or file.stem not in WITHIN_A_FORWARD_PASS)
    return [".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in checked]


install_import_hook(modules_to_check(), "beartype.beartype")  # a check takes as long as what it checks


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all of its pytest-xdist workers share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def base(shared_folder: Path) -> Path:
    """An SFT run whose model solves half of its Sudokus; no test may write into it."""
    from tests.helpers.tiny_runs import SFT, trained_once  # torch with it, which pytest-xdist's controller never needs

    return trained_once(shared_folder / "bases" / "sudoku", [*SFT, "steps=100", "checkpoint.every=1000"])
