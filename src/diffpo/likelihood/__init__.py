"""Surrogate likelihoods: on which canvas is each completion token scored?

A masked diffusion model has no tractable sequence likelihood. An estimator replaces it by conditionals of single
tokens, and all that it decides is *on which canvases* each token is scored. So an estimator is a pure function from a
rollout and one random draw to a `ScoringPlan`, and one function scores any plan. The draw is made once per batch, so
the old, the new and the reference policy are scored on the same canvases. Equal canvases are computed once: all
completions of a prompt share the call on the fully masked completion. The mathematics: `docs/math.md`.
"""

from diffpo.likelihood.masks import Coupled, Elbo, Eubo
from diffpo.likelihood.sampled import SampledExact
from diffpo.likelihood.scoring import Conditionals, conditionals, surrogate_logp
from diffpo.likelihood.scoring_plan import Estimator, ScoringPlan, UpperBound
from diffpo.likelihood.trajectory import Exact, ManyTimesMeanField, MeanField, TwoTimesMeanField

__all__ = [
    "Conditionals",
    "Coupled",
    "Elbo",
    "Estimator",
    "Eubo",
    "Exact",
    "ManyTimesMeanField",
    "MeanField",
    "SampledExact",
    "ScoringPlan",
    "TwoTimesMeanField",
    "UpperBound",
    "conditionals",
    "surrogate_logp",
]
