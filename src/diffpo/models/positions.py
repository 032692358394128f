"""How many tokens a model takes, prompt and completion together: the one place that says it."""

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.tokenizer import is_char_tokenizer

TINY_MOST_TOKENS = 1024
"""Of the tiny models, whose configs hold a default: several times what the tasks that are made up take."""


def most_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many tokens of prompt and completion together a model takes.

    Rotary positions have no end, so a network computes at any; where it was never trained it writes nothing of worth.
    So the limit is what a published model says that it was trained at, and `TINY_MOST_TOKENS` for a tiny one.
    """
    if is_char_tokenizer(tokenizer):
        return TINY_MOST_TOKENS
    positions: int = getattr(config, "max_sequence_length", None) or config.max_position_embeddings
    return positions


def require_room(
    most: int, prompt_tokens: int, length: int, what: str = "the prompt", advice: str = "shorten it, or lower --length"
) -> None:
    """Raise UserError where a prompt and a completion of `length` tokens are more than the `most` of a model."""
    if prompt_tokens + length > most:
        raise UserError(
            f"{what} has {prompt_tokens} tokens and its completion {length}, and the model takes {most} together; "
            f"{advice}"
        )
