"""A study of four runs that take a second each, and its results."""

import json
from pathlib import Path
from typing import Any

from diffpo.study.results import RUNS

BASE = """
batch = 16
steps = 30
weighting = "uniform"
task = {kind = "walk", length = 4}
model = {d_model = 16, n_layers = 1, n_heads = 2, mlp_hidden_size = 24}
optimizer.lr = 0.01
"""
RL = """
base = "overridden"
rollout = {prompts_per_step = 2, group_size = 4}
task = {kind = "sudoku", min_clues = 8}
budget.steps = 3
checkpoint.every = 3
"""
TASK = "task.step_credit=0.5"
BUDGET = 240
STUDY = f"""
name = "tiny"
kind = "arms"
seeds = [0, 1]
budget = {BUDGET}

[evaluation]
count = 12
batch = 5
bounds = [0.0, 0.5, 1.0, 4.0]
bounds_between = [0.0, 1.0]
validation_count = 9
every = 0.25

[mismatch]
count = 24
draws = 2

[[tasks]]
name = "walk"
base = "base.toml"
rl = ["{TASK}"]

[[arms]]
name = "mf"
recipe = "rl.toml"
overrides = ['estimator={{kind="mean-field", prompt_mask_rate=0.0}}']

[[arms]]
name = "2-MF+IS"
recipe = "rl.toml"
overrides = ["objective.importance_cap=2.0"]
"""
CLOCKS = {"seconds", "cpu_seconds"}


def write_recipes(folder: Path) -> None:
    """Write the study's recipes, which name each other, into a folder."""
    for name, text in {"base": BASE, "rl": RL, "study": STUDY}.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def lines_in(folder: Path) -> list[dict[str, Any]]:
    """Without what a clock says, in an order of their own."""
    lines = [json.loads(line) for line in (folder / RUNS).read_text().splitlines()]
    plain = [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]
    return sorted(plain, key=lambda line: (line["seed"], line["arm"], line.get("estimator", "")))
