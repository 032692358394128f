"""Completions and grades that each process has a share of, put together: all processes then have all of them."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch.nn import functional as F

from diffpo.core.rollout import Rollout
from diffpo.distributed.collectives import all_gather_columns, all_gather_json
from diffpo.distributed.process import current_process
from diffpo.tasks.base import Grade


def all_gather_rollout(own: Rollout) -> Rollout:
    """Return the rows of all processes, in the order of ranks; their prompts are padded to one width.

    A process may have no rows, but its columns must have the shapes of the others'.
    """
    wide = pad_prompts(own, max(all_gather_json(own.prompt_ids.shape[1])))
    return Rollout(**all_gather_columns({field.name: getattr(wide, field.name) for field in fields(wide)}))


def all_gather_grades(own: Sequence[Grade]) -> tuple[Grade, ...]:
    """Return the grades of all processes, in the order of ranks."""
    if current_process().world_size == 1:
        return tuple(own)
    plain: list[dict[str, Any]] = [
        vars(grade) | {"reward": float(grade.reward), "parts": {name: float(x) for name, x in grade.parts.items()}}
        for grade in own
    ]
    return tuple(Grade(**fields_of) for some in all_gather_json(plain) for fields_of in some)


def share_label(label: str) -> str:
    """Return the label of a progress bar, which shows the first process's share where there are several."""
    size = current_process().world_size
    return label if size == 1 else f"{label}, process 0 of {size}"


def concatenate_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """Put the rollouts of several batches together; their prompts are padded to one width."""
    width = max(rollout.prompt_ids.shape[1] for rollout in rollouts)
    wide = [pad_prompts(rollout, width) for rollout in rollouts]
    return Rollout(**{name: torch.cat([getattr(part, name) for part in wide]) for name in Rollout.__dataclass_fields__})


def pad_prompts(rollout: Rollout, width: int) -> Rollout:
    """Return the rollout with its prompts padded on the left to `width` tokens."""
    more = width - rollout.prompt_ids.shape[1]
    return replace(
        rollout,
        prompt_ids=F.pad(rollout.prompt_ids, (more, 0)),
        prompt_mask=F.pad(rollout.prompt_mask, (more, 0), value=False),
    )
