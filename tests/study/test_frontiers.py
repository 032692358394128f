"""Whole frontiers of a study: constants chosen on validation, learned samplers against both, and grids that differ."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpo.core.errors import UserError
from diffpo.core.options import DENSE_BOUNDS
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import StudyEvaluation, StudyRecipe
from diffpo.study import harness
from diffpo.study.frontiers import frontiers
from diffpo.study.grids import check_one_grid
from diffpo.study.harness import run_study
from diffpo.study.plan import with_defaults
from diffpo.study.report import write_study_report
from diffpo.study.results import RUNS, append_results
from diffpo.study.summary import differences, rules_along, trajectories
from diffpo.study.tables import frontier_tables

BOUNDS = ("entropy bound 0", "entropy bound 0.1", "entropy bound 1")
CALLS = {**dict(zip(BOUNDS, (8.0, 4.0, 1.0), strict=True)), "learned": 4.0, "temperature 1": 3.0}
N = 40


def rule(name: str, solved: int) -> dict[str, Any]:
    rows = [1] * solved + [0] * (N - solved)
    calls = [int(CALLS[name])] * N
    ends = {"ci95": [0.0, 1.0], "solved": rows, "nfe_rows": calls}
    return {"rule": name, "accuracy": solved / N, "nfe": CALLS[name]} | ends


def result(arm: str, seed: int, test: dict[str, int], validation: dict[str, int] | None, **more: Any) -> dict[str, Any]:
    """A result whose last point has these numbers of solved problems under each rule."""
    end: dict[str, Any] = {"share": 1.0, "step": 9, "calls": 500, "rules": [rule(name, s) for name, s in test.items()]}
    if validation is not None:
        means = [{"rule": name, "accuracy": share / 100, "nfe": CALLS[name]} for name, share in validation.items()]
        end["validation"] = {"n": 100, "rules": means}
    half = end | {"share": 0.5, "rules": [rule(BOUNDS[0], 10), rule("temperature 1", 5)]}
    about = {"study": "s", "kind": "arms", "task": "walk", "arm": arm, "seed": seed, "completion_length": 8}
    about |= {"settings": {"measured": {"bounds": [0.0, 0.1, 1.0]}}, "training": [], "clusters": list(range(N))}
    return about | {"points": [half | {"share": 0.0}, half, end]} | more


def line(seed: int, shift: int = 0) -> dict[str, Any]:
    """0.1 is the best on validation among those that cost no more than the learned sampler; on the test it is not."""
    test = dict(zip(BOUNDS, (30, 20 + shift, 22), strict=True))
    validation = dict(zip(BOUNDS, (74, 70, 40), strict=True))
    return result("a", seed, test | {"learned": 26, "temperature 1": 9}, validation | {"learned": 65})


def test_the_constant_is_chosen_on_validation_and_measured_on_the_test() -> None:
    (found,) = frontiers([line(0), line(1, shift=4)])
    assert (found.task, found.arm, found.seeds) == ("walk", "a", (0, 1))
    # At a price of .1 per 8 calls: .74 - .1, .70 - .05 and .40 - .0125.
    assert found.constants == ("entropy bound 0.1",) * 2
    assert found.accuracy.value == pytest.approx((20 + 24) / 2 / N) and found.nfe.value == 4.0
    assert found.validated_gain is not None and found.gain is not None
    assert found.validated_gain.accuracy == pytest.approx((6 + 2) / 2 / N) and found.validated_gain.nfe == 0
    # In both 0.1 is under the chord of the others, 22 and 30 problems in 1 and 8 calls.
    assert found.gain.accuracy == pytest.approx(26 / N - (22 + 8 * 3 / 7) / N, abs=1e-9)


def test_the_area_is_the_mean_over_seeds_of_each_staircase() -> None:
    (found,) = frontiers([line(0), line(1, shift=4)])
    log = np.log(np.array([1, 4, 8])) / np.log(8)
    first = 22 * 1.0  # 0.1 is beaten by 1, and 0 costs as many calls as there are tokens
    second = 22 * (log[1] - log[0]) + 24 * (log[2] - log[1])
    assert found.area.value == pytest.approx((first + second) / 2 / N)


def test_arms_without_a_learned_sampler_or_validation_are_told_apart() -> None:
    fixed = line(0)
    fixed["points"][-1]["rules"] = [r for r in fixed["points"][-1]["rules"] if r["rule"] != "learned"]
    fixed["points"][-1]["validation"]["rules"].pop()
    old = line(0) | {"arm": "old"}
    del old["points"][-1]["validation"]
    (found,) = frontiers([fixed, old])
    assert found.arm == "a" and found.gain is None and found.validated_gain is None
    table = next(frontier_tables([found])).section
    assert table.count("| a | 0 |") == 1 and "| entropy bound 0.1 | 50.0 [" in table and "|  |  |  |  |" in table
    table = next(frontier_tables(frontiers([line(0)]))).section
    assert "| +15.0 [" in table and "| ahead |" not in table and "| undecided |" in table


def test_trajectories_and_differences_have_the_rules_of_every_point() -> None:
    lines = [line(0), line(0) | {"arm": "b"}]
    assert [t.rule for t in trajectories(lines)] == [BOUNDS[0], "temperature 1"] * 2
    assert [d.rule for d in differences(lines, "b")] == [BOUNDS[0], "temperature 1"]


def test_of_a_dense_grid_some_bounds_are_shown() -> None:
    def dense(count: int) -> dict[str, Any]:
        rules = [{**rule(BOUNDS[0], 10), "rule": f"entropy bound {bound:g}"} for bound in DENSE_BOUNDS[-count:]]
        rules.append(rule("temperature 1", 5))
        return line(0) | {"points": [{"share": s, "calls": 0, "rules": rules} for s in (0.0, 1.0)]}

    shown = [f"entropy bound {bound:g}" for bound in (0, 0.03, 0.1, 0.3, 1, 10)]
    assert rules_along([dense(22)]) == [*shown, "temperature 1"]
    assert len(rules_along([dense(8)])) == 9


def test_results_of_two_grids_are_not_put_together(tmp_path: Path) -> None:
    old = line(1) | {"settings": {"measured": {"bounds": [0.0, 0.1]}}}
    append_results(tmp_path / RUNS, [line(0), line(2), old])
    message = (
        rf"{tmp_path / RUNS} mixes results on two grids of entropy bounds, the bounds 0, 0\.1 \(as walk a 1\) and "
        r"the bounds 0, 0\.1, 1 \(as walk a 0\), which cannot be compared; move the lines of one grid to a file in "
    )
    with pytest.raises((UserError, KeyError)) as caught:
        write_study_report(tmp_path)
    assert re.search(message, str(caught.value))
    check_one_grid(tmp_path / RUNS, [old, old | {"seed": 5}])


def test_a_study_refuses_a_file_of_another_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(StudyRecipe, "study-full")
    tuned: list[Any] = []
    monkeypatch.setattr(harness, "tune_arms", lambda *arguments: tuned.append(arguments))
    append_results(tmp_path / RUNS, [line(0)])
    message = (
        "has results on the bounds 0, 0.1, 1, and this study measures 22 bounds from 0 to 10, which .* move the file"
    )
    with pytest.raises(UserError, match=message):
        check_one_grid(tmp_path / RUNS, [line(0)], wanted=recipe.evaluation.bounds)
    with pytest.raises(UserError, match=message):
        run_study(recipe, tmp_path, tmp_path / "work")
    assert tuned == [], "it is refused before anything is tuned"


def test_the_built_in_studies_measure_the_dense_grid_and_validation() -> None:
    for name in ("study-arms", "study-full"):
        evaluation = load_recipe(StudyRecipe, name).evaluation
        assert evaluation.bounds == DENSE_BOUNDS and evaluation.num_validation == 200
    assert StudyEvaluation(split="validation").num_validation == 0
    with pytest.raises(UserError, match=r"bounds_between: 0\.25 is not in bounds; add it there"):
        load_recipe(StudyRecipe, "study-arms", ["evaluation.bounds_between=[0.0, 0.25]"])


def test_results_from_before_there_was_validation_have_none() -> None:
    recipe = load_recipe(StudyRecipe, "study-arms")
    old = {"measured": {"bounds": [0.0, 0.1], "count": 200}}
    assert with_defaults(recipe, old, {})["measured"]["validation_count"] == 0
    new = {"measured": {"bounds": [0.0, 0.1], "validation_count": 50}}
    assert with_defaults(recipe, new, {})["measured"]["validation_count"] == 50
