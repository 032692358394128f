"""The part of a record that is of a sampler with prices: its whole frontier, and what each price buys.

Rules were chosen on validation problems when the sampler was fitted, so that its points here are not the best of many.
The fixed bounds that it is compared with are all that were measured, the best of them on these very problems.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from diffpo.evaluation.loop import Outcome
from diffpo.evaluation.points import point_with_rows
from diffpo.evaluation.validated import PRICES, Outcomes
from diffpo.sampling.prices import PricedSampler
from diffpo.statistics.choice import Measured, measure
from diffpo.statistics.frontier import staircase_area


def price_curve(test: Outcomes, sampler: PricedSampler, length: int) -> dict[str, Any]:
    """Return a point for each rule that the sampler uses, cheapest first, the prices, and the areas."""
    family_of = {candidate.name: candidate.family for candidate in sampler.candidates}
    points = [
        point_with_rows(outcome, None, test.clusters) | {"kind": family_of[outcome.name]} for outcome in test.front
    ]

    def area(outcomes: Sequence[Outcome]) -> Measured:
        solved, nfe = (
            np.stack(columns, axis=1)
            for columns in zip(*((outcome.is_solved, outcome.nfe) for outcome in outcomes), strict=True)
        )
        return measure(partial(staircase_area, hi=length), solved, nfe, test.clusters)

    ours, count = area(test.front), len(test.problems)
    gain = ours - area(test.fixed)
    return {
        "points": points,
        "prices": [{"price": price, "rule": sampler.best(price).name} for price in PRICES],
        "area": {"value": ours.value, "ci95": ours.interval_of_share(count)},
        "area_gain": {"value": gain.value, "ci95": gain.interval_of_difference(count)},
    }
