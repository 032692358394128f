"""Block caches (Fast-dLLM, arXiv 2505.22618): the later calls of a block run some of the canvas.

The first call of a block runs all of it and keeps the keys and values of every layer. `dual` then runs the block alone;
`prefix` the block and what is behind it. What is not run is seen as it was at the block's first call.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.canvas import first_occurrence, flat_index, unique_canvases
from diffpo.core.errors import UserError
from diffpo.core.options import CacheKind
from diffpo.models.denoiser_output import Denoiser, DenoiserOutput, HiddenStates, Logits
from diffpo.models.kv_cache import Cache, Window


@runtime_checkable
class CacheableDenoiser(Denoiser, Protocol):
    """A denoiser that can keep keys and values, and then run some places of a canvas only."""

    def new_cache(self, rows: int, width: int) -> Cache: ...

    def predict(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> DenoiserOutput: ...


def new_block_cache(
    denoiser: Denoiser,
    kind: CacheKind,
    attention_mask: Bool[Tensor, "B N"],
    block_length: int,
    length: int,
    rows: int,
) -> "BlockCache | None":
    """Room for at most `rows` of B rows at a time; None where nothing is kept.

    Raises ValueError for a completion of one block, and UserError for a model that keeps no keys and values.
    """
    if kind == "none":
        return None
    if block_length >= length:
        raise ValueError(
            f"cache '{kind}' renews what it keeps at the beginning of each block, and block_length {block_length} "
            "makes the completion one block; use a smaller one, or cache = 'none'"
        )
    if not isinstance(denoiser, CacheableDenoiser):
        raise UserError(f"{type(denoiser).__name__} keeps no keys and values; decode with cache = 'none'")
    rows = min(rows, len(attention_mask))
    seat = torch.full((len(attention_mask),), -1, device=attention_mask.device)
    cache = denoiser.new_cache(rows, attention_mask.shape[1])
    return BlockCache(denoiser, kind, block_length, attention_mask, cache, seat)


@dataclass(frozen=True)
class BlockCache:
    """What is kept of the rows in flight."""

    denoiser: CacheableDenoiser
    kind: CacheKind
    block_length: int
    attention_mask: Bool[Tensor, "B N"]
    cache: Cache
    seat: Int[Tensor, " B"]
    """Where the cache has each row; what is there of a row that left is another's."""

    def ask(
        self,
        rows: Int[Tensor, " b"],
        canvas: Int[Tensor, "b N"],
        is_read: Bool[Tensor, "b L"],
        is_candidate: Bool[Tensor, "b L"],
    ) -> tuple[DenoiserOutput, Int[Tensor, " M"]]:
        """A prediction, and its place for each completion position to be read.

        Rows at the first call of a block, where nothing of it is committed, are run whole, equal canvases once; the
        others in part.
        """
        self._seat(rows)
        is_new = is_candidate.sum(dim=1) == self.block_length
        at = torch.nn.functional.pad(is_read, (canvas.shape[1] - is_read.shape[1], 0), value=False)
        found, size = [], 0
        place = torch.zeros_like(is_read, dtype=torch.long)
        if is_new.any():
            some, mask, which = unique_canvases(canvas[is_new], self.attention_mask[rows[is_new]])
            seats, first = self.seat[rows[is_new]], first_occurrence(which)
            own = at[is_new][first]
            found.append(self._run(seats[first], some, mask, own, torch.ones_like(mask)))
            is_copy = first[which] != torch.arange(len(which), device=which.device)
            self.cache.copy(seats[first[which]][is_copy], seats[is_copy])
            size = int(own.sum())
            place[is_new] = flat_index(own)[which][:, -is_read.shape[1] :]
        if not is_new.all():
            is_old = ~is_new
            is_run = torch.nn.functional.pad(
                self._shown(is_candidate[is_old]), (canvas.shape[1] - is_read.shape[1], 0), value=False
            )
            mask = self.attention_mask[rows[is_old]]
            found.append(self._run(self.seat[rows[is_old]], canvas[is_old], mask, at[is_old], is_run))
            place[is_old] = size + flat_index(is_read[is_old])
        return _joined(found), place[is_read]

    def _run(
        self,
        seats: Int[Tensor, " b"],
        canvas: Int[Tensor, "b N"],
        attention_mask: Bool[Tensor, "b N"],
        at: Bool[Tensor, "b N"],
        is_run: Bool[Tensor, "b N"],
    ) -> DenoiserOutput:
        window = self.cache.window(seats, is_run, attention_mask)
        return self.denoiser.predict(canvas, attention_mask, at, window)

    def _shown(self, is_candidate: Bool[Tensor, "b L"]) -> Bool[Tensor, "b L"]:
        """The whole of each row's open block, and for a prefix cache what is behind it."""
        is_open: Tensor = is_candidate.unflatten(1, (-1, self.block_length)).any(dim=2)
        if self.kind == "prefix":
            is_open = is_open.cumsum(dim=1) > 0
        return is_open.repeat_interleave(self.block_length, dim=1)

    def _seat(self, rows: Int[Tensor, " b"]) -> None:
        """Give rows that have no place in the cache those that rows which left had."""
        is_fresh = self.seat[rows] < 0
        if not is_fresh.any():
            return
        flat_index = torch.arange(self.cache.rows, device=rows.device)
        free = flat_index[~torch.isin(flat_index, self.seat[rows[~is_fresh]])]
        self.seat[rows[is_fresh]] = free[: int(is_fresh.sum())]


def _joined(found: list[DenoiserOutput]) -> DenoiserOutput:
    if len(found) == 1:
        return found[0]
    first, second = found
    if isinstance(first, HiddenStates) and isinstance(second, HiddenStates):
        return HiddenStates(torch.cat([first.hidden, second.hidden]), first.head)
    return Logits(torch.cat([first.logits, second.logits]))
