"""A batch becomes optimiser steps of the policy. `update_policy` is read from top to bottom."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.distributed.collectives import all_gather_rows
from diffpo.distributed.process import rank_slice
from diffpo.models.denoiser import ModelDenoiser
from diffpo.objective.base import Credit, Groups, Objective, PolicyLoss, needs_old_logp
from diffpo.runs.optimizer import Optimizer
from diffpo.training.micro_batch import (
    MicroBatch,
    PolicyScores,
    kl_to_reference,
    score_policy,
    split_into_micro_batches,
)
from diffpo.training.optimizer_step import step_optimizer
from diffpo.training.rollouts import Batch
from diffpo.training.update_metrics import UpdateMetrics
from diffpo.training.update_settings import PolicyUpdate


def update_policy(
    denoiser: ModelDenoiser,
    reference: ModelDenoiser | None,
    batch: Batch,
    update: PolicyUpdate,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> dict[str, float]:
    """Take `num_iterations` optimiser steps on one batch; return metrics, averaged over tokens and iterations.

    There is no step, and no metric, where groups of equal rewards are dropped and all groups are such. Of several
    processes, all of which have the whole batch, each scores its slice of the groups.

    An objective whose credit needs likelihoods gets those of whole groups first: with several micro-batches that is one
    more forward pass of the policy, at the first iteration or, where it needs the current policy's, at each. Where each
    iteration has a draw of its own, the policy before the first step is scored on all of them: one more forward pass
    for each iteration but the first, if the objective compares policies. Credit from likelihoods is that of the first
    draw, unless it needs the current policy's.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    rows = rows_in_update(batch, update.drop_zero_std_groups)
    if not len(rows):
        return {}
    own = rank_slice(len(rows), unit=batch.reward.shape[1])
    draws = [
        update.estimator.draw(batch.rollout, generator) for _ in range(update.num_iterations if update.redraw else 1)
    ]
    # The policy before the first step, [b, L] of each micro-batch, on the canvases of later draws ...
    later_old_logp = [
        score_before_steps(denoiser, batch, update, draw, rows[own]) if needs_old_logp(update.objective) else []
        for draw in draws[1:]
    ]
    # ... and on those of the first one: taken with the credit, or in the first iteration.
    old_logp: list[Tensor] = []
    micro_batches: list[MicroBatch] = []
    metrics = UpdateMetrics(batch, rows)
    credit: Credit | None = None
    for iteration in range(update.num_iterations):
        if iteration < len(draws):
            micro_batches = split_into_micro_batches(denoiser, reference, batch, update, draws[iteration], rows[own])
            old_logp = later_old_logp[iteration - 1] if iteration else []
        optimizer.zero_grad()
        # A single micro-batch is scored once, for its credit and for its gradient.
        single = score_policy(denoiser, micro_batches[0], update) if len(micro_batches) == 1 else None
        if credit is None or update.objective.requires == "current":
            current_logp = logp_for_credit(denoiser, micro_batches, update, single)
            old_logp = old_logp or current_logp
            has_reference = reference is not None
            credit = credit_of_groups(
                batch, rows, micro_batches, update.objective, has_reference, old_logp, current_logp
            )
        total = 0.0
        credits = credit.value.flatten()[own].split([len(micro_batch.index) for micro_batch in micro_batches])
        for number, micro_batch in enumerate(micro_batches):
            scores = single or score_policy(denoiser, micro_batch, update)
            if len(old_logp) == number:
                old_logp.append(scores.logp.detach())
            part = micro_batch.batch
            behaviour_logp = part.rollout.behaviour_logp
            terms = update.objective(scores.logp, old_logp[number], behaviour_logp, credits[number], part.is_scored)
            check_terms(update.objective, terms, scores.logp)
            kl = kl_to_reference(scores, micro_batch, update)
            token_loss = terms.loss if kl is None else terms.loss + update.kl_coef * kl
            loss = (micro_batch.weight * token_loss).sum()
            loss.backward()
            value = float(loss.detach())
            total += value
            metrics.add(micro_batch.weight, value, terms, kl, is_first_iteration=iteration == 0)
        norm, _ = step_optimizer(denoiser, optimizer, update.grad_clip, total)
        metrics.add_grad_norm(norm)
        if iteration == 0:
            metrics.add_weights(credit)
    return metrics.averages(update.num_iterations)


def rows_in_update(batch: Batch, drop_zero_std_groups: bool) -> Int[Tensor, " m"]:
    """Return the rows that are in the update: whole groups, without those of equal rewards if they are dropped."""
    rows = torch.arange(len(batch.rollout), device=batch.advantage.device)
    return rows[batch.has_spread] if drop_zero_std_groups else rows


@torch.no_grad()
def score_before_steps(
    denoiser: ModelDenoiser, batch: Batch, update: PolicyUpdate, draw: Tensor, rows: Int[Tensor, " m"]
) -> list[Tensor]:
    """Return the policy's surrogate log-probabilities [b, L] of each micro-batch on a draw's canvases."""
    micro_batches = split_into_micro_batches(denoiser, None, batch, update, draw, rows)
    return [score_policy(denoiser, micro_batch, update).logp for micro_batch in micro_batches]


def logp_for_credit(
    denoiser: ModelDenoiser, micro_batches: list[MicroBatch], update: PolicyUpdate, single: PolicyScores | None
) -> list[Tensor]:
    """Return the current policy's surrogate log-probabilities [b, L] of each micro-batch, without a gradient.

    Empty where the objective's credit needs none.
    """
    if update.objective.requires == "none":
        return []
    if single is not None:
        return [single.logp.detach()]
    with torch.no_grad():
        return [score_policy(denoiser, micro_batch, update).logp for micro_batch in micro_batches]


def credit_of_groups(
    batch: Batch,
    rows: Int[Tensor, " m"],
    micro_batches: list[MicroBatch],
    objective: Objective,
    has_reference: bool,
    old_logp: list[Tensor],
    current_logp: list[Tensor],
) -> Credit:
    """Return the objective's credit of the completions of whole groups, however they are split over micro-batches and
    processes."""
    reward = batch.reward.flatten()[rows].view(-1, batch.reward.shape[1])
    advantage = batch.advantage[rows].view(reward.shape)
    if objective.requires == "none":
        return objective.credit(Groups(reward, advantage))

    def completion_logp(tokens: list[Tensor]) -> Float[Tensor, "Q G"]:
        own = torch.cat([part.sum(dim=1) for part in tokens]) if tokens else batch.advantage[:0]
        return all_gather_rows(own).view(reward.shape)

    reference_logp = None
    if has_reference:  # also in a process without rows of its own, which the others wait for
        scored = [micro_batch.reference for micro_batch in micro_batches if micro_batch.reference is not None]
        reference_logp = completion_logp([scores.logp for scores in scored if scores.logp is not None])
    old, current = completion_logp(old_logp), completion_logp(current_logp)
    return objective.credit(Groups(reward, advantage, reference_logp, old, current))


def check_terms(objective: Objective, terms: PolicyLoss, logp: Float[Tensor, "b L"]) -> None:
    """Raise UserError for an objective, one of the user's own, whose losses are not one for each token."""
    if terms.loss.shape != logp.shape:
        raise UserError(
            f"the objective {objective} returns losses {list(terms.loss.shape)} for tokens {list(logp.shape)}; return "
            "one loss for each token"
        )
