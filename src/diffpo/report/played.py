"""The completions that a record holds for play-back, read strictly."""

from collections.abc import Mapping
from typing import Any

from diffpo.report.data import PlaybackCompletion
from diffpo.report.fields import (
    check_length,
    flag,
    items,
    numbers,
    optional_number,
    optional_whole,
    optional_words,
    whole,
    wholes,
    words,
    wrong,
)

MOST_PLAYED = 100_000
"""Denoiser calls of a completion that is played back; the page has a step for each."""


def completion_of(found: Mapping[str, Any], length: int | None = None) -> PlaybackCompletion:
    """Return a completion, which has `length` tokens where that is known.

    Raises FieldError where a token was committed after the last call, the last call committed none, or lengths differ.
    """
    nfe = whole(found, "nfe", 1, MOST_PLAYED)
    unmask_step = wholes(found, "unmask_step", 0, nfe - 1)
    tokens = tuple(words({f"tokens[{i}]": token}, f"tokens[{i}]") for i, token in enumerate(items(found, "tokens")))
    logp = numbers(found, "logp")
    if not unmask_step:
        raise wrong("unmask_step", "a list with the call of each token", found.get("unmask_step"))
    for name, values in (("tokens", tokens), ("logp", logp)):
        check_length(values, name, len(unmask_step), "tokens")
    if not tokens:  # which would tell how many there are
        check_length(unmask_step, "unmask_step", length or len(unmask_step), "tokens")
    if nfe - 1 not in unmask_step:
        raise wrong("unmask_step", f"a list with a token for the last call, {nfe - 1}", list(unmask_step))
    return PlaybackCompletion(
        prompt=words(found, "prompt"),
        completion=words(found, "completion"),
        answer=words(found, "answer"),
        unmask_step=unmask_step,
        logp=logp,
        nfe=nfe,
        is_solved=flag(found, "solved"),
        entropy_bound=optional_number(found, "entropy_bound", 0),
        clues=optional_whole(found, "clues"),
        tokens=tokens,
        special=wholes(found, "special", 0, max(len(unmask_step) - 1, 0)),
        rule=optional_words(found, "rule"),
        difficulty=optional_words(found, "difficulty"),
    )
