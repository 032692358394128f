"""Recipes for published models, joined from pieces: all of them complete, each with what its pieces say."""

from itertools import product

import pytest

from diffpo.recipes import load_recipe, piece_names
from diffpo.recipes.tables import EuboEstimator, RlRecipe

MODELS = {"llada-8b": "GSAI-ML/LLaDA-8B-Instruct", "dream-7b": "Dream-org/Dream-v0-Instruct-7B"}
TASKS = ("gsm8k", "math500", "countdown-d1", "sudoku-d1")
ALGORITHMS = {"d1": "mean-field", "diffpo": "two-times-mean-field", "dmpo": "elbo"}
ITERATIONS = {
    "d1": (12, 12, 8, 8),  # its scripts gsm_base, math_base, countdown_base, sudoku_base
    "diffpo": (12, 12, 8, 8),  # d1's: its own could not be had
    "diffpo-model-only": (12, 12, 8, 8),
    "exact": (12, 12, 8, 8),
    "justgrpo": (1, 1, 1, 1),  # the default of its one script
    "agrpo": (1, 1, 1, 1),  # its train.yaml
    "wd1": (12, 12, 12, 8),  # its scripts wll_NP_*
    "spg": (4, 4, 4, 4),  # its scripts *_base_spg_mix_*
    "coupled": (2, 2, 2, 2),  # its one configuration, config_coupled_code
    "dmpo": (8, 8, 8, 8),  # its one script
    "dmpo-wddo": (8, 8, 8, 8),
}
"""Optimiser steps on a batch of each algorithm, as published, on each of TASKS."""
MACHINES = ("1gpu", "1gpu-4bit", "8gpu")


@pytest.mark.parametrize("algorithm", ITERATIONS)
def test_every_algorithm_keeps_its_published_number_of_iterations(algorithm: str) -> None:
    found = [load_recipe(RlRecipe, f"{algorithm}+llada-8b+{task}").objective.num_iterations for task in TASKS]
    assert tuple(found) == ITERATIONS[algorithm]
    assert load_recipe(RlRecipe, algorithm).objective.num_iterations == ITERATIONS[algorithm][0]


def test_spg_has_its_own_settings_for_sudoku() -> None:
    for task, beta, temperature in (("gsm8k", 1.5, 0.9), ("countdown-d1", 1.5, 0.9), ("sudoku-d1", 1.0, 0.3)):
        recipe = load_recipe(RlRecipe, f"spg+{task}")
        assert isinstance(recipe.estimator, EuboEstimator)
        assert (recipe.estimator.beta, recipe.rollout.temperature) == (beta, temperature)


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
        assert recipe.objective.num_iterations == ITERATIONS[algorithm][TASKS.index(task)]
        assert recipe.optimizer == alone.optimizer
