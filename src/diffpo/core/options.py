"""Options that recipes name and parts understand: stated once, without torch."""

from typing import Literal

SampledKl = Literal["k1", "k2", "k3"]
KlEstimator = Literal["full", "k1", "k2", "k3"]
CacheKind = Literal["none", "prefix", "dual"]
LossAggregation = Literal["sequence-mean", "token-mean"]
