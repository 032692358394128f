"""The body of a request as a JSON object, and its values in the words of an error."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diffpo.serve.errors import ApiError

LARGEST_BODY = 2**20
"""Bytes: the prompts and completions of 128k tokens fit, and reading so many delays the requests of others little."""
LONGEST_INTEGER = 30
"""Digits up to which an integer is read as one: more than any field takes, and reading thousands takes long."""
ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(?P<half>u[dD][89a-fA-F][\da-fA-F]{2})|.)", re.DOTALL
)
"""In a JSON text; half: of a surrogate pair, without the other half. No answer could repeat it."""
MOST_SHOWN = 80
"""Characters of a value in a message."""


def parse(body: bytes) -> dict[str, Any]:
    """Return the object that a request's body is, without what is null. Raises ApiError for what is none."""
    try:
        text = body.decode()
        if any(escape["half"] for escape in ESCAPE.finditer(text)):
            told = "the body has half a surrogate pair, which is no character; leave it out"
            raise ApiError(400, told, code="invalid_json")
        found = json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, "the body is not UTF-8; send JSON in UTF-8", code="invalid_json") from error
    except json.JSONDecodeError as error:
        told = f"the body is not JSON: {error.msg}, in line {error.lineno}, column {error.colno}; send one JSON object"
        raise ApiError(400, told, code="invalid_json") from error
    except RecursionError:
        raise ApiError(400, "the body is nested too deep; send a flat JSON object", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is {shown(found)}; send a JSON object", code="invalid_json")
    return {key: value for key, value in found.items() if value is not None}


def shown(value: Any) -> str:
    """Return a value as a message names it: JSON where that is short, else what it is."""
    if isinstance(value, dict | list) and value:
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number too large to be read"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(key for key, _ in pairs)
        twice = names.most_common(1)[0][0]
        raise ApiError(400, f"the body gives {shown(twice)} twice; give it once", twice, "invalid_value")
    return found


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)


def _refuse_constant(name: str) -> Any:
    told = f"the body is not JSON: {name} is no number there; send one JSON object"
    raise ApiError(400, told, code="invalid_json")
