"""Errors in OpenAI's format, which its clients turn into exceptions."""

from typing import Any

MOST_OF_PARAM = 200
"""Characters of a field's name."""


class ApiError(Exception):
    """A request that is not answered. The message says what is wrong, where, and what to do, in one sentence."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The answer: `{"error": {...}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        param = self.param[:MOST_OF_PARAM] if self.param is not None else None
        return {"error": {"message": str(self), "type": kind, "param": param, "code": self.code}}


def stopping() -> ApiError:
    """Return what those are told who are not answered any more."""
    return ApiError(503, "the server is being stopped; try again when it is back", code="stopping")


def server_failed(error: Exception) -> ApiError:
    """Return what clients are told of a mistake of ours."""
    return ApiError(500, f"the server failed: {type(error).__name__}; its log says more", code="server_failed")
