"""A denoiser's output at M positions: logits, or the hidden states from which the output head makes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.models.lm_head import LMHead, lm_head_kl, lm_head_logp
from diffpo.objective.kl import kl_full


@dataclass(frozen=True)
class Logits:
    """Full logits, which small vocabularies keep."""

    logits: Float[Tensor, "M V"]
    hidden: Float[Tensor, "M D"] | None = None
    """The hidden states from which they were made, where the denoiser has any."""

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def num_tokens(self) -> int:
        """V, the size of the vocabulary."""
        return self.logits.shape[1]

    def rows(self, index: Int[Tensor, " m"]) -> "Logits":
        """Return the output at some of the M positions."""
        return Logits(self.logits[index], None if self.hidden is None else self.hidden[index])

    def logp(self, index: Int[Tensor, " T"], token: Int[Tensor, " T"], temperature: float) -> Float[Tensor, " T"]:
        """Return the log-probability of each token at position `index` of the M, under softmax(logits / temperature).

        In nats, float32.
        """
        return (self.logits / temperature).log_softmax(dim=-1)[index, token]

    def kl(self, reference: "DenoiserOutput") -> Float[Tensor, " M"]:
        """Return KL(this || reference) at each position at temperature 1, in nats."""
        return kl_full(self.logits, reference.logits)


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states and the output head: log-probabilities and KL are computed without full logits in memory."""

    hidden: Float[Tensor, "M D"]
    head: LMHead

    def __len__(self) -> int:
        return len(self.hidden)

    @property
    def num_tokens(self) -> int:
        """V, the size of the vocabulary."""
        return self.head.size

    @property
    def logits(self) -> Float[Tensor, "M V"]:
        return self.head.logits(self.hidden)

    def rows(self, index: Int[Tensor, " m"]) -> "HiddenStates":
        """Return the output at some of the M positions."""
        return HiddenStates(self.hidden[index], self.head)

    def logp(self, index: Int[Tensor, " T"], token: Int[Tensor, " T"], temperature: float) -> Float[Tensor, " T"]:
        """As `Logits.logp`."""
        return lm_head_logp(self.hidden, self.head, index, token, temperature)

    def kl(self, reference: "DenoiserOutput") -> Float[Tensor, " M"]:
        """As `Logits.kl`."""
        if not isinstance(reference, HiddenStates):
            return kl_full(self.logits, reference.logits)
        return lm_head_kl(self.hidden, self.head, reference.hidden, reference.head)


DenoiserOutput = Logits | HiddenStates


def mean_hidden(output: DenoiserOutput, index: Int[Tensor, "n L"]) -> Float[Tensor, "n D"]:
    """Return the mean of the hidden states at L positions of the output, for each of n rows.

    Raises UserError for a denoiser that gives none.
    """
    if output.hidden is None:
        raise UserError(
            "the denoiser gives no hidden states, which controller.features = 'hidden' needs; use 'entropy'"
        )
    if not len(index):
        return output.hidden[:0]
    return torch.stack([output.hidden[row].mean(dim=0) for row in index])
