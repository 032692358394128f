"""How much text one token can stand for: what is longer than all tokens together can hold need not be encoded."""

import json
from typing import Any

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from diffpo.models.tokenizer import is_char_tokenizer

NFC_SHRINKS = 3
"""The most by which NFC shortens a text's UTF-8 (Unicode Standard Annex 15, the expansion of NFD the other way)."""


def longest_token(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the most bytes of a user's UTF-8 text that one token stands for.

    None where a text of any length may become one token: where the tokenizer drops white space, lets unknown text
    become one token, or rewrites the text otherwise than by NFC.
    """
    backend = tokenizer.backend_tokenizer
    vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    if is_char_tokenizer(tokenizer):
        return max(len(token.encode()) for token in vocab if len(token) == 1)
    added = [token for token in backend.get_added_tokens_decoder().values() if not token.special]
    normalizer, splitting = _states(backend.normalizer), _states(backend.pre_tokenizer)
    is_whole = (
        isinstance(backend.model, BPE)
        and vocab.keys() >= set(ByteLevel.alphabet())  # a byte that it lacked would be dropped
        and any(state["type"] == "ByteLevel" for state in splitting)
        and all(state.get("behavior") != "Removed" for state in splitting)
        and all(state["type"] in ("ByteLevel", "Split", "Digits", "Punctuation") for state in splitting)
        and all(state["type"] == "NFC" for state in normalizer)
        and not any(token.lstrip or token.rstrip for token in added)
    )
    if not is_whole:
        return None
    longest = max([*map(len, vocab), *(len(token.content.encode()) for token in added)])  # a sign of a token is a byte
    return longest * NFC_SHRINKS if normalizer else longest


def _states(step: Any) -> list[dict[str, Any]]:
    """Return the settings of a step of a tokenizer, or of those that it is a sequence of."""
    if step is None:
        return []
    state = json.loads(step.__getstate__())
    members: list[dict[str, Any]] = state.get("pretokenizers") or state.get("normalizers") or [state]
    return members
