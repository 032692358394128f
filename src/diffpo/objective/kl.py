"""KL(policy || reference) of a token's conditional: exact over the vocabulary, or from the drawn token (Schulman 2020).

As numbers: k1 and k3 have the divergence as their mean over the policy's tokens; k2, half the squared log ratio, agrees
with it to second order. As losses: what counts is the mean of their gradients over the policy's tokens. k2's is that of
the divergence, k3's that of the opposite KL(reference || policy), and that of k1's plain derivative, the score, is
zero: so k1 takes its gradient from k2 (docs/math.md).
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from diffpo.core.options import SampledKl


def kl_full(logits: Float[Tensor, "M V"], reference_logits: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
    """Return KL(policy || reference) over the whole vocabulary at each of M positions, in nats: exact, not an
    estimate."""
    logp, reference_logp = logits.log_softmax(dim=-1), reference_logits.log_softmax(dim=-1)
    return (logp.exp() * (logp - reference_logp)).sum(dim=-1)


def kl_k1(logp: Float[Tensor, "*n"], reference_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(policy / reference), unbiased but of either sign; its gradient is k2's."""
    half_square = kl_k2(logp, reference_logp)
    return (logp - reference_logp - half_square).detach() + half_square


def kl_k2(logp: Float[Tensor, "*n"], reference_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(policy / reference)^2 / 2: never negative, biased, and the gradient of the KL on average."""
    return (logp - reference_logp) ** 2 / 2


def kl_k3(logp: Float[Tensor, "*n"], reference_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """reference / policy - 1 - log(reference / policy), as d1 and GRPO use it: unbiased and never negative."""
    gap = reference_logp - logp
    return gap.exp() - gap - 1


SAMPLED_KL: Mapping[SampledKl, Callable[[Float[Tensor, "*n"], Float[Tensor, "*n"]], Float[Tensor, "*n"]]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}
