"""What of a recipe may differ when a run goes on: what its result does not depend on, and how long it is."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from diffpo.core.python_function import PYTHON, short_name
from diffpo.recipes.dump import Changes, stored_changes
from diffpo.recipes.strict import Strict

FREE = (
    *("threads", "device", "attention", "compile", "gradient_checkpointing"),
    *("micro_batch_size", "objective.micro_batch_size", "rollout.max_in_flight"),
    *("checkpoint.every", "checkpoint.keep", "checkpoint.background", "parallel.shard", "parallel.replicate"),
    *("base", "task.reward_seconds", "track"),
)
"""Options that change memory, time, the last bits of a sum or where metrics are shown, and no result. Of `base` it is
the path: that the model is the same is checked by its weights."""
BUDGET = ("steps", "budget.steps", "budget.denoiser_calls")
"""Options that say how long a run is."""


@dataclass(frozen=True)
class ResumeChanges:
    """How a recipe differs from the one that a run was started with, sorted by what that means for going on."""

    free: Changes = field(default_factory=dict)
    raised: Changes = field(default_factory=dict)
    """Limits that are higher, or gone."""
    others: Changes = field(default_factory=dict)
    """What would make another run of it."""


def handed_over(changes: Changes) -> list[str]:
    """Return what the rewards are called that were handed over in Python and are not in the new recipe."""
    found = [key for key in changes if key.startswith("task.reward")]
    texts = [text for key in found for text in (key, changes[key][0] or "") if changes[key][0] is not None]
    return [short_name(name) for text in texts for name in re.findall(rf"{PYTHON}\w+#[0-9a-f]+", text)]


def changes_on_resume(stored: Path, recipe: Strict) -> ResumeChanges:
    """Return how a recipe differs from the stored one of a run that is to go on by it."""
    found = ResumeChanges()
    for key, (old, new) in stored_changes(stored, recipe).items():
        if key in FREE:
            found.free[key] = old, new
        elif key in BUDGET and old is not None and (new is None or int(new) > int(old)):
            found.raised[key] = old, new
        else:
            found.others[key] = old, new
    return found
