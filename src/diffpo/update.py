"""A batch becomes optimiser steps: the policy's and, in a joint run, the controller's."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.controller import Controller
from diffpo.errors import NonFiniteLossError
from diffpo.likelihood import Conditionals, Estimator, Views, conditionals, kl_full, kl_k3, surrogate_logp
from diffpo.models.denoiser import Denoiser
from diffpo.objective import ClippedSurrogate, clipped_loss, token_weights
from diffpo.optimizer import Optimizer
from diffpo.rollout import Batch
from diffpo.stats import effective_sample_size


@dataclass(frozen=True)
class PolicyUpdate:
    """What is minimised, and how often per batch."""

    estimator: Estimator
    objective: ClippedSurrogate
    normalise: Literal["sequence", "token"]
    kl: float
    kl_kind: Literal["full", "k3"]
    temperature: float
    inner_steps: int
    micro_batch: int | None
    grad_clip: float
    skip_ties: bool = False


@dataclass(frozen=True)
class ControllerUpdate:
    """The entropy bound as one more token: its own coefficient, clip and optimiser."""

    coef: float
    clip: float
    grad_clip: float


@dataclass(frozen=True)
class _Part:
    """A micro-batch with the canvases it is read on, drawn once for the old, the new and the base policy."""

    batch: Batch
    weight: Float[Tensor, "b L"]
    views: Views
    base: Conditionals | None


def update_policy(
    denoiser: Denoiser,
    base: Denoiser | None,
    batch: Batch,
    update: PolicyUpdate,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> dict[str, float]:
    """`inner_steps` optimiser steps on one batch. Returns metrics averaged over tokens and inner steps; none, and no
    step, where ties are skipped and all prompts are tied.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    parts = _split(denoiser, base, batch, update, generator)
    if not parts:
        return {}
    totals: defaultdict[str, float] = defaultdict(float)
    old_logps: list[Float[Tensor, "b L"]] = []
    weights: list[Float[Tensor, " n"]] = []
    for inner in range(update.inner_steps):
        optimizer.zero_grad()
        for index, part in enumerate(parts):
            rollout = part.batch.rollout
            now = conditionals(denoiser, part.views, part.batch.is_scored)
            readings = now.logp(rollout.completion_ids, update.temperature)
            logp = surrogate_logp(part.views, readings, now.is_read, part.batch.advantage < 0)
            if inner == 0:
                # No weight has moved yet: what is about to be the new policy still is the old one.
                old_logps.append(logp.detach())
            terms = update.objective(logp, old_logps[index], rollout.behaviour_logp, part.batch.advantage)
            loss = terms.loss
            if part.base is not None:
                kl = _kl(now, part.base, readings, part, update)
                loss = loss + update.kl * kl
                totals["kl"] += _total(part.weight, kl)
            total = (part.weight * loss).sum()
            total.backward()
            totals["loss"] += float(total.detach())
            totals["clip_fraction"] += _total(part.weight, terms.is_clipped)
            totals["policy_ratio"] += _total(part.weight, terms.policy_ratio)
            totals["weight_mean"] += _total(part.weight, terms.importance_weight)
            if update.objective.weight_cap is not None:
                is_capped = terms.importance_weight >= update.objective.weight_cap
                totals["weight_capped"] += _total(part.weight, is_capped)
                if inner == 0:
                    # They do not change with the policy: one sample, however it was cut.
                    weights.append(terms.importance_weight[part.batch.is_scored])
        norm = torch.nn.utils.clip_grad_norm_(denoiser.model.parameters(), update.grad_clip)
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(f"the gradient's norm is {float(norm)}")
        totals["grad_norm"] += float(norm)
        optimizer.step()
    # Averages over the tokens that were in the update, whose weights do not sum to 1 where ties are skipped.
    share = {"loss": 1.0, "grad_norm": 1.0}
    in_update = sum(float(part.weight.sum()) for part in parts)
    metrics = {name: value / update.inner_steps / share.get(name, in_update) for name, value in totals.items()}
    if weights:
        scored = torch.cat(weights).cpu().numpy()
        metrics["weight_ess"] = effective_sample_size(scored) / scored.size
    return metrics


def update_controller(
    controller: Controller, batch: Batch, update: ControllerUpdate, optimizer: Optimizer
) -> dict[str, float]:
    """One optimiser step on the bounds that the batch's rollouts drew."""
    rollout = batch.rollout
    logp = controller.logp(rollout.prompt_features, rollout.entropy_bound)
    ratio = (logp - rollout.entropy_bound_logp).exp()
    loss, is_clipped = clipped_loss(ratio, batch.bound_advantage, update.clip)
    optimizer.zero_grad()
    (update.coef * loss.mean()).backward()
    norm = torch.nn.utils.clip_grad_norm_(controller.parameters(), update.grad_clip)
    if not bool(norm.isfinite()):
        raise NonFiniteLossError(f"the controller's gradient norm is {float(norm)}")
    optimizer.step()
    with torch.no_grad():
        law = controller.log_bound(rollout.prompt_features)
    return {
        "bound_median": float(law.loc.median().exp()),
        "bound_log_sd": float(law.loc.std()),
        "bound_spread": float(law.scale[0]),
        "bound_clip_fraction": float(is_clipped.float().mean()),
    }


def _split(
    denoiser: Denoiser, base: Denoiser | None, batch: Batch, update: PolicyUpdate, generator: torch.Generator
) -> list[_Part]:
    """Draw the estimator's randomness for the whole batch, then cut it; read the base policy on every part."""
    draw = update.estimator.draw(batch.rollout, generator)
    weight = token_weights(batch.is_scored, update.normalise)
    rows = torch.arange(len(batch.rollout), device=weight.device)
    if update.skip_ties:
        rows = rows[batch.has_spread]
    parts = []
    for index in rows.split(update.micro_batch or len(batch.rollout)) if len(rows) else ():
        part = batch.rows(index)
        views = update.estimator(part.rollout, draw[index.to(draw.device)], denoiser.mask_id)
        with torch.no_grad():
            read = conditionals(base, views, part.is_scored) if base is not None else None
        parts.append(_Part(part, weight[index], views, read))
    return parts


def _kl(
    now: Conditionals, base: Conditionals, readings: Float[Tensor, "*K b L"], part: _Part, update: PolicyUpdate
) -> Float[Tensor, "b L"]:
    """KL of each token's conditionals to the base's on its canvases, at temperature 1 (full) or the rollout's (k3).

    With several canvases for a token it is weighted as the token's log-probability is.
    """
    if update.kl_kind == "full":
        return part.views.total(now.per_token(kl_full(now.logits, base.logits)))
    base_readings = base.logp(part.batch.rollout.completion_ids, update.temperature)
    return part.views.total(kl_k3(readings, base_readings))


def _total(weight: Float[Tensor, "b L"], values: Tensor) -> float:
    return float((weight * values.detach()).sum())
