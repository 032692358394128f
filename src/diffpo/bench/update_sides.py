"""The two sides of the update benchmarks: losses and gradients as computed here, and as public code computes them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.bench.identity import gap_difference
from diffpo.bench.plain_loss import mean_field_logp, two_times_mean_field_logp
from diffpo.bench.shapes import BLOCK, COMPLETION, PROMPT, random_prompts
from diffpo.core.rollout import Rollout
from diffpo.likelihood import Estimator, MeanField, ScoringPlan, conditionals
from diffpo.models.denoiser import ModelDenoiser
from diffpo.objective.policy_gradient import Reinforce
from diffpo.training.policy_update import update_policy
from diffpo.training.rollouts import Batch
from diffpo.training.update_settings import PolicyUpdate

LOSS_SHAPE = (126464, 8, 1, PROMPT, COMPLETION, BLOCK)
"""Vocabulary, prompts, completions of each, and lengths of the loss benchmark."""
TEMPERATURE = 0.9
TOLERANCE = 1e-3
"""Allowed difference of gradients and log-probabilities in float32, relative to the largest value."""


@dataclass(frozen=True)
class Trained:
    """What a side computes for a batch: log-probabilities where it has them, loss and gradient of P parameters."""

    logp: Float[Tensor, "B L"] | None
    loss: float
    gradient: Float[Tensor, " P"]


@dataclass(frozen=True)
class FixedDraw:
    """An estimator whose draw is given, so that both sides have the same."""

    estimator: Estimator
    given: Tensor

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        return self.given

    def __call__(self, rollout: Rollout, draw: Tensor, mask_id: int) -> ScoringPlan:
        return self.estimator(rollout, draw, mask_id)


def freeze_head_(denoiser: ModelDenoiser) -> ModelDenoiser:
    """Freeze embedding and head, as an adapter does, and return the denoiser."""
    denoiser.model.get_input_embeddings().requires_grad_(False)
    denoiser.model.get_output_embeddings().requires_grad_(False)
    return denoiser


def random_batch(vocabulary: int, prompts: int, group: int, prompt_length: int, length: int, block: int) -> Batch:
    """Return completions of random tokens, four committed at each call, with random advantages."""
    generator = torch.Generator().manual_seed(1)
    rows = prompts * group
    ids, visible = (x.repeat_interleave(group, dim=0) for x in random_prompts(vocabulary, [prompt_length] * prompts))
    order = torch.rand(rows, length // block, block, generator=generator).argsort(dim=2).argsort(dim=2)
    step = (order // 4 + torch.arange(length // block)[:, None] * (block // 4)).view(rows, length)
    zeros = torch.zeros(rows)
    is_scored = torch.ones(rows, length, dtype=torch.bool)
    rollout = Rollout(
        prompt_ids=ids,
        prompt_mask=visible,
        completion_ids=torch.randint(vocabulary - 1, (rows, length), generator=generator),
        unmask_step=step,
        is_answer=is_scored,
        is_drawn=is_scored,
        behaviour_logp=torch.zeros(rows, length),
        nfe=step.amax(dim=1) + 1,
        entropy_bound=zeros,
        entropy_bound_logp=zeros,
        prompt_features=torch.zeros(rows, 0),
        commit_logp=torch.zeros(rows, 0),
        commit_inputs=torch.zeros(rows, 0, length, 0),
    )
    advantage = torch.randn(rows, generator=generator)
    table = zeros.view(prompts, group)
    return Batch(rollout, table, table, table > 0, is_scored, advantage, advantage)


def gradient_of(denoiser: ModelDenoiser) -> Float[Tensor, " P"]:
    """Return the gradients of all parameters that have one, in one vector."""
    return torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None])


def loss_and_gradient(denoiser: ModelDenoiser, batch: Batch, logp: Callable[[], Float[Tensor, "B L"]]) -> Trained:
    """Take REINFORCE's loss of log-probabilities, with equal weight for each completion, and its gradient."""
    denoiser.model.zero_grad()
    found = logp()
    loss = -(batch.advantage[:, None] * found).mean()
    loss.backward()
    return Trained(found.detach(), float(loss.detach()), gradient_of(denoiser))


def plain_side(denoiser: ModelDenoiser, batch: Batch, boundary_step: Int[Tensor, " B"] | None = None) -> Trained:
    """Compute the mean-field loss, or with boundaries that of 2-MF, as public code does."""
    model, rollout = denoiser.model, batch.rollout
    given = (model, denoiser.mask_id, rollout.prompt_ids, rollout.prompt_mask, rollout.completion_ids)
    if boundary_step is None:
        return loss_and_gradient(denoiser, batch, lambda: mean_field_logp(*given, TEMPERATURE))
    return loss_and_gradient(
        denoiser, batch, lambda: two_times_mean_field_logp(*given, rollout.unmask_step, boundary_step, TEMPERATURE)
    )


def own_loss(denoiser: ModelDenoiser, batch: Batch) -> Trained:
    """Compute the loss with the likelihood that an update uses, and nothing else of the update."""
    estimator, rollout = MeanField(prompt_mask_rate=0.0), batch.rollout
    plan = estimator(rollout, torch.zeros_like(rollout.prompt_mask), denoiser.mask_id)
    return loss_and_gradient(
        denoiser,
        batch,
        lambda: conditionals(denoiser, plan, batch.is_scored).logp(rollout.completion_ids, TEMPERATURE),
    )


def own_update(denoiser: ModelDenoiser, batch: Batch, estimator: FixedDraw) -> Trained:
    """Run a whole `update_policy`, with a learning rate of 0, so that it can be repeated."""
    optimizer = torch.optim.SGD((p for p in denoiser.model.parameters() if p.requires_grad), lr=0.0)
    update = PolicyUpdate(
        estimator=estimator,
        objective=Reinforce(),
        loss_aggregation="sequence-mean",
        kl_coef=0.0,
        kl_estimator="k3",
        temperature=TEMPERATURE,
        num_iterations=1,
        redraw=False,
        micro_batch_size=None,
        grad_clip=1e9,
    )
    metrics = update_policy(denoiser, None, batch, update, optimizer, torch.Generator())
    return Trained(None, metrics["loss"], gradient_of(denoiser))


def body_side(denoiser: ModelDenoiser, batch: Batch) -> None:
    """Compute what both sides need: forward and backward passes through the blocks, without the head."""
    rollout = batch.rollout
    plan = MeanField(prompt_mask_rate=0.0)(rollout, torch.zeros_like(rollout.prompt_mask), denoiser.mask_id)
    is_completion = torch.arange(plan.canvas.shape[1]) >= rollout.prompt_ids.shape[1]
    denoiser.model.states(plan.canvas, plan.attention_mask, is_completion.expand(plan.canvas.shape)).sum().backward()


def difference(expected: Trained, found: Trained) -> str:
    """Return how losses, gradients and, where both have them, log-probabilities differ; empty where they agree."""
    gap = gap_difference("gradient", expected.gradient, found.gradient, TOLERANCE)
    gap = gap or gap_difference("loss", torch.tensor(expected.loss), torch.tensor(found.loss), TOLERANCE)
    if expected.logp is None or found.logp is None:
        return gap
    return gap or gap_difference("log-probability", expected.logp, found.logp, TOLERANCE)
