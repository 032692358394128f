"""What a chat template frames: the text of a user's one message, or a conversation."""

from collections.abc import Mapping
from typing import NamedTuple

from diffpo.core.suggestion import suggestion

ROLES = ("system", "user", "assistant")
"""Those that a message may have: a template writes a role as it is, so that one's own could be a control token."""
PROMPTS = f"a text, or a list of messages, each with 'role' ({', '.join(ROLES)}) and 'content', a text"
"""What `as_prompt` takes, for messages."""


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


def as_prompt(value: object) -> Prompt | None:
    """Return a text that is not blank, or a list of messages, as a prompt; None for anything else."""
    if isinstance(value, str):
        return value if value.strip() else None
    if not isinstance(value, list | tuple) or not value:
        return None
    turns = [_turn(message) for message in value]
    return None if None in turns else tuple(turn for turn in turns if turn is not None)


def wrong_message(value: object) -> str | None:
    """Return which message of a list is none and why, as "[1] has no 'content'; ..."; None for what is no such list."""
    if not isinstance(value, list | tuple):
        return None
    for number, message in enumerate(value):
        if _turn(message) is None and isinstance(message, Mapping):
            return f"[{number}] {_mistake(message)}"
    return None


def _mistake(message: Mapping[str, object]) -> str:
    role = message.get("role")
    if "role" not in message:
        return f"has no 'role'; give one of {', '.join(ROLES)}"
    if role not in ROLES:
        meant = suggestion(role, ROLES) if isinstance(role, str) else ""
        return f"has the role {role!r:.60}; give one of {', '.join(ROLES)}{meant}"
    if "content" not in message:
        return "has no 'content'; give a text"
    content = message["content"]
    return "has an empty 'content'; give a text" if content == "" else f"has the content {content!r:.60}; give a text"


def _turn(message: object) -> Turn | None:
    if isinstance(message, Turn):
        message = message._asdict()
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        return None
    content = message.get("content")
    return Turn(message["role"], content) if isinstance(content, str) and content.strip() else None
