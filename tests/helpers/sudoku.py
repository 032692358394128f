"""Sudoku apart from the code under test: grids by enumeration, and figures of puzzles that the docs give."""

from collections.abc import Sequence
from functools import cache
from itertools import islice, permutations
from statistics import fmean

from diffpo.tasks.base import Problem, Split
from diffpo.tasks.splits import split_by_hash
from diffpo.tasks.sudoku import puzzle_of
from diffpo.tasks.sudoku_grids import EMPTY, Size, board, grids_4x4


def units(size: int) -> list[list[int]]:
    """Cells of every row, column and box, written out apart from the code under test."""
    height, width = {4: (2, 2), 6: (2, 3)}[size]
    rows = [[r * size + c for c in range(size)] for r in range(size)]
    columns = [[r * size + c for r in range(size)] for c in range(size)]
    boxes = [
        [(top + r) * size + left + c for r in range(height) for c in range(width)]
        for top in range(0, size, height)
        for left in range(0, size, width)
    ]
    return rows + columns + boxes


@cache
def all_4x4_grids() -> frozenset[str]:
    rows = ["".join(row) for row in permutations("1234")]
    texts = (
        a + b + c + d for a in rows for b in rows for c in rows for d in rows if len({a[0], b[0], c[0], d[0]}) == 4
    )
    return frozenset(t for t in texts if all(len({t[cell] for cell in unit}) == 4 for unit in units(4)))


def matches(puzzle: str, grid: str) -> bool:
    return all(mark in (".", digit) for mark, digit in zip(puzzle, grid, strict=True))


def brute_force_count(puzzle: str, size: int) -> int:
    """All completions by trying every digit in the first empty cell; slow, and shares nothing with the solver."""
    if "." not in puzzle:
        return 1
    cell = puzzle.index(".")
    taken = {puzzle[other] for unit in units(size) if cell in unit for other in unit}
    free = set("123456"[:size]) - taken
    return sum(brute_force_count(puzzle[:cell] + digit + puzzle[cell + 1 :], size) for digit in free)


def count_solutions(puzzle: str, size: Size, limit: int = 2) -> int:
    """Return how many grids complete a puzzle by the solver, counted up to `limit`."""
    rules = board(size)
    return sum(1 for _ in islice(rules.solutions(rules.narrow(rules.clue_bits(puzzle))), limit))


def split_of(grid: str) -> Split:
    """Return the split that a solution grid of 4x4 or 6x6 belongs to."""
    if len(grid) == 36:
        return split_by_hash(grid)
    return next(split for split, grids in grids_4x4().items() if grid in grids)


def trivial_baselines(problems: Sequence[Problem], size: Size) -> dict[str, float]:
    """Return what `cells` averages over at least one problem for policies without skill, as in docs/sudoku.md.

    They are exact expectations for the best single digit (chosen with hindsight), a random digit missing from the clues
    of the cell's row, and a random digit that contradicts no clue of its row, column and box.
    """
    *constant, missing_from_row, consistent = map(fmean, zip(*(_shares(p, size) for p in problems), strict=True))
    return {
        "best_constant_digit": max(constant),
        "missing_from_row": missing_from_row,
        "consistent_with_clues": consistent,
    }


def _shares(problem: Problem, size: Size) -> list[float]:
    """Return the expected share of right empty cells for each constant digit, then for the two random policies."""
    rules, puzzle = board(size), puzzle_of(problem.prompt)
    candidates = rules.narrow(rules.clue_bits(puzzle))
    empty = [cell for cell, mark in enumerate(puzzle) if mark == EMPTY]
    constant = [fmean(problem.answer[cell] == digit for cell in empty) for digit in rules.digits]
    row_starts = [cell - cell % size for cell in empty]
    missing = fmean(1 / puzzle.count(EMPTY, start, start + size) for start in row_starts)
    consistent = fmean(1 / (candidates & rules.repeat << cell).bit_count() for cell in empty)
    return [*constant, missing, consistent]
