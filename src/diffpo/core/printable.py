"""Text that others have written, made safe to show: no control sequence reaches a terminal, and no password."""

import os
import re
import unicodedata
from collections.abc import Iterator

_SECRETS = re.compile(r"(?<=://)[^/?#\s]*@|\bhf_[A-Za-z0-9]{16,}")
"""The user and password of an address, and access tokens of the Hugging Face hub, as errors of libraries quote them."""
_SECRETS_HELD_BY = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_SHORTEST_SECRET = 6
"""Characters; a shorter one is in too many words to be looked for without the address around it."""
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode: control characters, marks that turn the order of a line round, halves of surrogate pairs."""

_NAMES = {"\n": "line break", "\r": "carriage return", "\t": "tab", " ": "space"}


def printable(text: str) -> str:
    """Return the text with every character that does not print as Python escapes it, and without passwords.

    Line breaks, tabs and spaces of all widths stay.
    """
    text = without_secrets(text)
    if text.isprintable():
        return text
    return "".join(mark if _is_printable(mark) else ascii(mark)[1:-1] for mark in text)


def character_name(mark: str) -> str:
    """Return which character it is, readable also where it does not show: line break, space, 'x', 'é' (U+00E9)."""
    if mark in _NAMES:
        return _NAMES[mark]
    code = f"U+{ord(mark):04X}"
    if not mark.isprintable():
        return code
    return repr(mark) if mark.isascii() else f"{mark!r} ({code})"


def without_secrets(text: str) -> str:
    """Return the text with *** in place of user and password in addresses, and of access tokens.

    Those of the environment are found without an address around them, too.
    """
    for secret in _secrets_of_environment():
        text = text.replace(secret, "***")
    return _SECRETS.sub(lambda found: "***@" if found[0].endswith("@") else "***", text)


def _secrets_of_environment() -> Iterator[str]:
    for name in _SECRETS_HELD_BY:
        for value in (os.environ.get(name, ""), os.environ.get(name.lower(), "")):
            address = re.search(r"://[^/?#\s]*?:([^/?#\s]*)@", value)
            secret = address[1] if address else "" if "://" in value else value
            if len(secret) >= _SHORTEST_SECRET:
                yield secret


def _is_printable(mark: str) -> bool:
    return mark in "\n\t" or unicodedata.category(mark) not in _UNPRINTABLE
