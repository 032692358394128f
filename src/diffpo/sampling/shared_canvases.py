"""Equal canvases of a call are computed once."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.canvas import first_occurrence, flat_index, unique_canvases
from diffpo.models.denoiser import Denoiser
from diffpo.models.denoiser_output import DenoiserOutput


@dataclass(frozen=True)
class SharedCanvases:
    """Calls a denoiser with each different canvas once.

    The completions of a prompt start from one canvas, and share it for as long as they draw the same tokens.
    """

    denoiser: Denoiser
    attention_mask: Bool[Tensor, "B N"]

    def predict(
        self,
        rows: Int[Tensor, " b"],
        canvas: Int[Tensor, "b N"],
        needs_logits: Bool[Tensor, "b L"],
        is_candidate: Bool[Tensor, "b L"],
    ) -> tuple[DenoiserOutput, Int[Tensor, " M"]]:
        """Return the denoiser's output, and its row for each of the M completion positions in `needs_logits`.

        Positions that need logits must be the same for equal canvases. Padding that all rows have is left out.
        """
        canvas, attention_mask, which = unique_canvases(canvas, self.attention_mask[rows])
        padding = int(attention_mask.any(dim=0).long().argmax())
        own = needs_logits[first_occurrence(which)]
        at = torch.nn.functional.pad(own, (canvas.shape[1] - own.shape[1], 0), value=False)
        output = self.denoiser.predict(canvas[:, padding:], attention_mask[:, padding:], at[:, padding:])
        return output, flat_index(own)[which][needs_logits]
