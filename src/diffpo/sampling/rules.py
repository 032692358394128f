"""Rules: which masked positions does a denoiser call commit?

A rule first gives every candidate position one number (`score`), then chooses positions by those numbers (`select`).
Where a rule uses the logits alone, the product of the token probabilities is the exact probability of the trajectory.
A rule that uses the drawn token lacks this property, sets `is_exact` to False, and serves evaluation only. Every rule
commits at least one position in every row that has a candidate.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Score = Float[Tensor, "B L"]
Positions = Bool[Tensor, "B L"]
RowBound = Float[Tensor, " B"]


@runtime_checkable
class Rule(Protocol):
    """How the sampler chooses the positions that a denoiser call commits."""

    @property
    def is_exact(self) -> bool:
        """Whether the choice depends on the logits alone, and not on the drawn tokens."""
        ...

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return one number for each position, from its logits and the token drawn there.

        Positions come in chunks, in any order, equal canvases once: a score may depend on a position's own logits and
        token alone. What depends on where a position is belongs in `select`.
        """
        ...

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        """Return the positions to commit, among the candidates.

        `row_bound` is each row's entropy bound, in nats; rules without one ignore it.
        """
        ...


@runtime_checkable
class HiddenRule(Protocol):
    """A rule that also looks at the hidden states from which the output head makes the logits.

    As `Rule`, but for its score, which is several numbers for each position.
    """

    @property
    def is_exact(self) -> bool: ...

    def hidden_score(
        self, logits: Float[Tensor, "M V"], drawn: Int[Tensor, " M"], hidden: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M S"]:
        """Return S numbers for each position, from its own logits, drawn token and hidden state alone."""
        ...

    def select(
        self, score: Float[Tensor, "B L S"], is_candidate: Positions, row_bound: RowBound | None = None
    ) -> Positions: ...


@dataclass(frozen=True)
class EntropyBound:
    """EB sampler (arXiv 2505.24857): the largest set whose joint dependence error is at most `bound` (nats).

    Candidates are taken in order of rising entropy H_1 <= H_2 <= ...; the first k are committed with the largest k for
    which sum(H_1..H_k) - max(H_1..H_k) <= bound, which bounds the mutual information that drawing them independently
    loses. `subtract_max=False` asks for sum(H_1..H_k) <= bound instead: slower, and safer where one answer token
    depends on another. Bound 0 takes one call per token, bound infinity one call per block.
    """

    bound: float = 0.1
    subtract_max: bool = True
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return entropy(logits)

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        # Entropies that are no numbers come last of the candidates, and before what is none.
        largest = torch.finfo(score.dtype).max
        score = score.nan_to_num(nan=largest, posinf=largest)
        ranked, order = score.masked_fill(~is_candidate, math.inf).sort(dim=1, stable=True)
        spent = ranked.cumsum(dim=1)
        if self.subtract_max:
            # In rising order the largest so far is the last one; what is left is the sum of those before it. Summing
            # those directly, instead of subtracting, keeps bound 0 exact in floating point.
            spent = torch.nn.functional.pad(spent[:, :-1], (1, 0))
        bound = self.bound if row_bound is None else row_bound[:, None]
        is_within = (spent <= bound) & ranked.isfinite()
        is_within[:, 0] = ranked[:, 0].isfinite()
        return torch.zeros_like(is_candidate).scatter(1, order, is_within)


@dataclass(frozen=True)
class CappedSum:
    """The entropy bound on the plain sum, H_1 + ... + H_k <= `bound` (nats), of tokens with H <= `cap` alone.

    A token whose own entropy is above `cap` is committed only where it is the best of its call: unsure tokens, of which
    the dependence on others is not known, are drawn one at a time. `cap` from `bound` up changes nothing: it is
    EntropyBound(bound, subtract_max=False). Ours, for comparison with learned rules.
    """

    bound: float = 0.3
    cap: float = 0.1
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return entropy(logits)

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        plain_sum = EntropyBound(self.bound, subtract_max=False)
        return plain_sum.select(score, is_candidate & (score <= self.cap)) | best(-score, is_candidate, 1)


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Fast-dLLM's parallel decoding: every position whose largest probability is at least `threshold`, or the best."""

    threshold: float = 0.9
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return logits.softmax(dim=-1).amax(dim=-1)

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        return at_least(self.threshold, score, is_candidate)


@dataclass(frozen=True)
class Margin:
    """Every position whose two likeliest tokens are at least `threshold` apart in probability, or the best one.

    A threshold on the margin by which Kim et al. (arXiv 2502.06768) choose positions.
    """

    threshold: float = 0.8
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        first, second = logits.softmax(dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
        return first - second

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        return at_least(self.threshold, score, is_candidate)


@dataclass(frozen=True)
class Leftmost:
    """The k leftmost positions. k = 1 is left-to-right decoding: JustGRPO's rollouts (ICML 2026)."""

    k: int = 1
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return logits.new_zeros(logits.shape[:-1])

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        return is_candidate & (is_candidate.cumsum(dim=1) <= self.k)


@dataclass(frozen=True)
class TopK:
    """The k positions with the largest top probability, k tokens per call."""

    k: int = 1
    is_exact: ClassVar[bool] = True

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return logits.softmax(dim=-1).amax(dim=-1)

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        return best(score, is_candidate, self.k)


@dataclass(frozen=True)
class LowConfidence:
    """LLaDA's `low_confidence` remasking: draw everywhere, keep the k drawn tokens that are most probable.

    Which token is kept depends on what was drawn, so above temperature 0 the recorded log-probabilities are not the
    law of the trajectory. Equal to TopK at temperature 0.
    """

    k: int = 1
    is_exact: ClassVar[bool] = False

    def score(self, logits: Float[Tensor, "... V"], drawn: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        return logits.softmax(dim=-1).gather(-1, drawn[..., None]).squeeze(-1)

    def select(self, score: Score, is_candidate: Positions, row_bound: RowBound | None = None) -> Positions:
        return best(score, is_candidate, self.k)


def entropy(logits: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """Shannon entropy in nats of softmax(logits).

    With finite logits it is above 0, and stays so when rounding would make it 0: at bound 0 the entropy-bound rule
    then commits one token a call, as its definition says.
    """
    logp = logits.log_softmax(dim=-1)
    return -(logp.exp() * logp).sum(dim=-1).clamp(max=-torch.finfo(logits.dtype).tiny)


def at_least(threshold: float, score: Score, is_candidate: Positions) -> Positions:
    """The candidates whose score is at least `threshold`; the best one of a row that has none."""
    return (is_candidate & (score >= threshold)) | best(score, is_candidate, 1)


def best(score: Score, is_candidate: Positions, k: int) -> Positions:
    """The k candidates of each row with the largest score; all of them where there are fewer."""
    smallest = torch.finfo(score.dtype).min  # of a candidate whose score is no number; below it is what is none
    score = score.nan_to_num(nan=smallest, neginf=smallest).masked_fill(~is_candidate, -math.inf)
    order = score.argsort(dim=1, descending=True, stable=True)
    first = torch.zeros_like(is_candidate).scatter(1, order[:, :k], True)
    return first & is_candidate
