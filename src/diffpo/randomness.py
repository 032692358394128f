"""Randomness is a function of where it is used: nothing to save, nothing to restore, no global state."""

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from a run's seed, a purpose and a step; different parts give independent streams."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))
