"""Count the canvases and tokens that the denoiser computes in one step, and the arithmetic that it takes."""

from dataclasses import dataclass

from diffpo.objective.base import Objective, needs_old_logp
from diffpo.recipes.parts import build_objective, needs_reference
from diffpo.recipes.tables import (
    CoupledEstimator,
    CreditRecipe,
    CustomEstimator,
    EstimatorRecipe,
    ExactEstimator,
    ExpertIterationObjective,
    LeftmostRule,
    ManyTimesMeanFieldEstimator,
    MaskDraws,
    MeanFieldEstimator,
    ObjectiveRecipe,
    RlRecipe,
    SampledExactEstimator,
    SftRecipe,
    TopKRule,
    TwoTimesMeanFieldEstimator,
)
from diffpo.runs.dry_run.size import Size


@dataclass(frozen=True)
class Work:
    """The work of one step on all devices together: rollouts (none in SFT) and updates."""

    completions: int
    tokens: int
    """Tokens of a canvas."""
    length: int
    """Tokens of a completion."""
    group_size: int
    """Completions that share a prompt."""
    calls: int
    """Denoiser calls of a completion's rollout; 0 without rollouts."""
    is_bound: bool
    """Whether `calls` is a bound, as for an adaptive rule, and not exact."""
    updated: int
    """Completions of one pass of the update."""
    canvases: float
    """Canvases of one pass of the update, for each of its completions."""
    passes: int
    """Forward passes over the update's canvases: one for each iteration, and for the reference and the old policy where
    they need one of their own."""
    backward: int
    """Backward passes over them."""

    @property
    def rollout_tokens(self) -> float:
        """Tokens of all rollout calls; the first canvas is computed once for all completions of a prompt."""
        return self.completions * (self.calls - 1 + 1 / self.group_size) * self.tokens if self.calls else 0.0

    @property
    def pass_tokens(self) -> float:
        """Tokens of one forward pass of the update."""
        return self.updated * self.canvases * self.tokens


def rl_work(recipe: RlRecipe, prompt_tokens: int) -> Work:
    """Return the work of one step of reinforcement learning with prompts of so many tokens."""
    length = recipe.task.completion_length
    rule = recipe.rollout.rule
    per_call = rule.k if isinstance(rule, TopKRule | LeftmostRule) else None
    calls = -(-length // (per_call or 1))
    settings, completions = recipe.objective, recipe.rollout.prompts_per_step * recipe.rollout.group_size
    steps = 0 if recipe.train == "controller" else settings.num_iterations
    per_completion, passes, updated = 1.0, steps, completions
    if isinstance(settings, ExpertIterationObjective):
        updated = settings.batch
    else:
        per_completion = canvases_of(recipe.estimator, recipe.rollout.group_size, calls)
        passes = forward_passes(settings, steps)
    return Work(
        completions=completions,
        tokens=prompt_tokens + length,
        length=length,
        group_size=recipe.rollout.group_size,
        calls=calls,
        is_bound=per_call is None,
        updated=updated,
        canvases=per_completion,
        passes=passes,
        backward=steps,
    )


def forward_passes(recipe: CreditRecipe, steps: int) -> int:
    """Return the forward passes over an update's canvases: of the policy, of the reference, of the old policy."""
    if not steps:
        return 0
    objective: Objective = build_objective(recipe)
    is_split = recipe.micro_batch_size is not None and objective.requires != "none"
    draws = steps if recipe.redraw else 1
    old = draws - 1 if needs_old_logp(objective) else 0
    return steps + needs_reference(recipe, objective) * draws + old + is_split


def sft_work(recipe: SftRecipe, prompt_tokens: int) -> Work:
    """Return the work of one step of supervised fine-tuning with prompts of so many tokens."""
    tokens = recipe.sequence_length or prompt_tokens + recipe.task.completion_length
    return Work(
        completions=recipe.batch,
        updated=recipe.batch,
        tokens=tokens,
        length=tokens - prompt_tokens,
        group_size=1,
        calls=0,
        is_bound=False,
        canvases=1.0,
        passes=1,
        backward=1,
    )


def has_reference(recipe: ObjectiveRecipe) -> bool:
    """Return whether a run with this objective has a reference."""
    return not isinstance(recipe, ExpertIterationObjective) and needs_reference(recipe, build_objective(recipe))


def canvases_of(estimator: EstimatorRecipe, group_size: int, calls: int) -> float:
    """Return the canvases of one pass for each completion, counting those that a group shares once (docs/math.md)."""
    match estimator:
        case MeanFieldEstimator():
            return 1.0 if estimator.prompt_mask_rate > 0 else 1 / group_size
        case TwoTimesMeanFieldEstimator():
            return 1 + 1 / group_size
        case ManyTimesMeanFieldEstimator():
            return min(estimator.boundaries, calls) - 1 + 1 / group_size
        case ExactEstimator():
            return calls - 1 + 1 / group_size
        case SampledExactEstimator():
            if estimator.first_call == "always":
                return min(estimator.draws, calls - 1) + 1 / group_size
            return float(min(estimator.draws, calls))
        case CoupledEstimator():
            return 2.0 if estimator.weighting == "plain" else 2 + 1 / group_size
        case MaskDraws():
            return float(estimator.draws)
        case CustomEstimator():
            return 1.0  # what its class does is not known


def arithmetic(size: Size, work: Work, is_adapter: bool) -> float:
    """Return the floating-point operations of a step.

    A forward pass takes two for each weight and token, and those of attention's products; a backward pass takes twice
    as many, but once as many with an adapter, since the frozen matrices need no gradients of their own.
    """
    per_token = 2 * size.block_weights + 4 * size.layers * size.width * work.tokens
    head = 2 * size.width * size.vocabulary * work.length / work.tokens
    back = 1 if is_adapter else 2
    return (per_token + head) * (work.rollout_tokens + work.pass_tokens * (work.passes + back * work.backward))
