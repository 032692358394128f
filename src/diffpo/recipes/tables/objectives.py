"""The `objective` table: the credit of completions, the loss of their tokens, and the steps taken on a batch."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from diffpo.core.options import KlEstimator, LossAggregation, ScoredTokens
from diffpo.recipes.custom import Contract, CustomPart, attribute_or_none
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.advantages import AdvantageRecipe
from diffpo.recipes.tables.estimators import (
    CoupledEstimator,
    EstimatorRecipe,
    EuboEstimator,
    MaskDraws,
    SampledExactEstimator,
    gives_token_probabilities,
)
from diffpo.recipes.tables.fields import Count, Duration, NonNegative, Positive, Share


class UpdateSettings(Strict):
    """Options that all objectives share."""

    nfe_penalty: Share = 0.0
    """What a solved problem loses of its reward at one call per token (gated speed); 0: accuracy only."""
    scored_tokens: ScoredTokens = "to-stop"
    """to-stop: up to and including the first stop token, as published; drawn: also those drawn behind it."""
    num_iterations: Count = 2
    """Optimiser steps on each batch of rollouts."""
    redraw: bool = False
    """Draw the estimator's steps or masks anew at each iteration, as d1, SPG and DiFFPO do; false: once for a batch."""
    micro_batch_size: Count | None = None
    """Completions of one forward and backward pass, in each process; not set: all that it has."""
    drop_zero_std_groups: bool = False
    """Leave prompts whose completions all earned the same out of the update, KL included: DAPO's filter."""
    speed_coef: NonNegative | None = None
    """LightningRL's reward: grade and tokens per call, each standardised within the prompt's completions, the latter
    times this. Not set: the grade less `nfe_penalty`."""
    drop_unsolved_groups: bool = False
    """Leave prompts out of which no completion is right."""
    drop_same_speed_groups: bool = False
    """Leave prompts out whose completions have the same tokens per call, to 0.01."""
    right_nll_coef: NonNegative = 0.0
    """Weight of the negative log-likelihood of right completions, which is added to the loss."""

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.speed_coef is not None and self.nfe_penalty > 0:
            yield (
                f"nfe_penalty {self.nfe_penalty:g} and speed_coef {self.speed_coef:g} are two rewards of speed; set "
                "nfe_penalty = 0, or leave speed_coef out"
            )


class AdvantageSettings(UpdateSettings):
    """Options that objectives share which credit completions by their advantage."""

    loss_aggregation: LossAggregation = "token-mean"
    """sequence-mean: every completion counts the same; token-mean: every token does."""
    advantage: AdvantageRecipe = "group-centered"
    """How rewards become credit: group-centered, group-std (GRPO), batch-std or leave-one-out, or a function of your
    own, file.py:function."""
    kl_coef: NonNegative = 0.0
    """Weight of the KL term that holds on to the reference; 0: none."""
    kl_estimator: KlEstimator = "full"
    """How it is computed: full, over the whole vocabulary, or k1, k2 or k3 from the drawn token."""


class ClippedSurrogateObjective(AdvantageSettings):
    """diffu-GRPO; with `importance_cap` DiFFPO; on coupled masks coupled-GRPO. The one objective whose kind may be left
    out."""

    kind: Literal["clipped-surrogate"] = "clipped-surrogate"
    loss_aggregation: LossAggregation = "sequence-mean"
    advantage: AdvantageRecipe = "group-std"
    kl_coef: NonNegative = 0.05
    clip: Positive = 0.2
    """The policy ratio counts from 1 - clip to 1 + clip."""
    importance_cap: Positive | None = None
    """C of the truncated importance weight surrogate / behaviour; not set: no correction."""
    importance_floor: NonNegative = 0.0
    """The weight is truncated from below, too."""
    importance_on: Literal["all", "positive"] = "all"
    """positive: completions whose advantage is not positive keep weight 1."""

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.importance_cap is None and (self.importance_floor > 0 or self.importance_on != "all"):
            yield (
                "importance_floor and importance_on shape importance weights, and without importance_cap there are "
                "none; set it"
            )
        if self.importance_cap is not None and self.importance_floor > self.importance_cap:
            yield f"importance_floor {self.importance_floor} is above importance_cap {self.importance_cap}; swap them"


class ReinforceObjective(AdvantageSettings):
    """REINFORCE leave-one-out; on the `eubo` estimator SPG."""

    kind: Literal["reinforce"]
    advantage: AdvantageRecipe = "leave-one-out"
    num_iterations: Count = 1


class WeightedLikelihoodObjective(AdvantageSettings):
    """wd1's: the log-likelihood of completions, weighted by how good they are."""

    kind: Literal["weighted-likelihood"]
    psi: Positive = 1.0
    """How sharply weights follow the advantage."""


class TargetSettings(UpdateSettings):
    """DMPO's target, the reference tilted by the reward. It holds on to it by itself: there is no KL term."""

    alpha: Positive = 0.04
    """Temperature of the tilt: the smaller, the more the reward counts."""
    proximal: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Step from the policy (0) to the tilted reference (1)."""
    min_ess: Annotated[float, Field(gt=0, le=1)] | None = None
    """Shorten each prompt's step until its weights' effective sample size is this share of the group."""

    @property
    def advantage(self) -> AdvantageRecipe:
        return "group-centered"

    @property
    def kl_coef(self) -> float:
        return 0.0

    @property
    def kl_estimator(self) -> KlEstimator:
        return "full"


class DistributionMatchingObjective(TargetSettings):
    """DMPO's weighted denoising cross-entropy."""

    kind: Literal["distribution-matching"]
    baseline: Literal["none", "mean", "unbias", "neg"] = "neg"
    """What is subtracted from the weights."""

    @property
    def loss_aggregation(self) -> LossAggregation:
        return "token-mean"


class WddoObjective(TargetSettings):
    """DMPO's weighted discriminator."""

    kind: Literal["wddo"]
    beta: Positive = 1.0
    """Scale of the log-ratio that the discriminator sees; with 1 its optimum is the target."""
    fake: Positive = 1.0
    """Weight of the samples that the discriminator should reject."""

    @property
    def loss_aggregation(self) -> LossAggregation:
        return "sequence-mean"


class CustomObjective(AdvantageSettings, CustomPart):
    """A class of your own, with the options that built-in objectives have besides their own."""

    _contract = Contract(
        "objective",
        {"credit": ("groups",), "__call__": ("logp", "old_logp", "behaviour_logp", "credit", "is_scored")},
        {"requires": Literal["none", "old", "current"]},
    )


class ExpertIterationObjective(Strict):
    """Denoise the run's own right answers, of this step and of those before.

    Right is what the task calls solved (`Grade.is_solved`), however large the reward: partial credit, and a reward of
    the user's own, teach nothing. No wrong answer is looked at, and neither is the `estimator` table.
    """

    kind: Literal["expert-iteration"]
    num_iterations: Count = 16
    """Optimiser steps after each batch of rollouts."""
    batch: Annotated[int, Field(ge=1, le=2**20)] = 64
    """Right answers of each of them, drawn from all that are kept."""
    weighting: Literal["elbo", "uniform"] = "elbo"
    """Weight of a masked token, as in SFT."""
    empty_share: Share = 0.0
    """Share of the answers of which all tokens are masked, as at a first call: more for few calls, less for many."""
    capacity: Duration = 100_000
    """Right answers that are kept, the newest ones. In every process, each takes some 36 bytes of main memory for each
    token of prompt and completion: 100 000 of 500 tokens are 1.8 GB."""
    micro_batch_size: Count | None = None
    """Answers of one forward and backward pass; not set: the whole batch."""

    # What the metrics of rollouts ask of every objective, and what is no choice here.
    nfe_penalty: ClassVar[float] = 0.0
    speed_coef: ClassVar[float | None] = None
    advantage: ClassVar[AdvantageRecipe] = "group-centered"
    scored_tokens: ClassVar[ScoredTokens] = "to-stop"


CreditRecipe = (
    ClippedSurrogateObjective
    | ReinforceObjective
    | WeightedLikelihoodObjective
    | DistributionMatchingObjective
    | WddoObjective
    | SerializeAsAny[CustomObjective]
)
"""Objectives that credit each completion of a batch."""
ObjectiveRecipe = CreditRecipe | ExpertIterationObjective


def pairing_problems(objective: ObjectiveRecipe, estimator: EstimatorRecipe) -> Iterable[str]:
    """Yield what is wrong if this objective is used with this estimator."""
    has_cap = isinstance(objective, ClippedSurrogateObjective) and objective.importance_cap is not None
    if has_cap and not gives_token_probabilities(estimator):
        yield (
            f"objective.importance_cap compares each token's probability with the one it was drawn with, and estimator "
            f"'{estimator.kind}' gives a weighted sum of log-probabilities on several canvases instead; leave "
            "importance_cap out, or use an estimator that scores each token on one canvas"
        )
    if isinstance(estimator, EuboEstimator) and isinstance(objective, WeightedLikelihoodObjective | TargetSettings):
        yield (
            f"estimator 'eubo' chooses its bound by the sign of the advantage, which objective '{objective.kind}' does "
            "not multiply with; use estimator 'elbo', or objective 'reinforce' (SPG)"
        )
    if isinstance(estimator, MaskDraws) and estimator.tail == "hidden" and objective.scored_tokens == "drawn":
        yield (
            "objective.scored_tokens = 'drawn' scores tokens behind the first stop token, which estimator.tail = "
            "'hidden' masks on every canvas; use tail = 'shown', or scored_tokens = 'to-stop'"
        )
    needs_completions = isinstance(objective, TargetSettings) or (
        isinstance(objective, CustomObjective) and attribute_or_none(objective, "requires") not in (None, "none")
    )
    if needs_completions and isinstance(estimator, SampledExactEstimator):
        yield (
            f"objective '{objective.kind}' compares likelihoods of whole completions, and estimator 'sampled-exact' "
            "reads some of their tokens only; use estimator 'exact', 'many-times-mean-field' or 'elbo'"
        )
    is_published = isinstance(estimator, CoupledEstimator) and estimator.weighting == "published"
    if isinstance(objective, TargetSettings) and is_published:
        yield (
            f"objective '{objective.kind}' compares likelihoods of whole completions, and estimator 'coupled' with the "
            "published weighting gives none (its weights add up to 3/2); use weighting = 'plain', or estimator 'elbo'"
        )
