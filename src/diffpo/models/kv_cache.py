"""Keys and values that outlive the call they were made in, so that a later call runs some of the positions only.

Fast-dLLM (arXiv 2505.22618) keeps them for a block of the completion. What a position says then is an approximation:
the others' keys and values are those of an earlier canvas.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Kept = tuple[Float[Tensor, "S N H h"], Float[Tensor, "S N H h"]]


@dataclass(frozen=True)
class Cache:
    """Of each layer the keys, turned to their positions, and the values, for S rows of N canvas places; written in
    place."""

    rows: int
    width: int
    reach: int = 0
    """Places before a token from which it is predicted: 1 in Dream."""
    layers: dict[nn.Module, Kept] = field(default_factory=dict)

    def window(self, row: Int[Tensor, " b"], is_run: Bool[Tensor, "b N"], is_visible: Bool[Tensor, "b N"]) -> "Window":
        """A pass over the given places, and those that predict them, of canvases kept in `row`. Padding is left out."""
        for _ in range(self.reach):
            is_run = is_run | torch.nn.functional.pad(is_run[:, 1:], (0, 1), value=False)
        is_run = is_run & is_visible
        count = is_run.sum(dim=1, keepdim=True)
        width = int(count.amax())
        index = is_run.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        position = (is_visible.long().cumsum(dim=1) - 1).clamp(min=0).gather(1, index)
        is_own = torch.arange(width, device=index.device) < count
        source = is_own.flatten().nonzero().squeeze(1)
        target = (row[:, None] * self.width + index).flatten()[source]
        is_whole = torch.equal(row, torch.arange(self.rows, device=row.device))
        mask = None if bool(is_visible.all()) else is_visible[:, None, None, :]
        return Window(self, row, index, is_own, source, target, position, mask, is_whole)

    def copy(self, source: Int[Tensor, " b"], target: Int[Tensor, " b"]) -> None:
        """Give rows what others hold: canvases that were equal were run once."""
        for kept in self.layers.values():
            for values in kept:
                values[target] = values[source]


@dataclass(frozen=True)
class Window:
    """The places that one pass runs; the keys and values of all others are as the cache has them."""

    cache: Cache
    row: Int[Tensor, " b"]
    index: Int[Tensor, "b W"]
    """Canvas places of each row, in order; where a row has fewer than another, more of its places follow."""
    is_own: Bool[Tensor, "b W"]
    """False on those that follow: they are run, and leave nothing behind."""
    source: Int[Tensor, " n"]
    """Those that stay, of the b W."""
    target: Int[Tensor, " n"]
    """Where they stay, of the cache's S N places."""
    position: Int[Tensor, "b W"]
    """Counted from the row's first visible token."""
    mask: Bool[Tensor, "b 1 1 N"] | None
    """The visible places; None where all are."""
    is_whole: bool
    """The rows are all of the cache's, in order."""

    def of(self, values: Tensor) -> Tensor:
        """Values [b, N] at the places that are run, [b, W]."""
        return values.gather(1, self.index)

    def renew(
        self, layer: nn.Module, k: Float[Tensor, "b H W h"], v: Float[Tensor, "b H W h"]
    ) -> tuple[Float[Tensor, "b H N h"], Float[Tensor, "b H N h"]]:
        """Keep a layer's fresh keys and values in their places; those of the whole canvases."""
        if torch.is_grad_enabled():
            raise ValueError("a cache is for drawing completions, and no gradient goes through it; use torch.no_grad()")
        fresh = k.transpose(1, 2), v.transpose(1, 2)
        if layer not in self.cache.layers:
            shape = (self.cache.rows, self.cache.width, *fresh[0].shape[2:])
            self.cache.layers[layer] = k.new_zeros(shape), v.new_zeros(shape)
        whole = []
        for kept, new in zip(self.cache.layers[layer], fresh, strict=True):
            kept.flatten(0, 1).index_copy_(0, self.target, new.flatten(0, 1)[self.source])
            whole.append((kept if self.is_whole else kept[self.row]).transpose(1, 2))
        return whole[0], whole[1]
