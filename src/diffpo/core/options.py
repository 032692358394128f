"""The values of options that both recipes and parts use, defined once and without torch."""

from typing import Literal

Resume = bool | Literal["auto"]
"""Whether to go on with the run in a folder; auto: if it holds one."""
SampledKl = Literal["k1", "k2", "k3"]
KlEstimator = Literal["full", "k1", "k2", "k3"]
CacheKind = Literal["none", "prefix", "dual"]
BoundFeatures = Literal["entropy", "hidden"]
CommitPolicyKind = Literal["confidence-policy", "planner"]
BoundSharing = Literal["batch", "prompt", "completion"]
Tail = Literal["shown", "hidden"]
CallProposal = Literal["gradient", "surprisal", "uniform"]
FirstCall = Literal["always", "drawn"]
ScoredTokens = Literal["to-stop", "drawn"]
LossAggregation = Literal["sequence-mean", "token-mean"]

DENSE_BOUNDS = (
    *(0.0, 0.001, 0.003),
    *(0.01, 0.014, 0.02, 0.03, 0.04, 0.05, 0.07),
    *(0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.7),
    *(1.0, 2.0, 3.0, 5.0, 10.0),
)
"""The entropy bounds, in nats, at which every frontier is measured unless a recipe says otherwise: 0, then from .001 to
10 by nearly constant ratios, 1.25 to 1.5 where frontiers bend (.01 to 1) and up to 3.3 elsewhere. A learned sampler
looks good against a coarse grid."""
