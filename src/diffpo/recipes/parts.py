"""The one file in which a `kind` becomes a part; tasks do in `recipes/tasks.py`, which needs no torch.

A run builds each part once.
"""

from collections.abc import Callable, Mapping

from diffpo.likelihood import (
    Coupled,
    Elbo,
    Estimator,
    Eubo,
    Exact,
    ManyTimesMeanField,
    MeanField,
    SampledExact,
    TwoTimesMeanField,
)
from diffpo.objective.advantages import ADVANTAGES, Advantage
from diffpo.objective.base import Objective
from diffpo.objective.clipped import ClippedSurrogate
from diffpo.objective.dmpo import DistributionMatching, Wddo
from diffpo.objective.policy_gradient import Reinforce, WeightedLikelihood
from diffpo.recipes.build import build_part
from diffpo.recipes.custom import load_function
from diffpo.recipes.tables import (
    AdvantageRecipe,
    CreditRecipe,
    CustomAdvantage,
    EstimatorRecipe,
    RuleRecipe,
)
from diffpo.recipes.tasks import build_task as build_task
from diffpo.sampling.rules import (
    CappedSum,
    ConfidenceThreshold,
    EntropyBound,
    Leftmost,
    LowConfidence,
    Margin,
    Rule,
    TopK,
)

RULES: Mapping[str, Callable[..., Rule]] = {
    "entropy-bound": EntropyBound,
    "capped-sum": CappedSum,
    "confidence": ConfidenceThreshold,
    "margin": Margin,
    "leftmost": Leftmost,
    "top-k": TopK,
    "low-confidence": LowConfidence,
}
ESTIMATORS: Mapping[str, Callable[..., Estimator]] = {
    "mean-field": MeanField,
    "two-times-mean-field": TwoTimesMeanField,
    "many-times-mean-field": ManyTimesMeanField,
    "exact": Exact,
    "sampled-exact": SampledExact,
    "coupled": Coupled,
    "elbo": Elbo,
    "eubo": Eubo,
}
OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "clipped-surrogate": ClippedSurrogate,
    "reinforce": Reinforce,
    "weighted-likelihood": WeightedLikelihood,
    "distribution-matching": DistributionMatching,
    "wddo": Wddo,
}


def build_rule(recipe: RuleRecipe) -> Rule:
    rule: Rule = build_part(RULES, recipe)
    return rule


def build_estimator(recipe: EstimatorRecipe) -> Estimator:
    estimator: Estimator = build_part(ESTIMATORS, recipe)
    return estimator


def build_objective(recipe: CreditRecipe) -> Objective:
    objective: Objective = build_part(OBJECTIVES, recipe)
    return objective


def needs_reference(recipe: CreditRecipe, objective: Objective) -> bool:
    """Return whether a KL term or the objective's target needs the reference."""
    return recipe.kl_coef > 0 or objective.requires != "none"


def build_advantage(recipe: AdvantageRecipe) -> Advantage:
    if isinstance(recipe, str):
        return ADVANTAGES[recipe] if recipe in ADVANTAGES else load_function(recipe, CustomAdvantage)
    advantage: Advantage = build_part({}, recipe)
    return advantage
