"""What the families share: RMSNorm, rotary positions, attention to every visible token, and running the blocks."""

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
"""Tokens from which on a canvas is worth attention row by row, so that its padding can be left out."""
Rotation = tuple[Float[Tensor, "*#B N h"], Float[Tensor, "*#B N h"]]


class RMSNorm(nn.Module):
    """x / rms(x) in float32, back in x's type, times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.weight * F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)


@dataclass(frozen=True)
class AttentionContext:
    """What all blocks of one forward pass share: where each token stands and what it may look at."""

    position: Int[Tensor, "*B N"]
    """Counted from each row's first visible token; 0 in the padding before it."""
    rotation: Rotation
    head_dim: int
    kernel: str
    """`attn_implementation` of the model: SDPA unless it was asked for another one."""
    mask: Any
    """Which tokens are visible, in the form that the kernel wants; None where all are."""
    lengths: list[int] | None = None
    """Rows packed one behind the other, without padding, B being 1; None where each has its own."""
    window: Window | None = None
    """The tokens are some of the canvas, and the others' keys and values are kept; None: they are all."""


def attention_context(
    config: PretrainedConfig, h: Float[Tensor, "B N D"], attention_mask: Tensor | None, head_dim: int
) -> AttentionContext:
    """Positions count visible tokens, so padding on the left changes nothing."""
    kernel = config._attn_implementation
    position, mask = torch.arange(h.shape[1], device=h.device), None
    if attention_mask is not None and not bool(attention_mask.all()):
        is_visible = attention_mask.bool()
        position = (is_visible.long().cumsum(dim=1) - 1).clamp(min=0)
        mask = is_visible[:, None, None, :] if is_sdpa(kernel) else create_bidirectional_mask(config, h, is_visible)
    return AttentionContext(position, rotary_angles(position, head_dim, config.rope_theta), head_dim, kernel, mask)


@dataclass(frozen=True)
class OutputPositions:
    """Which hidden states are read behind the last block. It computes queries, MLP and norm for them alone."""

    index: Int[Tensor, "B W"]
    """Positions of each row, in order; where a row has fewer than another, more of its positions follow."""
    is_read: Bool[Tensor, "B W"]
    lengths: list[int] | None = None
    """How many each of the packed rows has."""

    def of(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B W D"]:
        return x.gather(1, self.index[..., None].expand(-1, -1, x.shape[-1]))

    def turned(self, rotation: Rotation) -> tuple[Float[Tensor, "B W h"], Float[Tensor, "B W h"]]:
        """The rotation of the read positions."""
        if rotation[0].ndim == 2:
            return rotation[0][self.index], rotation[1][self.index]
        return self.of(rotation[0]), self.of(rotation[1])


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
    """Embeddings as the blocks had best see them, their frame, and what is read behind the last: the states at `at`, or
    those `shift` before, in row-major order. With a `window` its places alone are run.

    The last block computes only what is read (None: everything). Long canvases of different lengths are packed without
    their padding on a CPU; short ones stay as they are: attention row by row would cost what that saves.
    """
    if at is not None and window is not None:
        rotation = rotary_angles(window.position, head_dim, config.rope_theta)
        frame = AttentionContext(
            window.position, rotation, head_dim, config._attn_implementation, window.mask, window=window
        )
        return embedding(window.of(ids)), frame, _read(frame, window.of(at) & window.is_own, shift)
    if at is None or not is_sdpa(config._attn_implementation) or not at.any():
        h = embedding(ids)
        return h, attention_context(config, h, attention_mask, head_dim), None
    is_packed = ids.device.type == "cpu" and ids.shape[1] >= PACK_MIN_TOKENS
    visible = attention_mask.bool() if is_packed and attention_mask is not None else None
    if visible is None or bool(visible.all()) or bool((at & ~visible).any()):
        h = embedding(ids)
        frame = attention_context(config, h, attention_mask, head_dim)
        return h, frame, _read(frame, at, shift)
    position = (visible.long().cumsum(dim=1) - 1)[visible]
    rotation = rotary_angles(position, head_dim, config.rope_theta)
    frame = AttentionContext(
        position, rotation, head_dim, config._attn_implementation, None, visible.sum(dim=1).tolist()
    )
    return embedding(ids[visible][None]), frame, _read(frame, at[visible][None], shift, at.sum(dim=1).tolist())


def _read(
    frame: AttentionContext, at: Bool[Tensor, "B N"], shift: int, lengths: list[int] | None = None
) -> OutputPositions:
    count = at.sum(dim=1, keepdim=True)
    width = int(count.amax())
    index = at.long().argsort(dim=1, descending=True, stable=True)[:, :width]
    if shift:
        position = frame.position.expand_as(at).gather(1, index)
        index = torch.where(position > 0, (index - shift).clamp(min=0), index)
    return OutputPositions(index, torch.arange(width, device=at.device) < count, lengths)


def rotary_angles(position: Int[Tensor, "*B N"], head_dim: int, theta: float) -> Rotation:
    """What RoPE multiplies each position's head with, and its head with the halves swapped: cos and -+sin, in float32.

    Half-split rotation: (first, second) becomes (first cos - second sin, second cos + first sin).
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device).float() / head_dim)
    angle = position[..., None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Float[Tensor, "B H N h"], rotation: Rotation) -> Float[Tensor, "B H N h"]:
    own, other = (part.unsqueeze(-3) for part in rotation)
    first, second = x.float().chunk(2, dim=-1)
    return torch.addcmul(x * own, torch.cat([second, first], dim=-1), other).to(x.dtype)


def attend(
    block: nn.Module,
    q: Float[Tensor, "B W Q"],
    k: Float[Tensor, "B N K"],
    v: Float[Tensor, "B N K"],
    frame: AttentionContext,
    read: OutputPositions | None = None,
) -> Float[Tensor, "B W Q"]:
    """softmax(q k / sqrt(head_dim)) v over the visible tokens, not causal; Q / K query heads share a key and value.

    The queries are those of the positions that `read` names, W of N, or all.
    """
    batch, length, _ = q.shape
    shared = q.shape[-1] // k.shape[-1]
    q, k, v = (x.view(batch, x.shape[1], -1, frame.head_dim).transpose(1, 2) for x in (q, k, v))
    q = rotate(q, frame.rotation if read is None else read.turned(frame.rotation))
    k = rotate(k, frame.rotation)
    if frame.window is not None:
        k, v = frame.window.renew(block, k, v)
    if not is_sdpa(frame.kernel):
        attention = ALL_ATTENTION_FUNCTIONS[frame.kernel]
        mixed = attention(block, q, k, v, frame.mask, dropout=0.0, scaling=frame.head_dim**-0.5, is_causal=False)[0]
        return cast(Tensor, mixed).reshape(batch, length, -1)
    if frame.lengths is not None:
        asked = frame.lengths if read is None or read.lengths is None else read.lengths
        rows = zip(q.split(asked, dim=2), k.split(frame.lengths, dim=2), v.split(frame.lengths, dim=2), strict=True)
        parts = [F.scaled_dot_product_attention(*row, enable_gqa=shared > 1) for row in rows if row[0].shape[2]]
        return torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, length, -1)
    if shared > 1 and frame.mask is not None:  # CUDA's fast kernels share heads only where no mask is given
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=frame.mask, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks of a model of any family."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def run(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    h: Float[Tensor, "B N D"],
    frame: AttentionContext,
    is_checkpointed: bool,
    read: OutputPositions | None = None,
) -> Float[Tensor, "B W D"]:
    """All blocks in turn, the last one for what is read alone. Checkpointed ones are computed again for the backward
    pass, which keeps less in memory."""
    for number, block in enumerate(blocks, start=1):
        last = read if number == len(blocks) else None
        if is_checkpointed and torch.is_grad_enabled():
            h = cast(Tensor, checkpoint(block, h, frame, last, use_reentrant=False, preserve_rng_state=False))
        else:
            h = block(h, frame, last)
    return h


def initialise(module: nn.Module, std: float) -> None:
    """Weights of a new model: embeddings N(0, 1), matrices N(0, std), biases 0, norms 1."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, RMSNorm):
        nn.init.ones_(module.weight)


def gated(gate: Float[Tensor, "*B m"], up: Float[Tensor, "*B m"]) -> Float[Tensor, "*B m"]:
    """silu(gate) up. Where no gradient needs them, in place: these are the widest tensors of a block."""
    return F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate, inplace=True).mul_(up)


def at_positions(h: Float[Tensor, "B N D"], at: Bool[Tensor, "B N"] | None) -> Float[Tensor, "..."]:
    """The hidden states [M, D] where `at` is True, in row-major order; all of them, [B, N, D], without it."""
    return h if at is None else h[at]


def is_sdpa(kernel: str) -> bool:
    """Whether attention is torch's own, in here."""
    return kernel in ("sdpa", "eager")
