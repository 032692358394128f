"""Boards, the solver and the splits against independent enumeration."""

import hashlib
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.sudoku import all_4x4_grids, count_solutions, matches, split_of

from diffpo.tasks.sudoku_grids import Size, board, grids_4x4, is_grid

# --- solver


def test_solver_finds_the_288_grids() -> None:
    rules = board(4)
    found = [rules.text(solved) for solved in rules.solutions(rules.all_candidates)]
    assert len(found) == len(set(found)) == 288
    assert set(found) == all_4x4_grids()


def test_solver_counts_the_28200960_grids_of_6x6() -> None:
    first_rows, below_the_corner = 720, 3  # all alike: digits can be renamed, the last three columns reordered
    completions = count_solutions("123456" + "4" + "." * 29, 6, limit=100_000)
    assert completions * first_rows * below_the_corner == 28_200_960


@given(st.text("1234.", min_size=16, max_size=16))
def test_solver_agrees_with_enumeration_on_any_clues(puzzle: str) -> None:
    assert count_solutions(puzzle, 4, limit=288) == sum(matches(puzzle, grid) for grid in all_4x4_grids())


def test_contradicting_clues_have_no_solution() -> None:
    assert count_solutions("11" + "." * 14, 4) == 0
    assert count_solutions("1" * 16, 4) == 0


@pytest.mark.parametrize(
    ("text", "size", "is_valid"),
    [
        ("1234341221434321", 4, True),
        ("1234234134124123", 4, False),  # rows and columns hold, boxes do not
        ("123456456123231564564231312645645312", 6, True),
        ("123456231564312645456123564231645312", 6, False),  # its boxes would be 3 rows x 2 columns
        ("1234", 4, False),
    ],
)
def test_is_grid(text: str, size: Size, is_valid: bool) -> None:
    assert is_grid(text, size) == is_valid


# --- splits


def test_published_splits() -> None:
    summary = {}
    for split, grids in grids_4x4().items():
        lines = "".join(f"{grid}\n" for grid in sorted(grids))
        summary[split] = (len(grids), hashlib.sha256(lines.encode("ascii")).hexdigest())
    assert summary == {
        "train": (180, "ca4db56934d7352da9f3ba3768b1857d5aa9f2162823785df0189fdcc1d19567"),
        "validation": (20, "b15e284e4b410e7aadfa666c4e6b1d115d13e0868e6a173d58b4cbba948dfd27"),
        "test": (88, "f60015feb6de02d727d5802321f7e0ceddc3c1275463ae5805c2966227a4badb"),
    }
    assert sorted(chain(*grids_4x4().values())) == sorted(all_4x4_grids())


def test_6x6_split_shares() -> None:
    rules = board(6)
    grids = [rules.text(solved) for solved, _ in zip(rules.solutions(rules.all_candidates), range(1000), strict=False)]
    counts = Counter(map(split_of, grids))
    assert counts["test"] / 1000 == pytest.approx(26 / 256, abs=0.03)
    assert counts["validation"] / 1000 == pytest.approx(13 / 256, abs=0.02)
