"""The plain reference: LLaDA's network and sampler as arXiv 2502.09992 and Fast-dLLM (2505.22618) describe them.

Every call computes the logits of all positions; noise is Gumbel's, in float64; every row of a batch takes part until
the last one is done. It shares no code with the sampler that it is compared with, only the model's weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

Keep = Callable[[Tensor, Tensor], Tensor]
"""Confidence and entropy of a row's candidates, in order, -> which of them are kept. Both have shape [C]."""


def top_k(k: int) -> Keep:
    """Keep the k drawn tokens of highest probability: LLaDA's low-confidence remasking."""

    def keep(confidence: Tensor, entropy: Tensor) -> Tensor:
        kept = torch.zeros_like(confidence, dtype=torch.bool)
        kept[confidence.topk(min(k, len(confidence))).indices] = True
        return kept

    return keep


def threshold(value: float) -> Keep:
    """Keep all tokens whose probability reaches the threshold, or the best: Fast-dLLM's parallel decoding."""

    def keep(confidence: Tensor, entropy: Tensor) -> Tensor:
        kept = confidence >= value
        kept[confidence.argmax()] = True
        return kept

    return keep


def entropy_bound(bound: float) -> Keep:
    """Keep tokens in rising order of entropy while sum - max stays within the bound: the EB sampler (2505.24857)."""

    def keep(confidence: Tensor, entropy: Tensor) -> Tensor:
        ranked, order = entropy.sort()
        count = int((ranked.cumsum(0) - ranked.cummax(0).values <= bound).sum().clamp(min=1))
        kept = torch.zeros_like(confidence, dtype=torch.bool)
        kept[order[:count]] = True
        return kept

    return keep


@dataclass(frozen=True)
class PlainSampler:
    """Fills a completion of `length` tokens block by block, all rows of a batch at every call."""

    model: PreTrainedModel
    mask_id: int
    length: int
    block_length: int
    keep: Keep
    temperature: float = 0.0
    needs_entropy: bool = False

    @torch.no_grad()
    def __call__(self, prompt_ids: Tensor, prompt_mask: Tensor, seed: int = 0) -> Tensor:
        """Return completions [B, L] of prompts [B, P]. Each block is filled until its slowest row is full."""
        generator = torch.Generator(prompt_ids.device).manual_seed(seed)
        start = prompt_ids.shape[1]
        canvas = F.pad(prompt_ids, (0, self.length), value=self.mask_id)
        visible = F.pad(prompt_mask, (0, self.length), value=True)
        for first in range(start, start + self.length, self.block_length):
            last = first + self.block_length
            while bool((canvas[:, first:last] == self.mask_id).any()):
                logits = logits_of(self.model, canvas, visible)
                logits[..., self.mask_id] = -math.inf
                token = gumbel(logits, self.temperature, generator).argmax(dim=-1)
                probability = logits.softmax(dim=-1)
                confidence = probability.gather(-1, token[..., None]).squeeze(-1)
                entropy = -torch.xlogy(probability, probability).sum(-1) if self.needs_entropy else confidence
                for row in range(len(canvas)):
                    candidates = first + (canvas[row, first:last] == self.mask_id).nonzero().flatten()
                    if len(candidates):
                        kept = candidates[self.keep(confidence[row, candidates], entropy[row, candidates])]
                        canvas[row, kept] = token[row, kept]
        return canvas[:, start:]


def gumbel(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return scores whose argmax is a draw from softmax(logits / temperature): exp(logits) / (-log u)^temperature."""
    if temperature == 0:
        return logits
    logits = logits.double()
    noise = torch.rand(logits.shape, dtype=torch.float64, device=logits.device, generator=generator)
    return logits.exp() / (-noise.log()) ** temperature


def logits_of(model: PreTrainedModel, ids: Tensor, visible: Tensor) -> Tensor:
    """Return the logits [B, N, V] of LLaDA for tokens `ids` [B, N]; positions count `visible` tokens.

    The network has pre-norm blocks, rotary positions, no causal mask, and SwiGLU. Norms and rotations are computed in
    float32, in any dtype of the model.
    """
    parts, config = model.model.transformer, model.config
    head_dim = config.d_model // config.n_heads
    h = F.embedding(ids, parts["wte"].weight)
    position = (visible.long().cumsum(1) - 1).clamp(min=0)
    inverse = 1.0 / config.rope_theta ** (torch.arange(0, head_dim, 2, device=ids.device).float() / head_dim)
    angle = (position[..., None].float() * inverse)[:, None]
    angle = torch.cat([angle, angle], dim=-1)
    sin, cos = angle.sin(), angle.cos()
    mask = None if bool(visible.all()) else visible[:, None, None, :]
    for block in parts["blocks"]:
        n = _norm(h, block.attn_norm.weight, config.rms_norm_eps)
        q, k, v = (
            F.linear(n, layer.weight).view(*ids.shape, -1, head_dim).transpose(1, 2)
            for layer in (block.q_proj, block.k_proj, block.v_proj)
        )
        q, k = ((x * cos + _rotated_half(x) * sin).to(x.dtype) for x in (q, k))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + F.linear(mixed.transpose(1, 2).reshape(h.shape), block.attn_out.weight)
        n = _norm(h, block.ff_norm.weight, config.rms_norm_eps)
        h = h + F.linear(
            F.silu(F.linear(n, block.ff_proj.weight)) * F.linear(n, block.up_proj.weight), block.ff_out.weight
        )
    return F.linear(_norm(h, parts["ln_f"].weight, config.rms_norm_eps), parts["ff_out"].weight)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    exact = x.float()
    return weight * (exact * (exact.pow(2).mean(dim=-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def _rotated_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
