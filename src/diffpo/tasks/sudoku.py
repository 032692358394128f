"""The Sudoku task: puzzles of 4x4 and 6x6 with exactly one solution, and a strict grader.

A prompt names the unknowns of its puzzle: the empty cell i is written as the i-th letter. A denoiser with rotary
positions knows where a cell is only from the cells around it, and on a nearly empty puzzle that is nothing.
"""

from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import get_args

from diffpo.core.errors import UserError
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.splits import check_split
from diffpo.tasks.sudoku_grids import EMPTY, Size, board, draw_grid, is_filled, is_grid, is_puzzle, make_puzzle

UNKNOWNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"

_FEWEST_CLUES: dict[Size, int] = {4: 4, 6: 8}  # no puzzle with fewer has one solution
_DEFAULT_CLUES: dict[Size, tuple[int, int]] = {4: (4, 10), 6: (12, 24)}

_MAX_PASSES = 1000  # over cells to empty, for one puzzle; about 630 of them reach 4 clues in 4x4, all reach 12 in 6x6


def prompt_of(puzzle: str) -> str:
    """Return the puzzle with its unknowns named: "1..4" becomes "1bc4"."""
    return "".join(name if mark == EMPTY else mark for mark, name in zip(puzzle, UNKNOWNS, strict=False))


def puzzle_of(prompt: str) -> str:
    """Return the puzzle of a prompt. A letter of another cell stays as it is, and the text is then not a puzzle."""
    return "".join(EMPTY if mark == name else mark for mark, name in zip_longest(prompt, UNKNOWNS[: len(prompt)]))


@dataclass(frozen=True)
class Sudoku:
    """The task of solving Sudoku puzzles with one solution.

    The prompt is the puzzle, its unknowns named by letters; the completion is the full grid. `size` is 4 (boxes of 2x2)
    or 6 (boxes of 2 rows and 3 columns). The number of clues is drawn uniformly from `min_clues` to `max_clues`; None
    stands for the default of the size, 4 to 10 or 12 to 24. A grid that keeps the clues but is not solved earns
    `cell_credit` times the share of empty cells that are right. Raises UserError for values out of range.
    """

    size: Size = 4
    min_clues: int | None = None
    max_clues: int | None = None
    cell_credit: float = 0.0

    def __post_init__(self) -> None:
        if self.size not in get_args(Size):
            raise UserError(f"sudoku: size is {self.size}; give 4 or 6.")
        fewest, most = _FEWEST_CLUES[self.size], self.size**2 - 1
        low, high = self.clue_range
        if not fewest <= low <= high <= most:
            raise UserError(
                f"sudoku: clues from {low} to {high} are out of order or range; "
                f"size {self.size} takes {fewest} <= min_clues <= max_clues <= {most}."
            )
        if not 0.0 <= self.cell_credit <= 1.0:
            raise UserError(f"sudoku: cell_credit is {self.cell_credit}; give a number from 0 to 1.")

    @property
    def clue_range(self) -> tuple[int, int]:
        """The fewest and the most clues of a puzzle, with the defaults filled in."""
        low, high = _DEFAULT_CLUES[self.size]
        return (
            low if self.min_clues is None else self.min_clues,
            high if self.max_clues is None else self.max_clues,
        )

    @property
    def name(self) -> str:
        return f"sudoku{self.size}"

    @property
    def alphabet(self) -> str:
        return board(self.size).digits + UNKNOWNS[: self.size**2]

    @property
    def completion_length(self) -> int:
        return self.size**2

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return `count` puzzles of a split; a smaller count gives the beginning of the same list.

        The number of clues is exactly uniform: a pass over the cells that misses it is repeated with another grid, so
        that grids which rarely allow few clues are rarer among the puzzles with few. Puzzles are distinct unless 1000
        passes find no new one. Raises UserError if 1000 passes never reach the number of clues, which only a 6x6 range
        near its lower end can cause.
        """
        check_split("sudoku", split)
        rng = Random(f"{self.name}/{split}/{seed}")
        seen: set[str] = set()
        problems = []
        for _ in range(count):
            clues = rng.randint(*self.clue_range)
            puzzle, grid = self._draw_puzzle(split, clues, rng, seen)
            seen.add(puzzle)
            problems.append(
                Problem(
                    id=f"{self.name}-{split}-{puzzle}",
                    prompt=prompt_of(puzzle),
                    answer=grid,
                    cluster=grid,
                    facts={"clues": clues},
                )
            )
        return problems

    def _draw_puzzle(self, split: Split, clues: int, rng: Random, seen: set[str]) -> tuple[str, str]:
        """Draw a puzzle that is not in `seen`, if 1000 passes find one, and its grid."""
        repeated = None
        for _ in range(_MAX_PASSES):
            grid = draw_grid(self.size, split, rng)
            puzzle = make_puzzle(grid, self.size, clues, rng)
            if puzzle is None:
                continue
            if puzzle not in seen:
                return puzzle, grid
            repeated = puzzle, grid
        if repeated is None:
            raise UserError(
                f"sudoku: {_MAX_PASSES} grids of size {self.size} gave no puzzle with {clues} clues; raise min_clues."
            )
        return repeated

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Solved means a valid grid that keeps every clue, also if it is not the listed answer: reward 1.

        Otherwise a grid that keeps the clues earns `cell_credit * cells`, any other text 0. Parts: `solved`, `valid`
        (rows, columns and boxes), `clues_kept`, each 0 or 1, and `cells`, the share of empty cells that agree with the
        listed answer. Status `unparseable`: not exactly `size * size` of the digits 1 to `size`; `grader_failed`: the
        problem itself is no puzzle of this size. Never raises.
        """
        parts = {"solved": 0.0, "valid": 0.0, "clues_kept": 0.0, "cells": 0.0}
        puzzle = puzzle_of(problem.prompt)
        if not (is_puzzle(puzzle, self.size) and is_filled(problem.answer, self.size)):
            return Grade(0.0, parts, "grader_failed")
        if not is_filled(completion, self.size):
            return Grade(0.0, parts, "unparseable")
        empty = [cell for cell, mark in enumerate(puzzle) if mark == EMPTY]
        cells = sum(completion[cell] == problem.answer[cell] for cell in empty) / max(1, len(empty))
        clues_kept = all(mark in (EMPTY, given) for mark, given in zip(puzzle, completion, strict=True))
        valid = is_grid(completion, self.size)
        solved = valid and clues_kept
        parts = {"solved": float(solved), "valid": float(valid), "clues_kept": float(clues_kept), "cells": cells}
        partial = self.cell_credit * cells if clues_kept else 0.0
        return Grade(1.0 if solved else partial, parts)
