"""What a page tells browsers of its own scripts and styles, so that they run no others (Content-Security-Policy)."""

import base64
import hashlib


def content_hash(text: str) -> str:
    """Return the source by which a policy allows an element with exactly this text: `sha256-` and its hash."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
