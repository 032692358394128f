"""The right answers that a run has found: what expert iteration learns from."""

from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.canvas import full_attention_mask
from diffpo.core.rollout import Rollout
from diffpo.training.sft_data import Targets

Ids = tuple[int, ...]


class RightAnswers:
    """Distinct pairs of a prompt and a completion of `length` tokens, the newest `capacity` of them, oldest first."""

    def __init__(self, length: int, capacity: int) -> None:
        self.length, self.capacity = length, capacity
        self.updates = 0
        """Optimiser steps that were taken on them."""
        self._found: dict[tuple[Ids, Ids], None] = {}  # in the order in which they were found last

    def __len__(self) -> int:
        return len(self._found)

    def add(self, rollout: Rollout, is_right: Bool[Tensor, " B"], eos_id: int) -> None:
        """Keep the right completions. Behind an answer's end they get end-of-text tokens, as in SFT."""
        completions = rollout.completion_ids.masked_fill(~rollout.is_answer, eos_id)
        rows = zip(rollout.prompt_ids.tolist(), rollout.prompt_mask.tolist(), completions.tolist(), strict=True)
        for (prompt, visible, completion), right in zip(rows, is_right.tolist(), strict=True):
            if right:
                key = tuple(token for token, shown in zip(prompt, visible, strict=True) if shown), tuple(completion)
                self._found.pop(key, None)
                self._found[key] = None
        for oldest in list(islice(self._found, max(0, len(self) - self.capacity))):
            del self._found[oldest]

    def draw(self, batches: int, batch: int, generator: torch.Generator) -> Iterator[Targets]:
        """Return batches of rows to learn, each drawn uniformly with replacement; all are drawn before the first.

        Raises ValueError where there are no answers.
        """
        if not len(self):
            raise ValueError("there are no right answers to draw from")
        kept = [*self._found]
        index = torch.randint(len(kept), (batches, batch), generator=generator)
        return (self._targets([kept[number] for number in row]) for row in index)

    def _targets(self, rows: list[tuple[Ids, Ids]]) -> Targets:
        prompt_ids, prompt_mask = pad_left([prompt for prompt, _ in rows])
        completions = torch.tensor([completion for _, completion in rows])
        return Targets(
            torch.cat([prompt_ids, completions], dim=1),
            full_attention_mask(prompt_mask, self.length),
            torch.full((len(rows),), self.length),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return all answers, oldest first, for a checkpoint."""
        prompt_ids, prompt_mask = pad_left([prompt for prompt, _ in self._found])
        completions = torch.tensor([completion for _, completion in self._found]).view(len(self), self.length).long()
        updates = torch.tensor(self.updates)
        return {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": completions, "updates": updates}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Take the answers of a `state_dict` in place of its own."""
        self.updates = int(state["updates"])
        prompts = zip(state["prompt_ids"].tolist(), state["prompt_mask"].tolist(), strict=True)
        shown = (tuple(token for token, is_shown in zip(*row, strict=True) if is_shown) for row in prompts)
        self._found = dict.fromkeys(zip(shown, map(tuple, state["completion_ids"].tolist()), strict=True))


def pad_left(rows: list[Ids]) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return rows as one tensor, and where they are; the padding, on the left, is 0, and no one looks at it."""
    width = max(map(len, rows), default=0)
    ids = torch.tensor([(0,) * (width - len(row)) + row for row in rows]).view(len(rows), width).long()
    is_shown = torch.arange(width) >= torch.tensor([width - len(row) for row in rows]).view(len(rows), 1)
    return ids, is_shown
