"""What tests of several packages share: one trained model for the whole session."""

import os
from pathlib import Path

import pytest


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
