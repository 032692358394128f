"""The floating-point operations that a LLaDA's forward and backward passes need, counted from its shape.

They are those of matrix products, two for each pair of numbers; norms, rotations and softmaxes are left out. The last
block computes queries, attention and MLP where its output is needed alone, and the head is read there alone. What
gradient checkpointing computes again is not counted.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.models.llada import LLaDAConfig


@dataclass(frozen=True)
class Canvases:
    """Canvases of one length without padding that go through the model together."""

    rows: int
    length: int
    """Tokens of a canvas."""
    outputs: int
    """Positions of each canvas that the last block computes."""
    scored: int
    """Hidden states, of all canvases together, that the head is multiplied with."""


@dataclass(frozen=True)
class PassFlops:
    """The FLOP of a forward pass, by what is multiplied."""

    weights: float
    """The matrices of the blocks."""
    adapter: float
    """Both factors of an adapter on every matrix of the blocks."""
    attention: float
    """Queries with keys, and probabilities with values."""
    head: float

    @property
    def total(self) -> float:
        return self.weights + self.adapter + self.attention + self.head


def forward_flops(config: LLaDAConfig, canvases: Canvases, rank: int = 0) -> PassFlops:
    """Return the FLOP of one forward pass, with an adapter of this rank."""
    d, kv, m = config.d_model, _kv_size(config), config.mlp_hidden_size
    tokens = canvases.rows * canvases.length
    keys = config.n_layers * tokens
    queries = keys - tokens + canvases.rows * canvases.outputs
    return PassFlops(
        weights=2.0 * (keys * 2 * d * kv + queries * (2 * d * d + 3 * d * m)),
        adapter=2.0 * rank * (keys * 2 * (d + kv) + queries * (4 * d + 3 * (d + m))),
        attention=4.0 * d * canvases.length * queries,
        head=2.0 * d * config.embedding_size * canvases.scored,
    )


def adapter_update_flops(config: LLaDAConfig, canvases: Canvases, rank: int) -> float:
    """Return the FLOP of a forward and a backward pass that train an adapter of this rank.

    Frozen matrices need the gradient of their inputs alone, which the first block's queries, keys and values do not
    need either. The head's gradient is made in the forward pass, by as many operations as its logits.
    """
    forward = forward_flops(config, canvases, rank)
    unneeded = 2.0 * canvases.rows * canvases.length * config.d_model * (config.d_model + 2 * _kv_size(config))
    return 2 * forward.weights - unneeded + 3 * (forward.adapter + forward.attention) + 2 * forward.head


def rollout_flops(config: LLaDAConfig, rollout: Rollout, block_length: int) -> float:
    """Return the FLOP of a rollout: at each call of a row its whole canvas, for what is masked in the open block."""
    visible = rollout.prompt_mask.sum(dim=1) + rollout.completion_ids.shape[1]
    calls = (
        Canvases(1, int(visible[row]), masked, masked)
        for row in range(len(rollout))
        for masked in masked_at_calls(rollout.unmask_step[row], block_length)
    )
    return sum(forward_flops(config, call).total for call in calls)


def masked_at_calls(unmask_step: Int[Tensor, " L"], block_length: int) -> list[int]:
    """Return, for each call of one row, how many positions of the open block were still masked."""
    counts = []
    for block in unmask_step.view(-1, block_length).cpu():
        counts += [int((block >= step).sum()) for step in range(int(block.min()), int(block.max()) + 1)]
    return counts


def two_times_canvases(
    rollout: Rollout, boundary_step: Int[Tensor, " B"], group_size: int, micro_batch_size: int
) -> list[Canvases]:
    """Return the canvases of each micro-batch of 2-MF: one that a group shares, and one of each completion.

    Tokens before the boundary are scored on the first, which counts a position once for the group; all others on the
    second. A canvas on which nothing is scored is none. Micro-batches hold whole groups.
    """
    is_early = rollout.unmask_step < boundary_step.to(rollout.unmask_step.device)[:, None]
    width = rollout.prompt_ids.shape[1] + rollout.completion_ids.shape[1]
    found = []
    for part in is_early.split(micro_batch_size):
        shared = part.view(-1, group_size, part.shape[1]).any(dim=1).sum(dim=1)
        scored = [count for count in torch.cat([shared, (~part).sum(dim=1)]).tolist() if count]
        found.append(Canvases(len(scored), width, max(scored), sum(scored)))
    return found


def _kv_size(config: LLaDAConfig) -> int:
    return config.d_model * config.n_kv_heads // config.n_heads
