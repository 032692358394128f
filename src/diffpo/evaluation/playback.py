"""The part of a record that a report replays: a problem of each difficulty, by the rule that stands for the model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffpo.evaluation.loop import Outcome
from diffpo.evaluation.validated import Outcomes
from diffpo.models.tokenizer import decode_text, token_texts
from diffpo.sampling.policy import Policy
from diffpo.statistics.constant import STANDING_PRICE, cheapest_near_best
from diffpo.tasks.base import Problem

MOST_DIFFICULTIES = 8
UNGRADED = 6
"""Problems that are replayed of a task whose problems have no difficulty."""
DIFFICULTIES = {"clues": "{} clues", "level": "level {}", "difficulty": "difficulty {}"}
"""Facts of a problem that say how difficult it is, and how a reader is told."""


def playback(
    test: Outcomes, validation: Mapping[str, Any] | None, curve: Mapping[str, Any] | None, policy: Policy
) -> list[dict[str, Any]]:
    """Return the problems that a report replays, each with the call that committed each token."""
    outcome = standing_outcome(test, validation, curve)
    return [_played_back(test.problems[row], outcome, row, policy) for row in replayed_rows(test.problems)]


def standing_outcome(test: Outcomes, validation: Mapping[str, Any] | None, curve: Mapping[str, Any] | None) -> Outcome:
    """Return the outcome that stands for the model, the one whose figures a report prints first.

    It is the learned sampler's, that of a sampler with prices at `STANDING_PRICE`, or that of the constant which
    validation problems chose at this price; without validation problems, that of the cheapest rule that is nearly best.
    """
    if test.learned is not None:
        return test.learned
    chosen = curve["prices"] if curve else validation["best_constants"] if validation else ()
    rules = [found["rule"] for found in chosen if found["price"] == STANDING_PRICE]
    if outcome := next((o for o in (*test.front, *test.fixed) if o.name in rules), None):
        return outcome
    accuracy, nfe = (np.array([column.mean() for column in columns]) for columns in _columns(test.fixed))
    return test.fixed[cheapest_near_best(accuracy, nfe)]


def replayed_rows(problems: Sequence[Problem]) -> list[int]:
    """Return the index of the first problem of each difficulty, in its order; without difficulties, the first few."""
    name = next((name for name in DIFFICULTIES if all(name in problem.facts for problem in problems)), None)
    if name is None:
        return list(range(min(UNGRADED, len(problems))))
    first: dict[Any, int] = {}
    for row, problem in enumerate(problems):
        first.setdefault(problem.facts[name], row)
    ordered = sorted(first, key=lambda value: (isinstance(value, str), value))
    count = min(MOST_DIFFICULTIES, len(ordered))
    if count < 2:
        return list(range(min(UNGRADED, len(problems))))
    return [first[ordered[round(i * (len(ordered) - 1) / (count - 1))]] for i in range(count)]


def difficulty_of(problem: Problem) -> str | None:
    """Return how difficult a problem is, in words; None where nothing says so."""
    return next(
        (words.format(problem.facts[name]) for name, words in DIFFICULTIES.items() if name in problem.facts), None
    )


def _columns(outcomes: Sequence[Outcome]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [outcome.is_solved for outcome in outcomes], [outcome.nfe for outcome in outcomes]


def _played_back(problem: Problem, outcome: Outcome, row: int, policy: Policy) -> dict[str, Any]:
    rollout, stop_ids = outcome.rollout, policy.denoiser.stop_ids
    bound = float(rollout.entropy_bound[row])
    ids = rollout.completion_ids[row].tolist()
    special = {*policy.tokenizer.all_special_ids, *stop_ids}
    return {
        "row": row,
        "rule": outcome.name,
        "prompt": problem.prompt,
        "difficulty": difficulty_of(problem),
        "clues": problem.facts.get("clues"),
        "answer": problem.answer,
        "completion": decode_text(policy.tokenizer, ids, stop_ids),
        "tokens": token_texts(policy.tokenizer, ids),
        "special": [i for i, index in enumerate(ids) if index in special],
        "unmask_step": rollout.unmask_step[row].tolist(),
        "nfe": int(rollout.nfe[row]),
        "solved": bool(outcome.is_solved[row]),
        "entropy_bound": None if np.isnan(bound) else bound,
    }
