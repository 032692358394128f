"""Two rewards in the signature of TRL's trainers: lists in, a number for each completion out.

`answer` is a column of `rows.jsonl`; a function gets the columns that it names, or all through `**columns`.
"""

from typing import Any


def in_place(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """Pay the share of the answer's letters that stand where they should."""
    return [
        sum(one == other for one, other in zip(text, right, strict=False)) / len(right)
        for text, right in zip(completions, answer, strict=True)
    ]


async def short(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Pay 1 for at most three letters. It may be async, to ask a service for instance."""
    return [float(0 < len(text) <= 3) for text in completions]
