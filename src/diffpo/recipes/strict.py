"""Strict recipes: TOML tables read so that one error lists every mistake in them.

A table becomes a frozen `Strict` model, field by field. A field that is wrong is left out and the rest goes on, so that
the checks which join several fields still run on those that are right.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from diffpo.core.errors import UserError
from diffpo.core.suggestion import KEYS_ELSEWHERE, closest, suggested_kind, suggestion
from diffpo.recipes.files import apply_override, read_table, set_key
from diffpo.recipes.renamed import KEYS, removal, renamed_value, renaming
from diffpo.recipes.words import at, join_key, show_value

_CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
NEAR = 0.8
"""A key that is so near to one of its table, a letter or two away, was meant for it, whatever else has that name."""
MOST_MISTAKES = 30  # that are listed
OWN_CLASS = "a class of your own (FILE.py:CLASS or PACKAGE.MODULE:CLASS)"


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

    @classmethod
    def class_for(cls, kind: str) -> "type[Strict] | None":
        """Return the table of a `kind` that no class declares, or None. Raises UserError for a wrong one."""
        return None

    @model_validator(mode="after")
    def _has_no_problems(self) -> "Strict":
        if lines := list(self.problems()):
            raise ValueError("\n".join(lines))
        return self


M = TypeVar("M", bound=Strict)


def load_recipe(
    kind: type[M],
    path_or_name: str | Mapping[str, Any] | None,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    others: Mapping[str, type[Strict]] = MappingProxyType({}),
) -> M:
    """Read a TOML file, a built-in recipe by its name, several joined with +, a table, or nothing; apply overrides.

    A table that is given in part takes the rest from the default of its field. One without a `kind` is of the one class
    that has a default for it, if there is one. The keys `unset`, `a.b`, are not set in the end, whatever was said.
    `others`: recipes of which this one may have been meant to be, by what they are called in a message.
    Raises UserError naming every mistake, one line each.
    """
    mistakes: list[str] = []
    source = f"recipe {path_or_name}" if isinstance(path_or_name, str) else "the recipe"
    if path_or_name is None:
        source = "the overrides"
    try:
        table = {} if path_or_name is None else read_table(path_or_name)
        for override in overrides:
            if mistake := apply_override(table, override):
                mistakes.append(mistake)
        for key in unset:
            set_key(table, key.split("."), None)
        return _complete(kind, table, source, mistakes, others)
    except RecursionError as error:
        raise UserError(f"{source}: tables or arrays are nested too deep; write them flatter") from error


def recipe_of(kind: type[M], table: dict[str, Any], source: str) -> M:
    """A recipe from its table, as `load_recipe`: what it does not say, because it is older, takes today's default."""
    return _complete(kind, table, source, [])


def read_part(kind: type[M], table: dict[str, Any]) -> M:
    """A recipe from what a piece says of it: what is missing has its default, and what is required may be missing."""
    recipe = _read_table([kind], None, table, "", [])
    assert isinstance(recipe, kind), "a recipe is of one class"
    return recipe


def read_request(kind: type[M], table: dict[str, Any]) -> tuple[M | None, list[str]]:
    """Return a client's request as `kind` reads it, or None, and every mistake in it, behind the key that it is in."""
    mistakes: list[str] = []
    found = _read_table([kind], None, table, "", mistakes)
    return (found if isinstance(found, kind) and not mistakes else None), mistakes


def _complete(
    kind: type[M],
    table: dict[str, Any],
    source: str,
    mistakes: list[str],
    others: Mapping[str, type[Strict]] = MappingProxyType({}),
) -> M:
    recipe = _read_table([kind], None, table, "", mistakes, others)
    if mistakes or not isinstance(recipe, kind):
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        more = [f"and {len(mistakes) - MOST_MISTAKES} more"] if len(mistakes) > MOST_MISTAKES else []
        raise UserError("\n  ".join([f"{count} in {source}:", *mistakes[:MOST_MISTAKES], *more]))
    return recipe


# Reading


def _read_table(
    classes: Sequence[type[Strict]],
    default: Any,
    table: dict[str, Any],
    where: str,
    mistakes: list[str],
    others: Mapping[str, type[Strict]] = MappingProxyType({}),
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
        if key not in fields and (new := renaming(key, table[key], fields)):
            mistakes.append(f"{join_key(where, key)}: renamed; write {join_key(where, new)}")
            meant.add(KEYS[key])
        elif key not in fields and (gone := removal(join_key(where, key))):
            mistakes.append(f"{join_key(where, key)}: {gone}")
        elif key not in fields:
            meaning = (
                _of_other_kinds(key, classes, table_class)
                or suggestion(key, fields, NEAR)
                or _elsewhere(KEYS_ELSEWHERE.get(key, key), fields, where)
                or _of_other_recipes(key, others)
                or suggestion(key, fields)
            )
            mistakes.append(f"{join_key(where, key)}: unknown option{meaning} (known: {', '.join(fields)})")
            meant.update(closest(key, fields))
    for name, field in fields.items():
        fallback = getattr(default, name) if is_completed else field.get_default(call_default_factory=True)
        if name in table:
            place = join_key(where, name)
            if table[name] is None:  # from Python: TOML has none
                if field.get_default(call_default_factory=True) is None:
                    values[name] = None
                else:
                    mistakes.append(f"{place}: should have a value, got None; give one, or leave it out")
                continue
            value = _read_value(field, fallback, table[name], place, mistakes)
            if value is not None:
                values[name] = value
        elif name not in meant:
            if fallback is PydanticUndefined:
                mistakes.append(f"{join_key(where, name)}: required, but missing")
            else:
                values[name] = fallback

    if len(mistakes) == mistakes_before:
        try:
            return table_class.model_validate(values)
        except ValidationError as error:
            mistakes += _explain(error, where, values)
            return table_class.model_construct(**values)
    partial = table_class.model_construct(**values)
    for name in fields.keys() - values.keys():
        partial.__dict__.pop(name, None)
    # A check that needs a refused field is made once that field is right.
    with suppress(AttributeError):
        for line in partial.problems():
            mistakes.append(at(where, line))
    return partial


def _choose(
    classes: Sequence[type[Strict]], table: dict[str, Any], where: str, mistakes: list[str]
) -> type[Strict] | None:
    """Return the class that the table's `kind` tells, if it tells one."""
    with_kind = [c for c in classes if "kind" in c.model_fields]
    declared = {c: get_args(c.model_fields["kind"].annotation) for c in with_kind}
    kinds = {kind: c for c, names in declared.items() for kind in names}
    if not with_kind or (len(classes) == 1 and kinds and "kind" not in table):
        return classes[0]
    assumed = [kind for kind, c in kinds.items() if not c.model_fields["kind"].is_required()]
    kind = table.get("kind", assumed[0] if len(assumed) == 1 else None)
    if isinstance(kind, str):
        try:
            if found := kinds.get(kind) or next(filter(None, (c.class_for(kind) for c in with_kind)), None):
                return found
        except UserError as error:
            mistakes.append(f"{join_key(where, 'kind')}: {error}")
            return None
    choices = " or ".join([*map(repr, kinds), *(OWN_CLASS for names in declared.values() if not names)])
    told = f"got {kind!r}{suggested_kind(str(kind), kinds)}" if "kind" in table else "but missing"
    mistakes.append(f"{join_key(where, 'kind')}: should be {choices}, {told}")
    return None


def _of_other_kinds(key: str, classes: Sequence[type[Strict]], chosen: type[Strict]) -> str:
    """Return, as a message goes on, which kinds of a table have an option that the chosen one lacks; empty for none."""
    kinds = {c: get_args(c.model_fields["kind"].annotation) for c in classes if "kind" in c.model_fields}
    others = [kind for c, names in kinds.items() if key in c.model_fields for kind in names]
    own = " or ".join(map(repr, kinds.get(chosen, ())))
    return f" of kind {own}, but one of {', '.join(map(repr, others))}" if others and own else ""


def _of_other_recipes(key: str, others: Mapping[str, type[Strict]]) -> str:
    """Return, as a message goes on, of which other recipe an option is; empty for none."""
    for name, recipe in others.items():
        for near in closest(key, recipe.model_fields, NEAR):
            return f"; {key!r} is a key of {name}" if near == key else f"; did you mean {near!r}, a key of {name}?"
    return ""


def _elsewhere(name: str, fields: Mapping[str, FieldInfo], where: str) -> str:
    """Return, as a message goes on, where an option is: in this table, or in tables of it; empty for neither."""
    found = [join_key(where, name)] if name in fields else []
    for table, field in fields.items():
        is_array = get_origin(field.annotation) is tuple  # in which no key can be set
        if not is_array and any(name in inner.model_fields for inner in table_classes(field.annotation)):
            found.append(join_key(where, f"{table}.{name}"))
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _read_value(field: FieldInfo, default: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    """Return `value` as `field` asks for it; None, which TOML cannot say, if it was refused."""
    classes = list(table_classes(field.annotation))
    plain = _plain_annotation(field.annotation)
    if not classes or (plain is not None and not isinstance(value, dict)):
        # TOML has the types of JSON and is read as JSON: strict then takes an array for a tuple, a string for a Path.
        # The empty Field is there because Annotated wants at least one annotation.
        annotated: Any = Annotated[plain, *field.metadata, Field()]
        leaf: TypeAdapter[Any]
        try:
            leaf = TypeAdapter(annotated, config=_CONFIG)
        except PydanticUserError:  # a dataclass of the user's has a configuration of its own
            leaf = TypeAdapter(annotated)
        try:
            text = json.dumps(value, default=str, ensure_ascii=False)
            text.encode()
        except ValueError:  # half a surrogate pair, or an integer of thousands of digits
            mistakes.append(f"{where}: is no value that can be read; write it as plain numbers and texts")
            return None
        if "\\u0000" in text:
            mistakes.append(f"{where}: has a NUL character; leave it out")
            return None
        try:
            return leaf.validate_json(text, strict=True)
        except ValidationError as error:
            mistakes += _explain(error, where, value)
            return None
    if get_origin(field.annotation) is not tuple:
        return _read_item(classes, default, value, where, mistakes)
    if not isinstance(value, list):
        mistakes.append(f"{where}: should be an array of tables, got {show_value(value)}")
        return None
    items = [_read_item(classes, None, item, f"{where}[{index}]", mistakes) for index, item in enumerate(value)]
    return None if any(item is None for item in items) else tuple(items)


def _read_item(
    classes: Sequence[type[Strict]], default: Any, value: Any, where: str, mistakes: list[str]
) -> Strict | None:
    if isinstance(value, dict):
        return _read_table(classes, default, value, where, mistakes)
    mistakes.append(f"{where}: should be a table, got {show_value(value)}")
    return None


def table_classes(annotation: Any) -> Iterator[type[Strict]]:
    """The `Strict` classes inside an annotation: `Rule`, `Rule | None`, `TopK | EntropyBound`, `tuple[Rule, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for part in get_args(annotation):
        yield from table_classes(part)


def _plain_annotation(annotation: Any) -> Any:
    """Return what an annotation takes that is no table: of `Name | Rule | None` it is `Name`; None: nothing else."""
    if not any(table_classes(annotation)):
        return annotation
    if get_origin(annotation) not in (Union, UnionType):
        return None
    others = [part for part in get_args(annotation) if part is not NoneType and not any(table_classes(part))]
    return reduce(or_, others) if others else None


# Words


def _explain(error: ValidationError, where: str, value: Any = None) -> Iterator[str]:
    """Yield a line for each mistake in a value.

    Of a union pydantic tells what is wrong with the value as each of its branches. Here those count that it may have
    been meant for; where it is of none of their types, one line names them all.
    """
    located = [(_place_of(mistake, where, value), mistake) for mistake in error.errors(include_url=False)]
    is_meant_for_one = any(branch == "inside" for (_, branch), _ in located)
    others: dict[str, list[ErrorDetails]] = {}
    for (place, branch), mistake in located:
        if branch == "other":
            others.setdefault(place, []).append(mistake)
        else:
            yield from _lines(mistake, place)
    if not is_meant_for_one:
        for place, mistakes in others.items():
            told = dict.fromkeys(_told(mistake).removeprefix("should be ") for mistake in mistakes)
            meant = next(filter(None, map(_suggested, mistakes)), "")
            yield f"{place}: should be {' or '.join(told)}, got {show_value(mistakes[0]['input'])}{meant}"


def _lines(mistake: ErrorDetails, place: str) -> Iterator[str]:
    if mistake["type"] == "value_error":
        yield from (at(place, line) for line in str(mistake["ctx"]["error"]).splitlines())
    else:
        new = renamed_value(place.rpartition(".")[2], mistake["input"])
        meant = f"; renamed: write {new!r}" if new else _suggested(mistake)
        yield f"{place}: {_told(mistake)}, got {show_value(mistake['input'])}{meant}"


def _told(mistake: ErrorDetails) -> str:
    return mistake["msg"].removeprefix("Input ").replace("an object", "a table")


def _place_of(mistake: ErrorDetails, where: str, value: Any) -> tuple[str, Literal["", "inside", "other"]]:
    """Return where a mistake is in a value, and how it belongs to a branch of a union: the value is of another type.

    pydantic writes the branch among keys and indices, `dict[str,float]`, which no user has written.
    """
    place, is_in_branch, is_whole_branch = where, False, False
    for number, part in enumerate(mistake["loc"], start=1):
        is_item = isinstance(value, list) and isinstance(part, int) and part < len(value)
        is_absent = number == len(mistake["loc"]) and mistake["type"].startswith("missing")
        is_whole_branch = not (is_item or is_absent or (isinstance(value, dict) and part in value))
        if is_whole_branch:
            is_in_branch = True
        else:
            place = f"{place}[{part}]" if isinstance(part, int) else join_key(place, part)
            value = None if is_absent else value[part]
    if is_whole_branch and (mistake["type"] == "literal_error" or mistake["type"].endswith("_type")):
        return place, "other"
    return place, "inside" if is_in_branch else ""


def _suggested(mistake: ErrorDetails) -> str:
    """Return a question for the nearest of the texts that may stand there; empty where none is near."""
    expected = str(mistake.get("ctx", {}).get("expected", ""))
    given = mistake["input"]
    return suggestion(given, re.findall(r"'([^']*)'", expected)) if isinstance(given, str) else ""
