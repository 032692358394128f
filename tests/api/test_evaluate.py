"""`diffpo.evaluate`: the figures of `diffpo eval`, to the last digit, of models, tasks and rows in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import ROWS

import diffpo
from diffpo import Problem, TrainedRun, UserError
from diffpo.cli.main import main
from diffpo.tasks.base import Grade, Split

BOUNDS = [0.0, 0.5, 100.0]


@pytest.mark.parametrize("is_loaded", [False, True], ids=["folder", "policy"])
def test_the_record_is_that_of_the_command(base: Path, is_loaded: bool, tmp_path: Path) -> None:
    """Sudoku, whose problems have clusters, clues and validation problems."""
    main_out, own_out = tmp_path / "eval.json", tmp_path / "own.json"
    with pytest.raises(SystemExit):
        main(["eval", str(base), f"bounds={BOUNDS}", "count=12", "validation_count=9", "--out", str(main_out)])
    model = diffpo.load(base) if is_loaded else base
    found = diffpo.evaluate(model, bounds=BOUNDS, count=12, validation_count=9, out=own_out)
    written, expected = (json.loads(file.read_text()) for file in (own_out, main_out))
    if is_loaded:
        expected["arm"] = written["arm"]  # a policy is called by its checkpoint
    assert written == expected
    printed = next(point for point in expected["points"] if point["rule"] == found.main.rule)
    figures = (printed["accuracy"], tuple(printed["ci95"]), printed["nfe"], tuple(printed["nfe_ci95"]), 12)
    assert (found.accuracy, found.ci95, found.nfe, found.nfe_ci95, found.n) == figures
    assert [(row.solved, row.nfe) for row in found.rows] == [*zip(printed["solved"], printed["nfe_rows"], strict=True)]
    replayed = {(shown["prompt"], shown["completion"]) for shown in expected["playback"]}
    assert replayed <= {(row.prompt, row.completion) for row in found.rows}
    assert found.points[1].bound == 0.5 and str(found).startswith("entropy bound 0 ") and len(repr(found)) < 150
    for row in found.rows:
        assert row.solved == (row.completion == row.answer)


def test_a_task_in_memory_is_the_same_task(base: Path) -> None:
    """The run's own task is Sudoku of 13 to 15 clues."""
    task = diffpo.Sudoku(min_clues=13, max_clues=15)
    settings: dict[str, Any] = {"bounds": BOUNDS, "count": 8, "validation_count": 2}
    same = [diffpo.evaluate(base, task=given, **settings).record for given in (None, task)]
    assert same[0] == same[1]
    easier = diffpo.evaluate(base, task__min_clues=15, bounds=[0.0], count=4, validation_count=0)
    assert {sum(sign.isdigit() for sign in row.prompt) for row in easier.rows} == {15}
    assert set(easier.record["clues"]) == {15}


class Echo:
    """A task of no kind that is known."""

    name, alphabet, completion_length = "echo", "ab", 4

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        return [Problem(f"echo-{split}-{row}", "ab>", "ab", f"{row}") for row in range(min(count, 3))]

    def grade(self, problem: Problem, completion: str) -> Grade:
        return Grade(0.25, {"solved": 1.0})


def test_a_task_of_ones_own(text_base: TrainedRun) -> None:
    found = diffpo.evaluate(text_base, task=Echo(), bounds=[0.0])
    assert (found.n, found.accuracy, found.record["task"]) == (3, 1.0, "echo")
    assert [row.reward for row in found.rows] == [0.25] * 3
    with pytest.raises(UserError, match="task is a Echo, which has its own problems and rewards"):
        diffpo.evaluate(text_base, task=Echo(), data=ROWS)


def test_rows_and_a_reward_in_memory(text_base: TrainedRun, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"q": row["prompt"], "size": 2.5} for row in ROWS[:6]]

    def sized(completions: list[str], size: list[float]) -> list[float]:
        return size

    task = {"prompt": "q", "grader": "none", "solved_at": 2.5, "completion_length": 3}
    found = diffpo.evaluate(text_base, task={"kind": "text", **task}, data=rows, reward=sized, bounds=[0.0])
    assert (found.n, found.accuracy, found.nfe) == (6, 1.0, 3.0) and {row.reward for row in found.rows} == {2.5}
    changed = diffpo.evaluate(text_base, data=ROWS[:6], bounds=[0.0])
    assert {row.prompt for row in changed.rows} == {row["prompt"] for row in ROWS[:6]} and changed.nfe == 4.0
    assert not (text_base.folder / "eval.json").exists(), "nothing is written without `out`"


def test_a_run_and_its_policy_complete_alike(text_base: TrainedRun) -> None:
    prompts = [row["prompt"] for row in ROWS[:3]]
    assert diffpo.complete(text_base, prompts) == diffpo.complete(text_base.policy, prompts)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cuont": 3}, "1 mistake in the keywords:\n  cuont: no such keyword; did you mean 'count'"),
        ({"task": "sudoko"}, "did you mean 'sudoku'"),
        ({"price": 0.1}, "has no learned sampler, .* or leave the price out"),
        ({"data": [{"p": "a"}]}, "data row 1: task.prompt names column 'prompt', which is not there; there are p"),
    ],
)
def test_mistakes(settings: dict[str, Any], told: str, text_base: TrainedRun) -> None:
    with pytest.raises(UserError, match=told):
        diffpo.evaluate(text_base, **settings)
