"""Sudoku of 4x4 and 6x6: a solver, puzzles with exactly one solution, splits by solution grid, and a strict grader.

Texts are row-major: a grid is `size * size` digits, a puzzle the same with "." for an empty cell. A prompt names its
unknowns instead: the empty cell i is written as the i-th letter. A denoiser with rotary positions knows where a cell is
only from what stands around it, and on a nearly empty puzzle that is nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import islice, zip_longest
from operator import and_
from random import Random
from statistics import fmean
from typing import Literal, NamedTuple, get_args

from diffpo.core.errors import UserError
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.splits import check_split, split_by_hash

Size = Literal[4, 6]

EMPTY = "."
UNKNOWNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"

_BOX_SHAPE: dict[Size, tuple[int, int]] = {4: (2, 2), 6: (2, 3)}  # rows, columns
_FEWEST_CLUES: dict[Size, int] = {4: 4, 6: 8}  # no puzzle with fewer has one solution
_DEFAULT_CLUES: dict[Size, tuple[int, int]] = {4: (4, 10), 6: (12, 24)}

_MAX_PASSES = 1000  # of digging for one puzzle; about 630 of them reach 4 clues in 4x4, all reach 12 in 6x6

_TEST_GRIDS_4X4, _VALIDATION_GRIDS_4X4 = 88, 20  # of 288


class Board:
    """The rules of one size, as bit masks.

    A set of candidates ("this cell may hold this digit") is one int, with one plane of `size * size` bits for each
    digit: `bit(cell, digit)` for cells counted row-major and digits from 0. It is solved when each cell has one.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        self.digits = "123456789"[:size]
        self.num_cells = size * size
        self.plane = (1 << self.num_cells) - 1
        self.everything = (1 << self.num_cells * size) - 1
        self.repeat = self.everything // self.plane  # times a set of cells: that set in every plane
        peers = _peers(size)
        self.keep = {  # what remains of everything once a candidate is chosen
            self.bit(cell, digit): self.everything & ~(peers[cell] << digit * self.num_cells | self.repeat << cell)
            | self.bit(cell, digit)
            for cell in range(self.num_cells)
            for digit in range(size)
        }

    def bit(self, cell: int, digit: int) -> int:
        """The candidate that this cell holds this digit, as a set of one."""
        return 1 << digit * self.num_cells + cell

    def clue_bits(self, text: str) -> list[int]:
        """The candidates that a puzzle or a grid chooses, in the order of its cells."""
        return [self.bit(cell, self.digits.index(mark)) for cell, mark in enumerate(text) if mark != EMPTY]

    def narrow(self, chosen: Iterable[int]) -> int:
        """The candidates that contradict none of the chosen ones: each of those takes its cell and its peers' digit."""
        return reduce(and_, (self.keep[bit] for bit in chosen), self.everything)

    def text(self, solved: int) -> str:
        """The grid that a solved set stands for."""
        marks = (next(d for d in range(self.size) if solved & self.bit(c, d)) for c in range(self.num_cells))
        return "".join(self.digits[digit] for digit in marks)

    def solutions(self, candidates: int, *, settled: int = 0, rng: Random | None = None) -> Iterator[int]:
        """Every solved set within `candidates`, depth first; with `rng`, a cell's digits are tried in random order.

        `settled` are cells whose one candidate has already been taken from its peers (clues, after `narrow`).
        """
        while True:
            once = twice = thrice = 0  # cells with at least so many candidates
            planes = candidates
            while planes:
                plane = planes & self.plane
                planes >>= self.num_cells
                thrice |= twice & plane
                twice |= once & plane
                once |= plane
            if once != self.plane:
                return
            singles = once & ~twice & ~settled
            if not singles:
                break
            settled |= singles
            for bit in _bits(candidates & singles * self.repeat):
                candidates &= self.keep[bit]
        if not twice:
            yield candidates
            return
        cell = next(_bits(twice & ~thrice or twice))  # two candidates if there is such a cell
        branches = list(_bits(candidates & cell * self.repeat))
        if rng is not None:
            rng.shuffle(branches)
        for bit in branches:
            yield from self.solutions(candidates & self.keep[bit], settled=settled | cell, rng=rng)


def _peers(size: Size) -> list[int]:
    """For each cell the set of cells that share its row, column or box, itself included."""
    box_rows, box_columns = _BOX_SHAPE[size]
    places = [divmod(cell, size) for cell in range(size**2)]
    units = [(("row", r), ("column", c), ("box", r // box_rows, c // box_columns)) for r, c in places]
    return [sum(1 << cell for cell, theirs in enumerate(units) if set(theirs) & set(mine)) for mine in units]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        mask ^= low
        yield low


@cache
def board(size: Size) -> Board:
    """The one board of a size: its tables take milliseconds to build."""
    return Board(size)


def is_puzzle(text: str, size: Size) -> bool:
    """Whether a text has the length and the characters of a puzzle; its clues may still contradict each other."""
    return len(text) == size**2 and set(text) <= {*board(size).digits, EMPTY}


def is_grid(text: str, size: Size) -> bool:
    """Whether a text is a full grid that holds every digit once in each row, column and box."""
    rules = board(size)
    return _is_filled(text, size) and rules.narrow(rules.clue_bits(text)).bit_count() == rules.num_cells


def _is_filled(text: str, size: Size) -> bool:
    return is_puzzle(text, size) and EMPTY not in text


def count_solutions(puzzle: str, size: Size, limit: int = 2) -> int:
    """How many grids complete a puzzle, counted up to `limit`; 0 when its clues contradict each other."""
    rules = board(size)
    return sum(1 for _ in islice(rules.solutions(rules.narrow(rules.clue_bits(puzzle))), limit))


class SplitSummary(NamedTuple):
    """The grids of a split: how many, and the SHA-256 of their sorted list, one per line, each line ended."""

    num_grids: int
    sha256: str


def split_summary() -> dict[Split, SplitSummary]:
    """What the splits of the 288 4x4 grids are, to be compared with the published numbers (docs/sudoku.md)."""
    return {
        split: SplitSummary(len(grids), _sha256("".join(f"{grid}\n" for grid in sorted(grids))).hex())
        for split, grids in _grids_4x4().items()
    }


def split_of(grid: str) -> Split:
    """The split that a solution grid of 4x4 or 6x6 belongs to, whatever the seed. Raises UserError for other texts."""
    for size in get_args(Size):
        if is_grid(grid, size):
            return _split_4x4(grid) if size == 4 else split_by_hash(grid)
    raise UserError(f"sudoku: {grid!r} is no full and valid grid of 4x4 or 6x6.")


def _split_4x4(grid: str) -> Split:
    return next(split for split, grids in _grids_4x4().items() if grid in grids)


@cache
def _grids_4x4() -> dict[Split, list[str]]:
    """All 288 grids, ranked by their SHA-256: the first 88 are the test set, the next 20 the validation set."""
    rules = board(4)
    ranked = sorted(map(rules.text, rules.solutions(rules.everything)), key=_sha256)
    held_out = _TEST_GRIDS_4X4 + _VALIDATION_GRIDS_4X4
    return {
        "train": ranked[held_out:],
        "validation": ranked[_TEST_GRIDS_4X4:held_out],
        "test": ranked[:_TEST_GRIDS_4X4],
    }


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("ascii")).digest()


def _draw_grid(size: Size, split: Split, rng: Random) -> str:
    """A grid of the split: 4x4 uniformly; 6x6 by randomised backtracking, which is not uniform.

    Backtracking favours grids whose path has few alternatives; docs/sudoku.md gives the measured deviation.
    """
    if size == 4:
        return rng.choice(_grids_4x4()[split])
    rules = board(size)
    while True:
        grid = rules.text(next(rules.solutions(rules.everything, rng=rng)))
        if split_by_hash(grid) == split:
            return grid


def _dig(grid: str, size: Size, clues: int, rng: Random) -> str | None:
    """Empties the cells of a grid in random order, passing over those that the uniqueness of the solution needs.

    Returns the puzzle once `clues` are left, None if the pass ends before. One pass is enough: a cell that was needed
    stays needed when there are fewer clues.
    """
    rules = board(size)
    left = dict(enumerate(rules.clue_bits(grid)))
    for cell in rng.sample(range(rules.num_cells), rules.num_cells):
        if len(left) == clues:
            break
        bit = left.pop(cell)
        # The grid is the only solution with its own digit here, so a second one has another digit.
        others = rules.narrow(left.values()) & ~bit
        if next(rules.solutions(others, settled=sum(1 << c for c in left)), None) is not None:
            left[cell] = bit
    if len(left) != clues:
        return None
    return "".join(mark if cell in left else EMPTY for cell, mark in enumerate(grid))


def prompt_of(puzzle: str) -> str:
    """The puzzle with its unknowns named: "1..4" becomes "1bc4"."""
    return "".join(name if mark == EMPTY else mark for mark, name in zip(puzzle, UNKNOWNS, strict=False))


def puzzle_of(prompt: str) -> str:
    """The inverse of `prompt_of`. A letter that is out of its place stays, and the text is then no puzzle."""
    return "".join(EMPTY if mark == name else mark for mark, name in zip_longest(prompt, UNKNOWNS[: len(prompt)]))


@dataclass(frozen=True)
class Sudoku:
    """Sudoku puzzles with one solution. Prompt: the puzzle, its unknowns named by letters; completion: the full grid.

    `size`: 4 (boxes 2x2) or 6 (boxes of 2 rows and 3 columns). `min_clues`, `max_clues`: the number of clues is drawn
    uniformly between them, both included; None is the default of the size, 4 to 10 or 12 to 24. `cell_credit`: what
    the share of right empty cells is multiplied by to reward a grid that keeps the clues without being solved.
    Raises UserError for values out of range.
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
        """`count` puzzles of a split; a smaller count gives the beginning of the same list.

        The number of clues is exactly uniform: a pass of digging that misses it is repeated with another grid, so
        grids that allow few clues are rarer among the puzzles with few. Puzzles are distinct unless 1000 passes find
        no new one. Raises UserError if 1000 passes never reach the number of clues, which only a 6x6 range near its
        lower end can cause.
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
        repeated = None
        for _ in range(_MAX_PASSES):
            grid = _draw_grid(self.size, split, rng)
            puzzle = _dig(grid, self.size, clues, rng)
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
        if not (is_puzzle(puzzle, self.size) and _is_filled(problem.answer, self.size)):
            return Grade(0.0, parts, "grader_failed")
        if not _is_filled(completion, self.size):
            return Grade(0.0, parts, "unparseable")
        empty = [cell for cell, mark in enumerate(puzzle) if mark == EMPTY]
        cells = sum(completion[cell] == problem.answer[cell] for cell in empty) / max(1, len(empty))
        clues_kept = all(mark in (EMPTY, given) for mark, given in zip(puzzle, completion, strict=True))
        valid = is_grid(completion, self.size)
        solved = valid and clues_kept
        parts = {"solved": float(solved), "valid": float(valid), "clues_kept": float(clues_kept), "cells": cells}
        partial = self.cell_credit * cells if clues_kept else 0.0
        return Grade(1.0 if solved else partial, parts)

    def trivial_baselines(self, problems: Sequence[Problem]) -> dict[str, float]:
        """What `cells` averages over these problems for policies without skill, to be shown beside any cell accuracy.

        Exact expectations: the best single digit (chosen with hindsight), a random digit missing from the clues of the
        cell's row, a random digit that contradicts no clue of its row, column and box. At least one problem.
        """
        rows = zip(*(_baseline_shares(problem, board(self.size)) for problem in problems), strict=True)
        *constant, missing_from_row, consistent = map(fmean, rows)
        return {
            "best_constant_digit": max(constant),
            "missing_from_row": missing_from_row,
            "consistent_with_clues": consistent,
        }


def _baseline_shares(problem: Problem, rules: Board) -> list[float]:
    """Expected share of right empty cells for each constant digit, then for the two random policies."""
    puzzle = puzzle_of(problem.prompt)
    candidates = rules.narrow(rules.clue_bits(puzzle))
    empty = [cell for cell, mark in enumerate(puzzle) if mark == EMPTY]
    row_starts = [cell - cell % rules.size for cell in empty]
    constant = [fmean(problem.answer[cell] == digit for cell in empty) for digit in rules.digits]
    missing = fmean(1 / puzzle.count(EMPTY, start, start + rules.size) for start in row_starts)
    consistent = fmean(1 / (candidates & rules.repeat << cell).bit_count() for cell in empty)
    return [*constant, missing, consistent]
