"""The controller, a learned sampler: it maps what the first denoiser call says to a distribution over entropy bounds.

A bound is drawn per rollout, so the completions of one prompt try different speeds, and its log-density enters the
objective as one more token's. At evaluation the distribution's mean (of the log) is used, or its likeliest bound.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.errors import UserError
from diffpo.core.options import BoundFeatures
from diffpo.sampling.bound_law import BoundLaw, Categorical, LogNormal, grid_logits

QUANTILES = 16
LEVELS = (0.01, 0.03, 0.1, 0.3, 0.7, 1.0)
MAX_SHIFT = math.log(20)
"""Log of the largest factor between a prompt's bound and the initial one: without it a few prompts got bounds of
thousands."""
NUM_FEATURES = 3 * QUANTILES + 2 + len(LEVELS)


def entropy_features(entropy: Float[Tensor, "B L"]) -> Float[Tensor, "B F"]:
    """Describe the entropies of a fully masked completion, in nats, by numbers that do not depend on its length.

    They are quantiles of the entropies and the logs of these, the mean, the maximum, the share below fixed levels, and
    the log of the dependence error that the entropy-bound rule would accumulate up to each quantile.
    """
    ranked = entropy.sort(dim=1).values
    pick = torch.linspace(0, entropy.shape[1] - 1, QUANTILES, device=entropy.device).round().long()
    quantiles = ranked[:, pick]
    spent = torch.nn.functional.pad(ranked.cumsum(dim=1)[:, :-1], (1, 0))[:, pick]
    below = torch.stack([(entropy < level).float().mean(dim=1) for level in LEVELS], dim=1)
    ends = torch.stack([entropy.mean(dim=1), ranked[:, -1]], dim=1)
    return torch.cat([quantiles, (quantiles + 1e-3).log(), (spent + 1e-3).log(), ends, below], dim=1)


class Controller(nn.Module):
    """log(bound) ~ Normal(log(initial_bound) + f(features), spread), f a small MLP that starts at zero.

    With a grid of `bounds` it is a categorical distribution over them instead, f its logits, which start as those of
    that Normal. Features are those of the first call's entropies, or, with `feature_kind` hidden, the mean over the
    completion of the `num_features` hidden states that enter the output head; no gradient reaches the model through
    them. They are standardised by running statistics: without that nine tenths of the energy of entropy features is the
    mean over prompts, and the head learns one bound for all.
    """

    mean: Tensor
    std: Tensor
    log_bounds: Tensor

    def __init__(
        self,
        initial_bound: float = 0.3,
        initial_spread: float = 1.0,
        hidden: int = 64,
        feature_kind: BoundFeatures = "entropy",
        num_features: int = NUM_FEATURES,
        bounds: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        self.initial_bound = initial_bound
        self.hidden = hidden
        self.feature_kind = feature_kind
        self.bounds = bounds
        self.head = nn.Sequential(nn.Linear(num_features, hidden), nn.GELU(), nn.Linear(hidden, len(bounds) or 1))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if bounds:
            self.register_buffer("log_bounds", torch.tensor(bounds).log())
            last.bias.data = grid_logits(self.log_bounds, initial_bound, initial_spread)
        else:
            self.log_spread = nn.Parameter(torch.tensor(math.log(initial_spread)))
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    @property
    def num_features(self) -> int:
        return len(self.mean)

    @property
    def needs_hidden(self) -> bool:
        """Whether `features` needs the hidden states of the first call."""
        return self.feature_kind == "hidden"

    def features(
        self, entropy: Float[Tensor, "B L"], hidden: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B F"]:
        """Return what the controller looks at, from the first call's entropies and its mean hidden states.

        Raises UserError for hidden states of a model of another width.
        """
        if hidden is None:
            return entropy_features(entropy)
        if hidden.shape[1] != self.num_features:
            raise UserError(
                f"the controller was made for hidden states of width {self.num_features}, and the model's have "
                f"{hidden.shape[1]}; use the model it was trained with"
            )
        return hidden.float()

    def log_bound(self, features: Float[Tensor, "B F"]) -> BoundLaw:
        """Return the distributions of log(bound)."""
        standard = ((features - self.mean) / self.std).clamp(-5, 5)
        if self.bounds:
            return Categorical(self.head(standard).log_softmax(dim=1), self.log_bounds)
        shift: Tensor = MAX_SHIFT * (self.head(standard).squeeze(-1) / MAX_SHIFT).tanh()
        loc = math.log(self.initial_bound) + shift
        return LogNormal(loc, self.log_spread.exp().expand_as(loc))

    def choose(
        self, features: Float[Tensor, "B F"], uniform: Float[Tensor, " B"] | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return bounds and the log-density of their logs.

        They are drawn by inverse CDF; without uniform numbers they are the mean, or the likeliest of a grid.
        """
        distribution = self.log_bound(features)
        log_bound = distribution.loc if uniform is None else distribution.icdf(uniform)
        logp = torch.zeros_like(log_bound) if uniform is None else distribution.log_prob(log_bound)
        return log_bound.exp(), logp

    def logp(self, features: Float[Tensor, "B F"], bound: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the log-density of log(bound), differentiable in the controller's parameters."""
        return self.log_bound(features).log_prob(bound.log())

    @torch.no_grad()
    def observe(self, features: Float[Tensor, "B F"], momentum: float) -> None:
        """Move the running mean and standard deviation towards these features; momentum 1 replaces them."""
        self.mean.lerp_(features.mean(dim=0), momentum)
        self.std.lerp_(features.std(dim=0).clamp(min=1e-3), momentum)
