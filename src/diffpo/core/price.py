"""The price of denoiser calls, as users give it. Imports no torch."""

import math

from diffpo.core.errors import UserError


def check_price(price: float) -> None:
    """Raise UserError for a price that is negative or no number."""
    if not 0 <= price < math.inf:
        raise UserError(
            f"price is {price:g}; give a finite number from 0 up: what one call per token costs in accuracy"
        )
