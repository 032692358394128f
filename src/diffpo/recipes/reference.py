"""The reference page of all tables and keys of recipes, as Markdown: docs/reference/recipes.md."""

import re
from collections.abc import Iterator

from diffpo.recipes.catalogue import KINDS
from diffpo.recipes.explained import shown_fields
from diffpo.recipes.files import PIECES
from diffpo.recipes.meanings import NOT_SET, about, default_of, kinds_of, meaning, values
from diffpo.recipes.strict import Strict, table_classes

Classes = tuple[type[Strict], ...]

INTRODUCTION = """\
# Reference: recipes

A recipe is a TOML file of the tables below; what it leaves out has its default. `diffpo recipes` lists those that are
built in, and `diffpo recipes NAME` prints one with all of this beside its keys. On the command line
`table.key=value` changes a key. Unknown keys are refused, and nothing is converted but an integer to a number.

This page is made by `diffpo recipes --reference > docs/reference/recipes.md`, from the docstrings of
`src/diffpo/recipes/tables/`.
"""


def reference_page() -> str:
    """Return the page: a section for the recipes of each verb, then one for each table."""
    sections: dict[Classes, str] = {}
    lines = [INTRODUCTION]
    for kind in KINDS.values():
        if kind.name != PIECES:
            lines += [f"## diffpo {kind.name}", "", about(kind.recipe), "", *_keys(kind.recipe, "", sections), ""]
    done = 0
    while done < len(sections):  # a table that is described may bring another
        classes, title = list(sections.items())[done]
        lines += _section(classes, title, sections)
        done += 1
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(classes: Classes, title: str, sections: dict[Classes, str]) -> Iterator[str]:
    yield from (f"## {title}", "")
    if len(classes) == 1:
        yield from (about(classes[0]), "", *_keys(classes[0], title, sections), "")
        return
    for table in classes:
        yield from (f"### {title}: {' or '.join(kinds_of([table]))}", "", about(table), "")
        if len(table.model_fields) > 1:
            yield from (*_keys(table, title, sections), "")


def _keys(table: type[Strict], title: str, sections: dict[Classes, str]) -> Iterator[str]:
    """Yield the rows of a table's keys; the tables that stand in it get a section, if they have none."""
    yield from ("| key | may be | default | meaning |", "|---|---|---|---|")
    for name, field in shown_fields(table):
        classes = tuple(table_classes(field.annotation))
        told = values(field)
        if classes:
            inner = sections.setdefault(classes, f"{title}.{name}".strip("."))
            told = re.sub(r"\btables?$", rf"[\g<0>](#{_anchor(inner)})", told)
        cells = (f"`{name}`", told, _code(default_of(field)), _escaped(meaning(table, name)))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(default: str) -> str:
    return {"{}": "its own"}.get(default, default if default in ("required", NOT_SET) else f"`{default}`")


def _escaped(prose: str) -> str:
    """Return prose whose brackets Markdown does not take for links; code between backticks is left as it is."""
    parts = prose.split("`")
    return "`".join(part.replace("[", r"\[") if index % 2 == 0 else part for index, part in enumerate(parts))


def _anchor(title: str) -> str:
    """Return the anchor that GitHub and mkdocs make of a title."""
    return title.lower().replace(".", "").replace(" ", "-")
