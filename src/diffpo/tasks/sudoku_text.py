"""Sudoku of 4x4 put in words, with the published splits. Columns `Puzzle` and `Solution`, 16 digits, 0 for empty.

`sudoku-d1` divides the rows by puzzle, as d1 and DMPO do, so that solutions of test puzzles occur in training.
`sudoku-spg` divides them by solution grid, as SPG does, so that none does.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random

from diffpo.core.errors import UserError
from diffpo.grading.answer import final_answer
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row
from diffpo.tasks.splits import split_by_hash
from diffpo.tasks.sudoku_grids import EMPTY, board, is_grid
from diffpo.tasks.text import Question, TaskFamily, format_answer, solved_grade

INSTRUCTIONS = """
Solve the following 4x4 Sudoku puzzle. It is given as 16 digits, row by row from top to bottom, with 0 for an empty
cell. In the solution every row, every column and every 2x2 box holds each digit from 1 to 4 exactly once, and the given
digits stay where they are. Write your steps between <reasoning> and </reasoning>, then the 16 digits of the solution,
without spaces, between <answer> and </answer>, like this:
<reasoning>
first step, second step, ...
</reasoning>
<answer>
1234341221434321
</answer>
"""

SPG_TRAIN_GRIDS = 200
SPG_EXAMPLE_GRIDS = ("3214142323414132", "4213132424313142", "2341413232141423")
"""Solutions of the example puzzles in SPG's prompt; they are train grids."""

_FILLED = re.compile(r"[1-4]{16}")
_CLUED = re.compile(r"[0-4]{16}")
_BETWEEN = re.compile(r"[\s`]+")
_LONGEST = 200  # characters of an answer that is 16 digits with spaces between them


def parse_row(row: Row, is_by_grid: bool = False) -> Question:
    """Parse a row, to be divided by its puzzle or its solution grid. Raises UserError for a malformed column."""
    puzzle, grid = row.text("Puzzle").strip(), row.text("Solution").strip()
    if not _CLUED.fullmatch(puzzle):
        raise UserError(f"{row.location}: field 'Puzzle' should be 16 digits from 0 to 4, got {puzzle[:60]!r}")
    if not is_grid(grid, 4) or any(mark not in ("0", digit) for mark, digit in zip(puzzle, grid, strict=True)):
        raise UserError(f"{row.location}: field 'Solution' should solve {puzzle}, got {grid[:60]!r}")
    return Question(
        text=f"Puzzle: {puzzle}",
        answer=format_answer("", grid),
        key=grid if is_by_grid else puzzle,
        cluster=grid,
        facts={"puzzle": puzzle, "solution": grid, "clues": 16 - puzzle.count("0")},
    )


def grade(problem: Problem, completion: str) -> Grade:
    """Solved: any valid grid that keeps the clues. `unparseable`: not 16 digits from 1 to 4, with or without spaces.

    Further parts: `valid`, `clues_kept`, and `cells`, the share of empty cells that agree with the nearest solution.
    """
    parts = {"solved": 0.0, "valid": 0.0, "clues_kept": 0.0, "cells": 0.0}
    puzzle = problem.facts.get("puzzle")
    if not isinstance(puzzle, str) or not _CLUED.fullmatch(puzzle):
        return Grade(0.0, parts, "grader_failed")
    answer = final_answer(completion)
    grid = _BETWEEN.sub("", answer) if answer is not None and len(answer) <= _LONGEST else ""
    if not _FILLED.fullmatch(grid):
        return Grade(0.0, parts, "unparseable")
    clues_kept = all(mark in ("0", digit) for mark, digit in zip(puzzle, grid, strict=True))
    valid = is_grid(grid, 4)
    empty = [cell for cell, mark in enumerate(puzzle) if mark == "0"]
    agreeing = max((sum(grid[cell] == other[cell] for cell in empty) for other in solutions(puzzle)), default=0)
    return solved_grade(
        {
            "solved": float(valid and clues_kept),
            "valid": float(valid),
            "clues_kept": float(clues_kept),
            "cells": agreeing / max(1, len(empty)),
        }
    )


def grade_d1(problem: Problem, completion: str) -> Grade:
    """Pay d1's reward, the share of right cells, but only to a grid that keeps its clues; 1 for any valid solution."""
    graded = grade(problem, completion)
    return Grade(graded.parts["clues_kept"] * graded.parts["cells"], graded.parts, graded.status)


def solutions(puzzle: str) -> list[str]:
    """Return every grid that keeps the clues of a puzzle of 16 digits, 0 for an empty cell."""
    rules = board(4)
    clues = rules.clue_bits(puzzle.replace("0", EMPTY))
    return [rules.text(solved) for solved in rules.solutions(rules.narrow(clues))]


def divide_as_spg(grids: Sequence[str]) -> Mapping[str, Split]:
    """Divide d1's 288 grids (`4x4_sudoku_unique_puzzles.csv`, in its order) into SPG's 200 for train and 88 for test.

    Train grids whose hash falls into the validation split are for validation. The procedure is that of SPG's
    `dataset/generate_new_sudoku_splitting.py` (2f9229cd516a): the grids of the example puzzles are train grids, and the
    rest are shuffled with seed 42. That file was not at hand, so the result is not checked against SPG's own.
    """
    others = [grid for grid in dict.fromkeys(grids) if grid not in SPG_EXAMPLE_GRIDS]
    Random(42).shuffle(others)
    num_examples = sum(grid in SPG_EXAMPLE_GRIDS for grid in set(grids))
    test: dict[str, Split] = dict.fromkeys(others[SPG_TRAIN_GRIDS - num_examples :], "test")
    return {
        grid: test.get(grid) or ("validation" if split_by_hash(grid) == "validation" else "train") for grid in grids
    }


def _parse_row_by_grid(row: Row) -> Question:
    return parse_row(row, is_by_grid=True)


SUDOKU_D1 = TaskFamily("sudoku-d1", INSTRUCTIONS, parse_row, grade, grade_d1, test_sample=256)
SUDOKU_SPG = TaskFamily("sudoku-spg", INSTRUCTIONS, _parse_row_by_grid, grade, grade_d1, divide=divide_as_spg)
