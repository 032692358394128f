"""Rules that look at hidden states: the one that a risk model decides, and the patient one that it learns from."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.sampling.risk import RiskModel, token_statistics
from diffpo.sampling.rules import EntropyBound, Positions, RowBound, best


@dataclass(frozen=True)
class CommitRisk:
    """The largest set of tokens whose risks, by a risk model, add up to at most `bound`; at least the safest one.

    Each risk is the probability that this token is not the one of a right answer that patient decoding would reach, so
    their sum bounds the probability that the call spoils it (Boole's inequality), whatever depends on whatever.
    """

    model: RiskModel
    bound: float
    is_exact: ClassVar[bool] = True

    def hidden_score(
        self, logits: Float[Tensor, "M V"], drawn: Int[Tensor, " M"], hidden: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M S"]:
        return self.model.token_scores(token_statistics(logits), hidden)

    def select(
        self, score: Float[Tensor, "B L S"], is_candidate: Positions, row_bound: RowBound | None = None
    ) -> Positions:
        risk = self.model.risk(score, is_candidate)
        return EntropyBound(self.bound, subtract_max=False).select(risk, is_candidate, row_bound)


@dataclass(frozen=True)
class Patient:
    """One token per call, the surest; its scores are what a risk model looks at, with the hidden states as they are."""

    is_exact: ClassVar[bool] = True

    def hidden_score(
        self, logits: Float[Tensor, "M V"], drawn: Int[Tensor, " M"], hidden: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M S"]:
        return torch.cat([token_statistics(logits), hidden.float()], dim=-1)

    def select(
        self, score: Float[Tensor, "B L S"], is_candidate: Positions, row_bound: RowBound | None = None
    ) -> Positions:
        largest_probability = score[:, :, 1]
        return best(largest_probability, is_candidate, 1)
