"""What a request may say: OpenAI's fields that mean something here, and ours, read as strictly as a recipe."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables import BuiltInRuleRecipe
from diffpo.recipes.tables.fields import Count, NonNegative

LOWEST_TEMPERATURE = 1e-3
"""Below it, and above 0, float32 has no room for the logits."""
Text = Annotated[str, Field(min_length=1)]


class StreamOptions(Strict):
    include_usage: bool = False


class Message(Strict):
    role: Literal["system", "user", "assistant"]
    content: str


class Asked(Strict):
    """What both kinds of requests may say."""

    model: str
    max_tokens: Count | None = None
    """L, the tokens of the completion; None: as many as in the model's training, or as `--length` says."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """0 takes the likeliest token."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of the first completion; each has one more than the one before. None: drawn, and told in the answer."""
    n: Annotated[int, Field(ge=1, le=128)] = 1
    """Completions of each prompt."""
    stop: Annotated[tuple[Text, ...], Field(max_length=16)] = ()
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

    def problems(self) -> Iterator[str]:
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            yield f"temperature: is {self.temperature:g}; give 0, which takes the likeliest token, or at least 0.001"
        deciding = [name for name in ("rule", "entropy_bound", "price") if getattr(self, name) is not None]
        if len(deciding) > 1:
            yield f"{deciding[1]}: says how to decode, and so does {deciding[0]}; give one of them"
        if self.stream_options is not None and not self.stream:
            yield "stream_options: goes with stream = true alone; leave it out"


class CompletionRequest(Asked):
    prompt: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1024)]
    """Texts to go on from, as they are: without the model's chat template."""

    @property
    def length(self) -> int | None:
        return self.max_tokens


class ChatRequest(Asked):
    messages: tuple[Message, ...]
    max_completion_tokens: Count | None = None
    """The newer name of max_tokens."""

    @property
    def length(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.max_completion_tokens is not None and self.max_tokens is not None:
            yield "max_completion_tokens: is the newer name of max_tokens, and both are given; give one"
        if not self.messages:
            yield "messages: is empty; give at least one"


Request = ChatRequest | CompletionRequest
