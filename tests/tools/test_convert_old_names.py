"""What is stored under old names is converted whole, once, and nothing else is touched."""

import json
from pathlib import Path

import pytest

from convert_old_names import main
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import ClippedSurrogateObjective, RlRecipe

RECIPE = """seed = 3
base = "walk"
learn = "sampler"

[rollout]
prompts = 4
group = 2

[objective]
kind = "clipped-surrogate"
normalise = "token"
weight_cap = 2.0
kl = 0.0

[controller]
speed = 0.25
coef = 2.0

[budget]
steps = 2
"""
STEPS = [
    {"step": 1, "solved": 0.1, "kl": 0.25, "weight_mean": 1.5, "weight_ess": 0.5, "weight_floored": 0.0},
    {"step": 2, "solved": 0.2, "bound_log_sd": 1e-7, "weight_ess": 0.75, "weight_right": 1.0, "proximal": 1.0},
]
NEW_STEPS = [
    {
        "step": 1,
        "accuracy": 0.1,
        "kl": 0.25,
        "importance_weight_mean": 1.5,
        "importance_weight_ess": 0.5,
        "importance_weight_floored": 0.0,
    },
    {
        "step": 2,
        "accuracy": 0.2,
        "bound_log_std_across_prompts": 1e-7,
        "group_weight_ess": 0.75,
        "group_weight_right": 1.0,
        "proximal": 1.0,
    },
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text(RECIPE)
    (tmp_path / "run" / "metrics.jsonl").write_text(
        "".join(json.dumps(step) + "\n" for step in STEPS) + '{"step": 3, "so'
    )
    settings = {
        "base": {"stop_at": {"every": 2}, "micro_batch": 3},
        "rl": {
            "learn": "joint",
            "rollout": {"group": 8},
            "objective": {"normalise": "sequence", "kl": 0.5, "clip": 0.2},
            "controller": {"clip": 0.2, "speed": 0.5},
        },
    }
    line = {"study": "s", "settings": settings, "training": STEPS, "points": [{"solved": [1, 0]}], "solved": 0.5}
    text = json.dumps(line) + "\n\n" + '{"settings":{"rl":{"train":"policy"}},"training":[]}\n'
    (tmp_path / "runs.jsonl").write_text(text)
    (tmp_path / "table.md").write_text("solved")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_runs_and_studies_are_converted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "controller.coef left out" in out
    assert "train = sampler -> controller" in out and "weight_ess -> importance_weight_ess" in out
    recipe = load_recipe(RlRecipe, str(folder / "run" / "recipe.toml"))
    assert (recipe.train, recipe.rollout.prompts_per_step, recipe.rollout.group_size) == ("controller", 4, 2)
    assert isinstance(recipe.objective, ClippedSurrogateObjective)
    assert (recipe.objective.loss_aggregation, recipe.objective.kl_coef) == ("token-mean", 0.0)
    assert (recipe.controller.nfe_penalty, recipe.seed) == (0.25, 3)
    *steps, rest = (folder / "run" / "metrics.jsonl").read_text().split("\n")
    assert [json.loads(step) for step in steps] == NEW_STEPS
    assert rest == '{"step": 3, "so', "a line that was cut off stays as it is"
    first, empty, second, end = (folder / "runs.jsonl").read_text().split("\n")
    assert json.loads(first) == {
        "study": "s",
        "settings": {
            "base": {"early_stopping": {"every": 2}, "micro_batch_size": 3},
            "rl": {
                "train": "joint",
                "rollout": {"group_size": 8},
                "objective": {"loss_aggregation": "sequence-mean", "kl_coef": 0.5, "clip": 0.2},
                "controller": {"nfe_penalty": 0.5},
            },
        },
        "training": NEW_STEPS,
        "points": [{"solved": [1, 0]}],
        "solved": 0.5,
    }
    assert (empty, second, end) == ("", '{"settings":{"rl":{"train":"policy"}},"training":[]}', "")


def test_a_second_time_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    before = contents(folder)
    capsys.readouterr()
    assert main([str(folder / "runs.jsonl"), str(folder / "run")]) == 0
    assert contents(folder) == before
    assert {line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()} == {"nothing to convert"}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"step":\n', "line 2 is no JSON"),
        ("recipe.toml", "a = = 1", "Invalid value"),
        ("runs.jsonl", '{"study": 1}\n', "settings"),
        ("other.toml", "", "is neither a folder nor one of metrics.jsonl, recipe.toml, runs.jsonl"),
        ("absent/runs.jsonl", None, "No such file"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main([str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error and told in error
    assert text is None or (tmp_path / name).read_text() == text


def test_the_options_of_a_class_of_ones_own_keep_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'base = "b"\n\n[rollout.rule]\nkind = "my.py:Rule"\nspeed = 2.0\ngroup = 3\ntrain = "model"\n'
    (tmp_path / "recipe.toml").write_text(text)
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "recipe.toml").read_text() == text
    assert "nothing to convert" in capsys.readouterr().out


def test_a_line_that_is_no_record_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("[1, 2]\n")
    assert main([str(tmp_path)]) == 2
