"""The `rollout` table: how the completions of a step are drawn."""

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from diffpo.core.options import BoundSharing, CacheKind
from diffpo.recipes.custom import attribute_or_none
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.device import Attention
from diffpo.recipes.tables.fields import Count, NonNegative, Positive
from diffpo.recipes.tables.rules import CustomRule, EntropyBoundRule, LowConfidenceRule, RuleRecipe
from diffpo.recipes.tables.tasks import TaskRecipe


class SpeedsRecipe(Strict):
    """Entropy bounds drawn log-uniformly, so that one policy learns at every speed."""

    low: Positive = 0.02
    """The smallest bound, in nats: slow, and about as many calls as the rule ever takes."""
    high: Positive = 10.0
    """The largest bound, in nats: one call, or few."""
    shared_by: BoundSharing = "prompt"
    """Which completions get one bound: those of a prompt share most canvases then, which makes rollouts cheap."""
    one_call_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of bounds that are infinite: one call a block. From the range alone, slow rollouts get most calls."""

    def problems(self) -> Iterable[str]:
        if self.low > self.high:
            yield f"low {self.low:g} is above high {self.high:g}; give the smaller bound first"

    @property
    def middle(self) -> float:
        """The bound, in nats, below which half of the completions are."""
        return math.sqrt(self.low) * math.sqrt(self.high)


class RolloutRecipe(Strict):
    """How the completions of a step are drawn."""

    prompts_per_step: Count = 16
    """Prompts of a step, which all processes share."""
    group_size: Count = 8
    """Completions of a prompt, which are compared with each other."""
    temperature: NonNegative = 1.0
    """Of drawn tokens; 0 takes the likeliest."""
    block_length: Count | None = None
    """Tokens of a block; blocks are drawn from left to right. Not set: one block, the whole completion."""
    max_in_flight: Count | None = None
    """Completions in flight at a time; one that is done makes room for the next. Not set: all at once."""
    cache: CacheKind = "none"
    """Keys and values kept within a block, approximately: dual: of all but the block; prefix: of what is before it."""
    rule: RuleRecipe = EntropyBoundRule()
    """Which tokens each denoiser call commits."""
    speeds: SpeedsRecipe | None = None
    """Bounds for the entropy-bound rule, in place of its own. Not set: its own bound for all."""

    def problems(self) -> Iterable[str]:
        if self.speeds is not None and not isinstance(self.rule, EntropyBoundRule):
            yield (
                f"speeds draws entropy bounds, which rule.kind '{self.rule.kind}' does not have; "
                "use 'entropy-bound', or leave speeds out"
            )
        if isinstance(self.rule, CustomRule) and attribute_or_none(self.rule, "is_exact") is False:
            yield (
                f"rule.kind: {self.rule.kind} is not exact, so its log-probabilities are not those of the rollout; "
                "train with a rule that is, and keep it for evaluation"
            )
        if isinstance(self.rule, LowConfidenceRule):
            yield (
                "rule.kind: 'low-confidence' looks at the drawn token, so its log-probabilities are not those of the "
                "rollout; train with another kind and keep it for evaluation"
            )


def block_problems(name: str, block_length: int | None, task: TaskRecipe) -> Iterable[str]:
    """Yield what is wrong if completions of this task are drawn in blocks of `block_length`."""
    length = task.completion_length
    if block_length is not None and length % block_length:
        divisors = ", ".join(str(d) for d in range(1, length + 1) if length % d == 0)
        yield f"{name} {block_length} does not divide the completion length {length}; use one of {divisors}"


def kernel_problems(prefix: str, cache: CacheKind, attention: Attention) -> Iterable[str]:
    """Yield what is wrong if this cache is used with these attention kernels."""
    if cache != "none" and attention != "sdpa":
        yield (
            f"{prefix}cache '{cache}' needs attention = 'sdpa', and it is '{attention}'; change it, or set "
            f"{prefix}cache = 'none'"
        )


def cache_problems(prefix: str, cache: CacheKind, block_length: int | None, task: TaskRecipe) -> Iterable[str]:
    """Yield what is wrong if this cache is used with blocks of this length on this task."""
    length = task.completion_length
    if cache != "none" and (block_length or length) >= length:
        yield (
            f"{prefix}cache '{cache}' renews what it keeps at the beginning of each block, and the completion is one "
            f"block; set {prefix}block_length below {length}, or {prefix}cache = 'none'"
        )
