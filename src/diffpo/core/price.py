"""The price of denoiser calls, as users give it. Imports no torch."""

import math

from diffpo.core.errors import UserError


def check_price(price: object) -> None:
    """Raise UserError for a price that is negative or no number."""
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < math.inf:
        shown = f"{price:g}" if isinstance(price, float) else repr(price)
        raise UserError(f"price is {shown}; give a finite number from 0 up: what one call per token costs in accuracy")
