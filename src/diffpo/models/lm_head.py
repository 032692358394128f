"""Log-probabilities and full KL from hidden states, without all logits in memory.

The output head makes logits for one slice of the vocabulary (for full KL: for some rows) at a time; they are used and
dropped. Nothing is approximated: values and gradients are those of the full softmax, but for the order of summation.
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
"""The logit of forbidden tokens. It is not -inf, because 0 * -inf would be nan in entropies and KL."""

CHUNK = {"cpu": 2**21, "cuda": 2**26}
"""How many logits exist at a time: few enough for a CPU's cache, enough to keep a GPU busy (docs/performance.md)."""
ROW_CHUNK = 2**23
"""How many logits exist at a time where the rows are split: a matrix product needs enough of them."""
SMALL_BATCH_ROWS, VOCAB_SLICE = 64, 2048
"""Up to so many rows a CPU makes logits by slices of the vocabulary, of so many tokens each."""
MIN_COLUMNS = 128
"""The smallest slice of the vocabulary, in tokens, however many rows there are."""


@dataclass(frozen=True)
class LMHead:
    """The matrix that maps hidden states to logits, and which of its rows stand for tokens that are not forbidden."""

    weight: Float[Tensor, "V D"]
    mask_id: int
    size: int
    """How many rows are tokens; those behind them pad the embedding."""

    def logits(self, hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """Return all logits, in float32."""
        is_small = hidden.device.type == "cpu" and len(hidden) <= SMALL_BATCH_ROWS and not torch.is_grad_enabled()
        logits = _multiply_in_slices(hidden, self.weight) if is_small else F.linear(hidden, self.weight)
        return mask_forbidden_(logits.float(), self.mask_id, self.size)


def _multiply_in_slices(hidden: Float[Tensor, "M D"], weight: Float[Tensor, "V D"]) -> Float[Tensor, "M V"]:
    """Return hidden weight^T by slices of the vocabulary.

    With few rows and a matrix too large for a CPU's cache, this is faster (docs/performance.md).
    """
    product = hidden.new_empty(len(hidden), len(weight))
    for start in range(0, len(weight), VOCAB_SLICE):
        product[:, start : start + VOCAB_SLICE] = F.linear(hidden, weight[start : start + VOCAB_SLICE])
    return product


def mask_forbidden_(logits: Float[Tensor, "M V"], mask_id: int, size: int | None) -> Float[Tensor, "M V"]:
    """Take all probability from the mask token and from rows `size` and up.

    In index, and returned: the logits are the largest tensor there is.
    """
    logits[..., mask_id] = FORBIDDEN_LOGIT
    if size is not None:
        logits[..., size:] = FORBIDDEN_LOGIT
    return logits


def lm_head_logp(
    hidden: Float[Tensor, "M D"],
    head: LMHead,
    index: Int[Tensor, " T"],
    token: Int[Tensor, " T"],
    temperature: float,
    chunk: int | None = None,
) -> Float[Tensor, " T"]:
    """Return log softmax(logits of hidden[index] / temperature)[token] in nats; in float32 also from bfloat16.

    A row of `hidden` may occur several times in `index`, with other tokens; its softmax is computed once. At most
    `chunk` logits exist at a time, by default a number that suits the device. Gradients to `hidden` and, if it is
    trained, to the head's weight are exact.
    """
    rows = len(hidden)
    # Pairs are sorted by token, so that each slice of the vocabulary finds its own side by side, and made unique.
    pairs, inverse = torch.unique(token * rows + index, return_inverse=True)
    columns = max(MIN_COLUMNS, (chunk or CHUNK.get(hidden.device.type, CHUNK["cuda"])) // rows)
    apply = cast(Callable[..., Tensor], _HeadLogp.apply)
    return apply(hidden, head.weight, head, pairs % rows, pairs // rows, temperature, columns)[inverse]


def lm_head_kl(
    hidden: Float[Tensor, "M D"],
    head: LMHead,
    reference_hidden: Float[Tensor, "M D"],
    reference_head: LMHead,
    chunk: int = ROW_CHUNK,
) -> Float[Tensor, " M"]:
    """Return `kl_full` of a policy's hidden states to the reference's, in nats.

    The rows are split into parts of about `chunk` logits, which are computed again in the backward pass.
    """

    def kl_of_part(part: Tensor, weight: Tensor, reference_part: Tensor) -> Tensor:
        return kl_full(replace(head, weight=weight).logits(part), reference_head.logits(reference_part))

    rows = max(1, chunk // head.size)
    parts = zip(hidden.split(rows), reference_hidden.split(rows), strict=True)
    kl = [
        checkpoint(kl_of_part, part, head.weight, reference_part, use_reentrant=False, preserve_rng_state=False)
        for part, reference_part in parts
    ]
    return torch.cat(cast(list[Tensor], kl))


class _HeadLogp(torch.autograd.Function):
    """The log-probabilities of unique (row, token) pairs that are sorted by token.

    d logp / d hidden is (W[token] - sum_v p_v W[v]) / temperature. For a frozen head the forward pass computes the sum
    together with the normaliser. The sum leaves out the pairs' own tokens: in a trained policy their probabilities are
    close to 1, and p and 1 - p would not survive in one bfloat16 sum. For a trained head the backward pass computes the
    logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        head: LMHead,
        index: Tensor,
        token: Tensor,
        temperature: float,
        columns: int,
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        top = torch.full((len(hidden),), FORBIDDEN_LOGIT, dtype=exact, device=hidden.device)
        total, target = torch.zeros_like(top), top.new_full(index.shape, FORBIDDEN_LOGIT)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rest = torch.zeros_like(hidden, dtype=exact) if needs_hidden and not needs_weight else None  # sum_v p_v W[v]
        for start, rows, own in _slices(head.size, token, columns):
            x = _logits(hidden, weight[rows], start, head.mask_id, temperature)
            at = (index[own], token[own] - start)
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
        logp = target - log_sum[index]
        ctx.save_for_backward(hidden, weight, index, token, logp, rest, log_sum)
        ctx.head, ctx.temperature, ctx.columns = head, temperature, columns
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, index, token, logp, rest, log_sum = ctx.saved_tensors
        head, temperature = ctx.head, ctx.temperature
        per_row = torch.zeros_like(log_sum).index_add(0, index, grad) / temperature
        grad = (grad / temperature).masked_fill((token == head.mask_id) | (token >= head.size), 0.0)
        if rest is not None:
            own = grad - per_row[index] * logp.exp()
            grad_hidden = rest.mul(-per_row[:, None]).index_add_(0, index, own[:, None] * weight[token])
            return grad_hidden.to(hidden.dtype), None, None, None, None, None, None
        grad_hidden, grad_weight = torch.zeros_like(hidden, dtype=log_sum.dtype), torch.zeros_like(weight)
        for start, rows, own in _slices(head.size, token, ctx.columns):
            x = _logits(hidden, weight[rows], start, head.mask_id, temperature)
            x = x.sub_(log_sum[:, None]).exp_().mul_(-per_row[:, None])
            x[index[own], token[own] - start] += grad[own]
            x = x.to(weight.dtype)
            grad_hidden += x @ weight[rows]
            grad_weight[rows] = x.T @ hidden
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None, None


def _slices(size: int, token: Int[Tensor, " T"], columns: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the vocabulary's slices: where each starts, its rows of the head, and which of the sorted tokens it has."""
    starts = torch.arange(0, size, columns, device=token.device)
    ends = torch.searchsorted(token, (starts + columns).clamp(max=size)).tolist()
    for start, begin, end in zip(starts.tolist(), [0, *ends], ends, strict=False):
        yield start, slice(start, min(start + columns, size)), slice(begin, end)


def _logits(
    hidden: Float[Tensor, "M D"], weight: Float[Tensor, "v D"], start: int, mask_id: int, temperature: float
) -> Float[Tensor, "M v"]:
    """Return logits / temperature of one slice of the vocabulary: multiplied in the model's dtype, then in float32."""
    x = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    if start <= mask_id < start + len(weight):
        x[:, mask_id - start] = -torch.inf
    return x if temperature == 1 else x.div_(temperature)
