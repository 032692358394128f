"""No text that is short enough for a tokenizer is taken for too long."""

import random
import sys
import unicodedata

import pytest
from tests.helpers.chat_templates import LLADA, tokenizer_with
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from diffpo.models.longest_token import longest_token
from diffpo.models.tokenizer import char_tokenizer, encode_text

WORDS = [
    "the",
    " theory",
    "  " * 8,
    "naïve",
    "日本語",
    "🙂",
    "\n\n\n",
    "12345",
    "e\u0301",
    "\u212b",
    "\u1fef",
    "\u0390",
]


def byte_level(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with merges, as LLaDA's and Dream's are."""
    backend = Tokenizer(BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["".join(WORDS)] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
def test_no_text_has_more_bytes_than_its_tokens_may_stand_for(normalizer: normalizers.Normalizer | None) -> None:
    tokenizer = byte_level(normalizer)
    longest = longest_token(tokenizer)
    assert longest is not None and longest > 8
    rng = random.Random(0)
    for text in [*WORDS, *("".join(rng.choices(WORDS, k=20)) for _ in range(100))]:
        assert len(text.encode()) <= longest * len(encode_text(tokenizer, text))


def test_nfc_shortens_a_text_to_a_third_at_most() -> None:
    signs = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    changed = [sign for sign in signs if not unicodedata.is_normalized("NFD", sign)]
    forms = [(sign, unicodedata.normalize("NFD", sign)) for sign in changed]
    ratios = [len(form.encode()) / len(unicodedata.normalize("NFC", form).encode()) for pair in forms for form in pair]
    assert max(ratios) == 3
    assert longest_token(byte_level(normalizers.NFC())) == 3 * (longest_token(byte_level()) or 0)


def test_a_character_tokenizer_has_single_characters() -> None:
    assert longest_token(char_tokenizer("12é日")) == 3
    assert longest_token(tokenizer_with(LLADA)) == 1, "the names of special tokens are no user's"


def test_where_text_may_vanish_nothing_is_said() -> None:
    assert longest_token(byte_level(normalizers.Strip())) is None
    dropping = byte_level()
    dropping.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert longest_token(dropping) is None
    swallowing = byte_level()
    swallowing.backend_tokenizer.add_tokens([AddedToken("<tool>", rstrip=True)])
    assert longest_token(swallowing) is None
    characters = Tokenizer(BPE({"a": 0}, []))
    assert longest_token(PreTrainedTokenizerFast(tokenizer_object=characters)) is None
    added = byte_level()
    added.backend_tokenizer.add_tokens([AddedToken("<" + "é" * 50 + ">")])
    assert longest_token(added) == 102
