"""The commands of the demo's arms: the same puzzles, grid and calls for all, and a sampler that is fitted once."""

from pathlib import Path

from diffpo.cli import demo, demo_arms
from diffpo.core.options import DENSE_BOUNDS
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SamplerRecipe, SudokuTask
from diffpo.runs.run_dir import has_begun


def test_a_sampler_that_was_fitted_is_kept_and_one_that_was_not_starts_again(tmp_path: Path) -> None:
    fitted = tmp_path / "sampler"
    (fitted / "checkpoint-5").mkdir(parents=True)
    assert demo_arms.sampler_command(tmp_path, seed=0) is None
    assert len(demo.queues_of(tmp_path, seed=0)) == 2 and (fitted / "checkpoint-5").exists()
    (fitted / "checkpoint-5").rename(fitted / ".checkpoint-5.tmp")
    (fitted / "recipe.toml").write_text("threads = 1\n")
    assert demo_arms.sampler_command(tmp_path, seed=0) is not None
    assert not has_begun(fitted), "so that the command finds a folder that is free"


def test_the_built_in_recipes_take_the_overrides_and_have_one_grid() -> None:
    for arm in demo_arms.RL_ARMS.values():
        recipe = load_recipe(RlRecipe, arm.recipe, [*demo_arms.TASK, *arm.overrides])
        assert isinstance(recipe.task, SudokuTask) and (recipe.task.min_clues, recipe.task.max_clues) == (4, 10)
    sampler = load_recipe(SamplerRecipe, "tiny-sampler", demo_arms.SAMPLER_OVERRIDES)
    assert sampler.bounds == load_recipe(EvalRecipe, "sudoku4-shallow-eval").bounds == (*DENSE_BOUNDS, 100.0)
    spent = sum(arm.calls for arm in demo_arms.RL_ARMS.values()) + sampler.states.denoiser_calls
    assert spent + demo_arms.LAST_STEP == 3 * demo_arms.CALLS
