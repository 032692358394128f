"""Sudoku puzzles against independent enumeration, their grader, and baselines without skill."""

import csv
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.sudoku import all_4x4_grids, brute_force_count, count_solutions, matches, split_of, trivial_baselines

from diffpo.core.errors import UserError
from diffpo.tasks.base import Problem, Split
from diffpo.tasks.sudoku import Sudoku, prompt_of, puzzle_of
from diffpo.tasks.sudoku_grids import Size

SPLITS: tuple[Split, ...] = get_args(Split)
SIZES: tuple[Size, ...] = get_args(Size)
D1_TEST_SET = Path(__file__).parents[3] / "shared" / "data" / "sudoku4x4_test.csv"

PINNED_4X4 = ["312....34...1...", "43...13..4.3...1"]
PINNED_6X6 = ["..4..661534245..1.13.5.4.61....4.26."]


# --- puzzles


@pytest.mark.parametrize("size", SIZES)
def test_problems_stay_in_their_split_whatever_the_seed(size: Size) -> None:
    task = Sudoku(size)
    grids = {split: {p.answer for seed in (0, 1) for p in task.problems(split, 15, seed)} for split in SPLITS}
    assert all(split_of(grid) == split for split, members in grids.items() for grid in members)
    assert sum(map(len, grids.values())) == len(set().union(*grids.values()))


@pytest.mark.parametrize("split", SPLITS)
def test_4x4_puzzles_have_one_solution_by_enumeration(split: Split) -> None:
    for problem in Sudoku().problems(split, 150, seed=0):
        assert [grid for grid in all_4x4_grids() if matches(puzzle_of(problem.prompt), grid)] == [problem.answer]


def test_6x6_puzzles_have_one_solution_by_brute_force() -> None:
    for problem in Sudoku(6).problems("test", 20, seed=0):
        assert matches(puzzle_of(problem.prompt), problem.answer)
        assert brute_force_count(puzzle_of(problem.prompt), 6) == 1


@pytest.mark.parametrize("size", SIZES)
def test_problem_fields(size: Size) -> None:
    task = Sudoku(size)
    problems = task.problems("train", 40, seed=3)
    assert len({problem.id for problem in problems}) == 40
    for problem in problems:
        puzzle = puzzle_of(problem.prompt)
        assert problem.id == f"sudoku{size}-train-{puzzle}"
        assert prompt_of(puzzle) == problem.prompt
        assert set(problem.prompt + problem.answer) <= set(task.alphabet)
        assert len(puzzle) == len(problem.answer) == task.completion_length
        assert problem.cluster == problem.answer
        assert problem.facts == {"clues": sum(mark != "." for mark in puzzle)}


@pytest.mark.parametrize(("size", "low", "high"), [(4, 4, 10), (6, 12, 24)])
def test_number_of_clues_is_uniform(size: Size, low: int, high: int) -> None:
    num_problems = 2100 if size == 4 else 650
    counts = Counter(problem.facts["clues"] for problem in Sudoku(size).problems("train", num_problems, seed=0))
    assert set(counts) == set(range(low, high + 1))
    expected = num_problems / len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 3 * len(counts)


def test_every_4x4_train_grid_is_drawn() -> None:
    assert len({problem.cluster for problem in Sudoku().problems("train", 2000, seed=0)}) == 180


@pytest.mark.parametrize("size", SIZES)
def test_same_arguments_same_problems_and_a_smaller_count_is_a_prefix(size: Size) -> None:
    task = Sudoku(size)
    problems = task.problems("validation", 20, seed=5)
    assert task.problems("validation", 20, seed=5) == problems
    assert task.problems("validation", 7, seed=5) == problems[:7]
    assert task.problems("validation", 20, seed=6) != problems
    assert task.problems("validation", 0, seed=5) == []


def test_problems_are_the_same_on_every_machine() -> None:
    assert [puzzle_of(problem.prompt) for problem in Sudoku().problems("test", 2, seed=0)] == PINNED_4X4
    assert [puzzle_of(problem.prompt) for problem in Sudoku(6).problems("test", 1, seed=0)] == PINNED_6X6


def test_puzzles_repeat_only_when_there_are_no_others() -> None:
    num_puzzles = 20 * 16  # validation grids x the one cell that is empty
    problems = Sudoku(min_clues=15, max_clues=15).problems("validation", num_puzzles + 3, seed=0)
    assert num_puzzles - 5 <= len({problem.id for problem in problems}) <= num_puzzles


def test_fewest_clues() -> None:
    assert {p.facts["clues"] for p in Sudoku(max_clues=4).problems("test", 20, seed=0)} == {4}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_clues": 3}, "clues from 3 to 10"),
        ({"min_clues": 11}, "clues from 11 to 10"),
        ({"max_clues": 16}, "clues from 4 to 16"),
        ({"size": 6, "max_clues": 36}, "clues from 12 to 36"),
        ({"cell_credit": -0.1}, "cell_credit is -0.1"),
        ({"cell_credit": float("nan")}, "cell_credit is nan"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sudoku(**fields)


def test_untyped_mistakes_are_refused_and_torch_is_not_needed() -> None:
    """In a process of its own, where no run-time type checker catches the values first."""
    script = """
import sys
from diffpo.core.errors import UserError
from diffpo.tasks.sudoku import Sudoku
for mistake in (lambda: Sudoku(9), lambda: Sudoku(6).problems("dev", 1, seed=0)):
    try:
        mistake()
    except UserError as error:
        print(error)
print("torch" in sys.modules)
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert lines[0] == "sudoku: size is 9; give 4 or 6."
    assert lines[1] == "sudoku: unknown split 'dev'; give one of train, validation, test."
    assert lines[2] == "False"


# --- grader


@cache
def example() -> Problem:
    return Sudoku().problems("test", 1, seed=0)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("split", SPLITS)
def test_gold_answers_are_solved(size: Size, split: Split) -> None:
    task = Sudoku(size)
    for problem in task.problems(split, 20, seed=1):
        grade = task.grade(problem, problem.answer)
        assert grade.is_solved
        assert (grade.reward, grade.status) == (1.0, "ok")
        assert grade.parts == {"solved": 1.0, "valid": 1.0, "clues_kept": 1.0, "cells": 1.0}


@pytest.mark.parametrize("size", SIZES)
def test_every_corruption_of_one_cell_pays_nothing_or_the_credit(size: Size) -> None:
    strict, lenient = Sudoku(size), Sudoku(size, cell_credit=0.5)
    for problem in strict.problems("test", 5, seed=2):
        num_empty = puzzle_of(problem.prompt).count(".")
        for cell, right in enumerate(problem.answer):
            for digit in set("123456"[:size]) - {right}:
                wrong = problem.answer[:cell] + digit + problem.answer[cell + 1 :]
                grade = strict.grade(problem, wrong)
                was_empty = puzzle_of(problem.prompt)[cell] == "."
                assert grade.reward == grade.parts["solved"] == grade.parts["valid"] == 0.0
                assert grade.parts["clues_kept"] == was_empty
                assert grade.parts["cells"] == pytest.approx((num_empty - was_empty) / num_empty)
                credit = 0.5 * (num_empty - 1) / num_empty if was_empty else 0.0
                assert lenient.grade(problem, wrong).reward == pytest.approx(credit)


def test_a_valid_grid_that_overwrites_a_clue_pays_nothing() -> None:
    for grid in all_4x4_grids() - {example().answer}:
        grade = Sudoku(cell_credit=0.5).grade(example(), grid)
        assert grade.reward == 0.0
        assert (grade.parts["valid"], grade.parts["clues_kept"]) == (1.0, 0.0)


def test_another_solution_of_an_ambiguous_puzzle_is_solved() -> None:
    listed, other = "1234341221434321", "1234341243212143"
    problem = Problem("foreign", prompt_of("12343412" + "." * 8), listed, listed)
    grade = Sudoku().grade(problem, other)
    assert grade.is_solved
    assert grade.reward == 1.0
    assert grade.parts["cells"] < 1.0


HOSTILE = [
    "",
    " " * 16,
    "0" * 16,
    "." * 16,
    "1234341221434321\n",
    "1234341221434321 ",
    " 1234341221434321",
    "12343412214343211",
    "123434122143432",
    "1234341221434325",
    "\u00b2" * 16,  # superscript
    "\u0661\u0662\u0663\u0664" * 4,  # Arabic-Indic digits, which str.isdigit and int() accept
    "\uff11\uff12\uff13\uff14" * 4,  # full width
    "\0" * 16,
    "\ud800" * 16,
    "<|mdm_mask|>1234",
    "1" * 1_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_unparseable(text: str) -> None:
    grade = Sudoku(cell_credit=1.0).grade(example(), text)
    assert (grade.reward, grade.status) == (0.0, "unparseable")
    assert set(grade.parts.values()) == {0.0}


@given(
    st.one_of(
        st.text(max_size=40), st.text("1234", min_size=16, max_size=16), st.text("1\u0662\u00b23\uff14.\0", max_size=17)
    )
)
def test_grader_agrees_with_the_definition_on_any_text(completion: str) -> None:
    grade = Sudoku().grade(example(), completion)
    assert grade.is_solved == (completion == example().answer)
    assert grade.reward == float(grade.is_solved)
    assert (grade.status == "ok") == (len(completion) == 16 and all(mark in "1234" for mark in completion))


@pytest.mark.parametrize("prompt", ["", "=", prompt_of("." * 36), "x" * 16, "." * 16 + "=", "0" * 16, "b" + "." * 15])
def test_a_broken_problem_is_reported_as_ours(prompt: str) -> None:
    grade = Sudoku().grade(replace(example(), prompt=prompt), example().answer)
    assert (grade.reward, grade.status) == (0.0, "grader_failed")


# --- baselines


def test_baselines_by_hand() -> None:
    answer = "1234341221434321"
    one_empty_cell = Problem("hand", prompt_of("." + answer[1:]), answer, answer)
    assert set(trivial_baselines([one_empty_cell], 4).values()) == {1.0}
    # Empty: 2 cells of the first row, all 12 others; each of 2 and 3 stands in 4 of them, each of 1 and 4 in 3.
    two_clues = Problem("hand", prompt_of("1..4" + "." * 12), answer, answer)
    candidates = [2, 2, 3, 3, 3, 3, 3, 4, 4, 3, 3, 4, 4, 3]
    by_hand = {
        "best_constant_digit": 4 / 14,
        "missing_from_row": (2 / 2 + 12 / 4) / 14,
        "consistent_with_clues": sum(1 / count for count in candidates) / 14,
    }
    assert trivial_baselines([two_clues], 4) == pytest.approx(by_hand)
    # Puzzles weigh the same, however many cells they leave empty.
    mixed = trivial_baselines([one_empty_cell, two_clues], 4)
    assert mixed["missing_from_row"] == pytest.approx((1 + by_hand["missing_from_row"]) / 2)
    assert mixed["best_constant_digit"] == pytest.approx((1 + 3 / 14) / 2)  # 1, the best here, not the best of each


# --- the published test set of d1


@pytest.fixture(scope="module")
def d1_problems() -> list[Problem]:
    if not D1_TEST_SET.exists():
        pytest.skip("the d1 test set (shared/data/sudoku4x4_test.csv) is not beside this checkout")
    with D1_TEST_SET.open(encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    return [
        Problem(f"d1-{i}", prompt_of(row["Puzzle"].replace("0", ".")), row["Solution"], row["Solution"])
        for i, row in enumerate(rows)
    ]


def test_d1_puzzles_often_have_several_solutions(d1_problems: list[Problem]) -> None:
    counts = Counter(count_solutions(puzzle_of(problem.prompt), 4, limit=288) for problem in d1_problems)
    assert counts == {1: 376, 2: 115, 3: 8, 4: 1}


def test_d1_listed_answers_and_alternatives_are_solved(d1_problems: list[Problem]) -> None:
    for problem in d1_problems:
        solutions = {grid for grid in all_4x4_grids() if matches(puzzle_of(problem.prompt), grid)}
        assert problem.answer in solutions
        assert all(Sudoku().grade(problem, grid).is_solved for grid in solutions)


def test_d1_baselines_as_measured_before(d1_problems: list[Problem]) -> None:
    evaluated = np.random.RandomState(42).choice(500, 256, replace=False)
    baselines = trivial_baselines([d1_problems[i] for i in evaluated], 4)
    assert baselines["best_constant_digit"] == pytest.approx(0.2617, abs=5e-5)
    assert baselines["missing_from_row"] == pytest.approx(0.4766, abs=5e-5)
    assert baselines["consistent_with_clues"] == pytest.approx(0.7713, abs=5e-5)
