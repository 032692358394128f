"""What a pilot run tells of the runs that are planned: its metrics are measured, not computed."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from diffpo.core.errors import UserError
from diffpo.models.model_paths import METRICS, RECIPE
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe
from diffpo.runs.dry_run.work import rl_work


@dataclass(frozen=True)
class Pilot:
    """Means over the steps of a run."""

    name: str
    task: str
    """The kind of its task."""
    nfe: float
    """Denoiser calls of a completion."""
    shown: float
    """Canvases that the denoiser was shown for each of these calls; below 1, since completions share canvases."""
    updated: float
    """Tokens of updates over those that the recipe asks for; below 1 where groups without a spread were dropped."""
    prompt_tokens: int
    seconds: float
    """Wall time of a step, on the machine of the pilot."""
    steps: int


def read_pilot(folder: Path) -> Pilot:
    """Return what the run in `folder` measured. Raises UserError for a folder that is no run of RL, or a short one."""
    lines = [line for line in _metrics(folder) if "nfe" in line]
    if len(lines) < 2:
        raise UserError(f"--pilot {folder} has {len(lines)} steps of RL in its {METRICS}; a pilot needs two or more")
    recipe = load_recipe(RlRecipe, str(folder / RECIPE), [])
    try:
        found = _means(folder, recipe, lines)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"--pilot {folder} has a {METRICS} that tells nothing ({told}); name another run") from error
    if not all(math.isfinite(value) and value > 0 for value in (found.nfe, found.shown, found.seconds)):
        raise UserError(f"--pilot {folder} has a {METRICS} that tells nothing of calls and seconds; name another run")
    return found


def _means(folder: Path, recipe: RlRecipe, lines: list[dict[str, Any]]) -> Pilot:
    later = lines[1:]
    shown = lines[-1]["denoiser_calls"] - lines[0]["denoiser_calls"]
    tokens = sum(line["rollout_tokens"] + line["update_tokens"] for line in later) / shown
    nfe = fmean(line["nfe"] for line in later)
    completions = recipe.rollout.prompts_per_step * recipe.rollout.group_size
    canvases = fmean(line["rollout_tokens"] for line in later) / tokens
    is_shared = recipe.rollout.cache == "none"
    prompt_tokens = max(1, round(tokens) - recipe.task.completion_length)
    work = rl_work(recipe, prompt_tokens)
    asked = work.pass_tokens * work.passes
    return Pilot(
        name=str(folder),
        task=recipe.task.kind,
        nfe=nfe,
        shown=min(1.0, canvases / (completions * nfe)) if is_shared else 1.0,
        updated=min(1.0, fmean(line["update_tokens"] for line in later) / asked) if asked else 1.0,
        prompt_tokens=prompt_tokens,
        seconds=fmean(line["seconds"] for line in later),
        steps=len(lines),
    )


def _metrics(folder: Path) -> list[dict[str, Any]]:
    file = folder / METRICS
    if not file.is_file() or not (folder / RECIPE).is_file():
        raise UserError(f"--pilot {folder} is no folder of a run: it has no {METRICS} or no {RECIPE}")
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    return [line for line in lines if isinstance(line, dict)]
