"""Two rewards in the signature of TRL's trainers: lists in, a number for each completion out.

`answer` is a column of `rows.jsonl`, `nfe` the number of denoiser calls that a completion took. A function gets what it
names, or all through `**columns`.
"""

from typing import Any


def in_place(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """Pay the share of the answer's letters that stand where they should."""
    return [
        sum(one == other for one, other in zip(text, right, strict=False)) / len(right)
        for text, right in zip(completions, answer, strict=True)
    ]


async def few_calls(completions: list[str], nfe: list[int], **columns: Any) -> list[float]:
    """Pay more for fewer denoiser calls. A reward may be async, to ask a service for instance."""
    return [1 / calls if text else 0.0 for text, calls in zip(completions, nfe, strict=True)]
