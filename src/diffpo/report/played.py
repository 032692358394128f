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
)

MOST_PLAYED = 100_000
"""Denoiser calls of a completion that is played back; the page has a step for each."""


def completion_of(found: Mapping[str, Any]) -> PlaybackCompletion:
    """Return a completion. Raises FieldError where a token was committed after the last call, or lengths differ."""
    nfe = whole(found, "nfe", 1, MOST_PLAYED)
    unmask_step = wholes(found, "unmask_step", 0, nfe - 1)
    tokens = tuple(words({f"tokens[{i}]": token}, f"tokens[{i}]") for i, token in enumerate(items(found, "tokens")))
    logp = numbers(found, "logp")
    for name, values in (("tokens", tokens), ("logp", logp)):
        check_length(values, name, len(unmask_step), "tokens")
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
