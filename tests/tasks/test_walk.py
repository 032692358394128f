"""The labelled walk against the enumeration of all walks."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo.core.errors import UserError
from diffpo.tasks.base import Problem, Split, Task
from diffpo.tasks.walk import LABELS, NODES, Walk, split_of, table

SPLITS: tuple[Split, ...] = get_args(Split)
PROBLEM = Walk().problems("test", 1, seed=0)[0]

PINNED_ROW_A = ["ke", "do", "df", "ke"]
PINNED_PROMPT = "e10310230="


def right_answers(prompt: str, successors: int) -> set[str]:
    """All legal walks, followed forwards through the table."""
    walks = [prompt[0]]
    for label in prompt[1:-1]:
        walks = [walk + node for walk in walks for node in table(successors)[walk[-1], label]]
    return {walk[1:] for walk in walks}


# --- the table


@pytest.mark.parametrize("successors", [1, 2, 5, 8])
def test_permutations_that_never_agree(successors: int) -> None:
    found = table(successors)
    assert set(found) == set(product(NODES, LABELS))
    for label in LABELS:
        columns = list(zip(*(found[node, label] for node in NODES), strict=True))
        assert len(columns) == successors
        assert all(sorted(column) == list(NODES) for column in columns)
        assert all(mine != theirs for a, b in combinations(columns, 2) for mine, theirs in zip(a, b, strict=True))


def test_fewer_successors_are_a_part_of_more() -> None:
    assert all(table(5)[key].startswith(nodes) for key, nodes in table(2).items())


def test_the_table_is_the_one_that_models_were_trained_on() -> None:
    assert [table(2)["a", label] for label in LABELS] == PINNED_ROW_A
    assert PROBLEM.prompt == PINNED_PROMPT


# --- problems


def test_it_is_a_task() -> None:
    assert isinstance(Walk(), Task)


@pytest.mark.parametrize("task", [Walk(), Walk(successors=3, length=5)])
@pytest.mark.parametrize("split", SPLITS)
def test_problem_fields_and_gold_answers(task: Walk, split: Split) -> None:
    problems = task.problems(split, 60, seed=1)
    assert len({problem.id for problem in problems}) == 60
    for problem in problems:
        assert problem.id == f"{task.name}-{split}-{problem.prompt}"
        assert set(problem.prompt + problem.answer) <= set(task.alphabet)
        assert len(problem.prompt) == task.length + 2
        assert len(problem.answer) == task.completion_length == task.length
        assert problem.cluster == problem.prompt
        grade = task.grade(problem, problem.answer)
        assert (grade.reward, grade.status, grade.is_solved) == (1.0, "ok", True)
        assert grade.parts == {"solved": 1.0, "steps": 1.0}


def test_every_prompt_is_in_one_split_of_the_promised_share() -> None:
    prompts = [f"{node}{''.join(labels)}=" for node in NODES for labels in product(LABELS, repeat=4)]
    counts = Counter(map(split_of, prompts))
    assert counts["test"] / len(prompts) == pytest.approx(26 / 256, abs=0.02)
    assert counts["validation"] / len(prompts) == pytest.approx(13 / 256, abs=0.02)
    for split in SPLITS:
        assert {split_of(p.prompt) for seed in (0, 1) for p in Walk().problems(split, 50, seed)} == {split}


def test_a_split_that_is_drawn_dry_repeats_itself() -> None:
    task = Walk(length=4)
    available = sum(
        split_of(f"{node}{''.join(labels)}=") == "validation" for node in NODES for labels in product(LABELS, repeat=4)
    )
    problems = task.problems("validation", available + 5, seed=0)
    assert len({problem.prompt for problem in problems}) > available - 5
    assert {split_of(problem.prompt) for problem in problems} == {"validation"}
    assert len(problems) == available + 5


def test_same_arguments_same_problems_and_a_smaller_count_is_a_prefix() -> None:
    problems = Walk().problems("validation", 20, seed=5)
    assert Walk().problems("validation", 20, seed=5) == problems
    assert Walk().problems("validation", 7, seed=5) == problems[:7]
    assert Walk().problems("validation", 20, seed=6) != problems


def test_answers_are_uniform_among_the_right_ones() -> None:
    """Every step takes the first and the second successor equally often, whatever the step before it took."""
    choices: Counter[tuple[int, ...]] = Counter()
    for problem in Walk(length=4).problems("train", 2000, seed=0):
        walk = problem.prompt[0] + problem.answer
        choices[tuple(table(2)[walk[i], problem.prompt[1 + i]].index(walk[i + 1]) for i in range(4))] += 1
    assert set(choices) == set(product((0, 1), repeat=4))
    assert sum((count - 125) ** 2 / 125 for count in choices.values()) < 37.7  # chi-square, 15 degrees, p = 0.001


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"successors": 0}, "successors is 0; give a number from 1 to 8"),
        ({"successors": 9}, "successors is 9"),
        ({"length": 3}, "length is 3; give a number from 4 to 32"),
        ({"step_credit": 1.5}, "step_credit is 1.5"),
        ({"step_credit": float("nan")}, "step_credit is nan"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Walk(**fields)  # type: ignore[arg-type]


# --- grader


def test_exactly_the_256_legal_walks_are_solved() -> None:
    right = right_answers(PROBLEM.prompt, 2)
    assert len(right) == 2**8 and PROBLEM.answer in right
    assert all(Walk().grade(PROBLEM, walk).reward == 1.0 for walk in right)
    for walk in right:
        for place, node in product(range(8), NODES):
            changed = walk[:place] + node + walk[place + 1 :]
            assert Walk().grade(PROBLEM, changed).is_solved == (changed in right)


def test_all_completions_of_a_short_walk() -> None:
    task = Walk(successors=3, length=4)
    problem = task.problems("train", 1, seed=0)[0]
    solved = {text for text in map("".join, product(NODES, repeat=4)) if task.grade(problem, text).is_solved}
    assert solved == right_answers(problem.prompt, 3)
    assert len(solved) == 3**4


def test_steps_count_from_where_the_walk_is() -> None:
    """One node replaced spoils the step to it, and the step from it unless that is legal by chance."""
    task = Walk(step_credit=0.5)
    for place, node in product(range(8), NODES):
        completion = PROBLEM.answer[:place] + node + PROBLEM.answer[place + 1 :]
        walk = PROBLEM.prompt[0] + completion
        legal = [walk[i + 1] in table(2)[walk[i], PROBLEM.prompt[1 + i]] for i in range(8)]
        assert sum(legal) >= 6
        grade = task.grade(PROBLEM, completion)
        assert grade.parts["steps"] == sum(legal) / 8
        assert grade.reward == (1.0 if all(legal) else 0.5 * sum(legal) / 8)
        assert Walk().grade(PROBLEM, completion).reward == float(all(legal))


@given(
    st.one_of(st.text(max_size=20), st.text(NODES + "q0= \u0430", max_size=9), st.text(NODES, min_size=8, max_size=8))
)
def test_grader_agrees_with_the_definition_on_any_text(completion: str) -> None:
    grade = Walk().grade(PROBLEM, completion)
    assert grade.is_solved == (completion in right_answers(PROBLEM.prompt, 2))
    assert grade.reward == float(grade.is_solved)
    assert (grade.status == "ok") == (len(completion) == 8 and all(mark in NODES for mark in completion))


@pytest.mark.parametrize(
    "prompt", ["", "=", "a0123012=", "a012301233=", "q01230123=", "a01230124=", "a01230123", "a" * 10]
)
def test_a_broken_problem_is_reported_as_ours(prompt: str) -> None:
    grade = Walk().grade(replace(PROBLEM, prompt=prompt), PROBLEM.answer)
    assert (grade.reward, grade.status) == (0.0, "grader_failed")


def test_a_problem_of_another_task_is_reported_as_ours() -> None:
    foreign = Problem("x", Walk(length=5).problems("test", 1, seed=0)[0].prompt, "a" * 8, "x")
    assert Walk().grade(foreign, "a" * 8).status == "grader_failed"
