"""What `diffpo recipes` prints: the list of built-in recipes, and one of them with all that its keys mean."""

import shlex
from collections.abc import Sequence

from diffpo.recipes.catalogue import KINDS, comment_of, kind_of, summary_of
from diffpo.recipes.explained import explained
from diffpo.recipes.files import PIECES, apply_override, built_in_names, parts_of, read_conditions, read_table
from diffpo.recipes.strict import load_recipe, read_part


def listing(width: int = 80) -> str:
    """Return the built-in recipes by kind, one in a line of at most `width` characters, with what it is."""
    sections = []
    for folder, kind in KINDS.items():
        names = built_in_names(folder)
        column = max(map(len, names)) + 2
        title = f"{folder}, joined with +" if folder == PIECES else folder
        lines = [f"{title}: {kind.usage}"]
        lines += [_shortened(f"  {name:{column}}{summary_of(name)}", width) for name in names]
        sections.append("\n".join(lines))
    sections.append("diffpo recipes NAME prints one with every key, its default and its meaning.")
    return "\n\n".join(sections)


def shown(names: str, overrides: Sequence[str] = ()) -> str:
    """Return a recipe, or several joined with +, with overrides, as TOML in which every key is explained.

    Of pieces alone only what they say is shown. Raises UserError as `load_recipe` does.
    """
    table = read_table(names)
    kind = kind_of(names, table)
    is_piece = kind.name == PIECES
    # What a recipe says on condition that a piece is joined with it stays, for pieces that are not.
    rest = {"with": conditions} if (conditions := read_conditions(names)) else {}
    if is_piece:
        for override in overrides:
            apply_override(table, override)
        recipe, only = read_part(kind.recipe, table), table
    else:
        recipe, only = load_recipe(kind.recipe, names, overrides), None
    use = kind.usage.replace("NAME", names if is_piece else "FILE.toml")
    made_by = shlex.join(["diffpo", "recipes", names, *overrides])
    about = comment_of(names) if len(parts_of(names)) == 1 else ""
    return explained(recipe, only, f"{about} Made by `{made_by}`; to be used by `{use}`.".strip(), rest)


def _shortened(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 3].rstrip()}..."
