"""Old names of keys, values and metrics: each leads to one that is there."""

from typing import get_args

import pytest

from diffpo.core.errors import UserError
from diffpo.recipes import Strict, load_recipe
from diffpo.recipes.renamed import KEYS, METRICS, REMOVED, VALUES, renamed_metric
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SftRecipe

RL = ["base=some/model", "budget.steps=1"]


def keys_of(table: type[Strict]) -> set[str]:
    found = set(table.model_fields)
    for field in table.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Strict):
                found |= keys_of(inner)
    return found


def test_every_new_key_is_one_of_a_recipe_and_no_old_one_is() -> None:
    keys = keys_of(RlRecipe) | keys_of(SftRecipe) | keys_of(EvalRecipe)
    assert set(KEYS.values()) <= keys and set(VALUES) <= keys
    assert not KEYS.keys() & keys
    for gone in REMOVED:
        table, _, key = gone.rpartition(".")
        assert key not in RlRecipe.model_fields[table].annotation.model_fields  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("recipe", "override", "told"),
    [
        (RlRecipe, "rollout.prompts=3", "rollout.prompts: renamed; write rollout.prompts_per_step"),
        (RlRecipe, "rollout.group=3", "rollout.group: renamed; write rollout.group_size"),
        (RlRecipe, "rollout.slots=3", "rollout.slots: renamed; write rollout.max_in_flight"),
        (RlRecipe, "objective.inner_steps=3", "objective.inner_steps: renamed; write objective.num_iterations"),
        (RlRecipe, "objective.micro_batch=3", "objective.micro_batch: renamed; write objective.micro_batch_size"),
        (RlRecipe, "objective.skip_ties=true", "objective.skip_ties: renamed; write objective.drop_zero_std_groups"),
        (RlRecipe, "objective.speed=1", "objective.speed: renamed; write objective.nfe_penalty"),
        (RlRecipe, "controller.speed=1", "controller.speed: renamed; write controller.nfe_penalty"),
        (
            RlRecipe,
            "objective.normalise=sequence",
            "objective.normalise: renamed; write objective.loss_aggregation = 'sequence-mean'",
        ),
        (
            RlRecipe,
            "objective.loss_aggregation=token",
            "objective.loss_aggregation: should be 'sequence-mean' or 'token-mean', got 'token'; "
            "renamed: write 'token-mean'",
        ),
        (RlRecipe, "objective.kl=0", "objective.kl: renamed; write objective.kl_coef"),
        (RlRecipe, "objective.kl_kind=k3", "objective.kl_kind: renamed; write objective.kl_estimator"),
        (RlRecipe, "objective.weight_cap=2", "objective.weight_cap: renamed; write objective.importance_cap"),
        (RlRecipe, "objective.weight_floor=0", "objective.weight_floor: renamed; write objective.importance_floor"),
        (RlRecipe, "objective.weight_on=all", "objective.weight_on: renamed; write objective.importance_on"),
        (RlRecipe, "learn=sampler", "learn: renamed; write train = 'controller'"),
        (RlRecipe, "learn=joint", "learn: renamed; write train"),
        (
            RlRecipe,
            "train=model",
            "train: should be 'policy', 'controller' or 'joint', got 'model'; renamed: write 'policy'",
        ),
        (RlRecipe, "controller.settle.share=0.1", "controller.settle: renamed; write controller.greedy_stage"),
        (
            RlRecipe,
            "controller.clip=0.2",
            "controller.clip: removed: the controller takes one step on each batch, at which no ratio has left 1; "
            "leave it out",
        ),
        (
            RlRecipe,
            "controller.coef=1",
            "controller.coef: removed: the controller has an optimiser of its own; controller.optimizer.lr says how "
            "far it steps; leave it out",
        ),
        (SftRecipe, "stop_at.every=3", "stop_at: renamed; write early_stopping"),
        (SftRecipe, "micro_batch=3", "micro_batch: renamed; write micro_batch_size"),
        (EvalRecipe, "slots=3", "slots: renamed; write max_in_flight"),
    ],
)
def test_an_old_key_is_refused_with_the_new_one(recipe: type[Strict], override: str, told: str) -> None:
    given = {RlRecipe: RL, SftRecipe: [], EvalRecipe: ["model=m"]}[recipe]
    with pytest.raises(UserError) as caught:
        load_recipe(recipe, None, [*given, override])
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [told]


def test_an_old_key_of_another_table_is_an_unknown_option() -> None:
    with pytest.raises(UserError, match=r"task\.speed: unknown option"):
        load_recipe(RlRecipe, None, [*RL, "task.speed=1"])


def test_weights_within_groups_have_a_name_of_their_own() -> None:
    assert renamed_metric("weight_ess", {"weight_ess", "weight_floored"}) == "importance_weight_ess"
    assert renamed_metric("weight_ess", {"weight_ess", "proximal"}) == "group_weight_ess"
    assert renamed_metric("weight_mean", {"weight_ess", "weight_mean"}) == "importance_weight_mean"
    assert renamed_metric("kl", METRICS) is None
    assert not METRICS.keys() & set(METRICS.values())
