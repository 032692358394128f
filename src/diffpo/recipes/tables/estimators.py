"""The `estimator` table: on which canvases a completion's tokens are scored."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from diffpo.core.options import CallProposal, FirstCall, Tail
from diffpo.recipes.custom import Contract, CustomPart
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count, Share


class MeanFieldEstimator(Strict):
    """d1's: every token is scored on one canvas, on which the whole completion is masked."""

    kind: Literal["mean-field"] = "mean-field"
    prompt_mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the prompt's tokens that are masked at random, as in d1."""


class TwoTimesMeanFieldEstimator(Strict):
    """DiFFPO's: tokens before a random step are scored on the fully masked canvas, the others on that of the step."""

    kind: Literal["two-times-mean-field"] = "two-times-mean-field"


class ManyTimesMeanFieldEstimator(Strict):
    """As two-times-mean-field, with more steps: each token is scored on the last chosen canvas before it."""

    kind: Literal["many-times-mean-field"] = "many-times-mean-field"
    boundaries: Annotated[int, Field(ge=2, le=2**20)] = 4
    """Canvases for each rollout, the fully masked one among them; 2 is two-times-mean-field."""


class ExactEstimator(Strict):
    """Every token is scored on the canvas from which it was drawn: the rollout's own likelihood, a pass for each
    call."""

    kind: Literal["exact"] = "exact"


class SampledExactEstimator(Strict):
    """AGRPO: the exact likelihood's gradient without bias, from some of the rollout's calls."""

    kind: Literal["sampled-exact"] = "sampled-exact"
    draws: Count = 4
    """K, the calls of each rollout that are read (besides the first)."""
    proposal: CallProposal = "gradient"
    """How likely a call is read: by its tokens' gradients at the logits, their surprisal (AGRPO), or all alike."""
    first_call: FirstCall = "always"
    """always: besides the draws; the completions of a prompt share its canvas. drawn: as the others."""
    uniform_share: Share = 0.05
    """The share of the proposal that is spread evenly over the calls."""


class CoupledEstimator(Strict):
    """coupled-GRPO's: a random mask of the completion and its complement; each token is scored where it is masked."""

    kind: Literal["coupled"] = "coupled"
    min_rate: Share = 0.2
    """The smallest share of masked tokens."""
    max_rate: Share = 0.8
    """The largest share of masked tokens."""
    weighting: Literal["plain", "published"] = "plain"
    """plain: a token's log-probability where it is masked; published: DiffuCoder's weighted sum with mean-field."""

    def problems(self) -> Iterable[str]:
        if self.min_rate > self.max_rate:
            yield f"min_rate {self.min_rate} is above max_rate {self.max_rate}; swap them"


class MaskDraws(Strict):
    """Options that the bounds on the likelihood share."""

    draws: Count = 2
    """Random masks of each completion."""
    antithetic: bool = True
    """Half of the masks are complements of the others."""
    tail: Tail = "shown"
    """What is behind the first stop token. shown: part of the completion; hidden: masked on every canvas."""
    prompt_mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the prompt's tokens that are masked at random."""

    def problems(self) -> Iterable[str]:
        if self.antithetic and self.draws % 2:
            yield f"draws {self.draws} is odd, but antithetic masks come in pairs; make it even or antithetic = false"


class ElboEstimator(MaskDraws):
    """A lower bound on the completion's log-likelihood from random masks (LLaDA)."""

    kind: Literal["elbo"] = "elbo"


class EuboEstimator(MaskDraws):
    """SPG: the ELBO, but for completions of negative advantage a mixture with an upper bound."""

    kind: Literal["eubo"] = "eubo"
    antithetic: bool = False
    """With two draws, complements would make the upper bound a plain log-probability."""
    tail: Tail = "hidden"
    beta: Annotated[float, Field(ge=1)] = 1.5
    """The upper bound's exponent: the larger, the safer a bound."""
    mix: Share = 0.5
    """The upper bound's share of the mixture."""


class CustomEstimator(CustomPart):
    """A class of your own."""

    _contract = Contract(
        "estimator", {"draw": ("rollout", "generator"), "__call__": ("rollout", "draw", "mask_id")}, {}
    )


EstimatorRecipe = (
    MeanFieldEstimator
    | TwoTimesMeanFieldEstimator
    | ManyTimesMeanFieldEstimator
    | ExactEstimator
    | SampledExactEstimator
    | CoupledEstimator
    | ElboEstimator
    | EuboEstimator
    | SerializeAsAny[CustomEstimator]
)


def gives_token_probabilities(estimator: EstimatorRecipe) -> bool:
    """Return whether each token is scored on one canvas, so that surrogate / behaviour is a ratio of probabilities."""
    match estimator:
        case MaskDraws():
            return False
        case CoupledEstimator():
            return estimator.weighting == "plain"
    return True
