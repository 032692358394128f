"""Text that others have written, made safe to print: no control sequence reaches a terminal."""


def printable(text: str) -> str:
    """Return the text with every character that does not print, line breaks apart, as Python escapes it."""
    return "".join(mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text)
