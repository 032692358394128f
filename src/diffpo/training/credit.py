"""The credit of completions, asked of whole groups however a batch is split over micro-batches and processes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.distributed.collectives import all_gather_rows
from diffpo.models.denoiser import ModelDenoiser
from diffpo.objective.base import Credit, Groups, Objective
from diffpo.training.micro_batch import MicroBatch, PolicyScores, score_policy
from diffpo.training.rollouts import Batch
from diffpo.training.rounds import join_passes
from diffpo.training.update_settings import PolicyUpdate


def logp_for_credit(
    denoiser: ModelDenoiser,
    micro_batches: list[MicroBatch],
    update: PolicyUpdate,
    rounds: int,
    single: PolicyScores | None,
) -> list[Tensor]:
    """Return the current policy's surrogate log-probabilities [b, L] of each micro-batch, without a gradient.

    Empty where the objective's credit needs none. Without a `single` pass, each of the `rounds` is one more.
    """
    if update.objective.requires == "none":
        return []
    if single is not None:
        return [single.logp.detach()]
    with torch.no_grad():
        scored = [score_policy(denoiser, micro_batch, update).logp for micro_batch in micro_batches]
        join_passes(denoiser, rounds - len(scored))
    return scored


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
