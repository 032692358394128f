"""A model of full size with random weights, what it is given, and an update of an adapter on it.

A model is made for each measurement, since neither a compiled block nor an adapter can be taken off it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from diffpo.bench.flops import adapter_update_flops, two_times_canvases
from diffpo.bench.shapes import BLOCK, random_model, random_prompts
from diffpo.bench.update_sides import FixedDraw, random_batch
from diffpo.core.rollout import Rollout
from diffpo.likelihood import TwoTimesMeanField
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.llada import LLaDAConfig
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_objective
from diffpo.recipes.tables import DeviceSettings, ExpertIterationObjective, RlRecipe
from diffpo.runs.device import configure_model_, resolve_device
from diffpo.runs.dry_run.size import LLADA_8B
from diffpo.runs.optimizer import Optimizer, policy_optimizer
from diffpo.training.policy_update import update_policy
from diffpo.training.rollouts import Batch
from diffpo.training.update_settings import PolicyUpdate

RECIPE = "diffpo+llada-8b+gsm8k+1gpu"
TEMPERATURE = 0.9


@dataclass(frozen=True)
class FullSize:
    """The shape of the model and of what it is given; lengths are in tokens."""

    shape: Mapping[str, int]
    """Fields of the model's config."""
    device: torch.device
    dtype: str
    rows: int
    """Completions that are drawn at a time."""
    prompt: int
    length: int
    """Of a completion; a multiple of the benchmarks' blocks."""
    per_call: int
    """Tokens that a call commits, so that the number of calls is known."""
    group: int
    """Completions of each of the two prompts of an update, and of a micro-batch."""
    rank: int
    step_length: int
    """Of a completion of the whole step, which commits one token a call."""
    rounds: int = 3

    @property
    def config(self) -> LLaDAConfig:
        return LLaDAConfig(**self.shape, rope_theta=5e5, max_sequence_length=4096, initializer_range=0.02)

    def recipe(self, *overrides: str) -> RlRecipe:
        """Return DiFFPO's recipe for one GPU with two prompts a step, in this size."""
        own = [
            f"device={self.device.type}",
            f"dtype={self.dtype}",
            f"lora.rank={self.rank}",
            "rollout.prompts_per_step=2",
            f"rollout.group_size={self.group}",
            f"objective.micro_batch_size={self.group}",
            f"task.completion_length={self.length}",
        ]
        return load_recipe(RlRecipe, RECIPE, [*own, *overrides])

    def denoiser(self, **settings: Any) -> ModelDenoiser:
        """Return a denoiser with a new random model. `settings` are fields of `DeviceSettings`.

        Raises UserError for kernels or a compiler that are not there.
        """
        chosen = load_recipe(DeviceSettings, None, [f"device={self.device.type}", f"dtype={self.dtype}"])
        chosen = chosen.model_copy(update=settings)
        dtype, device = resolve_device(chosen)
        model = random_model(self.config, dtype, device)
        return configure_model_(ModelDenoiser(model, self.config.vocab_size - 1, ()), chosen)

    def prompts(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Return random prompts of one length, and that all of their tokens are visible."""
        ids, visible = random_prompts(self.config.vocab_size, [length] * rows)
        return ids.to(self.device), visible.to(self.device)


def on_gpu(layers: int | None = None) -> FullSize:
    """Return LLaDA-8B's size, or that of its first `layers` blocks, with an adapter as published recipes have it."""
    shape = LLADA_8B | ({} if layers is None else {"n_layers": layers})
    return FullSize(shape, torch.device("cuda"), "bfloat16", 16, 128, 256, 8, 6, 128, 128)


def on_cpu(layers: int | None = None) -> FullSize:
    """Return a size that a CPU measures in seconds, with the same code: its head is one that keeps no logits."""
    shape = {"d_model": 64, "n_layers": layers or 2, "n_heads": 4, "mlp_hidden_size": 128, "vocab_size": 4608}
    return FullSize(shape, torch.device("cpu"), "float32", 2, 32, 64, 8, 2, 4, 32, rounds=1)


@dataclass(frozen=True)
class AdapterUpdate:
    """An update of an adapter on completions of random tokens, by DiFFPO's estimator and objective, without KL."""

    denoiser: ModelDenoiser
    optimizer: Optimizer
    batch: Batch
    settings: PolicyUpdate
    boundary_step: Tensor

    @classmethod
    def prepare(cls, size: FullSize, recipe: RlRecipe, denoiser: ModelDenoiser) -> "AdapterUpdate":
        """Put the recipe's adapter on the model, and make the optimiser and the batch."""
        assert recipe.lora is not None and not isinstance(recipe.objective, ExpertIterationObjective)
        add_adapter(denoiser, recipe.lora.rank, recipe.lora.alpha, seed=0)
        batch = random_batch(size.config.vocab_size, 2, size.group, size.prompt, size.length, BLOCK)
        boundary_step = TwoTimesMeanField().draw(batch.rollout, torch.Generator().manual_seed(2))
        settings = PolicyUpdate(
            estimator=FixedDraw(TwoTimesMeanField(), boundary_step),
            objective=build_objective(recipe.objective),
            loss_aggregation=recipe.objective.loss_aggregation,
            kl_coef=0.0,
            kl_estimator="k3",
            temperature=TEMPERATURE,
            num_iterations=1,
            redraw=False,
            micro_batch_size=recipe.objective.micro_batch_size,
            grad_clip=recipe.optimizer.grad_clip,
        )
        optimizer = policy_optimizer(denoiser.model, recipe.optimizer)
        return cls(denoiser, optimizer, batch_on(batch, size.device), settings, boundary_step)

    def __call__(self) -> None:
        update_policy(self.denoiser, None, self.batch, self.settings, self.optimizer, torch.Generator())

    def flops(self, rank: int) -> float:
        """Return the FLOP that it needs with an adapter of this rank."""
        rollout, group = self.batch.rollout, self.batch.reward.shape[1]
        micro_batch_size = self.settings.micro_batch_size or len(rollout)
        parts = two_times_canvases(rollout, self.boundary_step, group, micro_batch_size)
        return sum(adapter_update_flops(self.denoiser.model.config, part, rank) for part in parts)


def batch_on(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with all of its tensors on the device."""
    return replace(batch, rollout=Rollout(**_tensors_on(batch.rollout, device)), **_tensors_on(batch, device))


def _tensors_on(record: Any, device: torch.device) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
