"""How completions are drawn: all settings of the sampler, without the model and the prompts."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.options import CacheKind
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.commit_rules import CommitRule, commit_rule
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule


@runtime_checkable
class BoundController(Protocol):
    """The part of a controller that the sampler uses."""

    @property
    def needs_hidden(self) -> bool:
        """Whether `features` needs the mean hidden states of the first call."""
        ...

    def features(
        self, entropy: Float[Tensor, "B L"], hidden: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B F"]: ...

    def choose(
        self, features: Float[Tensor, "B F"], uniform: Float[Tensor, " B"] | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return entropy bounds and the log-densities of their logs.

        Bounds are drawn with the given uniform numbers, or are the centre of each distribution without them.
        """
        ...


@dataclass(frozen=True)
class Decoding:
    """The sampler's settings.

    Raises ValueError where `block_length` does not divide `length` or leaves a cache a single block, where a controller
    meets a rule without an entropy bound, and for fewer than one row in flight; UserError for a temperature that is
    negative or infinite.
    """

    rule: Rule | HiddenRule
    length: int
    """L, the tokens of a completion."""
    block_length: int
    """Length of the semi-autoregressive window: blocks are completed from left to right."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    controller: BoundController | CommitPolicy | None = None
    """Chooses each row's entropy bound from the first call's output, in place of the rule's own bound; or, a commit
    policy, the positions that each call commits, in place of the rule."""
    explore: bool = False
    """Whether the controller's bounds are drawn; else they are the mean of its distribution. With a commit policy:
    whether each call's set is drawn; else it has the likeliest positions, as many as a draw on average."""
    max_in_flight: int | None = None
    """Rows that are decoded at a time; a row that is done makes room for the next. None: all at once."""
    cache: CacheKind = "none"
    """Keys and values that are kept within a block (sampling/block_cache.py)."""

    def __post_init__(self) -> None:
        if self.length % self.block_length:
            raise ValueError(f"block_length {self.block_length} does not divide the completion length {self.length}")
        if self.cache != "none" and self.block_length >= self.length:
            raise ValueError(
                f"cache '{self.cache}' is renewed at the beginning of each block, and block_length {self.block_length} "
                "makes the completion one block; use a smaller one, or cache = 'none'"
            )
        if self.bound_controller is not None and not isinstance(self.rule, EntropyBound):
            raise ValueError(f"a controller chooses entropy bounds, which {self.rule} does not have")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature:g}; give a finite number from 0 up")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ValueError(f"max_in_flight {self.max_in_flight} leaves no row to decode")

    @property
    def needs_seeds(self) -> bool:
        """Whether anything is drawn at random."""
        return self.temperature > 0 or self.explore

    @property
    def deciding_rule(self) -> Rule | HiddenRule:
        """The rule by which positions are chosen: a commit policy's, where there is one."""
        return commit_rule(self.controller) if isinstance(self.controller, CommitPolicy) else self.rule

    @property
    def bound_controller(self) -> BoundController | None:
        """The controller, where it chooses entropy bounds."""
        return None if isinstance(self.controller, CommitPolicy) else self.controller

    @property
    def draws_sets(self) -> bool:
        """Whether a commit policy draws the positions of each call."""
        return self.explore and isinstance(self.deciding_rule, CommitRule)
