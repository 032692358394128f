"""What a denoiser says at M places, asked for no more than is needed."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.rollout import DenoiseFn
from diffpo.models.lm_head import Head, head_kl, head_logp
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

    def kl(self, base: "Prediction") -> Float[Tensor, " M"]:
        """KL(this || base) at each place at temperature 1, nats."""
        return kl_full(self.logits, base.logits)


@dataclass(frozen=True)
class States:
    """Hidden states and the head that reads them: log-probabilities and KL come without logits in memory."""

    hidden: Float[Tensor, "M D"]
    head: Head

    @property
    def logits(self) -> Float[Tensor, "M V"]:
        return self.head.logits(self.hidden)

    def rows(self, index: Int[Tensor, " m"]) -> "States":
        return States(self.hidden[index], self.head)

    def logp(self, place: Int[Tensor, " T"], token: Int[Tensor, " T"], temperature: float) -> Float[Tensor, " T"]:
        return head_logp(self.hidden, self.head, place, token, temperature)

    def kl(self, base: "Prediction") -> Float[Tensor, " M"]:
        if not isinstance(base, States):
            return kl_full(self.logits, base.logits)
        return head_kl(self.hidden, self.head, base.hidden, base.head)


Prediction = Logits | States


@runtime_checkable
class PredictFn(DenoiseFn, Protocol):
    """A denoiser that need not make the logits it is not asked for."""

    def predict(
        self, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
    ) -> Prediction: ...


def predict(
    denoiser: DenoiseFn, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
) -> Prediction:
    """Ask any denoiser, in the way that it takes least for."""
    if isinstance(denoiser, PredictFn):
        return denoiser.predict(canvas, attention_mask, at)
    return Logits(denoiser(canvas, attention_mask, at))
