"""How prompts of a user are completed: what `diffpo sample` takes, for one, for a conversation and for a file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleSettings:
    """How prompts are completed."""

    length: int
    """Tokens of a completion."""
    entropy_bound: float | None = None
    """None: the controller's choice, or 0."""
    price: float | None = None
    """What one call per token costs in accuracy, for the model's sampler."""
    temperature: float = 0.0
    seed: int = 0
    """Of the first line or turn; each has one more than the one before."""
    batch: int = 64
    """Completions of a file that a process decodes at a time."""
    is_quiet: bool = False
    """Whether nothing is shown but the text, and of a file no progress."""
