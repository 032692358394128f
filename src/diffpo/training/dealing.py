"""Which groups of a batch each process draws, so that none has much more to compute than the others."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def dealt_evenly(cost: Float[Tensor, " Q"], size: int) -> Int[Tensor, " Q"]:
    """Return an order of Q groups whose equal slices, one for each of `size` processes, have nearly equal costs.

    The groups are sorted by what they are expected to cost and dealt forth and back, so only their ranks matter. Q must
    be a multiple of `size`.
    """
    turn = torch.arange(len(cost))
    lap, place = turn // size, turn % size
    process = torch.where(lap % 2 == 0, place, size - 1 - place)
    return cost.argsort(descending=True, stable=True).cpu()[process.argsort(stable=True)]
