"""Sudoku of 4x4 put in words, with the published splits. Columns `Puzzle` and `Solution`, 16 digits, 0 for empty.

`sudoku-d1`: rows are divided by puzzle, as d1 and DMPO do, and solutions of the test puzzles occur in training.
`sudoku-spg`: they are divided by solution grid, as SPG does, so that none does.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random

from diffpo.core.errors import UserError
from diffpo.grading.answer import final_answer
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row
from diffpo.tasks.splits import split_by_hash
from diffpo.tasks.sudoku import EMPTY, board, is_grid
from diffpo.tasks.text import Family, Question, solved_grade, worked_answer

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
SPG_SHOWN_GRIDS = ("3214142323414132", "4213132424313142", "2341413232141423")
"""Solutions of the puzzles that SPG shows in its prompt; they are train grids."""

_FILLED = re.compile(r"[1-4]{16}")
_CLUED = re.compile(r"[0-4]{16}")
_BETWEEN = re.compile(r"[\s`]+")
_LONGEST = 200  # of an answer that is 16 digits with space between them


def read(row: Row, is_by_grid: bool = False) -> Question:
    puzzle, grid = row.text("Puzzle").strip(), row.text("Solution").strip()
    if not _CLUED.fullmatch(puzzle):
        raise UserError(f"{row.where}: field 'Puzzle' should be 16 digits from 0 to 4, got {puzzle[:60]!r}")
    if not is_grid(grid, 4) or any(mark not in ("0", digit) for mark, digit in zip(puzzle, grid, strict=True)):
        raise UserError(f"{row.where}: field 'Solution' should solve {puzzle}, got {grid[:60]!r}")
    return Question(
        text=f"Puzzle: {puzzle}",
        answer=worked_answer("", grid),
        key=grid if is_by_grid else puzzle,
        cluster=grid,
        facts={"puzzle": puzzle, "solution": grid, "clues": 16 - puzzle.count("0")},
    )


def correct(problem: Problem, completion: str) -> Grade:
    """Solved: any valid grid that keeps the clues. `unparseable`: not 16 digits from 1 to 4, with or without spaces.

    Parts also: `valid`, `clues_kept`, and `cells`, the share of empty cells that agree with the nearest solution.
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


def d1_reward(problem: Problem, completion: str) -> Grade:
    """d1's reward, the share of right cells, but only for a grid that keeps its clues; 1 for any valid solution."""
    grade = correct(problem, completion)
    return Grade(grade.parts["clues_kept"] * grade.parts["cells"], grade.parts, grade.status)


def solutions(puzzle: str) -> list[str]:
    """Every grid that keeps the clues of a puzzle of 16 digits."""
    rules = board(4)
    clues = rules.clue_bits(puzzle.replace("0", EMPTY))
    return [rules.text(solved) for solved in rules.solutions(rules.narrow(clues))]


def divide_as_spg(grids: Sequence[str]) -> Mapping[str, Split]:
    """SPG's 200 train and 88 test grids of the 288 in d1's `4x4_sudoku_unique_puzzles.csv`, by the order of its rows.

    Of the train grids, those whose hash says so are for validation. The recipe is SPG's
    `dataset/generate_new_sudoku_splitting.py` (2f9229cd516a): what its puzzles show are train grids, the rest are
    shuffled with seed 42. That file was not at hand, so the result is not checked against SPG's own.
    """
    others = [grid for grid in dict.fromkeys(grids) if grid not in SPG_SHOWN_GRIDS]
    Random(42).shuffle(others)
    usage = sum(grid in SPG_SHOWN_GRIDS for grid in set(grids))
    test: dict[str, Split] = dict.fromkeys(others[SPG_TRAIN_GRIDS - usage :], "test")
    return {
        grid: test.get(grid) or ("validation" if split_by_hash(grid) == "validation" else "train") for grid in grids
    }


def _read_by_grid(row: Row) -> Question:
    return read(row, is_by_grid=True)


SUDOKU_D1 = Family("sudoku-d1", INSTRUCTIONS, read, correct, d1_reward, test_sample=256)
SUDOKU_SPG = Family("sudoku-spg", INSTRUCTIONS, _read_by_grid, correct, d1_reward, divide=divide_as_spg)
