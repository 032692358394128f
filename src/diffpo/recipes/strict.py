"""Strict recipes: TOML tables read so that one error lists every mistake in them.

A table becomes a frozen `Strict` model, field by field. A field that is wrong is left out and the rest goes on, so that
the checks which join several fields still run on those that are right.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diffpo.core.errors import UserError
from diffpo.recipes.files import apply_override, read_table
from diffpo.recipes.words import closest, suggestion

_CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Strict(BaseModel):
    """A table of a recipe. Unknown keys, NaN, infinities and values of a look-alike type are mistakes.

    Nothing is converted, except that an int may stand for a float. What concerns one field is a pydantic constraint;
    what joins several fields goes into `problems`. Arrays of tables are `tuple[Table, ...]`; a choice between tables is
    a union of classes told apart by a `kind: Literal["..."]` field.
    """

    model_config = _CONFIG

    def problems(self) -> Iterable[str]:
        """One line for each way in which fields, each right by itself, do not fit together.

        Called also when some fields were refused: those are absent, and touching one ends this table's list.
        """
        return ()

    @model_validator(mode="after")
    def _has_no_problems(self) -> "Strict":
        if lines := list(self.problems()):
            raise ValueError("\n".join(lines))
        return self


M = TypeVar("M", bound=Strict)


def load_recipe(kind: type[M], path_or_name: str | None, overrides: Sequence[str] = ()) -> M:
    """Read a TOML file, or a built-in recipe by its name, or several joined with +, or nothing; then apply overrides.

    A table that is given in part takes the rest from the default of its field. One without a `kind` is of the one class
    that has a default for it, if there is one.
    Raises UserError naming every mistake, one line each.
    """
    mistakes: list[str] = []
    table = {} if path_or_name is None else read_table(path_or_name)
    for override in overrides:
        if mistake := apply_override(table, override):
            mistakes.append(mistake)
    return _complete(kind, table, "the overrides" if path_or_name is None else f"recipe {path_or_name}", mistakes)


def recipe_of(kind: type[M], table: dict[str, Any], source: str) -> M:
    """A recipe from its table, as `load_recipe`: what it does not say, because it is older, takes today's default."""
    return _complete(kind, table, source, [])


def _complete(kind: type[M], table: dict[str, Any], source: str, mistakes: list[str]) -> M:
    recipe = _read_table([kind], None, table, "", mistakes)
    if mistakes or not isinstance(recipe, kind):
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise UserError("\n  ".join([f"{count} in {source}:", *mistakes]))
    return recipe


def dump_recipe(recipe: Strict) -> str:
    """The recipe as TOML that `load_recipe` reads back to an equal recipe.

    TOML has no null: a field that is None is left out, so a field that may be None must have None as its default.
    """
    return "\n".join(_table_lines(_plain(recipe), ())).lstrip("\n") + "\n"


def diff_recipes(old: Strict, new: Strict) -> list[str]:
    """What changed, as `key: old -> new` lines; empty if the recipes say the same."""
    before, after = dict(_leaves(_plain(old))), dict(_leaves(_plain(new)))
    return [
        f"{key}: {before.get(key, '(not set)')} -> {after.get(key, '(not set)')}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


# Reading


def _read_table(
    classes: Sequence[type[Strict]], default: Any, table: dict[str, Any], where: str, mistakes: list[str]
) -> Strict | None:
    """`table`, completed from `default`, as one of `classes`, without what is wrong in it.

    None if its class cannot be told.
    """
    table_class = _choose(classes, table, where, mistakes)
    if table_class is None:
        return None
    fields, mistakes_before = table_class.model_fields, len(mistakes)
    is_completed = isinstance(default, table_class)
    values: dict[str, Any] = {}
    meant: set[str] = set()  # what unknown options stand for: neither missing nor to be judged by its default
    for key in table:
        if key not in fields:
            known = f"(known: {', '.join(fields)})"
            mistakes.append(f"{_join(where, key)}: unknown option{suggestion(key, fields)} {known}")
            meant.update(closest(key, fields))
    for name, field in fields.items():
        fallback = getattr(default, name) if is_completed else field.get_default(call_default_factory=True)
        if name in table:
            value = _read_value(field, fallback, table[name], _join(where, name), mistakes)
            if value is not None:
                values[name] = value
        elif name not in meant:
            if fallback is PydanticUndefined:
                mistakes.append(f"{_join(where, name)}: required, but missing")
            else:
                values[name] = fallback

    if len(mistakes) == mistakes_before:
        try:
            return table_class.model_validate(values)
        except ValidationError as error:
            mistakes += _explain(error, where)
            return table_class.model_construct(**values)
    partial = table_class.model_construct(**values)
    for name in fields.keys() - values.keys():
        partial.__dict__.pop(name, None)
    # A check that needs a refused field is made once that field is right.
    with suppress(AttributeError):
        for line in partial.problems():
            mistakes.append(_at(where, line))
    return partial


def _choose(
    classes: Sequence[type[Strict]], table: dict[str, Any], where: str, mistakes: list[str]
) -> type[Strict] | None:
    kinds = {
        kind: c for c in classes if "kind" in c.model_fields for kind in get_args(c.model_fields["kind"].annotation)
    }
    if not kinds or ("kind" not in table and len(classes) == 1):
        return classes[0]
    assumed = [kind for kind, c in kinds.items() if not c.model_fields["kind"].is_required()]
    kind = table.get("kind", assumed[0] if len(assumed) == 1 else None)
    if isinstance(kind, str) and kind in kinds:
        return kinds[kind]
    choices = " or ".join(map(repr, kinds))
    told = f"got {kind!r}{suggestion(str(kind), kinds)}" if "kind" in table else "but missing"
    mistakes.append(f"{_join(where, 'kind')}: should be {choices}, {told}")
    return None


def _read_value(field: FieldInfo, default: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    """`value` as `field` asks for it; None, which TOML cannot say, if it was refused."""
    classes = list(_table_classes(field.annotation))
    if not classes:
        # TOML has the types of JSON and is read as JSON: strict then takes an array for a tuple, a string for a Path.
        # The empty Field is there because Annotated wants at least one annotation.
        annotated: Any = Annotated[field.annotation, *field.metadata, Field()]
        leaf: TypeAdapter[Any] = TypeAdapter(annotated, config=_CONFIG)
        try:
            return leaf.validate_json(json.dumps(value, default=str))
        except ValidationError as error:
            mistakes += _explain(error, where)
            return None
    if get_origin(field.annotation) is not tuple:
        return _read_item(classes, default, value, where, mistakes)
    if not isinstance(value, list):
        mistakes.append(f"{where}: should be an array of tables, got {_show(value)}")
        return None
    items = [_read_item(classes, None, item, f"{where}[{index}]", mistakes) for index, item in enumerate(value)]
    return None if any(item is None for item in items) else tuple(items)


def _read_item(
    classes: Sequence[type[Strict]], default: Any, value: Any, where: str, mistakes: list[str]
) -> Strict | None:
    if isinstance(value, dict):
        return _read_table(classes, default, value, where, mistakes)
    mistakes.append(f"{where}: should be a table, got {_show(value)}")
    return None


def _table_classes(annotation: Any) -> Iterator[type[Strict]]:
    """The `Strict` classes inside an annotation: `Rule`, `Rule | None`, `TopK | EntropyBound`, `tuple[Rule, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for part in get_args(annotation):
        yield from _table_classes(part)


# Words


def _explain(error: ValidationError, where: str) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        place = where
        for part in mistake["loc"]:
            place = f"{place}[{part}]" if isinstance(part, int) else _join(place, part)
        if mistake["type"] == "value_error":
            yield from (_at(place, line) for line in str(mistake["ctx"]["error"]).splitlines())
        else:
            yield f"{place}: {mistake['msg'].removeprefix('Input ')}, got {_show(mistake['input'])}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _at(where: str, line: str) -> str:
    return f"{where}: {line}" if where else line


def _show(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else repr(value)


# Writing


def _plain(recipe: Strict) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_none=True)


def _leaves(table: dict[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, _join(where, key))
        else:
            yield _join(where, key), _toml(value)


def _table_lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Values first: in TOML, what follows a `[header]` belongs to it."""
    yield from (f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict))
    for key, value in table.items():
        if isinstance(value, dict):
            inner = (*path, _toml_key(key))
            yield f"\n[{'.'.join(inner)}]"
            yield from _table_lines(value, inner)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return _show(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{_toml_key(key)} = {_toml(item)}' for key, item in value.items())}}}"
        case _:
            return repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)
