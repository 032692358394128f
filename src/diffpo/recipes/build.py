"""How the table of a recipe becomes a part. Imports no torch."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from diffpo.recipes.custom import CustomPart, build_custom
from diffpo.recipes.strict import Strict


def build_part(parts: Mapping[str, Any], table: Strict, **given: Any) -> Any:
    """Return the part that the table's `kind` names: `parts[kind]`, or a class of the user's own.

    Every field of the part is the table's option of that name, or one of `given`; a field that is a dataclass itself
    is built from the same table. Parts have no defaults of their own that differ from the table's.
    """
    if isinstance(table, CustomPart):
        return build_custom(table)
    return _filled(parts[getattr(table, "kind")], table, given)  # noqa: B009  not every table has a kind


def _filled(part: Any, table: Strict, given: Mapping[str, Any]) -> Any:
    values = dict(given)
    for field in fields(part):
        if field.name not in values:
            is_part = is_dataclass(field.type)
            values[field.name] = _filled(field.type, table, {}) if is_part else getattr(table, field.name)
    return part(**values)
