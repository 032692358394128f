"""What tasks with more problems than can be listed share: splits by a hash, and drawing without repeats."""

import hashlib
from collections.abc import Callable
from typing import get_args

from diffpo.errors import UserError
from diffpo.problem import Problem, Split

_TEST_BYTES, _VALIDATION_BYTES = 26, 13  # of 256 values of a hash's first byte
_MAX_DRAWS = 1000  # for one problem that has not been drawn yet


def split_by_hash(key: str) -> Split:
    """The split of whatever an ASCII text names, whatever the seed: test 26/256, validation 13/256, train the rest.

    It is read from the first byte of the text's SHA-256.
    """
    first_byte = hashlib.sha256(key.encode("ascii")).digest()[0]
    if first_byte < _TEST_BYTES:
        return "test"
    return "validation" if first_byte < _TEST_BYTES + _VALIDATION_BYTES else "train"


def check_split(task: str, split: str) -> None:
    """Raises UserError for a split that does not exist."""
    if split not in get_args(Split):
        raise UserError(f"{task}: unknown split {split!r}; give one of {', '.join(get_args(Split))}.")


def draw_distinct(draw: Callable[[], Problem], count: int) -> list[Problem]:
    """`count` drawn problems whose ids differ, unless 1000 draws find no new one."""
    seen: set[str] = set()
    problems: list[Problem] = []
    for _ in range(count):
        for _ in range(_MAX_DRAWS):
            problem = draw()
            if problem.id not in seen:
                break
        seen.add(problem.id)
        problems.append(problem)
    return problems
