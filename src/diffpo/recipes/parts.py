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
from diffpo.recipes import tables
from diffpo.recipes.tasks import task_of as task_of
from diffpo.sampling.rules import ConfidenceThreshold, EntropyBound, LowConfidence, Rule, TopK

ADVANTAGES: Mapping[tables.AdvantageKind, Callable[[Float[Tensor, "Q G"]], Float[Tensor, "Q G"]]] = {
    "group-centered": advantages.group_centered,
    "group-std": advantages.group_standardized,
    "batch-std": advantages.batch_standardized,
    "leave-one-out": advantages.leave_one_out,
}


def rule_of(recipe: tables.RuleRecipe) -> Rule:
    match recipe:
        case tables.EntropyBoundRule():
            return EntropyBound(recipe.bound, recipe.subtract_max)
        case tables.ConfidenceRule():
            return ConfidenceThreshold(recipe.threshold)
        case tables.TopKRule():
            return TopK(recipe.k)
        case tables.LowConfidenceRule():
            return LowConfidence(recipe.k)


def estimator_of(recipe: tables.EstimatorRecipe) -> Estimator:
    match recipe:
        case tables.MeanFieldEstimator():
            return MeanField(recipe.prompt_mask_rate)
        case tables.TwoTimesMeanFieldEstimator():
            return TwoTimesMeanField()
        case tables.ManyTimesMeanFieldEstimator():
            return ManyTimesMeanField(recipe.boundaries)
        case tables.ExactEstimator():
            return Exact()
        case tables.CoupledEstimator():
            return Coupled(recipe.min_rate, recipe.max_rate, recipe.weighting)
        case tables.EuboEstimator():
            return Eubo(recipe.draws, recipe.antithetic, recipe.beta, recipe.mix)
        case tables.ElboEstimator():
            return Elbo(recipe.draws, recipe.antithetic)


def objective_of(recipe: tables.ObjectiveRecipe) -> Objective:
    match recipe:
        case tables.ClippedSurrogateObjective():
            return ClippedSurrogate(recipe.clip, recipe.importance_cap, recipe.importance_floor, recipe.importance_on)
        case tables.ReinforceObjective():
            return Reinforce()
        case tables.WeightedLikelihoodObjective():
            return WeightedLikelihood(recipe.psi)
        case tables.DistributionMatchingObjective():
            return DistributionMatching(_target_of(recipe), recipe.baseline)
        case tables.WddoObjective():
            return Wddo(_target_of(recipe), recipe.beta, recipe.fake)


def _target_of(recipe: tables.TargetSettings) -> Target:
    return Target(recipe.alpha, recipe.proximal, recipe.min_ess)
