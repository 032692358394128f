"""Muon in float32: each momentum matrix is replaced, roughly, by the orthogonal matrix nearest to it.

`torch.optim.Muon` does the same in bfloat16 whatever the weights are. On CPUs without bfloat16 that is slow, and on
virtual machines that announce AMX and then forbid it the process dies of an illegal instruction (docs/log.md).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.distributed.sharding import spread, whole

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration that is steepest at zero (Jordan et al. 2024): after five steps all singular values are
near 1, between about 0.7 and 1.2, but do not converge to it."""
ITERATIONS = 5
AT_A_TIME = 2**24
"""How many numbers are orthogonalised at a time, or one matrix: five times their memory is needed meanwhile."""
RMS = 0.2
"""Root mean square of an update before the learning rate, about that of a usual AdamW (arXiv 2502.16982)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. It takes matrices only; matrices of one shape are updated together, as many as
    `AT_A_TIME` says.

    Of a sharded model each process does that for all of a matrix, and keeps its part.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                step = group["lr"] * RMS * math.sqrt(max(shape))
                for some in batched(parameters, max(1, AT_A_TIME // shape.numel())):
                    directions = [whole(self._direction(parameter)) for parameter in some]
                    updates = orthogonalise(torch.stack(directions).float())
                    for parameter, update in zip(some, updates, strict=True):
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                        parameter.sub_(spread(update, like=parameter), alpha=step)

    def _direction(self, parameter: Tensor) -> Tensor:
        """Update the parameter's momentum; return Nesterov's direction, the gradient mixed with the new momentum."""
        gradient = parameter.grad
        assert gradient is not None
        momentum: Tensor = self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def batched(parameters: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield the parameters, `size` at a time."""
    for start in range(0, len(parameters), size):
        yield parameters[start : start + size]


def orthogonalise(matrices: Float[Tensor, "K M N"]) -> Float[Tensor, "K M N"]:
    """Return U S' V^T for each matrix U S V^T, with every singular value s' near 1; a zero matrix stays zero.

    By the Newton-Schulz iteration with the coefficients `QUINTIC`.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalise(matrices.mT).mT
    a, b, c = QUINTIC
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if 4 * x.shape[1] > 3 * x.shape[2]:
        for _ in range(ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x
    # Each iteration multiplies x from the left by p, a polynomial of its Gram matrix, with which it commutes. So the
    # Gram matrices can be computed without x, which is the wider of the two, and x be multiplied once by their product.
    gram, product = x @ x.mT, None
    for left in reversed(range(ITERATIONS)):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=1, dim2=2).add_(a)
        product = p if product is None else p @ product
        if left:
            gram = p @ (gram @ p)
    return cast(Tensor, product) @ x
