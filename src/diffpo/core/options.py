"""The values of options that both recipes and parts use, defined once and without torch."""

from typing import Literal

SampledKl = Literal["k1", "k2", "k3"]
KlEstimator = Literal["full", "k1", "k2", "k3"]
CacheKind = Literal["none", "prefix", "dual"]
BoundFeatures = Literal["entropy", "hidden"]
Tail = Literal["shown", "hidden"]
CallProposal = Literal["gradient", "surprisal", "uniform"]
FirstCall = Literal["always", "drawn"]
ScoredTokens = Literal["to-stop", "drawn"]
LossAggregation = Literal["sequence-mean", "token-mean"]
