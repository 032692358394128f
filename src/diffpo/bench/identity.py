"""Do two sides do the same? Equal tokens at temperature 0; above it, draws from the reference's own distribution."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CELLS = 16
LEAST_P = 1e-4
"""The p-value below which a chi-square test counts as failed: how often it fails where nothing differs."""


def token_difference(
    expected: Int[Tensor, "B L"], found: Int[Tensor, "B L"], counts: Bool[Tensor, "B L"] | None = None
) -> str:
    """Return how tokens differ where `counts` is True (everywhere without it); empty where they are equal."""
    differs = expected != found
    if counts is not None:
        differs &= counts
    if not differs.any():
        return ""
    row, position = differs.nonzero()[0].tolist()
    count = f"{int(differs.sum())} of {differs.numel()}"
    return f"{count} tokens differ at temperature 0, the first in row {row} at position {position}"


def distribution_difference(logits: Float[Tensor, "L V"], drawn: Int[Tensor, "R L"], temperature: float) -> str:
    """Test R draws at each of L positions against softmax(logits / temperature); empty where they pass Pearson's test.

    The vocabulary of each position is cut into cells of about equal probability, from the likeliest token down.
    """
    probability = (logits.double() / temperature).softmax(dim=-1)
    ranked, order = probability.sort(dim=-1, descending=True)
    cell = ((ranked.cumsum(-1) - ranked / 2) * CELLS).long().clamp(max=CELLS - 1)
    expected = torch.zeros(CELLS, dtype=torch.float64).scatter_add(0, cell.flatten(), ranked.flatten()) * len(drawn)
    cell_of = torch.empty_like(cell).scatter(1, order, cell)
    seen = cell_of.T.gather(0, drawn).flatten().bincount(minlength=CELLS)
    p = chi_square_p(seen.tolist(), expected.tolist())
    if p >= LEAST_P:
        return ""
    return f"draws at temperature {temperature:g} do not follow the plain distribution (p = {p:.1e})"


def chi_square_p(seen: list[int], expected: list[float]) -> float:
    """Return the p-value of Pearson's test; 0 where a cell that cannot be hit was hit."""
    if any(count > 0 and mean == 0 for count, mean in zip(seen, expected, strict=True)):
        return 0.0
    cells = [(count, mean) for count, mean in zip(seen, expected, strict=True) if mean > 0]
    statistic = math.fsum((count - mean) ** 2 / mean for count, mean in cells)
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def gap_difference(name: str, expected: Float[Tensor, "*n"], found: Float[Tensor, "*n"], tolerance: float) -> str:
    """Return by how much two tensors differ; empty where they agree to `tolerance` times the largest expected value."""
    gap = float((expected - found).abs().max()) / max(float(expected.abs().max()), 1e-30)
    return "" if gap <= tolerance else f"{name} differs by {gap:.1e} of its largest value; {tolerance:.0e} is allowed"
