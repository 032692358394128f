"""The body of a request becomes what is asked, or an error that says in one sentence what is wrong with which field."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_origin

from pydantic import Field, TypeAdapter, ValidationError

from diffpo.core.conversation import Prompt
from diffpo.core.suggestion import suggestion
from diffpo.recipes.strict import read_request, table_classes
from diffpo.serve.errors import ApiError
from diffpo.serve.json_body import shown
from diffpo.serve.tables import Asked, ChatAsked
from diffpo.serve.texts import read_messages, read_prompts, read_stops

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
MEANT = {"text": {"messages": "prompt", "max_completion_tokens": "max_tokens"}, "chat": {"prompt": "messages"}}
"""Fields of the other endpoint, and those of this one that say the same."""

MOST_OPTIONS = 64
"""Of a table, more than any has: each that is unknown is compared with those that are known."""
LIMITS = ("minimum", "maximum")
"""Of a number, in a JSON schema."""


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    asked: Asked
    prompts: tuple[Prompt, ...]
    """Texts to go on from, as they are; of a chat its one conversation."""
    param: str
    """The field that they stand in."""


def read_completion(body: Mapping[str, Any]) -> Request:
    """Return a request to /v1/completions. Raises ApiError, naming the field, for what it cannot mean."""
    table = _known(Asked, "prompt", MEANT["text"], body)
    prompts = read_prompts(table.pop("prompt"))
    return Request(_asked(Asked, table), prompts, "prompt")


def read_chat(body: Mapping[str, Any]) -> Request:
    """Return a request to /v1/chat/completions, as `read_completion`."""
    table = _known(ChatAsked, "messages", MEANT["chat"], body)
    turns = read_messages(table.pop("messages"))
    return Request(_asked(ChatAsked, table), (turns,), "messages")


def _known(kind: type[Asked], prompt: str, meant: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that mean something; the prompt's and the model's are among them."""
    table = dict(body)
    for name, neutral in CHANGES_NOTHING.items():
        if name in table and not _is_one_of(table.pop(name), neutral):
            instead = f", or give {json.dumps(neutral[0])}" if neutral else ""
            told = f"{name} is not supported by diffpo serve; leave it out{instead}"
            raise ApiError(400, told, name, "unsupported_parameter")
    fields = [prompt, *kind.model_fields]
    for name in table:
        if name in meant:
            told = f"{shown(name)} is no field of this endpoint; give {meant[name]} instead"
            raise ApiError(400, told, name, "unknown_parameter")
        if name not in fields:
            told = suggestion(name, fields) or f"; there are {', '.join(fields)}"
            raise ApiError(400, f"{shown(name)} is no field that is known here{told}", name, "unknown_parameter")
    for name in ("model", prompt):
        if name not in table:
            raise ApiError(400, f"{name} is missing; give it", name, "missing_required_parameter")
    return table


def _asked(kind: type[Asked], table: dict[str, Any]) -> Asked:
    if "stop" in table:
        table["stop"] = list(read_stops(table["stop"]))
    for name, value in table.items():
        if name in _leaves(kind):
            validate, should = _leaves(kind)[name]
            try:
                validate(value, strict=True)
            except ValidationError:
                raise _refused(name, f"{name} should be {should}, got {shown(value)}") from None
        elif name != "stop" and not isinstance(value, dict):
            raise _refused(name, f"{name} should be an object, got {shown(value)}")
        elif isinstance(value, dict) and len(value) > MOST_OPTIONS:
            told = f"{name} has {len(value)} options, and at most {MOST_OPTIONS} are taken; leave others out"
            raise _refused(name, told)
    try:
        asked, mistakes = read_request(kind, table)
    except RecursionError:
        raise ApiError(400, "the body is nested too deep; send a flat JSON object", code="invalid_json") from None
    if asked is None:
        where, _, told = mistakes[0].partition(": ")
        code = "unknown_parameter" if told.startswith("unknown option") else "invalid_value"
        raise ApiError(400, f"{where} {told}", where, code)
    return asked


@lru_cache
def _leaves(kind: type[Asked]) -> dict[str, tuple[Callable[..., Any], str]]:
    """Return, for each field of one number, text or truth value, what reads it, and what it should be in words."""
    found = {}
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is not tuple and not any(table_classes(field.annotation)):
            annotated: Any = Annotated[field.annotation, *field.metadata, Field()]
            adapter: TypeAdapter[Any] = TypeAdapter(annotated)
            found[name] = adapter.validate_python, " or ".join(_words(adapter.json_schema()))
    return found


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a JSON schema takes, in words."""
    nouns = {"integer": "an integer", "number": "a number", "string": "a text", "boolean": "true or false"}
    for one in schema.get("anyOf", [schema]):
        if one["type"] != "null":
            low, high = (f"{limit:.16g}" if isinstance(limit, float) else limit for limit in map(one.get, LIMITS))
            yield nouns[one["type"]] + (f" from {low}" if low is not None else "") + (f" to {high}" if high else "")


def _refused(name: str, told: str) -> ApiError:
    return ApiError(400, told, name, "invalid_value")


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in neutral)
