"""Surrogate likelihoods: on which canvas is each completion token scored?

A masked diffusion model has no tractable sequence likelihood. An estimator replaces it by a product of token
conditionals, and all it has to say is *on which canvas* each token's conditional is read. So an estimator is a pure
function from a rollout and one random draw to `Views`; one function scores any views. The draw is made once per batch,
so the old, the new and the reference policy are read on the same canvases. Equal canvases are evaluated once: on the
fully masked completion all completions of a prompt share one denoiser call.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.canvas import canvas_at, distinct, full_attention_mask
from diffpo.types import DenoiseFn, Rollout


@dataclass(frozen=True)
class Views:
    """Canvases to show the denoiser, and for every token the canvas on which it is scored."""

    canvas: Int[Tensor, "R N"]
    attention_mask: Bool[Tensor, "R N"]
    source: Int[Tensor, "B L"]

    def shared(self) -> "Views":
        """The same views with equal canvases merged."""
        canvas, attention_mask, place = distinct(self.canvas, self.attention_mask)
        return Views(canvas, attention_mask, place[self.source])


@runtime_checkable
class Estimator(Protocol):
    """`draw` makes the randomness of one batch; calling the estimator with it gives the views."""

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor: ...

    def __call__(self, rollout: Rollout, draw: Tensor, mask_id: int) -> Views: ...


@dataclass(frozen=True)
class MeanField:
    """d1's likelihood (arXiv 2504.12216): every token given the prompt alone, on the fully masked completion.

    With `prompt_mask_rate` > 0 each prompt token is masked with that probability, afresh in every row: d1's
    regulariser, which also gives each completion its own canvas and its own denoiser call.
    """

    prompt_mask_rate: float = 0.0

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Bool[Tensor, "B P"]:
        noise = torch.rand(rollout.prompt_ids.shape, generator=generator)
        return (noise < self.prompt_mask_rate) & rollout.prompt_mask.cpu()

    def __call__(self, rollout: Rollout, draw: Bool[Tensor, "B P"], mask_id: int) -> Views:
        batch, length = rollout.completion_ids.shape
        canvas = canvas_at(rollout, 0, mask_id)
        is_hidden = torch.nn.functional.pad(draw.to(canvas.device), (0, length), value=False)
        source = torch.arange(batch, device=canvas.device)[:, None].expand(batch, length)
        attention_mask = full_attention_mask(rollout.prompt_mask, length)
        return Views(canvas.masked_fill(is_hidden, mask_id), attention_mask, source).shared()


@dataclass(frozen=True)
class TwoTimesMeanField:
    """DiFFPO's 2-MF likelihood (arXiv 2510.02212): two canvases, fully masked and the rollout's own at a random step.

    Tokens committed before `boundary_step` tau are scored on the fully masked canvas, the others on the canvas that
    the denoiser saw at call tau. tau = 0 is mean-field; tokens committed at call tau itself are scored exactly.
    The paper does not say how tau is drawn within a batch: here one per rollout, uniform over the rollout's own calls
    and stratified over the batch.
    """

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Int[Tensor, " B"]:
        batch = len(rollout)
        strata = torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)
        nfe = rollout.nfe.cpu()
        return torch.minimum((strata / batch * nfe).long(), nfe - 1)

    def __call__(self, rollout: Rollout, draw: Int[Tensor, " B"], mask_id: int) -> Views:
        batch, length = rollout.completion_ids.shape
        boundary_step = draw.to(rollout.nfe.device)
        canvas = torch.cat([canvas_at(rollout, 0, mask_id), canvas_at(rollout, boundary_step, mask_id)])
        attention_mask = full_attention_mask(rollout.prompt_mask, length).repeat(2, 1)
        row = torch.arange(batch, device=canvas.device)[:, None]
        is_late = rollout.unmask_step >= boundary_step[:, None]
        return Views(canvas, attention_mask, torch.where(is_late, row + batch, row)).shared()


@dataclass(frozen=True)
class Conditionals:
    """Logits at every scored place, once each, and where each completion token finds its own."""

    logits: Float[Tensor, "M V"]
    slot: Int[Tensor, "B L"]
    """Index into `logits`; 0 for tokens that are not scored."""

    def per_token(self, values: Float[Tensor, " M"]) -> Float[Tensor, "B L"]:
        return values[self.slot]

    def logp(self, completion_ids: Int[Tensor, "B L"], temperature: float) -> Float[Tensor, "B L"]:
        """Log-probability of the given tokens under softmax(logits / temperature), as the sampler drew them."""
        return (self.logits / temperature).log_softmax(dim=-1)[self.slot, completion_ids]


def conditionals(denoiser: DenoiseFn, views: Views, is_scored: Bool[Tensor, "B L"]) -> Conditionals:
    """Ask the denoiser for the conditionals that the scored tokens need, on their own canvases."""
    batch, length = is_scored.shape
    position = torch.arange(length, device=views.canvas.device) + views.canvas.shape[1] - length
    position = position.expand(batch, length)
    at = torch.zeros_like(views.attention_mask)
    at[views.source[is_scored], position[is_scored]] = True
    logits = denoiser(views.canvas, views.attention_mask, at)
    slot_of = (at.flatten().cumsum(dim=0) - 1).view_as(at)
    slot = torch.where(is_scored, slot_of[views.source, position], 0)
    return Conditionals(logits, slot)


def kl_full(logits: Float[Tensor, "M V"], base_logits: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
    """KL(policy || base) over the whole vocabulary, nats, at each place: exact, where k3 is a one-sample estimate."""
    logp, base_logp = logits.log_softmax(dim=-1), base_logits.log_softmax(dim=-1)
    return (logp.exp() * (logp - base_logp)).sum(dim=-1)


def kl_k3(logp: Float[Tensor, "*n"], base_logp: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Schulman's k3 estimate of KL(policy || base) from the drawn token, as d1 and GRPO use it: never negative."""
    gap = base_logp - logp
    return gap.exp() - gap - 1
