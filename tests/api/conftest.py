"""A tiny model of rows that are in memory, trained by `diffpo.train` itself; no test may write into it."""

from typing import Any

import pytest

import diffpo
from diffpo import TrainedRun

ROWS: list[dict[str, Any]] = [{"prompt": f"{a}{b}>", "answer": f"{b}{a}"} for a in "abcdefgh" for b in "abcdefgh"]
TINY: dict[str, Any] = {
    "threads": 1,
    "batch": 8,
    "steps": 3,
    "task__completion_length": 4,
    "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 48},
}


@pytest.fixture(scope="session")
def text_base(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return diffpo.train({}, data=ROWS, out=tmp_path_factory.mktemp("api") / "base", **TINY)


@pytest.fixture
def short(text_base: TrainedRun) -> dict[str, Any]:
    """Keywords of an RL run of two steps."""
    return {
        "recipe": "tiny-d1",
        "data": ROWS,
        "base": text_base,
        "budget": {"steps": 2},
        "rollout__prompts_per_step": 3,
        "rollout__group_size": 2,
        "task__completion_length": 4,
    }
