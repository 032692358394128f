"""Distributions of an entropy bound, one for each row: log-normal, or over a grid of bounds. All in logs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LogNormal:
    """log(bound) ~ Normal(loc, scale)."""

    loc: Float[Tensor, " B"]
    """The log bound that is used where none is drawn."""
    scale: Float[Tensor, " B"]
    """Standard deviation of log(bound)."""

    def icdf(self, uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the log bounds that uniform numbers in [0, 1) stand for."""
        found: Tensor = self._normal.icdf(uniform.clamp(1e-6, 1 - 1e-6))
        return found

    def log_prob(self, log_bound: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the log-density of log bounds."""
        found: Tensor = self._normal.log_prob(log_bound)
        return found

    @property
    def _normal(self) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.loc, self.scale)


@dataclass(frozen=True)
class Categorical:
    """One of K bounds in rising order, with a probability in each row; the likeliest is used where none is drawn."""

    logp: Float[Tensor, "B K"]
    log_bounds: Float[Tensor, " K"]

    @property
    def loc(self) -> Float[Tensor, " B"]:
        """As of `LogNormal`."""
        return self.log_bounds[self.logp.argmax(dim=1)]

    @property
    def scale(self) -> Float[Tensor, " B"]:
        """As of `LogNormal`."""
        probability = self.logp.exp()
        mean = (probability * self.log_bounds).sum(dim=1, keepdim=True)
        return (probability * (self.log_bounds - mean) ** 2).sum(dim=1).sqrt()

    def icdf(self, uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """As of `LogNormal`."""
        below = self.logp.double().exp().cumsum(dim=1)
        index = torch.searchsorted(below, uniform.double()[:, None] * below[:, -1:], right=True).squeeze(1)
        return self.log_bounds[index.clamp(max=len(self.log_bounds) - 1)]

    def log_prob(self, log_bound: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the log-probability of the bound nearest to each."""
        nearest = (log_bound[:, None] - self.log_bounds).abs().argmin(dim=1)
        return self.logp.gather(1, nearest[:, None]).squeeze(1)


BoundLaw = LogNormal | Categorical


def grid_logits(log_bounds: Float[Tensor, " K"], initial_bound: float, initial_spread: float) -> Float[Tensor, " K"]:
    """Return the logits of a grid's bounds that are those of a log-normal around the initial bound."""
    return -((log_bounds - math.log(initial_bound)) ** 2) / (2 * initial_spread**2)
