"""What a denoiser says at M places, asked for no more than is needed."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.models.lm_head import LMHead, lm_head_kl, lm_head_logp
from diffpo.objective.kl import kl_full


@dataclass(frozen=True)
class Logits:
    """A prediction as it stands: what small vocabularies take."""

    logits: Float[Tensor, "M V"]

    def rows(self, index: Int[Tensor, " m"]) -> "Logits":
        """What is said at some of the places."""
        return Logits(self.logits[index])

    def logp(self, place: Int[Tensor, " T"], token: Int[Tensor, " T"], temperature: float) -> Float[Tensor, " T"]:
        """Log-probability of each token at its place under softmax(logits / temperature), nats, float32."""
        return (self.logits / temperature).log_softmax(dim=-1)[place, token]

    def kl(self, base: "DenoiserOutput") -> Float[Tensor, " M"]:
        """KL(this || base) at each place at temperature 1, nats."""
        return kl_full(self.logits, base.logits)


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states and the head that reads them: log-probabilities and KL come without logits in memory."""

    hidden: Float[Tensor, "M D"]
    head: LMHead

    @property
    def logits(self) -> Float[Tensor, "M V"]:
        return self.head.logits(self.hidden)

    def rows(self, index: Int[Tensor, " m"]) -> "HiddenStates":
        return HiddenStates(self.hidden[index], self.head)

    def logp(self, place: Int[Tensor, " T"], token: Int[Tensor, " T"], temperature: float) -> Float[Tensor, " T"]:
        return lm_head_logp(self.hidden, self.head, place, token, temperature)

    def kl(self, base: "DenoiserOutput") -> Float[Tensor, " M"]:
        if not isinstance(base, HiddenStates):
            return kl_full(self.logits, base.logits)
        return lm_head_kl(self.hidden, self.head, base.hidden, base.head)


DenoiserOutput = Logits | HiddenStates


@runtime_checkable
class Denoiser(Protocol):
    """The network, asked only for what is needed: logits at the canvas positions where `at` is True, row by row.

    The mask token's logit is so low that no sampler can draw it and no likelihood gives it weight.
    """

    @property
    def mask_id(self) -> int: ...

    def __call__(
        self, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
    ) -> Float[Tensor, "M V"]: ...


@runtime_checkable
class PredictFn(Denoiser, Protocol):
    """A denoiser that need not make the logits it is not asked for."""

    def predict(
        self, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
    ) -> DenoiserOutput: ...


def predict(
    denoiser: Denoiser, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
) -> DenoiserOutput:
    """Ask any denoiser, in the way that it takes least for."""
    if isinstance(denoiser, PredictFn):
        return denoiser.predict(canvas, attention_mask, at)
    return Logits(denoiser(canvas, attention_mask, at))
