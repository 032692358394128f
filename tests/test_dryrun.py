"""Dry runs: the published sizes, and counts against those of a real step."""

import json
from pathlib import Path

import pytest

from diffpo.cli import main
from diffpo.dryrun import dry_run, size_of, work_of
from diffpo.errors import UserError
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import task_of
from diffpo.recipes.schema import RlRecipe, SftRecipe
from diffpo.records import METRICS
from diffpo.rl import run_rl
from diffpo.sft import run_sft

LLADA = "base=GSAI-ML/LLaDA-8B-Instruct"


@pytest.mark.parametrize(
    ("base", "lora", "parameters", "trained"),
    [
        ("GSAI-ML/LLaDA-8B-Instruct", [], 8_015_581_184, 8_015_581_184),
        ("GSAI-ML/LLaDA-8B-Instruct", ["lora.rank=128"], 8_015_581_184, 335_544_320),
        ("Dream-org/Dream-v0-Instruct-7B", [], 7_615_616_512, 7_615_616_512),
    ],
)
def test_published_sizes(base: str, lora: list[str], parameters: int, trained: int) -> None:
    size = size_of(load_recipe(RlRecipe, "d1", [f"base={base}", *lora]))
    assert (size.parameters, size.trained) == (parameters, trained)
    assert size.body < size.parameters - 2 * size.vocabulary * size.width < 1.001 * size.body


def test_a_dry_run_needs_nothing_and_says_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", LLADA, "lora.rank=128", "dtype=bfloat16", "objective.micro_batch=6", "--dry-run"])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and list(tmp_path.iterdir()) == []
    for text in ("8,015,581,184", "335,544,320", 'base = "GSAI-ML/LLaDA-8B-Instruct"', "16.0 GB"):
        assert text in said
    amounts = dict(line.rsplit(maxsplit=1) for line in said.split("GiB\n")[1].split("\n#")[0].strip().splitlines())
    assert float(amounts["weights"]) == pytest.approx(2 * 8_015_581_184 / 2**30, abs=0.01)
    assert float(amounts["optimiser"]) == pytest.approx(8 * 335_544_320 / 2**30, abs=0.01)
    assert float(amounts["reference"]) == 0, "the adapter is switched off instead"
    parts = sum(float(amount) for name, amount in amounts.items() if name != "together")
    assert float(amounts["together"]) == pytest.approx(parts, abs=0.05)


def test_a_full_model_needs_its_reference_and_more_of_everything() -> None:
    light = dry_run(load_recipe(RlRecipe, "d1", [LLADA, "lora.rank=128", "dtype=bfloat16"]), 200)
    full = dry_run(load_recipe(RlRecipe, "d1", [LLADA, "dtype=bfloat16"]), 200)

    def together(text: str) -> float:
        return float(next(line for line in text.splitlines() if line.startswith("together")).split()[1])

    # Reference, gradients and two moments, four times the weights, less what the adapter had of them.
    assert together(full) - together(light) == pytest.approx((4 * 2 * 8.016e9 - 4 * 4 * 0.3355e9) / 2**30, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        ['estimator={kind="mean-field", prompt_mask_rate=0.5}', "objective.kl=0.1"],
        ['estimator={kind="elbo", draws=4, antithetic=false}'],
        ['estimator={kind="coupled"}', "objective.inner_steps=3"],
        ["learn=sampler", "rollout.rule={kind='entropy-bound', bound=0.0}"],
    ],
)
def test_counted_tokens_are_those_of_a_step(settings: list[str], tmp_path: Path) -> None:
    """With estimators that share nothing but by chance: the count bounds it closely."""
    task = 'task={kind="sudoku", min_clues=4, max_clues=5}'
    sizes = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16"]
    run_sft(load_recipe(SftRecipe, None, [task, *sizes, "batch=4", "steps=1", "threads=1"]), tmp_path / "base")
    fixed = [
        "threads=1",
        "rollout.prompts=3",
        "rollout.group=4",
        "rollout.rule={kind='top-k', k=3}",
        "objective.kl=0.0",
    ]
    overrides = [task, *fixed, *settings, f"base={json.dumps(str(tmp_path / 'base'))}", "budget.steps=1"]
    recipe = load_recipe(RlRecipe, None, overrides)
    run_rl(recipe, tmp_path / "run")
    line = json.loads((tmp_path / "run" / METRICS).read_text())
    (problem,) = task_of(recipe.task).problems("train", 1, 0)
    work = work_of(recipe, len(problem.prompt))
    update = work.completions * work.canvases * work.tokens * work.passes
    assert 0.9 * update <= line["update_tokens"] <= update
    rollout = work.completions * (work.calls - 1 + 1 / recipe.rollout.group) * work.tokens
    calibration = 256 * work.tokens if recipe.learn == "sampler" else 0
    assert 0.6 * rollout <= line["rollout_tokens"] <= rollout + calibration


def test_a_size_that_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="the size of some/model is not known here; known are GSAI-ML"):
        size_of(load_recipe(RlRecipe, "d1", ["base=some/model"]))
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", LLADA])
    assert caught.value.code == 2 and "Give --out, or --dry-run" in capsys.readouterr().err
