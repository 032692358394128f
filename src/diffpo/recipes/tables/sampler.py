"""The recipe of a learned sampler that takes prices: `diffpo sampler`."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from diffpo.core.options import DENSE_BOUNDS
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.device import DeviceSettings
from diffpo.recipes.tables.fields import Bounds, Count, Duration, Location, NonNegative, Positive, Seed, Share
from diffpo.recipes.tables.rollout import block_problems
from diffpo.recipes.tables.tasks import TaskRecipe, grading_problems

RISK_BOUNDS = (
    *(0.0, 0.003, 0.006, 0.01, 0.014, 0.02, 0.03, 0.04, 0.05, 0.07),
    *(0.1, 0.14, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1.0, 1.4, 2.0, 3.0, 5.0, 10.0),
)
"""Bounds on the sum of risks at which a learned sampler is measured."""


Bound = Annotated[float, Field(gt=0, le=1e6)]


class StatesRecipe(Strict):
    """Decodings of train problems, from which the sampler learns."""

    denoiser_calls: Duration = 30000
    """When this many are spent no more problems are decoded; the first batch always is."""
    batch: Annotated[int, Field(ge=2, le=2**20)] = 256
    """Problems decoded at a time."""
    low: Bound = 0.05
    """Bounds, in nats on the plain sum of entropies, of the quick part of a decoding: from `low` to `high`."""
    high: Bound = 10.0
    """The largest of them."""
    fresh: Share = 0.4
    """Share of the decodings that have no quick part."""
    per_completion: Count = 16
    """States kept of a decoding, at most on average."""

    def problems(self) -> Iterable[str]:
        if self.low > self.high:
            yield f"low {self.low:g} is above high {self.high:g}; give the smaller bound first"


class FitRecipe(Strict):
    """How the sampler's risk model is fitted."""

    width: Count = 128
    """Of the risk model's hidden layers."""
    steps: Duration = 3000
    """Optimiser steps."""
    batch: Count = 64
    """States of an optimiser step."""
    lr: Positive = 2e-3
    """Learning rate."""
    weight_decay: NonNegative = 1e-2
    """What every update takes from each weight, times the learning rate."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the problems on whose states the best step is chosen; at least one cluster of them."""


class SamplerRecipe(DeviceSettings):
    """Fit a learned sampler to a denoiser that stays as it is."""

    seed: Seed = 0
    """Of all that is random in the fit."""
    base: Location
    """The denoiser: a run, a folder, or ORG/NAME[@REVISION]."""
    task: TaskRecipe | None = None
    """Where problems come from. Not set: the task the model was trained on."""
    block_length: Count | None = None
    """Tokens of a block; blocks are decoded from left to right. Not set: one block, the whole completion."""
    max_in_flight: Count | None = None
    """Completions in flight at a time; one that is done makes room for the next. Not set: all at once."""
    states: StatesRecipe = StatesRecipe()
    fit: FitRecipe = FitRecipe()
    validation_count: Annotated[int, Field(ge=2, le=2**20)] = 500
    """Validation problems on which rules are measured, for prices to choose among."""
    validation_batch: Count = 4096
    """Completions decoded at a time, problems times bounds."""
    bounds: Bounds = DENSE_BOUNDS
    """Of the fixed rules, with and without `subtract_max`."""
    risk_bounds: Bounds = RISK_BOUNDS
    """Bounds on the sum of risks, of the learned rules."""

    def problems(self) -> Iterable[str]:
        if not self.bounds or not self.risk_bounds:
            yield "bounds and risk_bounds each need at least one number"
        for name, bounds in (("bounds", self.bounds), ("risk_bounds", self.risk_bounds)):
            names = [f"{bound:g}" for bound in bounds]
            if repeated := sorted({one for one in names if names.count(one) > 1}):
                yield f"{name} has {', '.join(repeated)} twice, to six digits; give each bound once"
        if self.task is not None:
            yield from grading_problems("fitting a sampler", self.task)
            yield from block_problems("block_length", self.block_length, self.task)
