"""Constants are chosen on validation problems, and are what a learned sampler is compared with."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.outcomes import outcome
from tests.helpers.sudoku import split_of

from diffpo.core.errors import UserError
from diffpo.core.options import DENSE_BOUNDS
from diffpo.evaluation import run
from diffpo.evaluation.loop import Outcome, evaluate_decodings, validation_problems
from diffpo.evaluation.record import table
from diffpo.evaluation.run import run_eval
from diffpo.evaluation.validated import PRICES, Outcomes, validated_gain, validation_record
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import EntropyBoundRule, EvalRecipe, SftRecipe, SudokuTask
from diffpo.statistics.intervals import difference_interval
from diffpo.tasks.base import Problem
from diffpo.tasks.sudoku import Sudoku
from diffpo.training.sft import run_sft

LENGTH = 16
RULES = {f"entropy bound {bound:g}": EntropyBoundRule(bound=bound) for bound in (0.0, 0.1, 1.0)}


def outcomes(*columns: tuple[list[int], list[int]], learned: tuple[list[int], list[int]] | None) -> Outcomes:
    problems = [Problem(str(i), "", "", cluster=str(i // 2)) for i in range(len(columns[0][0]))]
    fixed = [outcome(name, *column) for name, column in zip(RULES, columns, strict=True)]
    return Outcomes(problems, fixed, outcome("learned", *learned) if learned else None)


VALIDATION = outcomes(
    ([1, 1, 1, 1], [16, 16, 16, 16]),
    ([1, 1, 1, 0], [3, 2, 2, 1]),
    ([1, 0, 0, 1], [1, 1, 1, 1]),
    learned=([1, 1, 0, 1], [2, 2, 2, 2]),
)
TEST = outcomes(
    ([1, 1, 1, 0, 1, 1], [16] * 6),
    ([1, 0, 1, 0, 0, 1], [2, 2, 3, 2, 2, 1]),
    ([1, 1, 1, 0, 1, 1], [1] * 6),
    learned=([1, 1, 1, 0, 0, 1], [1, 2, 1, 1, 2, 2]),
)


def test_the_record_has_the_validation_frontier_and_the_best_constant_at_each_price() -> None:
    record = validation_record(VALIDATION, RULES, LENGTH)
    assert record["n"] == 4 and [point["rule"] for point in record["points"]] == list(RULES)
    assert [(point["accuracy"], point["nfe"]) for point in record["points"]] == [(1.0, 16.0), (0.75, 2.0), (0.5, 1.0)]
    assert (record["learned"]["accuracy"], record["learned"]["nfe"]) == (0.75, 2.0)
    # 1 - p, .75 - p / 8 and .5 - p / 16.
    chosen = {found["price"]: found["bound"] for found in record["best_constants"]}
    assert chosen == {0.0: 0.0, 0.1: 0.0, 0.3: 0.1, 1.0: 0.1} and tuple(chosen) == PRICES


def test_the_validated_constant_is_the_best_on_validation_and_not_on_the_test() -> None:
    gain = validated_gain(TEST, validation_record(VALIDATION, RULES, LENGTH))
    assert gain is not None
    assert (gain["rule"], gain["bound"]) == ("entropy bound 0.1", 0.1), (
        "on the test, a bound of 1 is better and cheaper"
    )
    assert (gain["accuracy"], gain["nfe"]) == (pytest.approx(1 / 6), pytest.approx(0.5))
    assert gain["accuracy_ci95"] == pytest.approx(
        difference_interval(np.array([0, 1, 0, 0, 0, 0.0]), TEST.clusters), rel=1e-9
    )


def test_a_learned_sampler_quicker_than_every_bound_meets_the_cheapest() -> None:
    quick = Outcomes(VALIDATION.problems, VALIDATION.fixed, outcome("learned", [0] * 4, [0] * 4))
    gain = validated_gain(TEST, validation_record(quick, RULES, LENGTH))
    assert gain is not None and gain["bound"] == 1.0


def test_without_a_learned_sampler_there_are_constants_and_no_gain() -> None:
    fixed = Outcomes(VALIDATION.problems, VALIDATION.fixed, None)
    record = validation_record(fixed, RULES, LENGTH)
    assert record["learned"] is None and len(record["best_constants"]) == len(PRICES)
    assert validated_gain(Outcomes(TEST.problems, TEST.fixed, None), record) is None


@pytest.mark.parametrize(
    ("kind", "default"), [("sudoku", 400), ("countdown", 400), ("walk", 400), ("gsm8k", 0), ("sudoku-d1", 0)]
)
def test_made_up_tasks_choose_constants_unless_told_otherwise(kind: str, default: int) -> None:
    for count, expected in ((None, default), (0, 0), (7, 7)):
        told = [] if count is None else [f"validation_count={count}"]
        recipe = load_recipe(EvalRecipe, None, ["model=m", f"task.kind={kind}", *told])
        assert recipe.task is not None and recipe.num_validation(recipe.task) == expected


def test_validation_problems_cannot_choose_what_they_report() -> None:
    recipe = load_recipe(EvalRecipe, None, ["model=m", "split=validation"])
    assert recipe.num_validation(SudokuTask()) == 0
    with pytest.raises(UserError, match="validation_count: split = 'validation' reports the problems"):
        load_recipe(EvalRecipe, None, ["model=m", "split=validation", "validation_count=10"])


def test_validation_problems_are_of_their_split_and_others_than_the_tests() -> None:
    settings = load_recipe(EvalRecipe, None, ["model=m"])
    found = validation_problems(Sudoku(), settings, 30)
    assert len({problem.id for problem in found}) == 30
    assert {split_of(problem.answer) for problem in found} == {"validation"}
    assert validation_problems(Sudoku(), settings, 0) == []


def test_the_dense_grid_is_dense_where_frontiers_bend() -> None:
    zero, *bounds = DENSE_BOUNDS
    assert zero == 0 and len(bounds) >= 20 and (bounds[0], bounds[-1]) == (0.001, 10.0)
    ratios = {low: high / low for low, high in pairwise(bounds)}
    assert all(1.2 < ratio < 1.51 for low, ratio in ratios.items() if 0.01 <= low < 1)
    assert all(1 < ratio < 3.4 for ratio in ratios.values())
    assert load_recipe(EvalRecipe, "sudoku4-eval").bounds == DENSE_BOUNDS == EvalRecipe(model="m").bounds


def test_a_whole_evaluation_with_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=32"]
    run_sft(load_recipe(SftRecipe, None, [*shape, "threads=1", "steps=2", "batch=4"]), tmp_path / "run")
    model = f"model={json.dumps(str(tmp_path / 'run'))}"

    def record_of(*overrides: str) -> tuple[dict[str, Any], str]:
        out = tmp_path / "eval.json"
        told = run_eval(load_recipe(EvalRecipe, None, [model, "count=6", "bounds=[0.0, 1e9]", *overrides]), out)
        return json.loads(out.read_text()), told

    splits: list[str] = []

    def spy(*arguments: Any, **options: Any) -> list[Outcome]:
        splits.extend(split_of(problem.answer) for problem in arguments[2])
        return evaluate_decodings(*arguments, **options)

    monkeypatch.setattr(run, "evaluate_decodings", spy)
    record, told = record_of("validation_count=5")
    assert splits == ["test"] * 6 + ["validation"] * 5
    assert record["validation"]["n"] == 5 and record["points"][0]["n"] == len(record["clusters"]) == 6
    assert [point["nfe"] for point in record["validation"]["points"]] == [LENGTH, 1.0]
    assert "solved" not in record["validation"]["points"][0] and record["validated_gain"] is None
    assert told.count("constant at price") == len(PRICES)
    without, told = record_of("validation_count=0")
    assert without["validation"] is None and "constant" not in told
    assert without["points"] == record["points"]
    assert "validated constant       none: validation_count is 0" in table(without | {"learned": without["points"][0]})
