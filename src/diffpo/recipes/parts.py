"""The one place where a recipe's `kind` becomes a part; `task_of` is in `recipes/tasks.py`, which needs no torch."""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from diffpo.likelihood import Coupled, Elbo, Estimator, Eubo, Exact, ManyTimesMeanField, MeanField, TwoTimesMeanField
from diffpo.objective import (
    ClippedSurrogate,
    DistributionMatching,
    Objective,
    Reinforce,
    Target,
    Wddo,
    WeightedLikelihood,
    advantages,
)
from diffpo.recipes import schema
from diffpo.recipes.tasks import task_of as task_of
from diffpo.sampling.rules import ConfidenceThreshold, EntropyBound, LowConfidence, Rule, TopK

ADVANTAGES: Mapping[schema.AdvantageKind, Callable[[Float[Tensor, "Q G"]], Float[Tensor, "Q G"]]] = {
    "group-centered": advantages.group_centered,
    "group-std": advantages.group_standardized,
    "batch-std": advantages.batch_standardized,
    "leave-one-out": advantages.leave_one_out,
}


def rule_of(recipe: schema.RuleRecipe) -> Rule:
    match recipe:
        case schema.EntropyBoundRule():
            return EntropyBound(recipe.bound, recipe.subtract_max)
        case schema.ConfidenceRule():
            return ConfidenceThreshold(recipe.threshold)
        case schema.TopKRule():
            return TopK(recipe.k)
        case schema.LowConfidenceRule():
            return LowConfidence(recipe.k)


def estimator_of(recipe: schema.EstimatorRecipe) -> Estimator:
    match recipe:
        case schema.MeanFieldEstimator():
            return MeanField(recipe.prompt_mask_rate)
        case schema.TwoTimesMeanFieldEstimator():
            return TwoTimesMeanField()
        case schema.ManyTimesMeanFieldEstimator():
            return ManyTimesMeanField(recipe.boundaries)
        case schema.ExactEstimator():
            return Exact()
        case schema.CoupledEstimator():
            return Coupled(recipe.min_rate, recipe.max_rate, recipe.weighting)
        case schema.EuboEstimator():
            return Eubo(recipe.draws, recipe.antithetic, recipe.beta, recipe.mix)
        case schema.ElboEstimator():
            return Elbo(recipe.draws, recipe.antithetic)


def objective_of(recipe: schema.ObjectiveRecipe) -> Objective:
    match recipe:
        case schema.ClippedSurrogateObjective():
            return ClippedSurrogate(recipe.clip, recipe.importance_cap, recipe.importance_floor, recipe.importance_on)
        case schema.ReinforceObjective():
            return Reinforce()
        case schema.WeightedLikelihoodObjective():
            return WeightedLikelihood(recipe.psi)
        case schema.DistributionMatchingObjective():
            return DistributionMatching(_target_of(recipe), recipe.baseline)
        case schema.WddoObjective():
            return Wddo(_target_of(recipe), recipe.beta, recipe.fake)


def _target_of(recipe: schema.TargetSettings) -> Target:
    return Target(recipe.alpha, recipe.proximal, recipe.min_ess)
