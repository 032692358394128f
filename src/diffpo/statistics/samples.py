"""Figures of one sample: how many equal weights it is worth, and the chance that one of k completions is right."""

import math

import numpy as np
from jaxtyping import Shaped


def effective_sample_size(weights: Shaped[np.ndarray, " n"]) -> float:
    """Return Kish's (sum w)^2 / sum w^2, from 1 (one weight has it all) to n (all equal); 0 if every weight is 0."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that one of k completions is right, drawn without replacement from n of which c are right.

    It is 1 - C(n - c, k) / C(n, k), unbiased for 1 - (1 - p)^k (Chen et al., arXiv 2107.03374). Raises ValueError
    unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n} c={c} k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)
