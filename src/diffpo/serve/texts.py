"""The texts of a request: what may be one or several, and the messages of a chat."""

from collections.abc import Mapping
from typing import Any

from diffpo.core.conversation import ROLES, Turn
from diffpo.core.suggestion import suggestion
from diffpo.serve.errors import ApiError
from diffpo.serve.json_body import shown

MOST_PROMPTS, MOST_STOPS, MOST_MESSAGES = 1024, 16, 2048
LONGEST_STOP = 1024
"""Characters: each call looks for every text to stop at, beside the requests of others."""


def read_prompts(value: Any) -> tuple[str, ...]:
    """Return the texts to go on from. Raises ApiError for what is no text, and none of them."""
    if isinstance(value, list) and value and all(_is_token_prompt(one) for one in value):
        raise _refused("prompt", "is given as token ids; send the text itself")
    found = _texts("prompt", value, MOST_PROMPTS)
    if not found:
        raise _refused("prompt", "is an empty array; give at least one text")
    return found


def read_stops(value: Any) -> tuple[str, ...]:
    """Return the texts before which a completion ends. Raises ApiError for what is no text."""
    found = _texts("stop", value, MOST_STOPS)
    for index, stop in enumerate(found):
        if len(stop) > LONGEST_STOP:
            where = "stop" if isinstance(value, str) else f"stop[{index}]"
            told = f"has {len(stop)} characters, and at most {LONGEST_STOP} are taken; give fewer"
            raise _refused(where, told)
    return found


def read_messages(value: Any) -> tuple[Turn, ...]:
    """Return the turns of a conversation: a developer is the system, and parts of text are one text.

    Raises ApiError for what is none.
    """
    if not isinstance(value, list):
        raise _refused("messages", f"should be an array of messages, got {shown(value)}")
    if not value:
        raise _refused("messages", "is empty; give at least one message")
    if len(value) > MOST_MESSAGES:
        raise _refused("messages", f"has {len(value)} messages, and at most {MOST_MESSAGES} are taken; give fewer")
    return tuple(_turn(f"messages[{index}]", message) for index, message in enumerate(value))


def _turn(where: str, message: Any) -> Turn:
    if not isinstance(message, dict):
        raise _refused(where, f'should be an object, as {{"role": "user", "content": "..."}}, got {shown(message)}')
    for key in message:
        if key not in ("role", "content") and not _is_neutral(key, message):
            told = f"is no part of a message here{suggestion(key, ('role', 'content'))}; leave it out"
            raise _refused(f"{where}.{key}", told, "unknown_parameter")
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ROLES:
        known = "system, developer, user or assistant"
        told = f"should be {known}, got {shown(role)}" if "role" in message else f"is missing; give {known}"
        meant = suggestion(role, ROLES) if isinstance(role, str) else ""
        raise _refused(f"{where}.role", told + meant)
    content = message.get("content")
    if content is None:
        raise _refused(f"{where}.content", "is missing; give the message's text")
    if isinstance(content, list):
        content = "".join(_part(f"{where}.content[{index}]", part) for index, part in enumerate(content))
    return Turn(str(role), _checked(f"{where}.content", content))


def _is_neutral(key: str, message: Mapping[str, Any]) -> bool:
    """Return whether a key is one that OpenAI's own answers have in their messages, without a meaning here."""
    return message[key] is None or (key in ("tool_calls", "annotations") and message[key] == [])


def _part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or "text" not in part:
        told = f"a part of type {shown(kind)}" if kind is not None and kind != "text" else "no part of text"
        raise _refused(where, f'is {told}, and only {{"type": "text", "text": "..."}} is taken; leave it out')
    return _checked(f"{where}.text", part["text"])


def _texts(name: str, value: Any, most: int) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_filled(name, value),)
    if not isinstance(value, list):
        raise _refused(name, f"should be a text or an array of texts, got {shown(value)}")
    if len(value) > most:
        raise _refused(name, f"has {len(value)} texts, and at most {most} are taken; give fewer")
    return tuple(_filled(f"{name}[{index}]", one) for index, one in enumerate(value))


def _filled(where: str, value: Any) -> str:
    if value == "":
        raise _refused(where, "is an empty text; give at least one character")
    return _checked(where, value)


def _checked(where: str, value: Any) -> str:
    """Return a text; `parse` has refused half characters. Raises ApiError for what is none, and for what has NUL."""
    if not isinstance(value, str):
        raise _refused(where, f"should be a text, got {shown(value)}")
    if "\0" in value:
        raise _refused(where, "has a NUL character; leave it out")
    return value


def _is_token_prompt(value: Any) -> bool:
    """Return whether a prompt is written as one of token ids, or several, which OpenAI's endpoint takes."""
    return type(value) is int or (isinstance(value, list) and bool(value) and all(type(one) is int for one in value))


def _refused(where: str, told: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{where} {told}", where, code)
