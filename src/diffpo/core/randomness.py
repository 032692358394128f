"""Random numbers as a function of seed, purpose and step: no global state, nothing to save and restore."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from a run's seed, a purpose and a step; different parts give independent streams."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def stratified_uniform(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Return uniform numbers in [0, 1], stratified twice.

    Column j lies in the j-th of `columns` equal parts of [0, 1], and its rows, in random order, in as many equal parts
    of that part.
    """
    filled = [
        (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
        for _ in range(columns)
    ]
    return (torch.arange(columns) + torch.stack(filled, dim=1)) / columns


def uniform_to_index(uniform: Float[Tensor, "*n"], count: int | Int[Tensor, "*#n"]) -> Int[Tensor, "*n"]:
    """Return whole numbers from 0 to count - 1, given uniform numbers in [0, 1].

    A uniform number of 1, which rounding may give, becomes the last whole number.
    """
    last = torch.as_tensor(count) - 1
    return torch.minimum((uniform * count).long(), last)
