"""The evaluation loop: the same problems answered under every decoding."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from torch import Tensor

from diffpo.core.randomness import derive_seed
from diffpo.core.rollout import Rollout
from diffpo.distributed.collectives import raise_on_all_ranks
from diffpo.distributed.process import rank_slice
from diffpo.evaluation.exchange import all_gather_grades, all_gather_rollout, concatenate_rollouts
from diffpo.recipes.tables import EvalRecipe
from diffpo.recipes.tables.study import StudyEvaluation
from diffpo.runs.prompt_filter import draw_problems
from diffpo.sampling.answering import answer_bounds, answer_problems
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.sampling.risk_rules import CommitRisk
from diffpo.sampling.rules import EntropyBound
from diffpo.tasks.base import Grade, Problem, Status, Task

Bounded = EntropyBound | CommitRisk
"""Rules of which many bounds can be decoded together."""


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

    def rows(self, index: slice) -> "Outcome":
        """Return the outcome on some of the problems."""
        return Outcome(self.name, self.rollout.rows(index), self.grades[index])

    def count(self, status: Status) -> int:
        """Return how many grades have a status: `unparseable` (the model's fault), `grader_failed` (the grader's)."""
        return Counter(grade.status for grade in self.grades)[status]


def evaluate_decodings(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    decodings: Mapping[str, Decoding],
    batch_size: int = 256,
    seeds: Int[Tensor, " B"] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Answer the same problems under every decoding, at most `batch_size` completions at a time.

    Decodings that differ in their rule's bound alone are drawn together, a problem under all of them in one batch:
    results are the same, and the denoiser sees equal canvases once.

    Decodings above temperature 0 need one seed per problem. `on_outcome` is called after each decoding, `on_progress`
    after each batch with the number of completions so far.

    Of several processes each answers and grades its slice of the problems, and counts its own completions; then all
    have all outcomes. A process without problems answers the first one, and leaves its answer out.
    """
    own = rank_slice(len(problems))
    num_own = len(problems[own])
    answered = own if num_own else slice(1)
    problems, seeds = problems[answered], None if seeds is None else seeds[answered]
    found: dict[str, Outcome] = {}
    num_done = 0
    for names in drawn_together(decodings, batch_size):
        parts: list[list[tuple[Rollout, list[Grade]]]] = []
        size = batch_size // len(names)
        with raise_on_all_ranks():
            for start in range(0, len(problems), size):
                rows = slice(start, start + size)
                own_seeds = None if seeds is None else seeds[rows]
                parts.append(_answers(policy, task, problems[rows], [decodings[name] for name in names], own_seeds))
                num_done += len(problems[rows]) * len(names)
                if on_progress is not None:
                    on_progress(num_done)
        for name, answers in zip(names, zip(*parts, strict=True), strict=True):
            rollout = concatenate_rollouts([rollout for rollout, _ in answers]).rows(slice(num_own))
            grades = [grade for _, batch in answers for grade in batch][:num_own]
            found[name] = Outcome(name, all_gather_rollout(rollout), all_gather_grades(grades))
            if on_outcome is not None:
                on_outcome(found[name])
    return [found[name] for name in decodings]


def drawn_together(decodings: Mapping[str, Decoding], batch_size: int) -> list[list[str]]:
    """Return the names of decodings that can share a batch: at most `batch_size` that differ in the bound alone."""
    groups: dict[object, list[str]] = {}
    for name, decoding in decodings.items():
        rule, key = decoding.rule, object()
        # Not a class derived from one of them: what that does with the bounds of rows is not known.
        if isinstance(rule, Bounded) and type(rule) in (EntropyBound, CommitRisk) and decoding.controller is None:
            key = replace(decoding, rule=replace(rule, bound=0.0))
        groups.setdefault(key, []).append(name)
    return [
        names[start : start + batch_size] for names in groups.values() for start in range(0, len(names), batch_size)
    ]


def _answers(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    decodings: Sequence[Decoding],
    seeds: Int[Tensor, " B"] | None,
) -> list[tuple[Rollout, list[Grade]]]:
    if len(decodings) == 1:
        return [answer_problems(policy, task, problems, decodings[0], seeds)]
    bounds = [decoding.rule.bound for decoding in decodings if isinstance(decoding.rule, Bounded)]
    return answer_bounds(policy, task, problems, decodings[0], bounds, seeds)


def evaluation_problems(task: Task, settings: EvalRecipe | StudyEvaluation) -> tuple[list[Problem], int]:
    """Return the problems on which everything with these settings is evaluated, and how many were too long."""
    return draw_problems(task, settings.split, settings.count, derive_seed(settings.seed, "eval"))


def validation_problems(task: Task, settings: EvalRecipe | StudyEvaluation, count: int) -> list[Problem]:
    """Return the `count` problems on which constants are chosen, fewer where the validation split ends."""
    return draw_problems(task, "validation", count, derive_seed(settings.seed, "validation"))[0] if count else []
