"""Block caches (Fast-dLLM, arXiv 2505.22618): the later calls of a block compute only a part of the canvas.

The first call of a block computes the whole canvas and keeps the keys and values of every layer. `dual` then computes
the block alone; `prefix` computes the block and what follows it. Attention to the other positions uses the keys and
values of the block's first call.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from diffpo.core.canvas import first_occurrence, flat_index, unique_canvases
from diffpo.core.errors import UserError
from diffpo.core.options import CacheKind
from diffpo.models.denoiser import CacheableDenoiser, Denoiser
from diffpo.models.denoiser_output import DenoiserOutput, HiddenStates, Logits
from diffpo.models.kv_cache import Cache


@dataclass(frozen=True)
class BlockCache:
    """The kept keys and values of the rows in flight."""

    denoiser: CacheableDenoiser
    kind: CacheKind
    block_length: int
    attention_mask: Bool[Tensor, "B N"]
    cache: Cache
    cache_row: Int[Tensor, " B"]
    """The cache's row of each row of the batch, -1 before its first call. A finished row's is given to another row."""

    @classmethod
    def allocate(
        cls, denoiser: Denoiser, attention_mask: Bool[Tensor, "B N"], kind: CacheKind, block_length: int, capacity: int
    ) -> "BlockCache":
        """Make a cache for at most `capacity` of the B rows at a time.

        Raises UserError for a denoiser that keeps no keys and values.
        """
        if not isinstance(denoiser, CacheableDenoiser):
            raise UserError(f"{type(denoiser).__name__} keeps no keys and values; decode with cache = 'none'")
        cache_row = torch.full((len(attention_mask),), -1, device=attention_mask.device)
        cache = denoiser.new_cache(min(capacity, len(attention_mask)), attention_mask.shape[1])
        return cls(denoiser, kind, block_length, attention_mask, cache, cache_row)

    def predict(
        self,
        rows: Int[Tensor, " b"],
        canvas: Int[Tensor, "b N"],
        needs_logits: Bool[Tensor, "b L"],
        is_candidate: Bool[Tensor, "b L"],
    ) -> tuple[DenoiserOutput, Int[Tensor, " M"]]:
        """Return the denoiser's output, and its row for each of the M completion positions in `needs_logits`.

        Rows at the first call of a block, where nothing of it is committed, are computed whole, equal canvases once;
        of the others a part is computed.
        """
        self._assign_cache_rows_(rows)
        is_first_call = is_candidate.sum(dim=1) == self.block_length
        width = canvas.shape[1] - needs_logits.shape[1]
        at = pad(needs_logits, (width, 0), value=False)
        outputs, size = [], 0
        index = torch.zeros_like(needs_logits, dtype=torch.long)
        if is_first_call.any():
            output, own = self._predict_whole(rows[is_first_call], canvas[is_first_call], at[is_first_call])
            outputs.append(output)
            size = len(output)
            index[is_first_call] = own[:, width:]
        if not is_first_call.all():
            later = ~is_first_call
            is_computed = pad(self._open_part(is_candidate[later]), (width, 0), value=False)
            mask = self.attention_mask[rows[later]]
            window = self.cache.window(self.cache_row[rows[later]], is_computed, mask)
            outputs.append(self.denoiser.predict(canvas[later], mask, at[later], window))
            index[later] = size + flat_index(needs_logits[later])
        return _concatenate(outputs), index[needs_logits]

    def _predict_whole(
        self, rows: Int[Tensor, " b"], canvas: Int[Tensor, "b N"], at: Bool[Tensor, "b N"]
    ) -> tuple[DenoiserOutput, Int[Tensor, "b N"]]:
        """Compute each different canvas once, and copy its keys and values to the rows that share it."""
        canvas, mask, which = unique_canvases(canvas, self.attention_mask[rows])
        cache_rows, first = self.cache_row[rows], first_occurrence(which)
        window = self.cache.window(cache_rows[first], torch.ones_like(mask), mask)
        output = self.denoiser.predict(canvas, mask, at[first], window)
        is_copy = first[which] != torch.arange(len(which), device=which.device)
        self.cache.copy(cache_rows[first[which]][is_copy], cache_rows[is_copy])
        return output, flat_index(at[first])[which]

    def _open_part(self, is_candidate: Bool[Tensor, "b L"]) -> Bool[Tensor, "b L"]:
        """Return the whole of each row's open block; for a prefix cache, what follows it too."""
        is_open: Tensor = is_candidate.unflatten(1, (-1, self.block_length)).any(dim=2)
        if self.kind == "prefix":
            is_open = is_open.cumsum(dim=1) > 0
        return is_open.repeat_interleave(self.block_length, dim=1)

    def _assign_cache_rows_(self, rows: Int[Tensor, " b"]) -> None:
        """Give new rows the cache rows of those that have left."""
        is_new = self.cache_row[rows] < 0
        if not is_new.any():
            return
        every = torch.arange(self.cache.rows, device=rows.device)
        free = every[~torch.isin(every, self.cache_row[rows[~is_new]])]
        self.cache_row[rows[is_new]] = free[: int(is_new.sum())]


def _concatenate(outputs: list[DenoiserOutput]) -> DenoiserOutput:
    if len(outputs) == 1:
        return outputs[0]
    first, second = outputs
    if isinstance(first, HiddenStates) and isinstance(second, HiddenStates):
        return HiddenStates(torch.cat([first.hidden, second.hidden]), first.head)
    hidden = [output.hidden for output in outputs if output.hidden is not None]
    return Logits(torch.cat([first.logits, second.logits]), torch.cat(hidden) if len(hidden) == 2 else None)
