"""The `controller` table: the learned sampler, of each completion's entropy bound or of the tokens of each call."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from diffpo.core.options import BoundFeatures
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.advantages import AdvantageRecipe
from diffpo.recipes.tables.fields import Count, Duration, Positive, Share
from diffpo.recipes.tables.optimizer import AdamRecipe


class GreedyStageRecipe(Strict):
    """The end of a joint run, in which the policy rests and the controller learns from greedy rollouts."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The stage's share of the run's budget."""
    nfe_penalty: Share = 0.3
    """As `controller.nfe_penalty`, in this stage."""
    lr: Positive = 3e-3
    """Learning rate of the controller in this stage."""


class WarmStartRecipe(Strict):
    """Before the first step a commit policy imitates a confidence threshold, on greedy decodings of train problems."""

    threshold: Share = 0.9
    """The confidence from which the imitated rule commits a token."""
    count: Count = 128
    """Problems that are decoded; their calls count in the budget."""
    steps: Duration = 300
    """Optimiser steps of the imitation."""
    lr: Positive = 1e-3
    """Learning rate of the imitation."""


COMMIT_POLICY_OPTIONS = ("initial_probability", "warm_start")
ENTROPY_BOUND_OPTIONS = (
    "objective",
    "features",
    "distribution",
    "bounds",
    "initial_bound",
    "initial_spread",
    "momentum",
)


class ControllerRecipe(Strict):
    """Used where `train` is "controller" or "joint"."""

    kind: Literal["entropy-bound", "confidence-policy", "planner"] = "entropy-bound"
    """entropy-bound: DiFFPO's, a bound for each completion. The others are commit policies: they give each masked
    position of each call a probability of being committed, from the denoiser's confidences (Apple's unmasking policy)
    or from its last hidden states (dUltra's planner)."""
    objective: Literal["own", "shared"] = "own"
    """own: its loss and optimiser are its own. shared: the bound is one more token of the completion in the policy's
    loss, with its reward, advantage, weight and optimiser; `nfe_penalty`, `advantage`, `optimizer` here are unused."""
    features: BoundFeatures = "entropy"
    """What it looks at in the first call: the entropies of the completion, or the mean of its hidden states."""
    distribution: Literal["log-normal", "categorical"] = "log-normal"
    """Of the bounds it draws: log-normal, or categorical over the grid `bounds`."""
    bounds: Annotated[tuple[Positive, ...], Field(max_length=1000)] | None = None
    """The grid of a categorical distribution, in rising order; it starts with the weights of the log-normal one."""
    initial_bound: Positive = 0.3
    """The median of its bounds, in nats, where it starts."""
    initial_spread: Positive = 1.0
    """Standard deviation of the logarithm of its bounds, where it starts."""
    hidden: Count = 64
    """Width of the network; a multiple of 4 for a commit policy."""
    initial_probability: Annotated[float, Field(gt=0, lt=1)] = 0.12
    """That of each position, where a commit policy starts; small is slow and, mostly, right."""
    warm_start: WarmStartRecipe | None = None
    """What a commit policy imitates first; not set: nothing."""
    nfe_penalty: Share = 0.3
    """As `objective.nfe_penalty`, for the credit of the drawn entropy bounds or sets."""
    advantage: AdvantageRecipe = "batch-std"
    """As `objective.advantage`, for the controller's loss."""
    momentum: Share = 0.05
    """How fast the running statistics that standardise the controller's features follow the model."""
    optimizer: AdamRecipe = AdamRecipe(lr=3e-3)
    """How the controller's weights are changed."""
    greedy_stage: GreedyStageRecipe | None = None
    """What ends a joint run. Not set: nothing, it stays joint to its end."""

    @property
    def is_commit_policy(self) -> bool:
        """Whether it decides which positions a call commits, in place of the rule."""
        return self.kind != "entropy-bound"

    def problems(self) -> Iterable[str]:
        unused = ENTROPY_BOUND_OPTIONS if self.is_commit_policy else COMMIT_POLICY_OPTIONS
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].default:
                yield f"{name} is of no use to kind = '{self.kind}'; leave it out"
        if self.is_commit_policy and self.hidden % 4:
            nearest = 4 * -(-self.hidden // 4)
            yield f"hidden {self.hidden} is no multiple of 4, which kind = '{self.kind}' needs; use {nearest}"
        if self.distribution == "log-normal" and self.bounds is not None:
            yield "bounds are for distribution = 'categorical', and it is 'log-normal'; change it, or leave them out"
        if self.distribution == "categorical" and (self.bounds is None or len(self.bounds) < 2):
            yield "distribution = 'categorical' needs a grid of at least two bounds: bounds = [0.03, 0.1, 0.3]"
        elif self.bounds is not None and list(self.bounds) != sorted(set(self.bounds)):
            yield f"bounds {list(self.bounds)} do not rise; sort them, and leave out what is there twice"
