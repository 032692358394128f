"""A batch whose rows come and go between denoiser calls, as a server needs it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffpo.models.denoiser import Denoiser
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import CallOutput, open_positions, take_call_
from diffpo.sampling.state import SamplerState, fully_masked


@dataclass(frozen=True)
class Row:
    """One completion to draw."""

    key: int
    """By which the batch tells its rows apart."""
    prompt_ids: tuple[int, ...]
    decoding: Decoding
    """Its `cache` and `max_in_flight` are not looked at."""
    seed: int


@dataclass(frozen=True)
class Committed:
    """What a denoiser call has fixed in one row."""

    key: int
    call: int
    """0-based."""
    positions: tuple[int, ...]
    """Of the completion, in rising order."""
    tokens: tuple[int, ...]
    is_done: bool
    """Whether the row has left the batch: it was its last call."""
    entropy_bound: float
    """The row's bound; nan under rules without one."""


@dataclass
class _Group:
    """Rows that are decoded alike. They stand in the order in which they came."""

    keys: list[int]
    state: SamplerState


class RunningBatch:
    """Rows of any prompts, settings and seeds, which share each denoiser call.

    Every row becomes what `sample` would make of it alone: it depends on its prompt, its decoding and its seed. What
    denoiser calls round differently for other numbers of rows is as in `sample`.
    """

    def __init__(self, denoiser: Denoiser, device: torch.device) -> None:
        self._denoiser, self._device = denoiser, device
        self._groups: dict[Decoding, _Group] = {}

    def __len__(self) -> int:
        return sum(len(group.keys) for group in self._groups.values())

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows take part from the next call on. Raises as `sample` does for a denoiser that lacks what is asked."""
        for row in rows:
            ids = torch.tensor([row.prompt_ids], device=self._device)
            mask = torch.ones_like(ids, dtype=torch.bool)
            seeds = torch.tensor([row.seed])
            new = fully_masked(ids, mask, self._denoiser.mask_id, self._denoiser.stop_ids, row.decoding, seeds)
            if (group := self._groups.get(row.decoding)) is None:
                self._groups[row.decoding] = _Group([row.key], new)
            else:
                group.keys.append(row.key)
                group.state = group.state.joined(new)

    def remove(self, keys: Collection[int]) -> None:
        """Take rows out before they are done. Keys of rows that are not in the batch are passed over."""
        for group in self._groups.values():
            self._keep(group, [index for index, key in enumerate(group.keys) if key not in keys])
        self._groups = {decoding: group for decoding, group in self._groups.items() if group.keys}

    @torch.no_grad()
    def call(self) -> list[Committed]:
        """Let every row of the batch, which is not empty, take one denoiser call; return what each has committed.

        Raises NonFiniteLogitsError where tokens cannot be drawn.
        """
        groups = [
            (decoding, group, torch.arange(len(group.keys), device=self._device))
            for decoding, group in self._groups.items()
        ]
        opened = [open_positions(group.state, rows, decoding) for decoding, group, rows in groups]
        width = max(group.state.prompt_ids.shape[1] + decoding.length for decoding, group, _ in groups)
        canvas = _stacked([group.state.canvas(rows) for _, group, rows in groups], width, self._denoiser.mask_id)
        mask = _stacked(
            [pad(group.state.prompt_mask, (0, decoding.length), value=True) for decoding, group, _ in groups], width, 0
        )
        at = _stacked([needs_logits for _, needs_logits in opened], width, 0)
        padding = int(mask.any(dim=0).long().argmax())
        output = self._denoiser.predict(canvas[:, padding:], mask[:, padding:], at[:, padding:])

        found, first = [], 0
        for (decoding, group, rows), (is_candidate, needs_logits) in zip(groups, opened, strict=True):
            index = torch.arange(int(needs_logits.sum()), device=self._device)
            own = output if len(groups) == 1 else output.rows(first + index)
            first += len(index)
            call = CallOutput(own, index, is_candidate, needs_logits)
            left = take_call_(group.state, rows, decoding, call).tolist()
            found += _committed(group, set(left))
            self._keep(group, left)
        self._groups = {decoding: group for decoding, group in self._groups.items() if group.keys}
        return found

    def _keep(self, group: _Group, indices: list[int]) -> None:
        if len(indices) < len(group.keys):
            group.keys = [group.keys[index] for index in indices]
            group.state = group.state.kept(torch.tensor(indices, dtype=torch.long, device=self._device))


def _stacked(parts: Sequence[Tensor], width: int, value: int) -> Tensor:
    """Put [b, w] tensors one below the other, padded on the left to one width."""
    return torch.cat([pad(part, (width - part.shape[1], 0), value=value) for part in parts])


def _committed(group: _Group, left: Collection[int]) -> list[Committed]:
    """Return what the last call of each row has committed."""
    state = group.state
    is_new = (state.completion_ids != state.mask_id) & (state.unmask_step == state.step[:, None] - 1)
    columns = (state.step, is_new, state.completion_ids, state.row_bound)
    found = []
    for row, (step, new, ids, bound) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        positions = tuple(position for position, is_one in enumerate(new) if is_one)
        tokens = tuple(ids[position] for position in positions)
        entropy_bound = bound if state.is_entropy_bound else float("nan")
        found.append(Committed(group.keys[row], step - 1, positions, tokens, row not in left, entropy_bound))
    return found
