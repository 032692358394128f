"""Names of arms and tasks as parts of file names."""


def file_name(text: str) -> str:
    """Return a text as a part of a file's name: signs that some system minds become dashes."""
    return "".join(sign if sign.isalnum() or sign in "._+" else "-" for sign in text).strip("-.") or "unnamed"
