"""What a chat template frames: the text of a user's one message, or a conversation."""

from typing import NamedTuple

ROLES = ("system", "user", "assistant")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """One of ROLES."""
    content: str


Prompt = str | tuple[Turn, ...]
"""A text is a conversation of one turn of the user's."""


def conversation_text(turns: tuple[Turn, ...]) -> str:
    """Return a conversation as text, each turn behind its role; of the user's only turn its text alone."""
    if [turn.role for turn in turns] == ["user"]:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
