"""The border: a transformers model becomes the denoiser that samplers and likelihoods ask."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel


@dataclass
class Tally:
    """What a denoiser has been shown: canvases, which budgets are counted in, and their tokens, padding included."""

    canvases: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Denoiser:
    """A model with the ids that decoding needs. Calling it gives float32 logits at chosen positions only."""

    model: PreTrainedModel
    mask_id: int
    stop_ids: tuple[int, ...]
    vocabulary: int | None = None
    """How many tokens the tokenizer has, where that is fewer than the embedding's rows: the rest cannot be said."""
    shown: Tally = field(default_factory=Tally, compare=False)

    def __call__(
        self, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
    ) -> Float[Tensor, "M V"]:
        self.shown.canvases += len(canvas)
        self.shown.tokens += canvas.numel()
        logits: Tensor = self.model(input_ids=canvas, attention_mask=attention_mask, logits_at=at).logits.float()
        # Not -inf: 0 * -inf would be nan in entropies and KL.
        token = torch.arange(logits.shape[-1], device=logits.device)
        is_barred = token == self.mask_id
        if self.vocabulary is not None:
            is_barred |= token >= self.vocabulary
        return logits.masked_fill(is_barred, torch.finfo(torch.float32).min / 2)
