"""All draws of an estimator that samples the calls of a rollout."""

from itertools import pairwise

import torch
from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.likelihood import SampledExact


def every_draw(estimator: SampledExact, rollout: Rollout) -> list[tuple[float, Tensor]]:
    """Return every draw for a batch whose rows have one uniform number in common, with its probability.

    Between two numbers at which the sample of any row changes, all draws are the same.
    """
    first = int(estimator.first_call == "always")
    ends = estimator.reading_probability(rollout)[:, first:].cumsum(dim=1).remainder(1).flatten().tolist()
    cuts = sorted({0.0, 1.0, *ends})
    parts = [(high - low, (low + high) / 2) for low, high in pairwise(cuts) if high - low > 1e-9]
    rows = torch.ones(len(rollout))
    return [(size, estimator.call_weights(rollout, uniform * rows)) for size, uniform in parts]
