"""What a request may say: OpenAI's fields that mean something here, and ours, read as strictly as a recipe."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables import BuiltInRuleRecipe
from diffpo.recipes.tables.fields import Count, NonNegative

LOWEST_TEMPERATURE = 1e-3
"""Below it, and above 0, float32 has no room for the logits."""


class StreamOptions(Strict):
    include_usage: bool = False


class Asked(Strict):
    """What requests may say, besides their texts."""

    model: str
    max_tokens: Count | None = None
    """L, the tokens of the completion; None: as many as in the model's training, or as `--length` says."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """0 takes the likeliest token."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """Of the first completion; each has one more than the one before. None: drawn, and told in the answer."""
    n: Annotated[int, Field(ge=1, le=128)] = 1
    """Completions of each prompt."""
    stop: tuple[str, ...] = ()
    """Texts before which a completion ends."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = ""
    """Changes nothing."""
    rule: BuiltInRuleRecipe | None = None
    """As in a recipe."""
    entropy_bound: NonNegative | None = None
    """None: the controller's choice, or 0, one token per denoiser call."""
    price: NonNegative | None = None
    """What one call per token costs in accuracy: the model's sampler decodes for it."""
    block_length: Count | None = None
    """The semi-autoregressive window; None: the whole completion, or with a price the sampler's."""
    unmask_events: bool = False
    """Whether the answer says which call committed each token."""

    @property
    def length(self) -> int | None:
        return self.max_tokens

    def problems(self) -> Iterator[str]:
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            yield f"temperature: is {self.temperature:g}; give 0, which takes the likeliest token, or at least 0.001"
        deciding = [name for name in ("rule", "entropy_bound", "price") if getattr(self, name) is not None]
        if len(deciding) > 1:
            yield f"{deciding[1]}: says how to decode, and so does {deciding[0]}; give one of them"
        if self.stream_options is not None and not self.stream:
            yield "stream_options: goes with stream = true alone; leave it out"


class ChatAsked(Asked):
    max_completion_tokens: Count | None = None
    """The newer name of max_tokens."""

    @property
    def length(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.max_completion_tokens is not None and self.max_tokens is not None:
            yield "max_completion_tokens: is the newer name of max_tokens, and both are given; give one"
