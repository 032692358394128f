"""The character tokenizer: exact round trips, and user text that never becomes a control token."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.tokenizer import (
    EOS_TOKEN,
    MASK_TOKEN,
    PAD_TOKEN,
    char_tokenizer,
    decode_text,
    encode_text,
    token_texts,
)

ALPHABET = "1234.=+ \n\t\0é数"
SPELLING = "".join(dict.fromkeys(MASK_TOKEN + EOS_TOKEN + PAD_TOKEN + "1234"))  # can spell every special token

PLAIN = char_tokenizer(ALPHABET)
SPELLER = char_tokenizer(SPELLING)


def test_ids_follow_the_alphabet() -> None:
    tokenizer = char_tokenizer("12.=")
    assert encode_text(tokenizer, "12.=") == [0, 1, 2, 3]
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (4, 5, 6)
    assert len(tokenizer) == 7
    assert encode_text(tokenizer, "") == []


@given(st.text(ALPHABET, max_size=50))
def test_one_id_for_each_character_and_back(text: str) -> None:
    ids = encode_text(PLAIN, text)
    assert ids == [ALPHABET.index(character) for character in text]
    assert decode_text(PLAIN, ids) == text


@given(st.lists(st.sampled_from([MASK_TOKEN, EOS_TOKEN, PAD_TOKEN, "1", "<", "|>"]), max_size=8).map("".join))
def test_text_that_spells_control_tokens_stays_text(text: str) -> None:
    ids = encode_text(SPELLER, text)
    assert not set(ids) & set(SPELLER.all_special_ids)
    assert decode_text(SPELLER, ids) == text


def test_the_danger_is_real_without_encode_text() -> None:
    assert SPELLER.mask_token_id in SPELLER.encode("1" + MASK_TOKEN)


@pytest.mark.parametrize("text", ["5", "12 x", MASK_TOKEN, EOS_TOKEN, "²", "\ud800", "e\u0301"])
def test_characters_outside_the_alphabet_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="knows only the characters of its training data"):
        encode_text(PLAIN, text)


def test_unknown_characters_are_named() -> None:
    digits = char_tokenizer("01")
    with pytest.raises(
        UserError, match=r"others: tab, line break, space, \"'\", 'é' \(U\+00E9\), U\+202E; remove them$"
    ):
        encode_text(digits, "é\n\t '\u202e1")
    with pytest.raises(UserError, match=r"'i', 'j' and 2 more; remove them$"):
        encode_text(digits, "abcdefghijkl")


def test_plain_calls_do_not_drop_unknown_characters_either() -> None:
    with pytest.raises(Exception, match="UNK"):
        PLAIN.encode("5")


def test_decode_cuts_at_the_first_end_and_shows_what_comes_before() -> None:
    one, two, mask, pad, eos = 0, 1, PLAIN.mask_token_id, PLAIN.pad_token_id, PLAIN.eos_token_id
    assert decode_text(PLAIN, [one, mask, pad, two, eos, one, mask, eos]) == f"1{MASK_TOKEN}{PAD_TOKEN}2"
    assert decode_text(PLAIN, [eos, one]) == ""
    assert decode_text(PLAIN, []) == ""
    assert decode_text(PLAIN, [one, two, one], stop_ids=(two,)) == "1"


@pytest.mark.parametrize("stray", [-1, len(PLAIN)])
def test_decode_refuses_ids_that_do_not_exist(stray: int) -> None:
    with pytest.raises(ValueError, match="outside the tokenizer's vocabulary"):
        decode_text(PLAIN, [0, stray])
    assert decode_text(PLAIN, [0, PLAIN.eos_token_id, stray]) == "1"


@pytest.mark.parametrize("alphabet", ["", "121"])
def test_bad_alphabets_are_refused(alphabet: str) -> None:
    with pytest.raises(UserError, match="empty or repeats"):
        char_tokenizer(alphabet)


@pytest.mark.parametrize("tokenizer", [PLAIN, SPELLER], ids=["plain", "speller"])
def test_saved_and_loaded_is_the_same(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tokenizer.save_pretrained(tmp_path / "one")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()
    text = "1234" if tokenizer is PLAIN else "1" + MASK_TOKEN + "2" + EOS_TOKEN
    ids = encode_text(loaded, text)
    assert ids == encode_text(tokenizer, text)
    assert decode_text(loaded, ids) == text
    assert decode_text(loaded, [loaded.mask_token_id, *ids]) == MASK_TOKEN + text


def tokenizer_of(tokens: list[str], decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate([*tokens, EOS_TOKEN])}))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS_TOKEN)


BYTES = tokenizer_of(sorted(ByteLevel.alphabet()), decoders.ByteLevel())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_texts_of_byte_tokens_join_to_the_text(text: str) -> None:
    spelled = "".join(piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))
    pieces = token_texts(BYTES, BYTES.convert_tokens_to_ids(list(spelled)))
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text), "a character stands whole with its last byte"


def test_the_space_before_a_word_is_kept_and_special_tokens_have_their_names() -> None:
    words = tokenizer_of(["\u2581one", "\u2581two", "s"], decoders.Metaspace())
    ids = words.convert_tokens_to_ids(["\u2581one", "s", "\u2581two", EOS_TOKEN, EOS_TOKEN])
    assert token_texts(words, ids) == ["one", "s", " two", EOS_TOKEN, EOS_TOKEN]
    assert token_texts(words, []) == []
