"""A recipe as TOML in which every key stands with its meaning, its default and what may stand there.

What is written can be saved and used: it reads back to an equal recipe. Keys that are not set stand in comments,
`#key =`, and tables that are not set with all of theirs.
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from diffpo.recipes.dump import plain_table, toml_key, toml_of, toml_value
from diffpo.recipes.meanings import about, default_of, either, kind_left_out, kinds_of, meaning, values
from diffpo.recipes.strict import Strict, table_classes

WIDTH = 80


@dataclass(frozen=True)
class _Table:
    """A table at its place in a recipe."""

    value: Strict
    path: tuple[str, ...] = ()
    default: Strict | None = None
    """The table that stands there by default, if it is of the same kind."""
    choices: tuple[type[Strict], ...] = ()
    """The classes that the table may be of, told apart by `kind`."""
    usual_kind: str | None = None
    """The `kind` that is meant where none is given."""
    only: Mapping[str, Any] | None = None
    """The plain table whose keys alone are shown; None: all keys."""
    mark: str = ""
    """What lines begin with: `#` in a table that is not set."""

    def fields(self) -> list[tuple[str, FieldInfo]]:
        """Return the keys that are shown."""
        fields = shown_fields(type(self.value))
        return [(name, field) for name, field in fields if self.only is None or name in self.only]

    def inner(self, name: str, field: FieldInfo, value: Strict, mark: str = "") -> "_Table":
        given = self.default_of(name, field)
        only = None if self.only is None else self.only[name]
        default = given if type(given) is type(value) else None
        classes = tuple(table_classes(field.annotation))
        kind = getattr(given, "kind", None) or kind_left_out(classes)
        return _Table(value, (*self.path, toml_key(name)), default, classes, kind, only, mark)

    def default_of(self, name: str, field: FieldInfo) -> Any:
        if self.default is not None:
            return getattr(self.default, name)
        return field.get_default(call_default_factory=True)


def shown_fields(table: type[Strict]) -> list[tuple[str, FieldInfo]]:
    """Return the keys of a table in the order in which they are shown: the kind, its own, those shared with others."""
    return sorted(table.model_fields.items(), key=lambda one: (one[0] != "kind", one[0] not in table.__annotations__))


def explained(recipe: Strict, only: Mapping[str, Any] | None = None, header: str = "", rest: Any = None) -> str:
    """Return a recipe as TOML with comments; with `only`, a plain table, nothing but what stands there.

    `header` becomes the comment at the top, and `rest` a plain table at the end.
    """
    lines = [*_comment(header), *_table_lines(_Table(recipe, only=only))]
    if rest:
        lines += ["", *toml_of(rest).splitlines()]
    return "\n".join(lines).lstrip("\n") + "\n"


def _table_lines(table: _Table) -> Iterator[str]:
    """Yield what stands in a table itself, then the tables in it: in TOML, what follows a header belongs to it."""
    later: list[Iterator[str]] = []
    for name, field in table.fields():
        value = getattr(table.value, name)
        told = meaning(type(table.value), name)
        if isinstance(value, Strict):
            later.append(_inner_lines(told, table.inner(name, field, value, table.mark)))
        elif value is None and (unset := _unset_table(field)) is not None:
            later.append(_inner_lines(told, table.inner(name, field, unset, "#")))
        else:
            yield from ("", *_comment(_told(table, name, field, told)))
            mark = "#" if value is None else table.mark
            yield f"{mark}{toml_key(name)} = {_written(value)}".replace("\n", f"\n{mark}").rstrip()
            if isinstance(value, tuple) and value and isinstance(value[0], Strict):
                yield from _item_lines(value)
    for lines in later:
        yield from lines


def _told(table: _Table, name: str, field: FieldInfo, told: str) -> str:
    """Return the comment of a key: its meaning, what may stand there, and the default."""
    given = table.default_of(name, field)
    if name == "kind" and len(table.choices) > 1:
        kinds = [kind if " " in kind else toml_value(kind) for kind in kinds_of(table.choices)]
        default = "required" if table.usual_kind is None else f"default {toml_value(table.usual_kind)}"
        return f"{told} [{either(kinds)}; {default}]"
    default = "required" if given is PydanticUndefined else f"default {default_of(field, given)}"
    if len(default) > WIDTH and given == getattr(table.value, name):
        default = "default as it is here"
    return f"{told} [{values(field)}; {default}]"


def _inner_lines(told: str, table: _Table) -> Iterator[str]:
    is_new = about(type(table.value)) not in (told, "") and "kind" not in type(table.value).model_fields
    yield from ("", "", *_comment(f"{told} {about(type(table.value))}" if is_new else told))
    yield f"{table.mark}[{'.'.join(table.path)}]"
    yield from _table_lines(table)


def _unset_table(field: FieldInfo) -> Strict | None:
    """Return what a table that is not set would be by default, if it is of one kind and needs nothing."""
    classes = list(table_classes(field.annotation))
    if len(classes) != 1 or any(inner.is_required() for inner in classes[0].model_fields.values()):
        return None
    return classes[0]()


def _written(value: Any) -> str:
    """Return a value as TOML has it, an array of tables over several lines."""
    if value is None:
        return ""
    if isinstance(value, tuple) and value and isinstance(value[0], Strict):
        items = "".join(f"  {toml_value(plain_table(item))},\n" for item in value)
        return f"[\n{items}]"
    return toml_value(to_jsonable_python(value))


def _item_lines(items: tuple[Any, ...]) -> Iterator[str]:
    """Yield what the keys of the tables in an array mean, as comments below it."""
    for table in dict.fromkeys(type(item) for item in items):
        for name, field in table.model_fields.items():
            told = f"{name}: {meaning(table, name)} [{values(field)}; default {default_of(field)}]"
            yield from _comment(told.replace("default required", "required"), "#   ")


def _comment(text: str, mark: str = "# ") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=mark, subsequent_indent=mark, break_long_words=False, break_on_hyphens=False
    )
