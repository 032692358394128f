"""A batch becomes optimiser steps: the policy's and, in a joint run, the controller's."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from diffpo.core.errors import NonFiniteLossError
from diffpo.core.options import KlEstimator, LossAggregation
from diffpo.distributed.collectives import all_gather_rows, all_reduce_gradients, all_reduce_metrics
from diffpo.distributed.process import rank_slice
from diffpo.likelihood import (
    Conditionals,
    Estimator,
    ScoringPlan,
    conditionals,
    surrogate_logp,
)
from diffpo.models.denoiser import ModelDenoiser
from diffpo.objective import (
    Credit,
    Groups,
    Objective,
    PolicyLoss,
    clipped_loss,
    group_weight_metrics,
    token_weight_metrics,
    token_weights,
)
from diffpo.objective.kl import SAMPLED_KL
from diffpo.runs.optimizer import Optimizer
from diffpo.sampling.controller import Controller
from diffpo.training.rollouts import Batch


@dataclass(frozen=True)
class PolicyUpdate:
    """What is minimised, and how often per batch."""

    estimator: Estimator
    objective: Objective
    loss_aggregation: LossAggregation
    kl_coef: float
    kl_estimator: KlEstimator
    temperature: float
    num_iterations: int
    micro_batch_size: int | None
    grad_clip: float
    drop_zero_std_groups: bool = False


@dataclass(frozen=True)
class ControllerUpdate:
    """The entropy bound as one more token: its own coefficient, clip and optimiser."""

    coef: float
    clip: float
    grad_clip: float


@dataclass(frozen=True)
class _MicroBatch:
    """A micro-batch with the canvases it is read on, drawn once for the old, the new and the base policy."""

    index: Int[Tensor, " b"]
    """Its rows in the whole batch."""
    batch: Batch
    weight: Float[Tensor, "b L"]
    views: ScoringPlan
    base: "_Base | None"


@dataclass(frozen=True)
class _Base:
    """The base policy on the canvases of a part: what the KL or the credit is made of, and no more."""

    said: Conditionals | None
    logp: Float[Tensor, "*K b L"] | None


@dataclass(frozen=True)
class _Read:
    """A policy on the canvases of a part."""

    now: Conditionals
    readings: Float[Tensor, "*K b L"]
    logp: Float[Tensor, "b L"]


def update_policy(
    denoiser: ModelDenoiser,
    base: ModelDenoiser | None,
    batch: Batch,
    update: PolicyUpdate,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> dict[str, float]:
    """`num_iterations` optimiser steps on one batch. Returns metrics averaged over tokens and inner steps; none, and no
    step, where ties are skipped and all prompts are tied.

    An objective whose credit is made of likelihoods gets those of whole groups first: with several micro-batches that
    is one more pass of the policy, at the first inner step or (where it reads the policy as it stands) at each.

    Of several processes, all of which have the whole batch, each reads the rows of its share of the groups.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    rows = _rows(batch, update)
    if not len(rows):
        return {}
    share = rank_slice(len(rows), unit=batch.reward.shape[1])
    parts = _split(denoiser, base, batch, update, generator, rows[share])
    totals: defaultdict[str, float] = defaultdict(float)
    old: list[Tensor] = []  # [b, L] of each part
    terms: list[PolicyLoss] = []
    credit: Credit | None = None
    weights: dict[str, float] = {}
    norms = 0.0
    for inner in range(update.num_iterations):
        optimizer.zero_grad()
        # A single part is read once, for its credit and for its gradient.
        single = _read(denoiser, parts[0], update) if len(parts) == 1 else None
        if credit is None or update.objective.requires == "now":
            now = _logps(denoiser, parts, update, single) if update.objective.requires != "none" else None
            # No weight has moved yet: what is about to be the new policy still is the old one.
            old = old or now or []
            credit = _credit(batch, rows, parts, update, old, now, base is not None)
        credits = credit.value.flatten()[share].split([len(part.index) for part in parts])
        for number, part in enumerate(parts):
            read = single or _read(denoiser, part, update)
            if len(old) == number:
                old.append(read.logp.detach())
            found = update.objective(read.logp, old[number], part.batch.rollout.behaviour_logp, credits[number])
            loss = found.loss
            if part.base is not None:
                with torch.set_grad_enabled(update.kl_coef > 0):  # else it is only looked at
                    kl = _kl(read, part.base, part, update)
                loss = loss + update.kl_coef * kl
                totals["kl"] += _total(part.weight, kl)
            total = (part.weight * loss).sum()
            total.backward()
            totals["loss"] += float(total.detach())
            totals["clip_fraction"] += _total(part.weight, found.is_clipped)
            totals["policy_ratio"] += _total(part.weight, found.policy_ratio)
            totals["importance_weight_mean"] += _total(part.weight, found.importance_weight)
            if found.is_weighted.any():
                totals["importance_weight_capped"] += _total(part.weight, found.is_capped)
            if inner == 0:
                # Importance weights do not change with the policy: one sample, however it was cut.
                terms.append(replace(found, loss=found.loss.detach()))
        all_reduce_gradients(denoiser.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(denoiser.model.parameters(), update.grad_clip)
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(f"the gradient's norm is {float(norm)}")
        norms += float(norm)
        optimizer.step()
        if inner == 0:
            weights = _token_weights(batch, rows, terms) | group_weight_metrics(credit, _groups(batch.is_solved, rows))
    # Averages over the tokens that were in the update, whose weights do not sum to 1 where ties are skipped.
    whole = {"loss": 1.0, "grad_norm": 1.0}
    totals["in_update"] = sum(float(part.weight.sum()) for part in parts)
    sums = all_reduce_metrics(totals)
    in_update = sums.pop("in_update")
    sums["grad_norm"] = norms
    metrics = {name: value / update.num_iterations / whole.get(name, in_update) for name, value in sums.items()}
    return metrics | weights


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
        "bound_log_std_across_prompts": float(law.loc.std()),
        "bound_log_sigma": float(law.scale[0]),
        "bound_clip_fraction": float(is_clipped.float().mean()),
    }


def _rows(batch: Batch, update: PolicyUpdate) -> Int[Tensor, " m"]:
    """The rows that are in the update: whole groups."""
    rows = torch.arange(len(batch.rollout), device=batch.advantage.device)
    if update.drop_zero_std_groups:
        rows = rows[batch.has_spread]
    return rows


def _split(
    denoiser: ModelDenoiser,
    base: ModelDenoiser | None,
    batch: Batch,
    update: PolicyUpdate,
    generator: torch.Generator,
    rows: Int[Tensor, " b"],
) -> list[_MicroBatch]:
    """Draw the estimator's randomness for the whole batch, then cut these rows; read the base policy on every part."""
    draw = update.estimator.draw(batch.rollout, generator)
    weight = token_weights(batch.is_scored, update.loss_aggregation)
    parts = []
    for index in rows.split(update.micro_batch_size or len(batch.rollout)) if len(rows) else ():
        part = batch.rows(index)
        views = update.estimator(part.rollout, draw[index.to(draw.device)], denoiser.mask_id)
        held = _read_base(base, part, views, update) if base is not None else None
        parts.append(_MicroBatch(index, part, weight[index], views, held))
    return parts


@torch.no_grad()
def _read_base(base: ModelDenoiser, part: Batch, views: ScoringPlan, update: PolicyUpdate) -> _Base:
    said = conditionals(base, views, part.is_scored)
    is_full = update.kl_estimator == "full"
    needs_logp = not is_full or update.objective.requires != "none"
    logp = said.logp(part.rollout.completion_ids, update.temperature) if needs_logp else None
    return _Base(said if is_full else None, logp)


def _read(denoiser: ModelDenoiser, part: _MicroBatch, update: PolicyUpdate) -> _Read:
    now = conditionals(denoiser, part.views, part.batch.is_scored)
    readings = now.logp(part.batch.rollout.completion_ids, update.temperature)
    return _Read(now, readings, _surrogate(part, readings))


def _surrogate(part: _MicroBatch, readings: Float[Tensor, "*K b L"]) -> Float[Tensor, "b L"]:
    return surrogate_logp(part.views, readings, part.views.is_read(part.batch.is_scored), part.batch.advantage < 0)


def _logps(
    denoiser: ModelDenoiser, parts: list[_MicroBatch], update: PolicyUpdate, single: _Read | None
) -> list[Tensor]:
    """[b, L] of each part: the policy as it stands, without a gradient."""
    if single is not None:
        return [single.logp.detach()]
    with torch.no_grad():
        return [_read(denoiser, part, update).logp for part in parts]


def _credit(
    batch: Batch,
    rows: Int[Tensor, " m"],
    parts: list[_MicroBatch],
    update: PolicyUpdate,
    old: list[Tensor],
    now: list[Tensor] | None,
    has_base: bool,
) -> Credit:
    """The objective's credit for the completions of whole groups, however they are cut into parts and shared."""
    reward = _groups(batch.reward, rows)
    advantage = batch.advantage[rows].view(reward.shape)
    if now is None:
        return update.objective.credit(Groups(reward, advantage))

    def completions(tokens: list[Tensor]) -> Float[Tensor, "Q G"]:
        return _of_all([part.sum(dim=1) for part in tokens], none=batch.advantage[:0]).view(reward.shape)

    held = [_surrogate(part, part.base.logp) for part in parts if part.base is not None and part.base.logp is not None]
    base = completions(held) if has_base else None
    return update.objective.credit(Groups(reward, advantage, base, completions(old), completions(now)))


def _groups(values: Shaped[Tensor, "Q G"], rows: Int[Tensor, " m"]) -> Shaped[Tensor, "q G"]:
    """What belongs to some rows; those are whole groups."""
    return values.flatten()[rows].view(-1, values.shape[1])


def _of_all(parts: list[Tensor], none: Tensor) -> Tensor:
    """The rows of all parts of all processes; `none` is how a process without any says so."""
    return all_gather_rows(torch.cat(parts) if parts else none)


def _token_weights(batch: Batch, rows: Int[Tensor, " m"], terms: list[PolicyLoss]) -> dict[str, float]:
    """Metrics of the importance weights, over the tokens of all rows that have one."""
    none = torch.zeros_like(batch.is_scored[:0])
    is_weighted = _of_all([found.is_weighted for found in terms], none)
    is_capped = _of_all([found.is_capped for found in terms], none)
    is_floored = _of_all([found.is_floored for found in terms], none)
    weight = _of_all([found.importance_weight for found in terms], none.float())
    at = batch.is_scored[rows] & is_weighted
    if not at.any():
        return {}
    progress = (batch.rollout.unmask_step / batch.rollout.nfe[:, None])[rows]
    is_right = batch.is_solved.flatten()[rows, None].expand_as(at)
    return token_weight_metrics(weight[at], is_capped[at], is_floored[at], is_right[at], progress[at])


def _kl(read: _Read, base: _Base, part: _MicroBatch, update: PolicyUpdate) -> Float[Tensor, "b L"]:
    """KL of each token's conditionals to the base's on its canvases, at temperature 1 (full) or the rollout's.

    With several canvases for a token it is weighted as the token's log-probability is.
    """
    if update.kl_estimator == "full":
        return part.views.total(read.now.kl(cast(Conditionals, base.said)))
    return part.views.total(SAMPLED_KL[update.kl_estimator](read.readings, cast(Tensor, base.logp)))


def _total(weight: Float[Tensor, "b L"], values: Tensor) -> float:
    return float((weight * values.detach()).sum())
