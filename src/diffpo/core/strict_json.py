"""JSON as its standard has it: Python's reader also takes NaN, and the last of two fields of one name."""

import json
from collections import Counter
from typing import Any


class NotJsonError(ValueError):
    """A text is not JSON, or says one thing twice; the message says why."""


def read_json(text: str) -> Any:
    """Return the value of a text.

    Raises NotJsonError for what is not JSON, for numbers that JSON or Python does not have, and for an object that
    names a field twice; RecursionError for thousands of brackets.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_fields)
    except json.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} at column {error.colno}") from error
    except NotJsonError:
        raise
    except ValueError as error:  # an integer of too many digits
        raise NotJsonError(f"not JSON that can be read: {str(error).partition(';')[0]}") from error


def _no_number(word: str) -> float:
    raise NotJsonError(f"not JSON: {word} is no number of JSON's; write null, or a text")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _no_number(f"{text:.20}")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise NotJsonError(f"field {twice!r:.60} is there twice, with two values; keep one")
    return found
