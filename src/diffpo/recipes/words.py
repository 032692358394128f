"""How mistakes in recipes are put into words."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(word, known, n=1)


def suggestion(word: str, known: Iterable[str]) -> str:
    return "".join(f"; did you mean {guess!r}?" for guess in closest(word, known))
