"""The distance of a surrogate's conditionals from those that drew the tokens: full-vocabulary KL, token by token.

DiFFPO (arXiv 2510.02212) shows this KL growing with the step of the rollout, and assumes that scoring a token on a
later canvas of its rollout cannot make it larger (its Assumption 2). Both can be measured on finished rollouts at
temperature 1: the completion and its unmask steps are all the canvases there were.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.core.canvas import canvas_at, full_attention_mask
from diffpo.core.rollout import Rollout
from diffpo.likelihood import Estimator, Exact, ScoringPlan, conditionals
from diffpo.models.denoiser import Denoiser


@torch.no_grad()
def committed_kl(
    denoiser: Denoiser,
    rollout: Rollout,
    is_scored: Bool[Tensor, "B L"],
    estimator: Estimator,
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "B L"]:
    """Return KL(conditional that drew the token || the estimator's conditional), in nats, averaged over `draws` draws.

    0 where a token is not scored. Raises ValueError for an estimator that reads a token on several canvases.
    """
    exact = Exact()
    true = conditionals(denoiser, exact(rollout, exact.draw(rollout, generator), denoiser.mask_id), is_scored)
    total = torch.zeros(is_scored.shape, device=is_scored.device)
    for _ in range(draws):
        plan = estimator(rollout, estimator.draw(rollout, generator), denoiser.mask_id)
        if plan.weight is not None or plan.loss_weight is not None:
            raise ValueError(f"{estimator} has no one conditional for each token")
        found = conditionals(denoiser, plan, is_scored)
        total[is_scored] += true.at(is_scored).kl(found.at(is_scored))
    return total / draws


@torch.no_grad()
def boundary_kl(denoiser: Denoiser, rollout: Rollout, is_scored: Bool[Tensor, "B L"]) -> Float[Tensor, "S B L"]:
    """KL(conditional that drew the token || its conditional on the rollout's canvas of call s), nats, for every s.

    0 at the token's own call, and where nothing is scored: after that call, or where a token is not scored.
    """
    batch, length = rollout.completion_ids.shape
    steps = int(rollout.nfe.max())
    canvas = torch.cat([canvas_at(rollout, step, denoiser.mask_id) for step in range(steps)])
    attention_mask = full_attention_mask(rollout.prompt_mask, length).repeat(steps, 1)
    step = torch.arange(steps, device=canvas.device)[:, None, None]
    row = torch.arange(batch, device=canvas.device)[:, None]
    is_seen = (step <= rollout.unmask_step).float()
    plan = ScoringPlan(canvas, attention_mask, (step * batch + row).expand(steps, batch, length), is_seen).shared()
    found = conditionals(denoiser, plan, is_scored)
    true_index = found.index.gather(0, rollout.unmask_step[None]).expand(steps, batch, length)
    kl = torch.zeros(found.is_needed.shape, device=canvas.device)
    kl[found.is_needed] = found.output.rows(true_index[found.is_needed]).kl(found.at(found.is_needed))
    return kl


def by_step(
    kl: Float[Tensor, "B L"], rollout: Rollout, is_scored: Bool[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
    """Return for each rollout the summed KL of its tokens by the call that committed them, and the number of those
    tokens.

    There are at most L calls. The mean KL of a call over rollouts is the ratio of the two columns' sums.
    """
    zeros = torch.zeros(kl.shape, device=kl.device)
    sums = zeros.scatter_add(1, rollout.unmask_step, kl.masked_fill(~is_scored, 0.0))
    return sums, zeros.scatter_add(1, rollout.unmask_step, is_scored.float())


def rises(
    boundary: Float[Tensor, "S B L"], rollout: Rollout, is_scored: Bool[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L L"], Float[Tensor, "B L L"]]:
    """Return for each rollout, at [t, s], how much the KL of call t's tokens grows on canvas s instead of s - 1.

    The first result is the sum over these tokens, the second their number; 0 < s < t. Assumption 2 says that no mean is
    above 0.

    s = t is left out: there the KL ends at 0, which no surrogate could miss.
    """
    steps, batch, length = boundary.shape
    sums = torch.zeros(batch, length, length, device=boundary.device)
    counts = sums.clone()
    for s in range(1, steps):
        counted = is_scored & (rollout.unmask_step > s)
        rise, tokens = by_step(boundary[s] - boundary[s - 1], rollout, counted)
        sums[:, :, s], counts[:, :, s] = rise, tokens
    return sums, counts


@dataclass(frozen=True)
class Distance:
    """Statistics of |difference| of log-probabilities that should be equal, in nats per token."""

    mean: float
    p95: float
    p99: float
    largest: float
    num_tokens: int

    def __str__(self) -> str:
        tail = f"95 % {self.p95:.3g}, 99 % {self.p99:.3g}, largest {self.largest:.3g}"
        return f"mean {self.mean:.3g}, {tail} nats over {self.num_tokens} tokens"


def distance(
    surrogate_logp: Float[Tensor, "B L"], behaviour_logp: Float[Tensor, "B L"], is_scored: Bool[Tensor, "B L"]
) -> Distance:
    """|surrogate - behaviour| over the scored tokens: mean and tail. Zeros where nothing is scored."""
    found = (surrogate_logp - behaviour_logp).abs()[is_scored].double()
    if found.numel() == 0:
        return Distance(0.0, 0.0, 0.0, 0.0, 0)
    p95, p99, largest = np.quantile(found.cpu().numpy(), (0.95, 0.99, 1.0)).tolist()
    return Distance(float(found.mean()), p95, p99, largest, found.numel())


@torch.no_grad()
def uncached_logp(denoiser: Denoiser, rollout: Rollout, temperature: float) -> Float[Tensor, "B L"]:
    """Return the model's own log-probability of each token on the canvas that it was drawn from, in nats.

    It equals `behaviour_logp` for tokens that were drawn (`is_drawn`), above temperature 0 and without a cache.
    """
    exact = Exact()
    every = torch.ones_like(rollout.completion_ids, dtype=torch.bool)
    plan = exact(rollout, exact.draw(rollout, torch.Generator()), denoiser.mask_id)
    return conditionals(denoiser, plan, every).logp(rollout.completion_ids, temperature)
