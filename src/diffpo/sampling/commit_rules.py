"""Rules that a commit policy decides: which inputs it looks at, and the set with and without drawing it."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Float64, Int
from torch import Tensor

from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.commit_sets import DrawnSet, draw_set, expected_set
from diffpo.sampling.rules import Positions, RowBound, Score


@dataclass(frozen=True)
class ConfidenceCommit:
    """A commit policy on confidences: Apple's (arXiv 2512.09106)."""

    policy: CommitPolicy
    factor: float = 1.0
    """As of `expected_set`."""
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return logits.softmax(dim=-1).amax(dim=-1)

    def inputs(self, score: Score) -> Float[Tensor, "B L S"]:
        """Return what the policy looks at, of the scores."""
        return score[..., None]

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        return expected_set(self.policy(self.inputs(score), is_candidate), is_candidate, self.factor)

    def draw(self, score: Score, is_candidate: Positions, uniform: Float64[Tensor, "B L"]) -> DrawnSet:
        """Draw each row's set, with one uniform number for each position."""
        return draw_set(self.policy(self.inputs(score), is_candidate), is_candidate, uniform)


@dataclass(frozen=True)
class PlannerCommit:
    """A commit policy on hidden states: dUltra's planner (arXiv 2512.21446)."""

    policy: CommitPolicy
    factor: float = 1.0
    """As of `expected_set`."""
    is_exact: ClassVar[bool] = True

    def hidden_score(
        self, logits: Float[Tensor, "M V"], drawn: Int[Tensor, " M"], hidden: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M S"]:
        return hidden.float()

    def inputs(self, score: Float[Tensor, "B L S"]) -> Float[Tensor, "B L S"]:
        """As of `ConfidenceCommit`."""
        return score

    def select(
        self, score: Float[Tensor, "B L S"], is_candidate: Positions, row_bound: RowBound | None = None
    ) -> Positions:
        return expected_set(self.policy(score, is_candidate), is_candidate, self.factor)

    def draw(self, score: Float[Tensor, "B L S"], is_candidate: Positions, uniform: Float64[Tensor, "B L"]) -> DrawnSet:
        """As of `ConfidenceCommit`."""
        return draw_set(self.policy(score, is_candidate), is_candidate, uniform)


CommitRule = ConfidenceCommit | PlannerCommit


def commit_rule(policy: CommitPolicy, factor: float = 1.0) -> CommitRule:
    """Return the rule that goes with the policy's kind."""
    return (PlannerCommit if policy.kind == "planner" else ConfidenceCommit)(policy, factor)
