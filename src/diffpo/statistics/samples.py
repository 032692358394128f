"""The size of a weighted sample."""

import numpy as np
from jaxtyping import Shaped


def effective_sample_size(weights: Shaped[np.ndarray, " n"]) -> float:
    """Return Kish's (sum w)^2 / sum w^2, from 1 (one weight has it all) to n (all equal); 0 if every weight is 0."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
