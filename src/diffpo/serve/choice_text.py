"""The text of one completion while its tokens are committed out of order."""

from bisect import bisect
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerFast

from diffpo.models.tokenizer import decode_text, first_stop
from diffpo.sampling.running import Committed

UNFINISHED = "\ufffd"
"""What the bytes of a character decode to, as long as not all are there."""


class ChoiceText:
    """What a client may read of a completion so far: the text before the first mask.

    Text that is settled does not change again: half a character, and what may be the beginning of a text to stop at,
    are held back.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop_ids: Sequence[int], length: int, stops: Sequence[str]
    ) -> None:
        self._tokenizer, self._stop_ids, self._stops = tokenizer, frozenset(stop_ids), tuple(stops)
        self._ids: list[int | None] = [None] * length
        self._settled = 0  # tokens before the first mask
        self.text = ""
        self.num_tokens = 0
        """Of the answer: up to the end-of-text token, and with it."""
        self.nfe = 0
        self.finish_reason: Literal["stop", "length"] | None = None

    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def take(self, one: Committed) -> str:
        """Add what a call has committed, and return the text that has become settled by it.

        The completion is finished with the row's last call, or, before it, with a text to stop at.
        """
        self.nfe = one.call + 1
        for position, token in zip(one.positions, one.tokens, strict=True):
            self._ids[position] = token
        before = self._settled
        while self._settled < len(self._ids) and self._ids[self._settled] is not None:
            self._settled += 1
        if self._settled == before and not one.is_done:
            return ""
        ids = self._prefix(self._settled)
        text = self._decoded(self._settled)
        self.num_tokens = len(ids)
        cut = first_stop(text, self._stops)
        if cut is not None:
            self.num_tokens = 1 + bisect(range(1, len(ids)), False, key=self._has_stop)
            self.finish_reason = "stop"
            return self._grow(text[:cut])
        if one.is_done:
            has_end = bool(ids) and ids[-1] in self._stop_ids
            self.finish_reason = "stop" if has_end else "length"
            return self._grow(text)
        text = text.rstrip(UNFINISHED)
        return self._grow(text[: len(text) - _held_back(text, self._stops)])

    def token_text(self, token: int) -> str | None:
        """Return how a token reads; None for one that ends the text."""
        return None if token in self._stop_ids else str(self._tokenizer.decode([token]))

    def _prefix(self, count: int) -> list[int]:
        """Return the first `count` tokens, up to the first that ends the text."""
        found = []
        for token in self._ids[:count]:
            assert token is not None, "settled tokens are committed"
            found.append(token)
            if token in self._stop_ids:
                break
        return found

    def _has_stop(self, count: int) -> bool:
        return first_stop(self._decoded(count), self._stops) is not None

    def _decoded(self, count: int) -> str:
        return decode_text(self._tokenizer, self._prefix(count), self._stop_ids)

    def _grow(self, text: str) -> str:
        """Take the text as settled, and return what is new of it."""
        new = text[len(self.text) :]
        self.text += new
        return new


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of the text with which one to stop at begins."""
    return max((_overlap(text, stop) for stop in stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text with which another one begins that is longer."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0
