"""Objectives: from token log-probabilities and rewards to a loss for each token.

An objective answers two questions. `credit`: how much does each completion count, and with which sign? That is asked of
whole groups, before a batch is cut into micro-batches. Calling it: what is the loss of each token, given that credit?
Some credits are made of the completions' likelihoods; `requires` says which. The mathematics: `docs/math.md`.
"""

from diffpo.objective.base import Credit, Groups, Objective, PolicyLoss, token_weights
from diffpo.objective.clipped import ClippedSurrogate, clipped_loss
from diffpo.objective.diagnostics import PUSHES_DOWN, group_weight_metrics, pushes_down, token_weight_metrics
from diffpo.objective.dmpo import DistributionMatching, Target, Wddo, effective_share, proximal_step
from diffpo.objective.policy_gradient import Reinforce, WeightedLikelihood

__all__ = [
    "PUSHES_DOWN",
    "ClippedSurrogate",
    "Credit",
    "DistributionMatching",
    "Groups",
    "Objective",
    "PolicyLoss",
    "Reinforce",
    "Target",
    "Wddo",
    "WeightedLikelihood",
    "clipped_loss",
    "effective_share",
    "group_weight_metrics",
    "proximal_step",
    "pushes_down",
    "token_weight_metrics",
    "token_weights",
]
