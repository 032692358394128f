"""Sudoku grids of 4x4 and 6x6: boards and their rules, a solver, splits by solution grid, and a generator of puzzles.

Texts are row-major: a grid is `size * size` digits, and a puzzle is the same with "." for an empty cell.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache, reduce
from operator import and_
from random import Random
from typing import Literal

from diffpo.tasks.base import Split
from diffpo.tasks.splits import split_by_hash

Size = Literal[4, 6]

EMPTY = "."

_BOX_SHAPE: dict[Size, tuple[int, int]] = {4: (2, 2), 6: (2, 3)}  # rows, columns

_TEST_GRIDS_4X4, _VALIDATION_GRIDS_4X4 = 88, 20  # of 288


class Board:
    """The rules of one size, as bit masks.

    A candidate says that a cell may hold a digit; its bit is `bit(cell, digit)`, with cells counted row-major, digits
    from 0. A set of candidates is one int, which has a plane of `size * size` bits for each digit. It is solved when
    each cell has exactly one candidate.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        self.digits = "123456789"[:size]
        self.num_cells = size * size
        self.plane = (1 << self.num_cells) - 1
        self.all_candidates = (1 << self.num_cells * size) - 1
        self.repeat = self.all_candidates // self.plane  # times a set of cells: that set in every plane
        peers = _peers(size)
        self.remaining = {  # the candidates that a chosen one leaves
            self.bit(cell, digit): self.all_candidates & ~(peers[cell] << digit * self.num_cells | self.repeat << cell)
            | self.bit(cell, digit)
            for cell in range(self.num_cells)
            for digit in range(size)
        }

    def bit(self, cell: int, digit: int) -> int:
        """Return the set of the one candidate that this cell holds this digit."""
        return 1 << digit * self.num_cells + cell

    def clue_bits(self, text: str) -> list[int]:
        """Return the candidates that the digits of a puzzle or a grid choose, in the order of its cells."""
        return [self.bit(cell, self.digits.index(mark)) for cell, mark in enumerate(text) if mark != EMPTY]

    def narrow(self, chosen: Iterable[int]) -> int:
        """Return the candidates that contradict none of the chosen ones.

        A chosen candidate excludes the other digits of its cell, and its digit in the cell's peers.
        """
        return reduce(and_, (self.remaining[bit] for bit in chosen), self.all_candidates)

    def text(self, solved: int) -> str:
        """Return the grid of a solved set of candidates."""
        marks = (next(d for d in range(self.size) if solved & self.bit(c, d)) for c in range(self.num_cells))
        return "".join(self.digits[digit] for digit in marks)

    def solutions(self, candidates: int, *, settled: int = 0, rng: Random | None = None) -> Iterator[int]:
        """Yield every solved set within `candidates`, depth first; with `rng`, digits are tried in random order.

        `settled` are cells with one candidate, which its peers no longer have (clues, after `narrow`).
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
                candidates &= self.remaining[bit]
        if not twice:
            yield candidates
            return
        cell = next(_bits(twice & ~thrice or twice))  # two candidates if there is such a cell
        branches = list(_bits(candidates & cell * self.repeat))
        if rng is not None:
            rng.shuffle(branches)
        for bit in branches:
            yield from self.solutions(candidates & self.remaining[bit], settled=settled | cell, rng=rng)


def _peers(size: Size) -> list[int]:
    """Return for each cell the set of cells that share its row, column or box, itself included."""
    box_rows, box_columns = _BOX_SHAPE[size]
    positions = [divmod(cell, size) for cell in range(size**2)]
    units = [(("row", r), ("column", c), ("box", r // box_rows, c // box_columns)) for r, c in positions]
    return [sum(1 << cell for cell, theirs in enumerate(units) if set(theirs) & set(mine)) for mine in units]


def _bits(mask: int) -> Iterator[int]:
    """Yield the bits of a mask, lowest first, each as a mask of its own."""
    while mask:
        low = mask & -mask
        mask ^= low
        yield low


@cache
def board(size: Size) -> Board:
    """Return the board of a size, the same one each time, since its tables take milliseconds to build."""
    return Board(size)


def is_puzzle(text: str, size: Size) -> bool:
    """Return whether a text has the length and the characters of a puzzle; its clues may contradict each other."""
    return len(text) == size**2 and set(text) <= {*board(size).digits, EMPTY}


def is_filled(text: str, size: Size) -> bool:
    """Return whether a text has a digit in every cell, which may still contradict each other."""
    return is_puzzle(text, size) and EMPTY not in text


def is_grid(text: str, size: Size) -> bool:
    """Return whether a text is a full grid that holds every digit once in each row, column and box."""
    rules = board(size)
    return is_filled(text, size) and rules.narrow(rules.clue_bits(text)).bit_count() == rules.num_cells


@cache
def grids_4x4() -> dict[Split, list[str]]:
    """Return the 288 grids of 4x4 by split: in the order of their SHA-256, 88 for test, 20 for validation, the rest."""
    rules = board(4)
    ranked = sorted(map(rules.text, rules.solutions(rules.all_candidates)), key=_sha256)
    held_out = _TEST_GRIDS_4X4 + _VALIDATION_GRIDS_4X4
    return {
        "train": ranked[held_out:],
        "validation": ranked[_TEST_GRIDS_4X4:held_out],
        "test": ranked[:_TEST_GRIDS_4X4],
    }


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("ascii")).digest()


def draw_grid(size: Size, split: Split, rng: Random) -> str:
    """Draw a grid of the split: 4x4 uniformly, 6x6 by randomised backtracking, which is not uniform.

    Backtracking favours grids whose path has few alternatives; docs/sudoku.md gives the measured deviation.
    """
    if size == 4:
        return rng.choice(grids_4x4()[split])
    rules = board(size)
    while True:
        grid = rules.text(next(rules.solutions(rules.all_candidates, rng=rng)))
        if split_by_hash(grid) == split:
            return grid


def make_puzzle(grid: str, size: Size, clues: int, rng: Random) -> str | None:
    """Empty cells of a grid in random order, but none without which the solution would no longer be unique.

    Return the puzzle once `clues` digits are left, None if the pass over all cells ends before. One pass is enough: a
    cell that was needed is still needed when there are fewer clues.
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
