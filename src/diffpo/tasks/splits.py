"""Splits by a hash, and drawing without repeats, for tasks with more problems than can be listed."""

import hashlib
from collections.abc import Callable
from typing import get_args

from diffpo.core.errors import UserError
from diffpo.tasks.base import Problem, Split

_TEST_BYTES, _VALIDATION_BYTES = 26, 13  # of 256 values of a hash's first byte
_MAX_DRAWS = 1000  # for one problem that has not been drawn yet


def split_by_hash(key: str, test: int = _TEST_BYTES, validation: int = _VALIDATION_BYTES) -> Split:
    """Return the split of the thing that an ASCII text names, by the first byte of the text's SHA-256.

    Shares of `test` / 256 and `validation` / 256 go to those splits, the rest to train. No seed matters.
    """
    first_byte = hashlib.sha256(key.encode("ascii")).digest()[0]
    if first_byte < test:
        return "test"
    return "validation" if first_byte < test + validation else "train"


def check_split(task: str, split: str) -> None:
    """Raise UserError for a split that does not exist; `task` names the task in the message."""
    if split not in get_args(Split):
        raise UserError(f"{task}: unknown split {split!r}; give one of {', '.join(get_args(Split))}.")


def draw_distinct(draw: Callable[[], Problem], count: int) -> list[Problem]:
    """Draw `count` problems whose ids differ. Once 1000 draws in a row give no new one, any problem is taken."""
    seen: set[str] = set()
    problems: list[Problem] = []
    draws = _MAX_DRAWS
    for _ in range(count):
        problem = next((p for p in (draw() for _ in range(draws)) if p.id not in seen), None)
        if problem is None:
            draws, problem = 1, draw()
        seen.add(problem.id)
        problems.append(problem)
    return problems
