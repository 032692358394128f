"""What a misspelt word may have been meant for, as the end of a message: `; did you mean 'policy'?`."""

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def closest(word: str, known: Iterable[str]) -> list[str]:
    """Return the known word that is nearest to this one, if one is near."""
    return difflib.get_close_matches(word, known, n=1)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a question for the nearest known word; empty where none is near."""
    return "".join(f"; did you mean {guess!r}?" for guess in closest(word, known))


def suggested_path(path: str) -> str:
    """Return a question for the file or folder beside `path` whose name is nearest to its; empty where none is near."""
    with suppress(OSError, ValueError):
        given = Path(path).expanduser()
        return suggestion(str(given), (str(given.with_name(there.name)) for there in given.parent.iterdir()))
    return ""


def suggested_choice(message: str) -> str:
    """Return a question for a message of a library that says `'x' is not one of 'a', 'b'`, or of others as `''`."""
    found = re.search(r"'([^']*)' is not one of (.*)", message)
    return suggestion(found[1], re.findall(r"'([^']*)'", found[2])) if found else ""
