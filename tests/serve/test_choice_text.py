"""The text that is settled while tokens come out of order."""

import time
from collections.abc import Sequence

import pytest
from tests.helpers.chat_templates import EOS, tokenizer_with
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from diffpo.sampling.running import Committed
from diffpo.serve.choice_text import ChoiceText, _held_back

CHARACTERS = tokenizer_with(None)


def ids_of(text: str) -> list[int]:
    return [int(index) for index in CHARACTERS.encode(text, add_special_tokens=False)]


def call(number: int, tokens: dict[int, int], is_done: bool = False) -> Committed:
    return Committed(0, number, tuple(sorted(tokens)), tuple(tokens[p] for p in sorted(tokens)), is_done, 0.0)


def take_in_order(ids: Sequence[int], order: Sequence[int], stops: Sequence[str] = ()) -> tuple[ChoiceText, list[str]]:
    """Commit one token a call, in an order of positions, until it is finished."""
    choice, pieces = ChoiceText(CHARACTERS, [EOS], len(ids), stops), []
    for number, position in enumerate(order):
        pieces.append(choice.take(call(number, {position: ids[position]}, number == len(order) - 1)))
        if choice.is_finished():
            break
    return choice, pieces


def test_text_grows_up_to_the_first_mask() -> None:
    choice, pieces = take_in_order(ids_of("abcde"), [1, 0, 4, 3, 2])
    assert pieces == ["", "ab", "", "", "cde"]
    assert (choice.text, choice.finish_reason, choice.num_tokens, choice.nfe) == ("abcde", "length", 5, 5)


def test_an_end_token_ends_the_text_and_counts() -> None:
    choice, pieces = take_in_order([*ids_of("ab"), EOS, *ids_of("zz")], [3, 4, 2, 1, 0])
    assert pieces == ["", "", "", "", "ab"]
    assert (choice.text, choice.finish_reason, choice.num_tokens) == ("ab", "stop", 3)
    assert (choice.token_text(EOS), choice.token_text(ids_of("z")[0])) == (None, "z")


def test_an_end_without_text_is_an_empty_answer() -> None:
    choice, _ = take_in_order([EOS, *ids_of("z")], [1, 0])
    assert (choice.text, choice.finish_reason, choice.num_tokens) == ("", "stop", 1)


def test_what_may_begin_a_stop_text_is_held_back() -> None:
    choice, pieces = take_in_order(ids_of("a--b---c"), range(8), ["---", "zz"])
    assert pieces == ["a", "", "", "--b", "", "", ""], "two are held back until a third could not follow"
    assert (choice.text, choice.finish_reason, choice.num_tokens, choice.nfe) == ("a--b", "stop", 7, 7)
    choice, _ = take_in_order(ids_of("a--"), range(3), ["---"])
    assert (choice.text, choice.finish_reason) == ("a--", "length"), "what was held back comes at the end"


def test_of_several_stop_texts_the_first_in_the_text_counts() -> None:
    choice, _ = take_in_order(ids_of("abcdef"), [5, 4, 3, 2, 1, 0], ["ef", "bcd", "cd"])
    assert (choice.text, choice.num_tokens) == ("a", 4)


def test_a_stop_text_is_compared_at_the_end_alone() -> None:
    for text in ("", "b", "ab", "aab", "abaab", "aabaaba", "xaabaa"):
        for stop in ("a", "aab", "aabaab", "abab", "aabaabaaaa", "c"):
            longest = max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
            assert _held_back(text, ["zz", stop]) == longest, (text, stop)
    begun = time.perf_counter()
    assert _held_back("a" * 1000, ["a" * 1_000_000]) == 1000
    assert _held_back("a" * 1000, ["a" * 999_999 + "b", "ab" * 500_000]) == 1000
    assert time.perf_counter() - begun < 0.5, "not all that a stop text could begin with is tried"


def test_tokens_are_counted_up_to_the_one_that_completes_the_stop_text() -> None:
    for stop, tokens in (("a", 1), ("ab", 2), ("de", 5), ("e", 5)):
        choice, _ = take_in_order(ids_of("abcde"), [4, 3, 2, 1, 0], [stop])
        assert (choice.num_tokens, choice.finish_reason) == (tokens, "stop")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, as the smallest tokens of published models are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({sign: index for index, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("text", ["aé", "日本", "🙂!"])
def test_half_a_character_waits_for_the_rest(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    choice, pieces = ChoiceText(tokenizer, [], len(ids), []), []
    for number, index in enumerate(ids):
        pieces.append(choice.take(call(number, {number: index}, number == len(ids) - 1)))
    assert "".join(pieces) == text == choice.text and all("\ufffd" not in piece for piece in pieces)


def test_a_completion_that_ends_within_a_character_says_so() -> None:
    tokenizer = byte_tokenizer()
    first = tokenizer.encode("é", add_special_tokens=False)[0]
    assert ChoiceText(tokenizer, [], 1, []).take(call(0, {0: first}, True)) == "\ufffd"
