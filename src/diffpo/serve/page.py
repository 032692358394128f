"""The page at `/`: one file without requests to other hosts, and the headers that hold it to that."""

from collections.abc import Mapping
from pathlib import Path

from diffpo.core.content_security import content_hash

HERE = Path(__file__).parent


def page() -> tuple[str, Mapping[str, str]]:
    """Return the page as HTML, and the headers to send it with.

    The policy lets it run its own script and style, known by their hashes, and talk to this server alone.
    """
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    html = (HERE / "page.html").read_text(encoding="utf-8")
    html = html.replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        f"default-src 'none'; script-src '{content_hash(script)}'; style-src '{content_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
