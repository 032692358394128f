"""Number types that many tables use, with limits that no run could reach: a slip of the hand is told by its key."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _named(text: str) -> str:
    """Raise ValueError for an empty text: as a path it would be the current folder."""
    if not text:
        raise ValueError("is empty; give a path or a name")
    return text


LARGEST = 1e12
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**20)]
"""Of what is in memory together: rows, tokens, draws."""
Duration = Annotated[int, Field(ge=1, le=2**53)]
"""Of what comes one after the other: steps, denoiser calls."""
Location = Annotated[str, AfterValidator(_named)]
"""The path of a file or a folder, or a name of the hub."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Bounds = Annotated[tuple[NonNegative, ...], Field(max_length=1000)]
"""A grid of entropy bounds; each is decoded with."""
