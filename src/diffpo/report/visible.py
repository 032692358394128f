"""Text of a model made visible: what would not show, or would turn the order of a line round, becomes a named mark."""

import re
import unicodedata

from markupsafe import Markup, escape

INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode: control characters, marks that turn a line round or have no width, halves of pairs."""
SPACES = "\n\t "
"""Characters of these that a page shows by what they do."""
TIMES = "\N{MULTIPLICATION SIGN}"
_RUNS = re.compile(r"(?s)(.)\1*")


def visible(text: str) -> Markup:
    """Return the text as HTML in which every character can be seen: NUL as ␀, a right-to-left mark as U+202E.

    Line breaks stay, behind a ⏎, and so do tabs and spaces. Of a run of one invisible character the first is named,
    with how many there are.
    """
    return Markup("").join(_run(found[0]) for found in _RUNS.finditer(text))


def visible_characters(text: str) -> str:
    """Return the same without HTML, for labels."""
    return "".join(_name(character) or character for character in text)


def _run(run: str) -> Markup:
    if run[0] == "\n":
        return Markup('<b class="mark">⏎</b>\n') * len(run)
    name = _name(run[0])
    if name is None:
        return escape(run)
    count = f"{TIMES}{len(run)}" if len(run) > 1 else ""
    return Markup('<b class="mark">{}{}</b>').format(name, count)


def _name(character: str) -> str | None:
    """Return the name of a character that does not show; None for one that does."""
    code = ord(character)
    if character in SPACES or not (unicodedata.category(character) in INVISIBLE or _is_blank(character)):
        return None
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"U+{code:04X}"


def _is_blank(character: str) -> bool:
    """Return whether a letter or sign shows nothing, as the fillers of Hangul do, or is a space of another width."""
    return unicodedata.category(character) == "Zs" or character in "\u115f\u1160\u3164\uffa0\u034f\u2800"
