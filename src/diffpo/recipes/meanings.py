"""What the keys of recipes mean, what may stand there, and what stands there by default, in words.

The attribute docstrings of the tables are the one source; `diffpo recipes` and the reference page both have it from
here.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from diffpo.recipes.dump import plain_table, toml_value
from diffpo.recipes.strict import OWN_CLASS, Strict, table_classes

HUGE = 2**20
"""Limits from here on are against slips of the hand, and no reader asks for them."""
NOT_SET = "not set"


def about(table: type[Strict]) -> str:
    """Return what a table is, in one paragraph; empty where its class does not say."""
    own = vars(table).get("__doc__") or ""
    return _one_line(own.strip().partition("\n\n")[0])


def meaning(table: type[Strict], key: str) -> str:
    """Return what a key means; empty where nothing says so.

    A key that a class only gives another default means what it does in the class above. A key without a meaning of its
    own means what the table is that stands there, and a `kind` what the table is that it stands in.
    """
    for one in table.__mro__:
        field = getattr(one, "model_fields", {}).get(key)
        if field is not None and field.description:
            return _one_line(field.description)
    inner = list(table_classes(table.model_fields[key].annotation))
    return about(table) if key == "kind" else about(inner[0]) if len(inner) == 1 else ""


def values(field: FieldInfo) -> str:
    """Return what may stand in a field, in words: `integer from 1 to 1024`."""
    return _words(field.annotation, field.metadata)


def default_of(field: FieldInfo, given: Any = PydanticUndefined) -> str:
    """Return a field's default as TOML has it, or `required`; `given` is that of the table around it."""
    value = field.get_default(call_default_factory=True) if given is PydanticUndefined else given
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Strict):
        changed = value.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}
        return toml_value(kind | changed)
    if isinstance(value, tuple):
        return toml_value(
            [plain_table(item) if isinstance(item, Strict) else to_jsonable_python(item) for item in value]
        )
    return NOT_SET if value is None else toml_value(value)


def either(words: Iterable[str]) -> str:
    """Return a choice in words: `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def kinds_of(classes: Sequence[type[Strict]]) -> list[str]:
    """Return the values that `kind` may have in one of these tables."""
    found: list[str] = []
    for table in classes:
        if "kind" in table.model_fields:
            found += get_args(table.model_fields["kind"].annotation) or (OWN_CLASS,)
    return found


def kind_left_out(classes: Sequence[type[Strict]]) -> str | None:
    """Return the `kind` that a table without one is of, if one of these classes alone has a default for it."""
    kinds = [one.model_fields.get("kind") for one in classes]
    assumed = [str(kind.default) for kind in kinds if kind is not None and not kind.is_required()]
    return assumed[0] if len(assumed) == 1 else None


def _words(annotation: Any, metadata: list[Any]) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0], [*parts[1:], *metadata])
    if origin in (Union, UnionType):
        others = [part for part in parts if part is not NoneType and not list(table_classes(part))]
        words = [_words(part, metadata) for part in others]
        return " or ".join([*words, *(["table"] if len(others) < len([p for p in parts if p is not NoneType]) else [])])
    if origin is Literal:
        return either(map(toml_value, parts))
    if origin is tuple:
        return f"array of {_plural(_words(parts[0], []))}"
    if list(table_classes(annotation)):
        return "table"
    if origin is dict:
        return f"table of {_plural(_words(parts[1], []))}"
    names = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return " ".join([names[annotation], *_limits(metadata)])


def _plural(words: str) -> str:
    first, _, rest = words.partition(" ")
    return f"{first}s {rest}".rstrip()


def _limits(metadata: list[Any]) -> Iterator[str]:
    """Yield the limits of a number, those of a nested `Field` among them."""
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from _limits(one.metadata)
        for name, word in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "to")):
            limit = getattr(one, name, None)
            if limit is not None and abs(limit) < HUGE:
                yield f"{word} {limit:g}"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
