"""The arms of the demo: from which recipe each is trained, with which overrides, as commands that a user would type."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from diffpo.core.options import DENSE_BOUNDS
from diffpo.models.model_paths import checkpoints

BASE, SAMPLER = "base", "sampler"
BASE_RECIPE = "sudoku4-shallow"
DIFFPO = (sys.executable, "-m", "diffpo")

CALLS = 60_000
"""Denoiser calls that every arm spends on training from the base."""
SAMPLER_CALLS = 6_000
"""Those of them that the last arm leaves for the states that its sampler learns from."""
LAST_STEP = 2_000
"""What the last arm's last step of training may take beyond its budget, left out of that."""
TASK = ("task.min_clues=4", "task.max_clues=10")


@dataclass(frozen=True)
class RlArm:
    """An arm that goes on from the base by reinforcement learning."""

    recipe: str
    calls: int
    overrides: tuple[str, ...] = ()


# Rates, rollout bounds and d1's groups are chosen on seeds from 100 up: one call is d1's best of four bounds, and
# groups of 32 have its largest area of two sizes at two rates (docs/decisions/0026, docs/log.md).
RL_ARMS = {
    "d1": RlArm("tiny-d1", CALLS, ("rollout.rule.bound=10", "rollout.group_size=32")),  # one call
    "diffpo": RlArm("tiny-diffpo", CALLS),
    "any-speed": RlArm("tiny-any-speed", CALLS - SAMPLER_CALLS - LAST_STEP),
}
SAMPLED = "any-speed"
"""The arm whose policy the sampler is fitted to."""
SAMPLER_OVERRIDES = (
    f"states.denoiser_calls={SAMPLER_CALLS}",
    "states.batch=64",  # the last batch goes beyond the budget: not by much
    "validation_count=300",
    f"bounds={[*DENSE_BOUNDS, 100.0]}",  # those of the evaluation
)
ARMS = (BASE, "d1", "diffpo", SAMPLER)
"""The models that are evaluated; the sampler's folder holds the any-speed policy, too."""


def rl_command(out: Path, name: str, seed: int) -> list[str]:
    """Return the command that trains an arm, or goes on with it."""
    arm = RL_ARMS[name]
    overrides = [f"seed={seed}", f"base={json.dumps(str(out / BASE))}", *TASK]
    overrides += [f"budget.denoiser_calls={arm.calls}", *arm.overrides]
    return [*DIFFPO, "rl", arm.recipe, *overrides, "--out", str(out / name), "--resume", "auto"]


def sampler_command(out: Path, seed: int) -> list[str] | None:
    """Return the command that fits the sampler; None where it is fitted. A fit that was interrupted starts again."""
    fitted = out / SAMPLER
    if checkpoints(fitted):
        return None
    overrides = [f"seed={seed}", *SAMPLER_OVERRIDES]
    return [*DIFFPO, "sampler", str(out / SAMPLED), *overrides, "--recipe", "tiny-sampler", "--out", str(fitted)]


def eval_command(out: Path, name: str, seed: int) -> list[str]:
    """Return the command that evaluates a model."""
    record = out / "eval" / f"{name}.json"
    recipe = "sudoku4-shallow-eval"
    return [*DIFFPO, "eval", str(out / name), f"seed={seed}", "--recipe", recipe, "--out", str(record)]
