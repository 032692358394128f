"""Answers as OpenAI's clients read them: whole, or in chunks of server-sent events."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from diffpo.serve.choice_text import ChoiceText

Kind = Literal["chat", "text"]
NAMES = {"chat": ("chatcmpl", "chat.completion"), "text": ("cmpl", "text_completion")}


def head(kind: Kind, model: str, seed: int) -> dict[str, Any]:
    """Return what every chunk of an answer begins with."""
    prefix, _ = NAMES[kind]
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model, "seed": seed}


def whole(
    kind: Kind,
    head: dict[str, Any],
    choices: Sequence[ChoiceText],
    usage: dict[str, Any],
    how: str,
    events: Sequence[dict[str, Any]] | None,
) -> dict[str, Any]:
    """Return an answer that is not streamed; `events` are given back where they were asked for."""
    found = []
    for index, choice in enumerate(choices):
        content: dict[str, Any] = {"text": choice.text}
        if kind == "chat":
            content = {"message": {"role": "assistant", "content": choice.text}}
        found.append({"index": index, **content, "finish_reason": choice.finish_reason, "logprobs": None})
    answer = {**head, "object": NAMES[kind][1], "choices": found, "usage": usage, "decoding": how}
    return answer if events is None else {**answer, "unmask_events": list(events)}


def chunk(
    kind: Kind,
    head: dict[str, Any],
    index: int,
    text: str | None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """Return one chunk of a streamed answer. `text` None: a chat's first one, which says the role."""
    if kind == "text":
        content: dict[str, Any] = {"text": text or ""}
    elif text is None:
        content = {"delta": {"role": "assistant", "content": ""}}
    else:
        content = {"delta": {"content": text} if text else {}}
    choice = {"index": index, **content, "finish_reason": finish_reason, "logprobs": None}
    return {**head, "object": _chunk_name(kind), "choices": [choice]}


def last_chunk(kind: Kind, head: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the chunk without choices that tells usage."""
    return {**head, "object": _chunk_name(kind), "choices": [], **others}


def _chunk_name(kind: Kind) -> str:
    return "chat.completion.chunk" if kind == "chat" else "text_completion"


def event(data: dict[str, Any]) -> str:
    """Return data as a server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


DONE = "data: [DONE]\n\n"
