"""What each request meets before the application: whose name it calls, where it ends, how its address is written."""

import asyncio
import re
from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from diffpo.serve.errors import ApiError

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s\[\]:/@?#]+)(:\d*)?", re.IGNORECASE)
"""A Host header: a name or an address, IPv6 in brackets, and a port."""


class Gate:
    """Refuses requests in a name that is not this server's, and drops the slash at an address's end."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        """`allowed_hosts`: names that a request may have in its Host header; ["*"]: any."""
        self._app, self._allowed_hosts = app, frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(reversed(scope["headers"]))  # the first of each name
            told = _ambiguity(headers) or self._refusal(headers.get(b"host", b"").decode("latin-1"))
            if told is not None:
                # What follows may be no request of its own, if it is not clear where this one ends.
                await JSONResponse(told.body, told.status, {"Connection": "close"})(scope, receive, send)
                return
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # The server is stopped, and this client does not take what it was sent: it is nobody's mistake.
            return

    def _refusal(self, host: str) -> ApiError | None:
        found = HOST.fullmatch(host)
        if found is None:
            return ApiError(400, "the Host header names no host; send one, as 127.0.0.1:8000", code="invalid_host")
        if "*" in self._allowed_hosts or found[1].lower() in self._allowed_hosts:
            return None
        known = ", ".join(sorted(self._allowed_hosts))
        told = f"the Host header is {host!a:.200}, and this server answers to {known} alone; ask it by one of them"
        return ApiError(400, told, code="invalid_host")


def _ambiguity(headers: Mapping[bytes, bytes]) -> ApiError | None:
    """Return what a request is told that says in two ways where it ends (RFC 9112, section 6.1)."""
    if b"transfer-encoding" not in headers or b"content-length" not in headers:
        return None
    told = "the request has both Content-Length and Transfer-Encoding; send one of them"
    return ApiError(400, told, code="invalid_http")
