"""How mistakes in recipes are put into words."""

from typing import Any

MOST_SHOWN = 200
"""Characters of a value in a message."""


def join_key(where: str, name: str) -> str:
    """Return the dotted name of a key in the table `where`; that of the whole recipe is empty."""
    return f"{where}.{name}" if where else name


def at(where: str, line: str) -> str:
    """Return a mistake with the table or key that it is in."""
    return f"{where}: {line}" if where else line


def show_value(value: Any) -> str:
    """Return a value as TOML writes it, as far as a message needs that."""
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
