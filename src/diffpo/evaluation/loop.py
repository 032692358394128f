"""The evaluation loop: the same problems answered under every decoding."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from diffpo.core.randomness import derive_seed
from diffpo.core.rollout import Rollout
from diffpo.recipes.tables import EvalRecipe
from diffpo.recipes.tables.study import StudyEvaluation
from diffpo.runs.prompt_filter import draw_problems
from diffpo.sampling.answering import answer_in_batches
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.tasks.base import Grade, Problem, Status, Task


@dataclass(frozen=True)
class Outcome:
    """One decoding on all problems: a row for each of them."""

    name: str
    rollout: Rollout
    grades: tuple[Grade, ...]

    @property
    def is_solved(self) -> np.ndarray:
        """1.0 or 0.0 for each problem."""
        return np.array([grade.is_solved for grade in self.grades], dtype=float)

    @property
    def nfe(self) -> np.ndarray:
        """Denoiser calls of each problem."""
        return self.rollout.nfe.cpu().numpy()

    def count(self, status: Status) -> int:
        """Return how many grades have a status: `unparseable` (the model's fault), `grader_failed` (the grader's)."""
        return Counter(grade.status for grade in self.grades)[status]


def evaluate(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    decodings: Mapping[str, Decoding],
    batch_size: int = 256,
    seeds: Int[Tensor, " B"] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Answer the same problems under every decoding, at most `batch_size` at a time.

    Decodings above temperature 0 need one seed per problem. `on_outcome` is called after each of them.
    """
    outcomes = []
    for name, decoding in decodings.items():
        rollouts, grades = answer_in_batches(policy, task, problems, decoding, batch_size, seeds)
        outcomes.append(Outcome(name, concatenate_rollouts(rollouts), tuple(grades)))
        if on_outcome is not None:
            on_outcome(outcomes[-1])
    return outcomes


def evaluation_problems(task: Task, settings: EvalRecipe | StudyEvaluation) -> tuple[list[Problem], int]:
    """Return the problems on which everything with these settings is evaluated, and how many were too long."""
    return draw_problems(task, settings.split, settings.count, derive_seed(settings.seed, "eval"))


def concatenate_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """Put the rollouts of several batches together; their prompts are padded to one width."""
    width = max(rollout.prompt_ids.shape[1] for rollout in rollouts)
    wide = [
        replace(
            rollout,
            prompt_ids=F.pad(rollout.prompt_ids, (width - rollout.prompt_ids.shape[1], 0)),
            prompt_mask=F.pad(rollout.prompt_mask, (width - rollout.prompt_mask.shape[1], 0), value=False),
        )
        for rollout in rollouts
    ]
    return Rollout(**{name: torch.cat([getattr(part, name) for part in wide]) for name in Rollout.__dataclass_fields__})
