"""HTTP errors: a code, which determines the status, and a sentence."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from ptn_api.errors import PTNError

__all__ = ["STATUS", "HTTPError"]

STATUS: dict[str, HTTPStatus] = {
    "bad_request": HTTPStatus.BAD_REQUEST,
    "bad_parameter": HTTPStatus.BAD_REQUEST,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "insufficient_tier": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "request_timeout": HTTPStatus.REQUEST_TIMEOUT,
    "gone": HTTPStatus.GONE,
    "too_many_requests": HTTPStatus.TOO_MANY_REQUESTS,
    "too_many_connections": HTTPStatus.TOO_MANY_REQUESTS,
    "uri_too_long": HTTPStatus.REQUEST_URI_TOO_LONG,
    "headers_too_large": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "version_not_supported": HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "too_many_downloads": HTTPStatus.SERVICE_UNAVAILABLE,
    "starting": HTTPStatus.SERVICE_UNAVAILABLE,
    "behind": HTTPStatus.SERVICE_UNAVAILABLE,
    "log_unreadable": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Every error code and its status."""


class HTTPError(PTNError):
    """An error response. The message is the JSON body's `error`; `fields` are added to the body."""

    def __init__(
        self, code: str, message: str, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> None:
        super().__init__(message, code=code)
        self.headers = headers or {}
        self.fields = fields

    @property
    def status(self) -> HTTPStatus:
        return STATUS[self.code]

    def body(self) -> dict[str, Any]:
        return {"error": str(self), "code": self.code, **self.fields}
