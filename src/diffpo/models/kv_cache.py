"""A cache of keys and values, with which a later denoiser call computes only some of the positions.

Fast-dLLM (arXiv 2505.22618) keeps them for one block of the completion. The output is then an approximation: the keys
and values of the positions that are not computed come from an earlier canvas.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

KeysAndValues = tuple[Float[Tensor, "S N H h"], Float[Tensor, "S N H h"]]


@dataclass(frozen=True)
class Cache:
    """Keys (already rotated by RoPE) and values of every layer, for S rows of N canvas positions; updated in place."""

    rows: int
    width: int
    shift: int = 0
    """How many positions before a token it is predicted: 1 in Dream."""
    layers: dict[nn.Module, KeysAndValues] = field(default_factory=dict)

    def window(
        self, cache_row: Int[Tensor, " b"], is_computed: Bool[Tensor, "b N"], is_visible: Bool[Tensor, "b N"]
    ) -> "Window":
        """Return the window for a call that computes the positions `is_computed` and those that predict them.

        Canvas i of the b has its keys and values in row `cache_row[i]` of the cache. Padding is not computed.
        """
        for _ in range(self.shift):
            is_computed = is_computed | torch.nn.functional.pad(is_computed[:, 1:], (0, 1), value=False)
        is_computed = is_computed & is_visible
        count = is_computed.sum(dim=1, keepdim=True)
        width = int(count.amax())
        index = is_computed.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        position = (is_visible.long().cumsum(dim=1) - 1).clamp(min=0).gather(1, index)
        is_stored = torch.arange(width, device=index.device) < count
        source = is_stored.flatten().nonzero().squeeze(1)
        target = (cache_row[:, None] * self.width + index).flatten()[source]
        is_every_row = torch.equal(cache_row, torch.arange(self.rows, device=cache_row.device))
        mask = None if bool(is_visible.all()) else is_visible[:, None, None, :]
        return Window(self, cache_row, index, is_stored, source, target, position, mask, is_every_row)

    def copy(self, source: Int[Tensor, " b"], target: Int[Tensor, " b"]) -> None:
        """Copy rows `source` to rows `target`, in place: equal canvases need to be computed only once."""
        for keys_and_values in self.layers.values():
            for cached in keys_and_values:
                cached[target] = cached[source]


@dataclass(frozen=True)
class Window:
    """The W positions of each of b canvases that one call computes; all others have their keys and values cached."""

    cache: Cache
    cache_row: Int[Tensor, " b"]
    """The cache's row for each canvas."""
    index: Int[Tensor, "b W"]
    """Canvas positions, in order. A row with fewer than W is filled up with others of its positions."""
    is_stored: Bool[Tensor, "b W"]
    """False on the filling positions: they are computed, but neither stored nor output."""
    source: Int[Tensor, " n"]
    """Flat indices of the stored positions in [b, W]."""
    target: Int[Tensor, " n"]
    """Their flat indices in the cache's [S, N]."""
    position: Int[Tensor, "b W"]
    """Counted from the row's first visible token, for RoPE."""
    mask: Bool[Tensor, "b 1 1 N"] | None
    """The visible positions; None where all are."""
    is_every_row: bool
    """Whether the canvases are all of the cache's rows, in order."""

    def select(self, values: Tensor) -> Tensor:
        """Return the entries of `values` [b, N] at the computed positions, [b, W]."""
        return values.gather(1, self.index)

    def update(
        self, layer: nn.Module, k: Float[Tensor, "b H W h"], v: Float[Tensor, "b H W h"]
    ) -> tuple[Float[Tensor, "b H N h"], Float[Tensor, "b H N h"]]:
        """Store a layer's new keys and values, and return those of all N positions.

        Raises ValueError where gradients are enabled.
        """
        if torch.is_grad_enabled():
            raise ValueError("a cache is for drawing completions, and no gradient goes through it; use torch.no_grad()")
        new_keys_and_values = k.transpose(1, 2), v.transpose(1, 2)
        if layer not in self.cache.layers:
            shape = (self.cache.rows, self.cache.width, *new_keys_and_values[0].shape[2:])
            self.cache.layers[layer] = k.new_zeros(shape), v.new_zeros(shape)
        full = []
        for cached, new in zip(self.cache.layers[layer], new_keys_and_values, strict=True):
            cached.flatten(0, 1).index_copy_(0, self.target, new.flatten(0, 1)[self.source])
            full.append((cached if self.is_every_row else cached[self.cache_row]).transpose(1, 2))
        return full[0], full[1]
