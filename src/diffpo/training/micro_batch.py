"""A batch cut into micro-batches, and the scores of the policy and of the reference on them."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.likelihood import Conditionals, ScoringPlan, conditionals, surrogate_logp
from diffpo.models.denoiser import ModelDenoiser
from diffpo.objective.base import token_weights
from diffpo.objective.kl import SAMPLED_KL
from diffpo.training.bound_token import one_more
from diffpo.training.rollouts import Batch
from diffpo.training.rounds import join_passes
from diffpo.training.update_settings import PolicyUpdate


@dataclass(frozen=True)
class ReferenceScores:
    """The reference policy on a micro-batch's canvases: what the KL term or the credit needs, and no more."""

    conditionals: Conditionals | None
    per_canvas_logp: Float[Tensor, "*K b L"] | None
    logp: Float[Tensor, "b L"] | None


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a batch, with canvases on which the old, the new and the reference policy are all scored."""

    index: Int[Tensor, " b"]
    """Its rows in the whole batch."""
    batch: Batch
    weight: Float[Tensor, "b M"]
    """How much each token counts in the loss of the whole batch, 0 for one that is not read; M = L + 1 where the bound
    is one more token."""
    right_weight: Float[Tensor, "b L"]
    """How much each token counts in the mean log-likelihood of the batch's right completions; 0 in wrong ones."""
    plan: ScoringPlan
    reference: ReferenceScores | None


@dataclass(frozen=True)
class PolicyScores:
    """A policy on a micro-batch's canvases."""

    conditionals: Conditionals
    per_canvas_logp: Float[Tensor, "*K b L"]
    logp: Float[Tensor, "b L"]
    """The surrogate log-probability of each token."""


def split_into_micro_batches(
    denoiser: ModelDenoiser,
    reference: ModelDenoiser | None,
    batch: Batch,
    update: PolicyUpdate,
    draw: Tensor,
    rows: Int[Tensor, " m"],
    rounds: int,
    has_bound: bool = False,
) -> list[MicroBatch]:
    """Cut these rows, plan each part by the estimator's draw for the whole batch, and score the reference on it.

    Of a sharded reference `rounds` passes are made, also where there are fewer parts.

    `has_bound`: the entropy bound is one more token of each completion, which counts in the weights.
    """
    is_counted = one_more(batch.is_scored, torch.ones_like(batch.is_scored[:, 0])) if has_bound else batch.is_scored
    weight = token_weights(is_counted, update.loss_aggregation)
    right_weight = token_weights(batch.is_scored & batch.is_solved.view(-1, 1), update.loss_aggregation)
    right_weight = right_weight / right_weight.sum().clamp(min=torch.finfo(right_weight.dtype).tiny)
    micro_batches = []
    for index in rows.split(update.micro_batch_size or len(batch.rollout)) if len(rows) else ():
        part = batch.rows(index)
        plan = update.estimator(part.rollout, draw[index.to(draw.device)], denoiser.mask_id)
        own_weight, own_right_weight = weight[index], right_weight[index]
        if plan.loss_weight is not None:  # tokens that are not read stand in the loss by those that are
            part = replace(part, is_scored=plan.is_needed(part.is_scored))
            counts = plan.loss_weight
            own_right_weight = own_right_weight * counts
            own_weight = own_weight * (one_more(counts, torch.ones_like(counts[:, 0])) if has_bound else counts)
        scores = score_reference(reference, part, plan, update) if reference is not None else None
        micro_batches.append(MicroBatch(index, part, own_weight, own_right_weight, plan, scores))
    if reference is not None:
        with torch.no_grad():
            join_passes(reference, rounds - len(micro_batches))
    return micro_batches


@torch.no_grad()
def score_reference(reference: ModelDenoiser, part: Batch, plan: ScoringPlan, update: PolicyUpdate) -> ReferenceScores:
    found = conditionals(reference, plan, part.is_scored)
    is_full = update.kl_estimator == "full"
    is_credited = update.objective.requires != "none"
    needs_logp = not is_full or is_credited
    logp = found.logp(part.rollout.completion_ids, update.temperature) if needs_logp else None
    surrogate = _surrogate(plan, part, logp) if logp is not None and is_credited else None
    return ReferenceScores(found if is_full else None, logp, surrogate)


def score_policy(denoiser: ModelDenoiser, micro_batch: MicroBatch, update: PolicyUpdate) -> PolicyScores:
    """Call the denoiser on the micro-batch's canvases, with a gradient unless it is switched off."""
    part = micro_batch.batch
    found = conditionals(denoiser, micro_batch.plan, part.is_scored)
    logp = found.logp(part.rollout.completion_ids, update.temperature)
    return PolicyScores(found, logp, _surrogate(micro_batch.plan, part, logp))


def kl_to_reference(scores: PolicyScores, micro_batch: MicroBatch, update: PolicyUpdate) -> Float[Tensor, "b L"] | None:
    """Return the KL of each token's conditional to the reference's on its canvases; None without a reference.

    It is taken at temperature 1 (full) or at the rollout's. With several canvases for a token it is weighted as the
    token's log-probability is. Where its coefficient is 0 it is a metric only, and carries no gradient.
    """
    if micro_batch.reference is None:
        return None
    with torch.set_grad_enabled(update.kl_coef > 0):
        if update.kl_estimator == "full":
            kl = scores.conditionals.kl(cast(Conditionals, micro_batch.reference.conditionals))
        else:
            reference_logp = cast(Tensor, micro_batch.reference.per_canvas_logp)
            kl = SAMPLED_KL[update.kl_estimator](scores.per_canvas_logp, reference_logp)
        return micro_batch.plan.total(kl)


def _surrogate(plan: ScoringPlan, part: Batch, logp: Float[Tensor, "*K b L"]) -> Float[Tensor, "b L"]:
    return surrogate_logp(plan, logp, plan.is_needed(part.is_scored), part.advantage < 0)
