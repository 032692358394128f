"""Reinforcement learning for masked diffusion language models: better answers in fewer denoiser calls.

The names below are imported when first used, so that `import diffpo` itself imports no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Decoding": "diffpo.training.rollouts",
    "EntropyBound": "diffpo.sampling.rules",
    "Grade": "diffpo.tasks.base",
    "Problem": "diffpo.tasks.base",
    "Rollout": "diffpo.core.rollout",
    "Sudoku": "diffpo.tasks.sudoku",
    "Task": "diffpo.tasks.base",
    "UserError": "diffpo.core.errors",
    "answer": "diffpo.training.rollouts",
    "load": "diffpo.runs.checkpoint",
    "load_recipe": "diffpo.recipes",
    "sample": "diffpo.sampling.loop",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'diffpo' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
