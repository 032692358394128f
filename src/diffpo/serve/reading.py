"""The body of a request becomes one of the tables, or an error that says what is wrong with it."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from diffpo.recipes.strict import read_request
from diffpo.recipes.words import show_value
from diffpo.serve.errors import ApiError
from diffpo.serve.tables import Asked

LARGEST_BODY = 4 * 2**20
"""Bytes."""
CHANGES_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1, 1.0),
    "top_k": (0, -1),
    "min_p": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}
"""OpenAI's fields that mean nothing to this sampler, with the values under which an answer is the same without them."""

A = TypeVar("A", bound=Asked)


def parse(body: bytes) -> dict[str, Any]:
    """Return the object that a request's body is. Raises ApiError for what is none."""
    try:
        found = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, "the body is not UTF-8; send JSON in UTF-8", code="invalid_json") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}; send one JSON object", code="invalid_json") from error
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deep; send a flat JSON object", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, f"the body should be a JSON object, got {show_value(found)}", code="invalid_json")
    return {key: value for key, value in found.items() if value is not None}


def read(kind: type[A], body: Mapping[str, Any]) -> A:
    """Return a request as its table. Raises ApiError, naming the field, for what it cannot mean."""
    table = dict(body)
    for name, neutral in CHANGES_NOTHING.items():
        if name in table and not _is_one_of(table.pop(name), neutral):
            instead = f", or give {json.dumps(neutral[0])}" if neutral else ""
            raise ApiError(
                400, f"{name}: diffpo serve does not support it; leave it out{instead}", name, "unsupported_parameter"
            )
    for name in ("prompt", "stop"):
        if isinstance(table.get(name), str):
            table[name] = [table[name]]
    if isinstance(messages := table.get("messages"), list):
        table["messages"] = [_plain_message(message) for message in messages]
    asked, mistakes = read_request(kind, table)
    if asked is None:
        param = mistakes[0].partition(":")[0]
        code = "unknown_parameter" if ": unknown option" in mistakes[0] else "invalid_value"
        raise ApiError(400, "; ".join(mistakes), param, code)
    return asked


def _plain_message(message: Any) -> Any:
    """Return a message as its table has it: a developer is the system, and parts of text are one text."""
    if not isinstance(message, dict):
        return message
    message = dict(message)
    if message.get("role") == "developer":
        message["role"] = "system"
    parts = message.get("content")
    if isinstance(parts, list) and parts and all(_is_text_part(part) for part in parts):
        message["content"] = "".join(part["text"] for part in parts)
    return message


def _is_text_part(part: Any) -> bool:
    is_text = isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
    return is_text and isinstance(part["text"], str)


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in neutral)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
