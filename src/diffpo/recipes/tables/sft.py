"""The recipe of supervised fine-tuning: `diffpo sft`."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.budget import CheckpointRecipe
from diffpo.recipes.tables.device import DeviceSettings
from diffpo.recipes.tables.fields import Count, Duration, Location, NonNegative, Positive, Seed
from diffpo.recipes.tables.optimizer import LoraRecipe, PolicyOptimizerRecipe
from diffpo.recipes.tables.parallel import ParallelRecipe
from diffpo.recipes.tables.tasks import SudokuTask, TaskRecipe, grading_problems
from diffpo.recipes.tables.tracking import Track, tracking_problems

MOST_WEIGHTS = 10**9
"""Of a model made here: 16 GB with its gradients and moments."""


class TinyModel(Strict):
    """A fresh model, where there is no `base`: LLaDA's architecture at any size, the task's alphabet as vocabulary."""

    d_model: Annotated[int, Field(ge=1, le=2**16)] = 128
    """Width of the hidden states."""
    n_layers: Annotated[int, Field(ge=1, le=1000)] = 4
    """Blocks of attention and MLP."""
    n_heads: Count = 4
    """Attention heads, which divide `d_model`."""
    mlp_hidden_size: Count = 352
    """Width of the MLP inside a block."""
    rope_theta: Positive = 100.0
    """How slowly rotary positions turn. The published 500000 is for thousands of positions; over tens it turns too
    slowly to tell them apart."""

    def problems(self) -> Iterable[str]:
        weights = self.n_layers * self.d_model * (4 * self.d_model + 3 * self.mlp_hidden_size)
        if weights > MOST_WEIGHTS:
            yield f"d_model, n_layers and mlp_hidden_size are {weights:.2g} weights, above {MOST_WEIGHTS:g}; lower one"
        if self.d_model % self.n_heads:
            yield f"d_model {self.d_model} is no multiple of n_heads {self.n_heads}; change one of them"
        elif self.d_model // self.n_heads % 2:
            yield f"d_model / n_heads is {self.d_model // self.n_heads}, but rotary positions need an even number"


class EarlyStopping(Strict):
    """End SFT at the first check where the model solves this share of validation problems, greedily."""

    accuracy: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of problems at which it ends."""
    bound: NonNegative = 0.0
    """The entropy bound of the checks; 0: one token per call. Fewer calls are quicker checks, and a stricter test."""
    problems_per_check: Count = 128
    """Validation problems of a check."""
    start: Annotated[int, Field(ge=0, le=2**53)] = 0
    """The step of the first check."""
    every: Duration = 10
    """Steps from one check to the next."""


class SftRecipe(DeviceSettings):
    """Supervised fine-tuning: the denoiser learns the answers of train problems, partly masked."""

    seed: Seed = 0
    """Of all that is random in the run."""
    base: Location | None = None
    """Model to start from, as in RL; not set: a fresh one of `model`'s size."""
    lora: LoraRecipe | None = None
    """What is trained in place of the whole model. Not set: the whole model is."""
    task: TaskRecipe = SudokuTask()
    """Where problems and their answers come from."""
    model: TinyModel = TinyModel()
    sequence_length: Count | None = None
    """Tokens of a prompt with its completion; not set: a prompt, then a canvas of `task.completion_length`."""
    too_long: Literal["cut", "skip"] = "cut"
    """What becomes of an answer for which `sequence_length` has no room: cut off at its end, or left out."""
    batch: Count = 128
    """Rows of an optimiser step."""
    micro_batch_size: Count | None = None
    """Rows of one forward and backward pass; not set: the whole batch."""
    steps: Duration = 400
    """Optimiser steps, at most; `early_stopping` may end the run before."""
    weighting: Literal["elbo", "uniform"] = "elbo"
    """Weight of a masked token: L / (masked tokens of its row), as in d1 and LLaDA, or the same for all."""
    early_stopping: EarlyStopping | None = None
    """When to end before `steps`. Not set: never."""
    optimizer: PolicyOptimizerRecipe = PolicyOptimizerRecipe(lr=1e-3, warmup=20)
    """How the model's weights are changed."""
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    parallel: ParallelRecipe = ParallelRecipe()
    track: Track = ()
    """As in RL."""

    def problems(self) -> Iterable[str]:
        yield from tracking_problems(self.track)
        if self.lora is not None and self.base is None:
            yield "lora adapts a model that is there, and without base there is none; set base, or leave lora out"
        if self.early_stopping is not None:
            yield from grading_problems("early_stopping", self.task)
        if self.sequence_length is None and self.too_long != "cut":
            yield "too_long is about sequence_length, which is not given; set it, or leave too_long out"
        if self.sequence_length is not None and getattr(self.task, "max_prompt_tokens", None) is not None:
            yield "sequence_length limits prompts by itself; leave task.max_prompt_tokens out"
