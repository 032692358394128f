"""The controller, a learned sampler: it maps the first denoiser call's entropies to a distribution over entropy bounds.

A bound is drawn per rollout, so the completions of one prompt try different speeds, and its log-density enters the
objective as one more token's. At evaluation the distribution's mean (of the log) is used.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

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

    Features are standardised by running statistics. Without that nine tenths of their energy is the mean over prompts,
    and the head learns one bound for all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, initial_bound: float = 0.3, initial_spread: float = 1.0, hidden: int = 64) -> None:
        super().__init__()
        self.initial_bound = initial_bound
        self.hidden = hidden
        self.head = nn.Sequential(nn.Linear(NUM_FEATURES, hidden), nn.GELU(), nn.Linear(hidden, 1))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.log_spread = nn.Parameter(torch.tensor(math.log(initial_spread)))
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("std", torch.ones(NUM_FEATURES))

    def features(self, entropy: Float[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        return entropy_features(entropy)

    def log_bound(self, features: Float[Tensor, "B F"]) -> torch.distributions.Normal:
        standard = ((features - self.mean) / self.std).clamp(-5, 5)
        shift: Tensor = MAX_SHIFT * (self.head(standard).squeeze(-1) / MAX_SHIFT).tanh()
        loc = math.log(self.initial_bound) + shift
        return torch.distributions.Normal(loc, self.log_spread.exp().expand_as(loc))

    def choose(
        self, features: Float[Tensor, "B F"], uniform: Float[Tensor, " B"] | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return bounds and the log-density of their logs: drawn by inverse CDF, or the mean without uniform
        numbers."""
        distribution = self.log_bound(features)
        log_bound = distribution.loc if uniform is None else distribution.icdf(uniform.clamp(1e-6, 1 - 1e-6))
        logp = torch.zeros_like(log_bound) if uniform is None else distribution.log_prob(log_bound)
        return log_bound.exp(), logp

    def logp(self, features: Float[Tensor, "B F"], bound: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the log-density of log(bound), differentiable in the controller's parameters."""
        logp: Tensor = self.log_bound(features).log_prob(bound.log())
        return logp

    @torch.no_grad()
    def observe(self, features: Float[Tensor, "B F"], momentum: float) -> None:
        """Move the running mean and standard deviation towards these features; momentum 1 replaces them."""
        self.mean.lerp_(features.mean(dim=0), momentum)
        self.std.lerp_(features.std(dim=0).clamp(min=1e-3), momentum)
