"""Quantiles of Student's t distribution, for any degrees of freedom of at least 1."""

import math
from functools import lru_cache

import numpy as np

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
NEWTON_STEPS = 12


@lru_cache(maxsize=4096)
def student_quantile(degrees_of_freedom: int | float) -> float:
    """Return t with P(|T| <= t) = 0.95 for Student's T; 1.96 in the limit. Raises ValueError below 1 degree of freedom.

    With t = sqrt(v) tan(x) the density of |T| is proportional to cos(x)^(v - 1) on [0, pi / 2], which is smooth enough
    for one Gauss rule. It falls, so that Newton's steps from the normal quantile, which is too small, never go too far.
    """
    v = degrees_of_freedom
    if not v >= 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {degrees_of_freedom}")
    whole = math.exp(math.lgamma(0.5) + math.lgamma(v / 2) - math.lgamma((v + 1) / 2)) / 2
    x = math.atan(1.9599 / math.sqrt(v))
    for _ in range(NEWTON_STEPS):
        inside = x / 2 * float(WEIGHTS @ np.cos((NODES + 1) * x / 2) ** (v - 1)) / whole
        x += (0.95 - inside) * whole / math.cos(x) ** (v - 1)
    return math.sqrt(v) * math.tan(x)
