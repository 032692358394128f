r"""A reward of your own: a function as TRL's trainers take it. It scores Sudoku grids by their lines, solved or not.

    diffpo sft sudoku4-base --out runs/base  # once for all examples
    diffpo rl tiny-d1 --out runs/reward base=runs/base 'budget={steps=20}' \
        task.reward=examples/custom_reward.py:lines_without_repeats

What counts as solved is still the task's to say, so the metric `accuracy` keeps its meaning.
"""

from math import isqrt
from typing import Any


def lines_without_repeats(prompts: list[str], completions: list[str], clues: list[int], **columns: Any) -> list[float]:
    """Return for each grid the share of its rows and columns that hold no digit twice.

    `clues` is a column of the data, the number of given cells; the function gets the columns that it names, or all
    through `**columns`. A number for each completion comes back, or None for "not mine to score", which adds nothing.
    """
    return [share_of_lines(grid) for grid in completions]


def share_of_lines(grid: str) -> float:
    size = isqrt(len(grid))
    if size == 0 or size * size != len(grid):
        return 0.0
    rows = [grid[start : start + size] for start in range(0, len(grid), size)]
    lines = [*rows, *("".join(column) for column in zip(*rows, strict=True))]
    return sum(len(set(line)) == size for line in lines) / len(lines)
