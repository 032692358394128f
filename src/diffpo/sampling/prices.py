"""Prices of a denoiser call: which rule a learned sampler decodes by, for what a call may cost.

A price is what L calls, one per token of the completion, cost in accuracy: at 0.1 an answer in L / 2 calls is worth
0.95 of one that cost nothing. The sampler was measured on validation problems under its own rule and under fixed ones,
at many bounds each; at a price the best of all is used. So it falls back to the best constant where it learnt nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from diffpo.core.errors import UserError
from diffpo.core.price import check_price
from diffpo.sampling.risk import RiskModel
from diffpo.sampling.risk_rules import CommitRisk
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule
from diffpo.statistics.frontier import pareto_front

Family = Literal["entropy-bound", "plain-sum", "commit-risk"]
"""EntropyBound, EntropyBound(subtract_max=False), and CommitRisk."""


@dataclass(frozen=True)
class Candidate:
    """A rule as it was measured on validation problems."""

    family: Family
    bound: float
    accuracy: float
    """A share."""
    nfe: float
    """Mean denoiser calls."""

    def worth(self, price: float, length: int) -> float:
        """Return accuracy - price * nfe / length."""
        return self.accuracy - price * self.nfe / length

    @property
    def name(self) -> str:
        """As in tables and records."""
        if self.family == "commit-risk":
            return f"commit risk {self.bound:g}"
        return f"entropy bound {self.bound:g}" + (" (plain sum)" if self.family == "plain-sum" else "")


@dataclass(frozen=True)
class PricedSampler:
    """A risk model, and the candidates among which a price chooses."""

    model: RiskModel
    candidates: tuple[Candidate, ...]
    length: int
    """L of the validation problems' completions."""
    block_length: int | None = None
    """The semi-autoregressive window in which they were decoded; None: the whole completion."""

    def best(self, price: float) -> Candidate:
        """Return the one of `front` with the largest worth; of equal ones the cheapest.

        Raises UserError for a price that is negative or no number.
        """
        check_price(price)
        return max(self.front(), key=lambda candidate: (candidate.worth(price, self.length), -candidate.nfe))

    def front(self) -> list[Candidate]:
        """Return the candidates that no other beats, cheapest first: what the sampler uses for any number of calls.

        Of a fixed rule and a learned one that came to the same, the fixed one is in it.
        """
        ordered = sorted(self.candidates, key=lambda candidate: candidate.family == "commit-risk")
        nfe, accuracy = (np.array([getattr(c, name) for c in ordered]) for name in ("nfe", "accuracy"))
        return [ordered[index] for index in pareto_front(nfe, accuracy)]

    def block_length_of(self, length: int) -> int:
        """Return the semi-autoregressive window to decode a completion of `length` tokens in."""
        return self.block_length if self.block_length and length % self.block_length == 0 else length

    def rule(self, candidate: Candidate) -> Rule | HiddenRule:
        """Return the candidate's rule."""
        if candidate.family == "commit-risk":
            return CommitRisk(self.model, candidate.bound)
        return EntropyBound(candidate.bound, subtract_max=candidate.family == "entropy-bound")

    def rule_at(self, price: float) -> Rule | HiddenRule:
        """Return the rule to decode by at a price. Raises UserError as `best` does."""
        return self.rule(self.best(price))


def require_sampler(sampler: PricedSampler | None, has_controller: bool, model: str) -> PricedSampler:
    """Return the sampler. Raises UserError where a model has none, so that no price can be asked of it."""
    if sampler is not None:
        return sampler
    what = "the controller of {} was trained without prices" if has_controller else "{} has no learned sampler"
    raise UserError(
        f"{what.format(model)}, so a price says nothing to it; fit one (diffpo sampler --help), or leave the price out"
    )


def candidates_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Candidate, ...]:
    """Return the candidates of a config's rows. Raises KeyError, TypeError or ValueError for what is no row."""
    if not rows or any(row["family"] not in get_args(Family) for row in rows):
        raise ValueError("its prices name no rules, or unknown ones")
    found = [Candidate(row["family"], *(float(row[name]) for name in ("bound", "accuracy", "nfe"))) for row in rows]
    for one in found:
        if not (0 <= one.bound < math.inf and 0 <= one.accuracy <= 1 and 0 <= one.nfe < math.inf):
            raise ValueError(f"a bound, accuracy or number of calls of {one.name!r} is out of range")
    return tuple(found)
