"""The ten algorithms as built-in recipes: as published and at tiny scale, on every tiny task, and what a step costs."""

import json
import math
from pathlib import Path

import pytest
from tests.helpers.tiny_runs import SHAPE, lines_of, trained_once

from diffpo.models.model_paths import checkpoints
from diffpo.recipes import load_recipe, recipe_names
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.sampling.policy import load
from diffpo.training.rl import run_rl
from diffpo.training.rl_step import NOTHING_RIGHT

ALGORITHMS = [
    "agrpo",
    "coupled",
    "d1",
    "diffpo",
    "diffpo-model-only",
    "diffpo-sampler-only",
    "dmpo",
    "dmpo-wddo",
    "exact",
    "justgrpo",
    "spg",
    "wd1",
]
VARIANTS = [
    "tiny-any-speed",
    "tiny-any-speed-gradient",
    "tiny-confidence-policy",
    "tiny-diffpo-literal",
    "tiny-lightningrl",
    "tiny-planner",
]
"""Recipes beside those, with other choices than ours."""
TASKS = {
    "sudoku": '{kind="sudoku", min_clues=13, max_clues=15, cell_credit=0.5}',
    "countdown": '{kind="countdown", max_number=5, operators="+-", number_credit=0.5}',
    "walk": '{kind="walk", length=4, step_credit=0.5}',
}
GLIMPSE = ["threads=1", "batch=32", "weighting=uniform", "optimizer.lr=0.01", "checkpoint.every=1000"]
STEPS = {"countdown": 500, "walk": 150}
"""Until completions of a prompt earn different rewards, on any CPU: tiny recipes leave the other prompts out."""
SHORT = [
    "threads=1",
    "rollout.prompts_per_step=3",
    "rollout.group_size=4",
    "objective.num_iterations=2",
    "budget={steps=2}",
]


@pytest.fixture(
    scope="module",
    params=[pytest.param(task, marks=[pytest.mark.slow] if task == "countdown" else []) for task in TASKS],
)
def start(request: pytest.FixtureRequest, base: Path, shared_folder: Path) -> tuple[str, Path]:
    """A task, and a model that has had a glimpse of it."""
    task = TASKS[request.param]
    if request.param == "sudoku":
        return task, base
    settings = [*SHAPE, *GLIMPSE, f"task={task}", f"steps={STEPS[request.param]}"]
    return task, trained_once(shared_folder / "bases" / request.param, settings)


def train(name: str, overrides: list[str], start: tuple[str, Path], out: Path) -> list[dict[str, float]]:
    task, folder = start
    settings = [f"task={task}", f"base={json.dumps(str(folder))}", *SHORT, *overrides]
    run_rl(load_recipe(RlRecipe, name, settings), out)
    return lines_of(out)


def test_every_algorithm_is_there_as_published_and_tiny_and_nothing_else() -> None:
    others = set(recipe_names()) - {*ALGORITHMS, *(f"tiny-{name}" for name in ALGORITHMS), *VARIANTS}
    sorts = (
        "-base",
        "-sft",
        "-strong",
        "-shallow",
        "-sampler",
        "-eval",
        "study-arms",
        "study-full",
        "study-likelihood",
    )
    assert all(name.endswith(sorts) for name in others)


EVERY = [*ALGORITHMS, *(f"tiny-{name}" for name in ALGORITHMS), *VARIANTS]
OFTEN = ("d1", "dmpo", "tiny-diffpo", "tiny-planner")
"""Those that are trained on walks, too, in each run of the tests; all are trained on Sudoku."""


@pytest.mark.parametrize(
    ("start", "name"),
    [
        pytest.param(task, name, marks=[] if task == "sudoku" or name in OFTEN else pytest.mark.slow)
        for task in ("sudoku", "walk")
        for name in EVERY
    ]
    + [pytest.param("countdown", name, marks=pytest.mark.slow) for name in EVERY],
    indirect=["start"],
)
def test_every_algorithm_trains_on_every_task(
    name: str, start: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = train(name, ["rollout.temperature=1.0"] if "sampler" not in name else [], start, tmp_path / "run")
    assert len(lines) == 2 and all(math.isfinite(value) for line in lines for value in line.values())
    # That nothing was right in a first step of three prompts is said, and is no fault.
    assert "warning" not in capsys.readouterr().out.replace(f"warning: {NOTHING_RIGHT}", "")
    models = [load(folder).denoiser.model for folder in (start[1], checkpoints(tmp_path / "run")[-1])]
    before, after = (dict(model.named_parameters()) for model in models)
    assert all(before[key].equal(after[key]) for key in before) == name.endswith(("sampler-only", "confidence-policy"))
    assert any("proximal" in line for line in lines) == ("dmpo" in name)


# Counted, not timed: what does an update of Q prompts with G completions each show the denoiser?

Q, G, INNER = 3, 4, 2
COUNTED = ["objective.kl_coef=0.0", "objective.drop_zero_std_groups=false"]


def one_pass(start: tuple[str, Path]) -> int:
    """Tokens of all completions of a batch, prompts included: one forward of each where nothing is shared."""
    recipe = load_recipe(SftRecipe, None, [f"task={start[0]}"]).task
    (problem,) = build_task(recipe).problems("train", 1, seed=0)
    return Q * G * (len(problem.prompt) + recipe.completion_length)


def test_two_times_mean_field_costs_little_more_than_one_pass(start: tuple[str, Path], tmp_path: Path) -> None:
    for line in train("tiny-diffpo-model-only", COUNTED, start, tmp_path / "run"):
        naive = 2 * INNER * one_pass(start)
        assert 0 < line["update_tokens"] <= (1 + 1 / G) / 2 * naive


def test_mean_field_without_prompt_masks_costs_a_groups_share_of_d1(start: tuple[str, Path], tmp_path: Path) -> None:
    masked = train("tiny-d1", [*COUNTED, "estimator.prompt_mask_rate=0.5"], start, tmp_path / "masked")
    shared = train("tiny-d1", COUNTED, start, tmp_path / "shared")
    for d1, ours in zip(masked, shared, strict=True):
        assert d1["update_tokens"] <= INNER * one_pass(start)
        assert 0 < ours["update_tokens"] <= 1.2 / G * d1["update_tokens"]


def test_exact_costs_as_much_as_its_rollouts(start: tuple[str, Path], tmp_path: Path) -> None:
    for line in train("tiny-exact", COUNTED, start, tmp_path / "run"):
        assert 0 < line["update_tokens"] <= INNER * line["rollout_tokens"]


def test_the_base_is_counted_where_it_is_read(start: tuple[str, Path], tmp_path: Path) -> None:
    alone = train("tiny-exact", [*COUNTED, "budget={steps=1}"], start, tmp_path / "alone")
    held = train("tiny-exact", [*COUNTED, "objective.kl_coef=0.1", "budget={steps=1}"], start, tmp_path / "held")
    assert held[0]["update_tokens"] == alone[0]["update_tokens"] * (INNER + 1) / INNER
