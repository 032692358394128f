"""The output head without its logits in memory: log-probabilities and full KL of hidden states, chunk by chunk.

Logits are made for a slice of the vocabulary (or, for full KL, for some rows) at a time, used and dropped. Nothing is
approximated: values and gradients are those of the whole softmax, but for the order of summation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffpo.objective.kl import kl_full

FORBIDDEN_LOGIT = torch.finfo(torch.float32).min / 2
"""The logit of what cannot be said. Not -inf: 0 * -inf would be nan in entropies and KL."""

CHUNK = {"cpu": 2**21, "cuda": 2**26}
"""Logits that exist at a time: what stays in a CPU's cache, what keeps a GPU busy (docs/performance.md)."""
ROW_CHUNK = 2**23
"""The same where rows are cut, of which there should be enough for a matrix product."""
SMALL_BATCH_ROWS, VOCAB_SLICE = 64, 2048
"""Rows up to which a CPU makes logits by slices of the vocabulary, and how many tokens a slice has."""
MIN_COLUMNS = 128
"""Columns that are taken at least, however many rows there are."""


@dataclass(frozen=True)
class LMHead:
    """A linear map from hidden states to logits, and which of its rows stand for tokens that can be said."""

    weight: Float[Tensor, "V D"]
    mask_id: int
    size: int
    """How many rows are tokens; the embedding's padding behind them is none."""

    def logits(self, hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """All of them, in float32."""
        is_skinny = hidden.device.type == "cpu" and len(hidden) <= SMALL_BATCH_ROWS and not torch.is_grad_enabled()
        made = _in_slices(hidden, self.weight) if is_skinny else F.linear(hidden, self.weight)
        return mask_forbidden_(made.float(), self.mask_id, self.size)


def _in_slices(hidden: Float[Tensor, "M D"], weight: Float[Tensor, "V D"]) -> Float[Tensor, "M V"]:
    """The same product: of few rows with a matrix that no cache holds, slices are quicker (docs/performance.md)."""
    made = hidden.new_empty(len(hidden), len(weight))
    for start in range(0, len(weight), VOCAB_SLICE):
        made[:, start : start + VOCAB_SLICE] = F.linear(hidden, weight[start : start + VOCAB_SLICE])
    return made


def mask_forbidden_(logits: Float[Tensor, "M V"], mask_id: int, size: int | None) -> Float[Tensor, "M V"]:
    """No probability for the mask token and for rows from `size` on. In place: the logits are the biggest there is."""
    logits[..., mask_id] = FORBIDDEN_LOGIT
    if size is not None:
        logits[..., size:] = FORBIDDEN_LOGIT
    return logits


def lm_head_logp(
    hidden: Float[Tensor, "M D"],
    head: LMHead,
    place: Int[Tensor, " T"],
    token: Int[Tensor, " T"],
    temperature: float,
    chunk: int | None = None,
) -> Float[Tensor, " T"]:
    """log softmax(logits of hidden[place] / temperature)[token], nats, float32 also from bfloat16.

    Several tokens may be asked of one place, which is looked at once. Never more than `chunk` logits exist, by default
    a number that suits the device. Exact gradients to `hidden` and, if it is trained, to the head's weight.
    """
    rows = len(hidden)
    # Sorted by token, so that each slice of the vocabulary finds its own side by side; and each pair once.
    pairs, inverse = torch.unique(token * rows + place, return_inverse=True)
    columns = max(MIN_COLUMNS, (chunk or CHUNK.get(hidden.device.type, CHUNK["cuda"])) // rows)
    apply = cast(Callable[..., Tensor], _HeadLogp.apply)
    return apply(hidden, head.weight, head, pairs % rows, pairs // rows, temperature, columns)[inverse]


def lm_head_kl(
    hidden: Float[Tensor, "M D"],
    head: LMHead,
    base_hidden: Float[Tensor, "M D"],
    base_head: LMHead,
    chunk: int = ROW_CHUNK,
) -> Float[Tensor, " M"]:
    """`kl_full` of two policies' hidden states, some rows at a time; in the backward pass they are computed again."""

    def some(h: Tensor, weight: Tensor, base_h: Tensor) -> Tensor:
        return kl_full(replace(head, weight=weight).logits(h), base_head.logits(base_h))

    rows = max(1, chunk // head.size)
    parts = zip(hidden.split(rows), base_hidden.split(rows), strict=True)
    found = [
        checkpoint(some, h, head.weight, base_h, use_reentrant=False, preserve_rng_state=False) for h, base_h in parts
    ]
    return torch.cat(cast(list[Tensor], found))


class _HeadLogp(torch.autograd.Function):
    """d logp / d hidden is (W[token] - sum_v p_v W[v]) / temperature: a frozen head's sum is made in the forward pass,
    beside the normaliser. It leaves out the tokens that are asked for: they are close to probability 1 in a trained
    policy, and p and 1 - p would not survive bfloat16 in one sum. A trained head's logits are computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        head: LMHead,
        place: Tensor,
        token: Tensor,
        temperature: float,
        columns: int,
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        top = torch.full((len(hidden),), FORBIDDEN_LOGIT, dtype=exact, device=hidden.device)
        total, target = torch.zeros_like(top), top.new_full(place.shape, FORBIDDEN_LOGIT)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rest = torch.zeros_like(hidden, dtype=exact) if needs_hidden and not needs_weight else None
        for start, rows, own in _slices(head.size, token, columns):
            x = _logits(hidden, weight[rows], start, head.mask_id, temperature)
            at = (place[own], token[own] - start)
            target[own] = x[at].clamp(min=FORBIDDEN_LOGIT)
            higher = torch.maximum(top, x.amax(dim=1))
            shrink = (top - higher).exp()
            x = x.sub_(higher[:, None]).exp_()
            total.mul_(shrink).add_(x.sum(dim=1))
            if rest is not None:
                x[at] = 0
                rest.mul_(shrink[:, None]).add_(x.to(weight.dtype) @ weight[rows])
            top = higher
        if rest is not None:
            rest /= total[:, None]
        log_sum = top + total.log()
        logp = target - log_sum[place]
        ctx.save_for_backward(hidden, weight, place, token, logp, rest, log_sum)
        ctx.head, ctx.temperature, ctx.columns = head, temperature, columns
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, place, token, logp, rest, log_sum = ctx.saved_tensors
        head, temperature = ctx.head, ctx.temperature
        per_row = torch.zeros_like(log_sum).index_add(0, place, grad) / temperature
        grad = (grad / temperature).masked_fill((token == head.mask_id) | (token >= head.size), 0.0)
        if rest is not None:
            own = grad - per_row[place] * logp.exp()
            grad_hidden = rest.mul(-per_row[:, None]).index_add_(0, place, own[:, None] * weight[token])
            return grad_hidden.to(hidden.dtype), None, None, None, None, None, None
        grad_hidden, grad_weight = torch.zeros_like(hidden, dtype=log_sum.dtype), torch.zeros_like(weight)
        for start, rows, own in _slices(head.size, token, ctx.columns):
            x = _logits(hidden, weight[rows], start, head.mask_id, temperature)
            x = x.sub_(log_sum[:, None]).exp_().mul_(-per_row[:, None])
            x[place[own], token[own] - start] += grad[own]
            x = x.to(weight.dtype)
            grad_hidden += x @ weight[rows]
            grad_weight[rows] = x.T @ hidden
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None, None


def _slices(size: int, token: Int[Tensor, " T"], columns: int) -> Iterator[tuple[int, slice, slice]]:
    """The vocabulary in slices: where each starts, its rows of the head, and which of the sorted tokens are its own."""
    starts = torch.arange(0, size, columns, device=token.device)
    ends = torch.searchsorted(token, (starts + columns).clamp(max=size)).tolist()
    for start, begin, end in zip(starts.tolist(), [0, *ends], ends, strict=False):
        yield start, slice(start, min(start + columns, size)), slice(begin, end)


def _logits(
    hidden: Float[Tensor, "M D"], weight: Float[Tensor, "v D"], start: int, mask_id: int, temperature: float
) -> Float[Tensor, "M v"]:
    """Of a slice of the vocabulary, over the temperature: the model's own, so in its dtype, then float32."""
    x = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    if start <= mask_id < start + len(weight):
        x[:, mask_id - start] = -torch.inf
    return x if temperature == 1 else x.div_(temperature)
