"""Recipes for published models, joined from pieces: all of them complete, each with what its pieces say."""

from itertools import product

import pytest

from diffpo.recipes import load_recipe, piece_names
from diffpo.recipes.tables import RlRecipe

MODELS = {"llada-8b": "GSAI-ML/LLaDA-8B-Instruct", "dream-7b": "Dream-org/Dream-v0-Instruct-7B"}
TASKS = ("gsm8k", "math500", "countdown-d1", "sudoku-d1")
ALGORITHMS = {"d1": "mean-field", "diffpo": "two-times-mean-field", "dmpo": "elbo"}
MACHINES = ("1gpu", "1gpu-4bit", "8gpu")


def test_these_are_all_pieces() -> None:
    assert piece_names() == sorted([*MODELS, *TASKS, *MACHINES])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_combination_is_a_recipe(algorithm: str) -> None:
    alone = load_recipe(RlRecipe, algorithm)
    for model, task, machine in product(MODELS, TASKS, MACHINES):
        recipe = load_recipe(RlRecipe, "+".join((algorithm, model, task, machine)))
        assert (recipe.base, recipe.task.kind, recipe.estimator.kind) == (MODELS[model], task, ALGORITHMS[algorithm])
        assert (recipe.task.completion_length, recipe.rollout.block_length) == (256, 32)
        assert (recipe.dtype, recipe.rollout.group_size) == ("bfloat16", alone.rollout.group_size)
        assert recipe.lora is not None and recipe.lora.rank == 128
        assert (recipe.lora.base_bits == 4) == (machine == "1gpu-4bit")
        assert recipe.rollout.prompts_per_step % 8 == 0, "eight processes take whole prompts"
        # 12 inner steps on word problems, 8 on puzzles (d1's scripts); DMPO has 8 everywhere.
        is_puzzle = task in ("countdown-d1", "sudoku-d1")
        assert recipe.objective.num_iterations == (8 if is_puzzle or algorithm == "dmpo" else 12)
        assert recipe.optimizer == alone.optimizer
