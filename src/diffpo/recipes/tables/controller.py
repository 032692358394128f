"""The `controller` table: the learned sampler that chooses each completion's entropy bound."""

from typing import Annotated

from pydantic import Field

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.advantages import AdvantageRecipe
from diffpo.recipes.tables.fields import Count, Positive, Share
from diffpo.recipes.tables.optimizer import AdamRecipe


class GreedyStageRecipe(Strict):
    """The end of a joint run, in which the policy rests and the controller learns from greedy rollouts."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The stage's share of the run's budget."""
    nfe_penalty: Share = 0.3
    lr: Positive = 3e-3


class ControllerRecipe(Strict):
    """Used where `train` is "controller" or "joint"."""

    initial_bound: Positive = 0.3
    initial_spread: Positive = 1.0
    hidden: Count = 64
    nfe_penalty: Share = 0.3
    """As `objective.nfe_penalty`, for the credit of the drawn entropy bounds."""
    advantage: AdvantageRecipe = "batch-std"
    momentum: Share = 0.05
    """How fast the running statistics that standardise the controller's features follow the model."""
    optimizer: AdamRecipe = AdamRecipe(lr=3e-3)
    greedy_stage: GreedyStageRecipe | None = None
