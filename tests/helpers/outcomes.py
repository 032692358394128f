"""Outcomes of an evaluation, made up."""

import torch

from diffpo.core.rollout import Rollout
from diffpo.evaluation.loop import Outcome
from diffpo.tasks.base import Grade


def outcome(name: str, solved: list[int], calls: list[int]) -> Outcome:
    """An outcome of which only what was solved, and in how many calls, is looked at."""
    nothing, one = torch.zeros(len(solved), 1), torch.zeros(len(solved), 1, dtype=torch.long)
    yes, bound = one.bool(), torch.zeros(len(solved))
    none = nothing[:, :0]
    rollout = Rollout(
        *(one, yes, one, one, yes, yes, nothing, torch.tensor(calls), bound, bound, none, none, none[..., None, None])
    )
    return Outcome(name, rollout, tuple(Grade(float(s), {"solved": float(s)}) for s in solved))
