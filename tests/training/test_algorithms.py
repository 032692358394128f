"""The ten algorithms as built-in recipes: as published and at tiny scale, on every tiny task, and what a step costs."""

import json
import math
from pathlib import Path

import pytest

from diffpo.models.model_paths import checkpoints
from diffpo.recipes import load_recipe, recipe_names
from diffpo.recipes.parts import task_of
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.checkpoint import load
from diffpo.runs.run_dir import METRICS
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

ALGORITHMS = [
    "coupled",
    "d1",
    "diffpo",
    "diffpo-model-only",
    "diffpo-sampler-only",
    "dmpo",
    "dmpo-wddo",
    "exact",
    "spg",
    "wd1",
]
TASKS = {
    "sudoku": '{kind="sudoku", min_clues=13, max_clues=15, cell_credit=0.5}',
    "countdown": '{kind="countdown", max_number=5, operators="+-", number_credit=0.5}',
    "walk": '{kind="walk", length=4, step_credit=0.5}',
}
TINY = ["d_model=32", "n_layers=2", "n_heads=2", "mlp_hidden_size=48"]
SHORT = [
    "threads=1",
    "rollout.prompts_per_step=3",
    "rollout.group_size=4",
    "objective.num_iterations=2",
    "budget={steps=2}",
]


@pytest.fixture(scope="module", params=TASKS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A task, and a model that has had a glimpse of it."""
    folder = tmp_path_factory.mktemp("base") / "run"
    settings = [f"task={TASKS[request.param]}", "threads=1", "batch=32", "weighting=uniform", "optimizer.lr=0.01"]
    settings += [f"model.{size}" for size in TINY] + ["steps=150", "checkpoint.every=1000"]
    run_sft(load_recipe(SftRecipe, None, settings), folder)
    return TASKS[request.param], folder


def lines_of(name: str, overrides: list[str], base: tuple[str, Path], out: Path) -> list[dict[str, float]]:
    task, folder = base
    settings = [f"task={task}", f"base={json.dumps(str(folder))}", *SHORT, *overrides]
    run_rl(load_recipe(RlRecipe, name, settings), out)
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def test_every_algorithm_is_there_as_published_and_tiny_and_nothing_else() -> None:
    others = set(recipe_names()) - {*ALGORITHMS, *(f"tiny-{name}" for name in ALGORITHMS)}
    sorts = ("-base", "-sft", "-strong", "-eval", "study-arms", "study-full", "study-likelihood")
    assert all(name.endswith(sorts) for name in others)


@pytest.mark.parametrize("name", [*ALGORITHMS, *(f"tiny-{name}" for name in ALGORITHMS)])
def test_every_algorithm_trains_on_every_task(
    name: str, base: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of(name, ["rollout.temperature=1.0"] if "sampler" not in name else [], base, tmp_path / "run")
    assert len(lines) == 2 and all(math.isfinite(value) for line in lines for value in line.values())
    assert "warning" not in capsys.readouterr().out
    models = [load(folder)[0].model for folder in (base[1], checkpoints(tmp_path / "run")[-1])]
    before, after = (dict(model.named_parameters()) for model in models)
    assert all(before[key].equal(after[key]) for key in before) == (name.endswith("sampler-only"))
    assert any("proximal" in line for line in lines) == ("dmpo" in name)


# Counted, not timed: what does an update of Q prompts with G completions each show the denoiser?

Q, G, INNER = 3, 4, 2
COUNTED = ["objective.kl_coef=0.0", "objective.drop_zero_std_groups=false"]


def one_pass(base: tuple[str, Path]) -> int:
    """Tokens of all completions of a batch, prompts included: one forward of each where nothing is shared."""
    recipe = load_recipe(SftRecipe, None, [f"task={base[0]}"]).task
    (problem,) = task_of(recipe).problems("train", 1, seed=0)
    return Q * G * (len(problem.prompt) + recipe.completion_length)


def test_two_times_mean_field_costs_little_more_than_one_pass(base: tuple[str, Path], tmp_path: Path) -> None:
    for line in lines_of("tiny-diffpo-model-only", COUNTED, base, tmp_path / "run"):
        naive = 2 * INNER * one_pass(base)
        assert 0 < line["update_tokens"] <= (1 + 1 / G) / 2 * naive


def test_mean_field_without_prompt_masks_costs_a_groups_share_of_d1(base: tuple[str, Path], tmp_path: Path) -> None:
    masked = lines_of("tiny-d1", [*COUNTED, "estimator.prompt_mask_rate=0.5"], base, tmp_path / "masked")
    shared = lines_of("tiny-d1", COUNTED, base, tmp_path / "shared")
    for d1, ours in zip(masked, shared, strict=True):
        assert d1["update_tokens"] <= INNER * one_pass(base)
        assert 0 < ours["update_tokens"] <= 1.2 / G * d1["update_tokens"]


def test_exact_costs_as_much_as_its_rollouts(base: tuple[str, Path], tmp_path: Path) -> None:
    for line in lines_of("tiny-exact", COUNTED, base, tmp_path / "run"):
        assert 0 < line["update_tokens"] <= INNER * line["rollout_tokens"]


def test_the_base_is_counted_where_it_is_read(base: tuple[str, Path], tmp_path: Path) -> None:
    alone = lines_of("tiny-exact", [*COUNTED, "budget={steps=1}"], base, tmp_path / "alone")
    held = lines_of("tiny-exact", [*COUNTED, "objective.kl_coef=0.1", "budget={steps=1}"], base, tmp_path / "held")
    assert held[0]["update_tokens"] == alone[0]["update_tokens"] * (INNER + 1) / INNER
