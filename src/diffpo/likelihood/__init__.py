"""Surrogate likelihoods: on which canvas is each completion token scored?

A masked diffusion model has no tractable sequence likelihood. An estimator replaces it by token conditionals, and all
it has to say is *on which canvases* each token's conditional is read. So an estimator is a pure function from a rollout
and one random draw to `ScoringPlan`; one function scores any views. The draw is made once per batch, so the old, the new and
the reference policy are read on the same canvases. Equal canvases are evaluated once: on the fully masked completion
all completions of a prompt share one denoiser call. The mathematics: `docs/math.md`.
"""

from diffpo.likelihood.masks import Coupled, Elbo, Eubo
from diffpo.likelihood.scoring import Conditionals, conditionals, surrogate_logp
from diffpo.likelihood.scoring_plan import Estimator, ScoringPlan, UpperBound
from diffpo.likelihood.trajectory import Exact, ManyTimesMeanField, MeanField, TwoTimesMeanField
from diffpo.models.denoiser_output import DenoiserOutput, HiddenStates, Logits, predict

__all__ = [
    "Conditionals",
    "Coupled",
    "DenoiserOutput",
    "Elbo",
    "Estimator",
    "Eubo",
    "Exact",
    "HiddenStates",
    "Logits",
    "ManyTimesMeanField",
    "MeanField",
    "ScoringPlan",
    "TwoTimesMeanField",
    "UpperBound",
    "conditionals",
    "predict",
    "surrogate_logp",
]
