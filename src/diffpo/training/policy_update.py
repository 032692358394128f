"""A batch becomes optimiser steps of the policy. `update_policy` is read from top to bottom."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.distributed.process import rank_slice
from diffpo.models.denoiser import ModelDenoiser
from diffpo.objective.base import Credit, Objective, PolicyLoss, needs_old_logp
from diffpo.runs.optimizer import Optimizer
from diffpo.sampling.controller import Controller
from diffpo.training.bound_token import Tokens, one_more, with_bound
from diffpo.training.credit import credit_of_groups, logp_for_credit
from diffpo.training.micro_batch import (
    MicroBatch,
    PolicyScores,
    kl_to_reference,
    score_policy,
    split_into_micro_batches,
)
from diffpo.training.optimizer_step import step_optimizer
from diffpo.training.rollouts import Batch
from diffpo.training.rounds import count_rounds, is_one_round, join_passes
from diffpo.training.update_metrics import UpdateMetrics
from diffpo.training.update_settings import PolicyUpdate

SAME_SPEED = 0.01
"""Tokens per call: completions of a prompt that lie within this range are equally quick, as in LightningRL's code."""


def update_policy(
    denoiser: ModelDenoiser,
    reference: ModelDenoiser | None,
    batch: Batch,
    update: PolicyUpdate,
    optimizer: Optimizer,
    generator: torch.Generator,
    controller: Controller | None = None,
) -> dict[str, float]:
    """Take `num_iterations` optimiser steps on one batch; return metrics, averaged over tokens and iterations.

    There is no step, and no metric, where all groups are of a kind that is dropped. Of several
    processes, all of which have the whole batch, each scores its slice of the groups. With a controller the entropy
    bounds that were drawn are trained in the same steps, each as one more token of its completion.

    An objective whose credit needs likelihoods gets those of whole groups first: with several micro-batches that is one
    more forward pass of the policy, at the first iteration or, where it needs the current policy's, at each. Where each
    iteration has a draw of its own, the policy before the first step is scored on all of them: one more forward pass
    for each iteration but the first, if the objective compares policies. Credit from likelihoods is that of the first
    draw, unless it needs the current policy's.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    rows = rows_in_update(batch, update)
    if not len(rows):
        return {}
    group_size = batch.reward.shape[1]
    own = rank_slice(len(rows), group_size)
    rounds = count_rounds(denoiser, len(rows), update.micro_batch_size or len(batch.rollout), group_size)
    is_single = is_one_round(denoiser, len(rows), rounds, group_size)
    draws = [update.estimator.draw(batch.rollout, generator) for _ in range(update.num_draws)]
    # The policy before the first step, [b, L] of each micro-batch, on the canvases of later draws ...
    later_old_logp = [
        score_before_steps(denoiser, batch, update, draw, rows[own], rounds) if needs_old_logp(update.objective) else []
        for draw in draws[1:]
    ]
    # ... and on those of the first one: taken with the credit, or in the first iteration.
    old_logp: list[Tensor] = []
    micro_batches: list[MicroBatch] = []
    metrics = UpdateMetrics(batch, rows)
    credit: Credit | None = None
    for iteration in range(update.num_iterations):
        if iteration < len(draws):
            micro_batches = split_into_micro_batches(
                denoiser, reference, batch, update, draws[iteration], rows[own], rounds, controller is not None
            )
            old_logp = later_old_logp[iteration - 1] if iteration else []
        optimizer.zero_grad()
        # A single micro-batch is scored once, for its credit and for its gradient.
        single = score_policy(denoiser, micro_batches[0], update) if is_single and micro_batches else None
        if credit is None or update.objective.requires == "current":
            current_logp = logp_for_credit(denoiser, micro_batches, update, rounds, single)
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
            terms, kl = loss_terms(scores, old_logp[number], credits[number], micro_batch, update, controller)
            token_loss = terms.loss if kl is None else terms.loss + update.kl_coef * kl
            loss = (micro_batch.weight * token_loss).sum()
            nll = None
            if update.right_nll_coef > 0:
                nll = -(micro_batch.right_weight * scores.logp).sum()
                loss = loss + update.right_nll_coef * nll
            loss.backward()
            total += float(loss.detach())
            metrics.add(micro_batch.weight, float(loss.detach()), terms, kl, nll, is_first_iteration=iteration == 0)
        join_passes(denoiser, rounds - len(micro_batches))
        # Between its passes a sharded model shows other parameters than those that are trained.
        parameters = [*denoiser.model.parameters(), *(() if controller is None else controller.parameters())]
        metrics.add_grad_norm(step_optimizer(parameters, optimizer, update.grad_clip, total)[0])
        if iteration == 0:
            metrics.add_weights(credit)
    return metrics.averages(update.num_iterations)


def loss_terms(
    scores: PolicyScores,
    old_logp: Float[Tensor, "b L"],
    credit: Float[Tensor, " b"],
    micro_batch: MicroBatch,
    update: PolicyUpdate,
    controller: Controller | None,
) -> tuple[PolicyLoss, Float[Tensor, "b M"] | None]:
    """Return the objective's loss of each token and its KL to the reference, if there is one.

    M = L, or L + 1 where the entropy bound is one more token, which has no KL.
    """
    part = micro_batch.batch
    tokens = Tokens(scores.logp, old_logp, part.rollout.behaviour_logp, part.is_scored)
    tokens = with_bound(tokens, controller, part.rollout)
    terms = update.objective(tokens.logp, tokens.old_logp, tokens.behaviour_logp, credit, tokens.is_scored)
    check_terms(update.objective, terms, tokens.logp)
    kl = kl_to_reference(scores, micro_batch, update)
    return terms, kl if kl is None or controller is None else one_more(kl, torch.zeros_like(credit))


def rows_in_update(batch: Batch, update: PolicyUpdate) -> Int[Tensor, " m"]:
    """Return the rows that are in the update: whole groups, without those of a kind that is dropped."""
    is_kept = torch.ones(len(batch.reward), dtype=torch.bool, device=batch.reward.device)
    if update.drop_zero_std_groups:
        is_kept &= batch.has_spread.view(batch.reward.shape)[:, 0]
    if update.drop_unsolved_groups:
        is_kept &= batch.is_solved.any(dim=1)
    if update.drop_same_speed_groups:
        speed = batch.tokens_per_call
        is_kept &= speed.amax(dim=1) - speed.amin(dim=1) >= SAME_SPEED
    return is_kept.repeat_interleave(batch.reward.shape[1]).nonzero().flatten()


@torch.no_grad()
def score_before_steps(
    denoiser: ModelDenoiser, batch: Batch, update: PolicyUpdate, draw: Tensor, rows: Int[Tensor, " m"], rounds: int
) -> list[Tensor]:
    """Return the policy's surrogate log-probabilities [b, L] of each micro-batch on a draw's canvases."""
    micro_batches = split_into_micro_batches(denoiser, None, batch, update, draw, rows, rounds)
    scored = [score_policy(denoiser, micro_batch, update).logp for micro_batch in micro_batches]
    join_passes(denoiser, rounds - len(scored))
    return scored


def check_terms(objective: Objective, terms: PolicyLoss, logp: Float[Tensor, "b L"]) -> None:
    """Raise UserError for an objective, one of the user's own, whose losses are not one for each token."""
    if terms.loss.shape != logp.shape:
        raise UserError(
            f"the objective {objective} returns losses {list(terms.loss.shape)} for tokens {list(logp.shape)}; return "
            "one loss for each token"
        )
