"""From the table of a recipe to the part: every kind has one, built by keyword, with the table's own defaults."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import pytest

from diffpo.core.errors import UserError
from diffpo.likelihood import MeanField
from diffpo.objective.advantages import ADVANTAGES, group_standardized
from diffpo.objective.dmpo import DistributionMatching, Target
from diffpo.recipes import Strict, diff_recipes, load_recipe
from diffpo.recipes.parts import (
    ESTIMATORS,
    OBJECTIVES,
    RULES,
    build_advantage,
    build_estimator,
    build_objective,
    build_rule,
)
from diffpo.recipes.tables import (
    CreditRecipe,
    DistributionMatchingObjective,
    EstimatorRecipe,
    MeanFieldEstimator,
    RlRecipe,
    RuleRecipe,
    S1kTask,
    SourceSettings,
    TaskRecipe,
)
from diffpo.recipes.tasks import TASKS, build_task

RL = ["base=some/model", "budget.steps=1"]


def cases() -> Iterator[Any]:
    """Every built-in kind with its table, its part and what builds it."""
    unions: list[tuple[Any, Mapping[str, Any], Callable[[Any], Any]]] = [
        (RuleRecipe, RULES, build_rule),
        (EstimatorRecipe, ESTIMATORS, build_estimator),
        (CreditRecipe, OBJECTIVES, build_objective),
        (TaskRecipe, TASKS, build_task),
    ]
    for union, parts, build in unions:
        tables = {get_args(table.model_fields["kind"].annotation): table for table in get_args(union)[:-1]}
        assert {kind for (kind,) in tables} == parts.keys(), "the last one is for classes of the user's own"
        for (kind,), table in tables.items():
            yield pytest.param(table(kind=kind), parts[kind], build, id=kind)


def defaults_of(part: Any, given: set[str]) -> Iterator[tuple[str, Any]]:
    for field in fields(part):
        if is_dataclass(field.type) and field.name not in given:
            yield from defaults_of(field.type, given)
        elif field.name not in given:
            yield field.name, field.default


@pytest.mark.parametrize(("table", "part", "build"), list(cases()))
def test_a_part_has_the_defaults_of_its_table(table: Strict, part: Any, build: Callable[[Any], Any]) -> None:
    given = {"family"} if isinstance(table, SourceSettings) else set()
    given |= {"validation_source", "test_source", "few_shot", "reward"} if isinstance(table, S1kTask) else set()
    defaults = dict(defaults_of(part, given))
    assert defaults == {name: getattr(table, name) for name in defaults}
    built = build(table)
    assert isinstance(built, part)
    if not given:
        assert built == part()


def test_options_are_passed_by_name() -> None:
    assert build_estimator(MeanFieldEstimator(prompt_mask_rate=0.3)) == MeanField(prompt_mask_rate=0.3)
    recipe = DistributionMatchingObjective(kind="distribution-matching", alpha=2.0, min_ess=0.5, baseline="mean")
    assert build_objective(recipe) == DistributionMatching(Target(2.0, 1.0, 0.5), "mean")


def test_every_advantage_can_be_named_by_a_recipe() -> None:
    for name, advantage in ADVANTAGES.items():
        recipe = load_recipe(RlRecipe, None, [*RL, f"objective.advantage={name}"])
        assert build_advantage(recipe.objective.advantage) is advantage
    assert build_advantage("group-std") is group_standardized


def test_an_unknown_advantage_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RlRecipe, None, [*RL, "objective.advantage=group-sdt", "controller.advantage=7"])
    assert str(caught.value).splitlines()[1:] == [
        "  objective.advantage: should be 'group-centered' or 'group-std' or 'batch-std' or 'leave-one-out' or a "
        "function of your own (FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION), got 'group-sdt'; "
        "did you mean 'group-std'?",
        "  controller.advantage: should be a valid string, got 7",
    ]


def test_recipes_are_read_without_torch() -> None:
    script = (
        "import sys, diffpo.recipes.tables, diffpo.recipes.tasks, diffpo.recipes.stored, diffpo.objective.advantages\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["bounds=[0.1, 0.3]"], "bounds are for distribution = 'categorical', and it is 'log-normal'"),
        (["distribution=categorical"], "distribution = 'categorical' needs a grid of at least two bounds"),
        (
            ["distribution=categorical", "bounds=[0.1]"],
            "needs a grid of at least two bounds: bounds = [0.03, 0.1, 0.3]",
        ),
        (["distribution=categorical", "bounds=[0.3, 0.1, 0.3]"], "bounds [0.3, 0.1, 0.3] do not rise; sort them"),
        (["distribution=categorical", "bounds=[0.0, 0.1]"], "greater than 0, got 0.0"),
        (["objective=shared"], "which train = 'policy' does not train together with it; use train = 'joint'"),
        (["kind=planner"], "is trained with train = 'controller' or 'joint', and it is 'policy'"),
        (["features=states"], "features: should be 'entropy' or 'hidden', got 'states'"),
    ],
)
def test_a_controller_that_cannot_be_made_is_refused_in_one_line(settings: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RlRecipe, None, [*RL, *(f"controller.{setting}" for setting in settings)])
    (line,) = str(caught.value).splitlines()[1:]
    assert told in line


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["controller.initial_bound=0.1"], "initial_bound is of no use to kind = 'planner'; leave it out"),
        (["controller.objective=shared"], "objective is of no use to kind = 'planner'; leave it out"),
        (["controller.hidden=30"], "hidden 30 is no multiple of 4, which kind = 'planner' needs; use 32"),
        (["controller.initial_probability=1.0"], "initial_probability: should be less than 1, got 1.0"),
        (["rollout.rule={kind='top-k'}"], "decides which tokens a call commits, so rollout.rule has no part in it"),
        (
            ["controller.kind=entropy-bound", "controller.initial_probability=0.5"],
            "of no use to kind = 'entropy-bound'",
        ),
        (["controller.kind=plan"], "or 'planner', got 'plan'; did you mean 'planner'"),
    ],
)
def test_a_commit_policy_that_cannot_be_made_is_refused_in_one_line(settings: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RlRecipe, None, [*RL, "train=joint", "controller.kind=planner", *settings])
    (line,) = str(caught.value).splitlines()[1:]
    assert told in line


def test_a_shared_objective_has_no_stage_of_the_controllers_own() -> None:
    shared = [*RL, "train=joint", "controller.objective=shared"]
    assert load_recipe(RlRecipe, None, shared).controller.objective == "shared"
    with pytest.raises(
        UserError, match=r"controller\.greedy_stage trains the controller alone, and with objective = 'sh"
    ):
        load_recipe(RlRecipe, None, [*shared, "controller.greedy_stage.share=0.1"])


def test_the_literal_recipe_differs_from_ours_in_its_switches_alone() -> None:
    ours, literal = (load_recipe(RlRecipe, name) for name in ("tiny-diffpo", "tiny-diffpo-literal"))
    changed = {line.partition(":")[0] for line in diff_recipes(ours, literal)}
    switches = {
        "objective.redraw",
        *(f"controller.{name}" for name in ("objective", "features", "distribution", "bounds")),
    }
    unused = {"controller.nfe_penalty", "controller.optimizer.lr", "controller.optimizer.decay"}
    stage = {f"controller.greedy_stage.{name}" for name in ("share", "nfe_penalty", "lr")}
    assert changed == switches | unused | stage
    assert ours.objective.nfe_penalty == literal.objective.nfe_penalty == 0, (
        "tokens are paid for accuracy alone in both"
    )
    assert literal.controller.bounds is not None and len(literal.controller.bounds) == 16
