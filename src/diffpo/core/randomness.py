"""Randomness is a function of where it is used: nothing to save, nothing to restore, no global state."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a run's seed, a purpose and a step; different parts give independent streams."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*parts))


def stratified_uniform(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Uniform numbers, stratified twice: column j lies in its own 1 / columns of [0, 1], evenly filled by the rows."""
    filled = [
        (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
        for _ in range(columns)
    ]
    return (torch.arange(columns) + torch.stack(filled, dim=1)) / columns


def uniform_to_index(uniform: Float[Tensor, "*n"], count: int | Int[Tensor, "*#n"]) -> Int[Tensor, "*n"]:
    """Whole numbers 0..count-1 from uniform ones in [0, 1]: rounding may have made a 1 of what was just below."""
    last = torch.as_tensor(count) - 1
    return torch.minimum((uniform * count).long(), last)
