"""What the model families share: RMSNorm, rotary positions, bidirectional attention, and running the blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from diffpo.models.kv_cache import Window

PACK_MIN_TOKENS = 128
"""The shortest canvas that is packed on a CPU: leaving out its padding saves more than attention row by row costs."""
Rotation = tuple[Float[Tensor, "*#B N h"], Float[Tensor, "*#B N h"]]


class RMSNorm(nn.Module):
    """x / rms(x), computed in float32 and cast back to x's dtype, times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.weight * F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)


@dataclass(frozen=True)
class AttentionContext:
    """What all blocks of one forward pass share: the position of each token and which tokens it attends to."""

    position: Int[Tensor, "*B N"]
    """Counted from each row's first visible token; 0 in the padding before it."""
    rotation: Rotation
    head_dim: int
    kernel: str
    """The model's `attn_implementation`: SDPA unless another one was chosen."""
    mask: Any
    """Which tokens are visible, in the form that the kernel takes; None where all are."""
    lengths: list[int] | None = None
    """Lengths of rows that are packed one behind the other without padding, B being 1; None where they are not."""
    window: Window | None = None
    """Given where the tokens are some of the canvas's positions and the others' keys and values are cached."""


def make_attention_context(
    config: PretrainedConfig, h: Float[Tensor, "B N D"], attention_mask: Tensor | None, head_dim: int
) -> AttentionContext:
    """Return the context of unpacked rows. Positions count visible tokens, so padding on the left changes nothing."""
    kernel = config._attn_implementation
    position, mask = torch.arange(h.shape[1], device=h.device), None
    if attention_mask is not None and not bool(attention_mask.all()):
        is_visible = attention_mask.bool()
        position = (is_visible.long().cumsum(dim=1) - 1).clamp(min=0)
        mask = is_visible[:, None, None, :] if is_sdpa(kernel) else create_bidirectional_mask(config, h, is_visible)
    return AttentionContext(position, rotary_factors(position, head_dim, config.rope_theta), head_dim, kernel, mask)


@dataclass(frozen=True)
class OutputPositions:
    """Positions whose final hidden states are wanted: the last block computes queries, MLP and norm for them alone."""

    index: Int[Tensor, "B W"]
    """Positions of each row, in order. A row with fewer than W is filled up with others of its positions."""
    is_output: Bool[Tensor, "B W"]
    """False on the filling positions."""
    lengths: list[int] | None = None
    """How many of them each packed row has."""

    def select(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B W D"]:
        """Return the vectors at the positions."""
        return x.gather(1, self.index[..., None].expand(-1, -1, x.shape[-1]))

    def select_rotation(self, rotation: Rotation) -> tuple[Float[Tensor, "B W h"], Float[Tensor, "B W h"]]:
        """Return the rotation of the positions."""
        if rotation[0].ndim == 2:
            return rotation[0][self.index], rotation[1][self.index]
        return self.select(rotation[0]), self.select(rotation[1])


def prepare_inputs(
    config: PretrainedConfig,
    embedding: nn.Module,
    ids: Int[Tensor, "B N"],
    attention_mask: Tensor | None,
    head_dim: int,
    at: Bool[Tensor, "B N"] | None,
    shift: int = 0,
    window: Window | None = None,
) -> tuple[Float[Tensor, "b n D"], AttentionContext, OutputPositions | None]:
    """Return the first block's inputs, the attention context, and the positions that the last block must compute.

    The last are those where `at` is True, or `shift` positions before them, in row-major order; None for all. With a
    `window` only its positions are inputs. On a CPU long canvases of different lengths are packed without their
    padding; short ones are not: attention row by row would cost what that saves.
    """
    if at is not None and window is not None:
        rotation = rotary_factors(window.position, head_dim, config.rope_theta)
        context = AttentionContext(
            window.position, rotation, head_dim, config._attn_implementation, window.mask, window=window
        )
        outputs = make_output_positions(context, window.select(at) & window.is_stored, shift)
        return embedding(window.select(ids)), context, outputs
    if at is None or not is_sdpa(config._attn_implementation) or not at.any():
        h = embedding(ids)
        return h, make_attention_context(config, h, attention_mask, head_dim), None
    is_packed = ids.device.type == "cpu" and ids.shape[1] >= PACK_MIN_TOKENS
    visible = attention_mask.bool() if is_packed and attention_mask is not None else None
    if visible is None or bool(visible.all()) or bool((at & ~visible).any()):
        h = embedding(ids)
        context = make_attention_context(config, h, attention_mask, head_dim)
        return h, context, make_output_positions(context, at, shift)
    position = (visible.long().cumsum(dim=1) - 1)[visible]
    rotation = rotary_factors(position, head_dim, config.rope_theta)
    context = AttentionContext(
        position, rotation, head_dim, config._attn_implementation, None, visible.sum(dim=1).tolist()
    )
    outputs = make_output_positions(context, at[visible][None], shift, at.sum(dim=1).tolist())
    return embedding(ids[visible][None]), context, outputs


def make_output_positions(
    context: AttentionContext, at: Bool[Tensor, "B N"], shift: int, lengths: list[int] | None = None
) -> OutputPositions:
    """Return the positions from which the tokens at `at` are predicted: `shift` before them, but for a row's first."""
    count = at.sum(dim=1, keepdim=True)
    width = int(count.amax())
    index = at.long().argsort(dim=1, descending=True, stable=True)[:, :width]
    if shift:
        position = context.position.expand_as(at).gather(1, index)
        index = torch.where(position > 0, (index - shift).clamp(min=0), index)
    return OutputPositions(index, torch.arange(width, device=at.device) < count, lengths)


def rotary_factors(position: Int[Tensor, "*B N"], head_dim: int, theta: float) -> Rotation:
    """Return the factors that RoPE multiplies a head and the head with swapped halves with: cos and -+sin, in float32.

    Half-split rotation: (first, second) becomes (first cos - second sin, second cos + first sin).
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device).float() / head_dim)
    angle = position[..., None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Float[Tensor, "B H N h"], rotation: Rotation) -> Float[Tensor, "B H N h"]:
    """Return the heads rotated to their positions (RoPE), computed in float32, in x's dtype."""
    straight, swapped = (part.unsqueeze(-3) for part in rotation)
    first, second = x.float().chunk(2, dim=-1)
    return torch.addcmul(x * straight, torch.cat([second, first], dim=-1), swapped).to(x.dtype)


def attend(
    block: nn.Module,
    q: Float[Tensor, "B W Q"],
    k: Float[Tensor, "B N K"],
    v: Float[Tensor, "B N K"],
    context: AttentionContext,
    outputs: OutputPositions | None = None,
) -> Float[Tensor, "B W Q"]:
    """Return softmax(q k / sqrt(head_dim)) v over the visible tokens, not causal; Q / K query heads share a key head.

    The queries are those of all N positions, or of the W `outputs`.
    """
    batch, length, _ = q.shape
    shared = q.shape[-1] // k.shape[-1]
    q, k, v = (x.view(batch, x.shape[1], -1, context.head_dim).transpose(1, 2) for x in (q, k, v))
    q = rotate(q, context.rotation if outputs is None else outputs.select_rotation(context.rotation))
    k = rotate(k, context.rotation)
    if context.window is not None:
        k, v = context.window.update(block, k, v)
    if not is_sdpa(context.kernel):
        attention = ALL_ATTENTION_FUNCTIONS[context.kernel]
        mixed = attention(block, q, k, v, context.mask, dropout=0.0, scaling=context.head_dim**-0.5, is_causal=False)[0]
        return cast(Tensor, mixed).reshape(batch, length, -1)
    if context.lengths is not None:
        query_lengths = context.lengths if outputs is None or outputs.lengths is None else outputs.lengths
        rows = zip(
            q.split(query_lengths, dim=2),
            k.split(context.lengths, dim=2),
            v.split(context.lengths, dim=2),
            strict=True,
        )
        parts = [F.scaled_dot_product_attention(*row, enable_gqa=shared > 1) for row in rows if row[0].shape[2]]
        return torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, length, -1)
    if shared > 1 and context.mask is not None:  # CUDA's fast kernels share heads only where no mask is given
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """Return the blocks of a model of any family."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def run_blocks(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    h: Float[Tensor, "B N D"],
    context: AttentionContext,
    is_checkpointed: bool,
    outputs: OutputPositions | None = None,
) -> Float[Tensor, "B W D"]:
    """Run all blocks in turn, the last one for the `outputs` alone, and return the hidden states.

    With `is_checkpointed` each block's activations are computed again in the backward pass, which saves memory.
    """
    for number, block in enumerate(blocks, start=1):
        block_outputs = outputs if number == len(blocks) else None
        if is_checkpointed and torch.is_grad_enabled():
            recomputed = checkpoint(block, h, context, block_outputs, use_reentrant=False, preserve_rng_state=False)
            h = cast(Tensor, recomputed)
        else:
            h = block(h, context, block_outputs)
    return h


def initialise(module: nn.Module, std: float) -> None:
    """Draw the weights of a new model: embeddings N(0, 1), matrices N(0, std), biases 0, norms 1."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, RMSNorm):
        nn.init.ones_(module.weight)


def swiglu(gate: Float[Tensor, "*B m"], up: Float[Tensor, "*B m"]) -> Float[Tensor, "*B m"]:
    """Return silu(gate) up. Without gradients it is computed in place: these are the widest tensors of a block."""
    return F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate, inplace=True).mul_(up)


def select_positions(h: Float[Tensor, "B N D"], at: Bool[Tensor, "B N"] | None) -> Float[Tensor, "..."]:
    """Return the hidden states [M, D] where `at` is True, in row-major order; all of them, [B, N, D], without it."""
    return h if at is None else h[at]


def is_sdpa(kernel: str) -> bool:
    """Return whether attention is computed here by torch's SDPA, and not by a kernel of transformers."""
    return kernel in ("sdpa", "eager")
