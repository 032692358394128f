"""A batch becomes one optimiser step of a commit policy: the sets that calls committed are trained as actions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import open_block
from diffpo.core.rollout import Rollout
from diffpo.runs.optimizer import Optimizer
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.commit_sets import set_logp
from diffpo.training.controller_update import take_step
from diffpo.training.rollouts import Batch

POSITIONS_AT_A_TIME = 2**14


@dataclass(frozen=True)
class CommitCalls:
    """Every call of some rollouts, N of them, as the commit policy decided it."""

    row: Int[Tensor, " N"]
    """Its rollout."""
    inputs: Float[Tensor, "N L S"]
    is_candidate: Bool[Tensor, "N L"]
    is_commit: Bool[Tensor, "N L"]

    def split(self) -> list["CommitCalls"]:
        """Return the same calls in parts, of which each is scored at a time."""
        size = max(1, POSITIONS_AT_A_TIME // self.is_commit.shape[1])
        parts = zip(*(x.split(size) for x in (self.row, self.inputs, self.is_candidate, self.is_commit)), strict=True)
        return [CommitCalls(*part) for part in parts]


def commit_calls(rollout: Rollout, block_length: int) -> CommitCalls:
    """Return the calls of rollouts whose sets were drawn, decoded in blocks of `block_length`.

    Masks behind the first stop token that were filled without a draw were candidates, and never committed.
    """
    step = torch.arange(rollout.commit_logp.shape[1], device=rollout.nfe.device)
    row, call = (step < rollout.nfe[:, None]).nonzero(as_tuple=True)
    unmask_step = rollout.unmask_step[row]
    is_candidate = open_block(unmask_step >= call[:, None], block_length)
    is_commit = (unmask_step == call[:, None]) & rollout.is_drawn[row]
    return CommitCalls(row, rollout.commit_inputs[row, call], is_candidate, is_commit)


def update_commit_policy(
    policy: CommitPolicy, batch: Batch, block_length: int, optimizer: Optimizer, grad_clip: float
) -> dict[str, float]:
    """Take one policy-gradient step (REINFORCE) on the sets that the batch's rollouts committed; return metrics.

    The loss is minus the mean over rollouts of advantage x log-probability of all sets of the rollout. There is one
    step for each batch, by the policy that drew it, so there is no ratio to clip.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    calls = commit_calls(batch.rollout, block_length)
    optimizer.zero_grad()
    probability = 0.0
    for part in calls.split():
        logit = policy(part.inputs, part.is_candidate)
        logp = set_logp(logit, part.is_commit, part.is_candidate)
        loss = -(batch.bound_advantage[part.row] * logp).sum() / len(batch.rollout)
        loss.backward()
        probability += float(logit.detach().sigmoid()[part.is_candidate].sum())
    take_step(policy.parameters(), optimizer, grad_clip)
    return {
        "commit_reward": float(batch.bound_reward.mean()),
        "commit_probability": probability / int(calls.is_candidate.sum()),
        "commit_logp": float(batch.rollout.commit_logp.sum(dim=1).mean()),
    }
