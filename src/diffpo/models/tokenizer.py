"""Text to ids and back: a tokenizer with one token for each character, and two functions that handle users' text."""

from collections.abc import Collection, Sequence
from itertools import takewhile

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.core.printable import character_name

MASK_TOKEN = "<|mdm_mask|>"
EOS_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"
MOST_NAMED = 10
"""Unknown characters of a text, in a message."""


def char_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single characters: ids follow the alphabet, then come mask, end of text and padding.

    It has no token for unknown characters and raises an error for them. Raises UserError for an alphabet that is empty
    or repeats a character.
    """
    repeated = sorted({character for character in alphabet if alphabet.count(character) > 1})
    if repeated or not alphabet:
        raise UserError(f"tokenizer: the alphabet is empty or repeats {repeated}; give each character once.")
    tokens = [*alphabet, MASK_TOKEN, EOS_TOKEN, PAD_TOKEN]
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}))
    backend.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token=MASK_TOKEN, eos_token=EOS_TOKEN, pad_token=PAD_TOKEN
    )


def is_char_tokenizer(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether it comes from `char_tokenizer`, as the tiny models' do."""
    return isinstance(tokenizer.backend_tokenizer.model, WordLevel)


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of a user's text, with nothing added. The name of a special token is encoded as plain characters.

    Raises UserError for characters that a character tokenizer does not have.
    """
    if is_char_tokenizer(tokenizer):
        unknown = sorted(set(text) - tokenizer.backend_tokenizer.get_vocab().keys())
        if unknown:
            more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
            raise UserError(
                "this model's tokenizer knows only the characters of its training data, and the text has others: "
                f"{', '.join(map(character_name, unknown[:MOST_NAMED]))}{more}; remove them"
            )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], stop_ids: Collection[int] | None = None) -> str:
    """Return the text before the first of `stop_ids` (by default, end of text), with the names of special tokens in it.

    Raises ValueError for an id that the tokenizer does not have: without it a broken answer could look complete.
    """
    size = len(tokenizer)  # computed anew at every access, as is eos_token_id
    stops = {tokenizer.eos_token_id} if stop_ids is None else stop_ids
    kept = list(takewhile(lambda index: index not in stops, ids))
    stray = [index for index in kept if not 0 <= index < size]
    if stray:
        raise ValueError(f"ids {stray} are outside the tokenizer's vocabulary of {size}.")
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def token_texts(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text before it. Joined, it is the text, with the names of special tokens.

    A token that ends within a character adds nothing, and the one that completes the character adds it whole.
    """
    found, before = [], ""
    for count in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if count < len(ids) and text.endswith("\N{REPLACEMENT CHARACTER}"):
            found.append("")
            continue
        found.append(text[len(before) :] if text.startswith(before) else str(tokenizer.decode(ids[count - 1])))
        before = text
    return found


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return where the first of the texts to stop at begins; None where there is none. Empty ones stop nothing."""
    return min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=None)
