"""What one step shows the denoiser, in canvases and their tokens, and the arithmetic of it."""

from dataclasses import dataclass

from diffpo.objective.base import Objective
from diffpo.recipes.parts import build_objective
from diffpo.recipes.tables import (
    CoupledEstimator,
    CustomEstimator,
    EstimatorRecipe,
    ExactEstimator,
    ManyTimesMeanFieldEstimator,
    MaskDraws,
    MeanFieldEstimator,
    RlRecipe,
    SftRecipe,
    TopKRule,
    TwoTimesMeanFieldEstimator,
)
from diffpo.runs.dry_run.size import Size


@dataclass(frozen=True)
class Work:
    """One step of all devices: rollouts (none in SFT) and updates."""

    completions: int
    tokens: int
    """Of a canvas."""
    length: int
    """Of a completion."""
    group: int
    """Completions that share a prompt."""
    calls: int
    """Of a completion's rollout: exact for fixed rules, at most this for adaptive ones; 0: no rollouts."""
    is_bound: bool
    canvases: float
    """That one pass of the update shows, for each completion."""
    passes: int
    """Over the update's canvases, forward: inner steps, the base, and the old policy where it is read by itself."""
    backward: int

    @property
    def rollout_tokens(self) -> float:
        """The first canvas is shown once for all completions of a prompt."""
        return self.completions * (self.calls - 1 + 1 / self.group) * self.tokens if self.calls else 0.0

    @property
    def pass_tokens(self) -> float:
        """Of one forward pass of the update."""
        return self.completions * self.canvases * self.tokens


def rl_work(recipe: RlRecipe, prompt_tokens: int) -> Work:
    length = recipe.task.completion_length
    rule = recipe.rollout.rule
    calls = -(-length // rule.k) if isinstance(rule, TopKRule) else length
    objective: Objective = build_objective(recipe.objective)
    is_cut = recipe.objective.micro_batch_size is not None and objective.requires != "none"
    steps = 0 if recipe.train == "controller" else recipe.objective.num_iterations
    return Work(
        completions=recipe.rollout.prompts_per_step * recipe.rollout.group_size,
        tokens=prompt_tokens + length,
        length=length,
        group=recipe.rollout.group_size,
        calls=calls,
        is_bound=not isinstance(rule, TopKRule),
        canvases=canvases_of(recipe.estimator, recipe.rollout.group_size, calls),
        passes=(steps + needs_reference(recipe) + is_cut) if steps else 0,
        backward=steps,
    )


def sft_work(recipe: SftRecipe, prompt_tokens: int) -> Work:
    tokens = recipe.sequence_length or prompt_tokens + recipe.task.completion_length
    return Work(recipe.batch, tokens, tokens - prompt_tokens, 1, 0, False, 1.0, 1, 1)


def needs_reference(recipe: RlRecipe) -> bool:
    return recipe.objective.kl_coef > 0 or build_objective(recipe.objective).requires != "none"


def canvases_of(estimator: EstimatorRecipe, group: int, calls: int) -> float:
    """Canvases that one pass shows for each completion; those that a group shares are counted once (docs/math.md)."""
    match estimator:
        case MeanFieldEstimator():
            return 1.0 if estimator.prompt_mask_rate > 0 else 1 / group
        case TwoTimesMeanFieldEstimator():
            return 1 + 1 / group
        case ManyTimesMeanFieldEstimator():
            return min(estimator.boundaries, calls) - 1 + 1 / group
        case ExactEstimator():
            return calls - 1 + 1 / group
        case CoupledEstimator():
            return 2.0 if estimator.weighting == "plain" else 2 + 1 / group
        case MaskDraws():
            return float(estimator.draws)
        case CustomEstimator():
            return 1.0  # what its class does is not known


def arithmetic(size: Size, work: Work, is_adapter: bool) -> float:
    """FLOPs of a step.

    Two operations for each weight and token, as many again for attention's products, twice that backwards. Backwards
    through an adapter the frozen matrices need no gradients of their own: once instead of twice.
    """
    per_token = 2 * size.body + 4 * size.layers * size.width * work.tokens
    head = 2 * size.width * size.vocabulary * work.length / work.tokens
    back = 1 if is_adapter else 2
    return (per_token + head) * (work.rollout_tokens + work.pass_tokens * (work.passes + back * work.backward))
