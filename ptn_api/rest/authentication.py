"""Finding the API key in a request, and whose it is.

The key stands in `Authorization: Bearer <key>` or, as some existing clients send it, in a JSON body of a
GET; the header wins. It is never taken from the URL, which ends up in the logs of proxies.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request

from ptn_api.access.key_ring import KeyHolder, KeyRing
from ptn_api.rest.refusal import Refusal

__all__ = ["BODY_LIMIT", "Caller", "authenticate"]

BODY_LIMIT = 4096
"""Bytes of a request's body that are read, to find a key."""


class Caller(NamedTuple):
    holder: KeyHolder
    key_in_body: bool


class _KeyBody(msgspec.Struct):
    api_key: str


_key_body = msgspec.json.Decoder(_KeyBody)


async def authenticate(request: Request, keys: KeyRing) -> Caller:
    """Who asks. Raises Refusal `unauthorized`, whatever is wrong."""
    header = request.headers.get("authorization")
    key = _from_header(header) if header is not None else await _from_body(request)
    holder = keys.who(key) if key else None
    if holder is None:
        raise _unauthorized()
    return Caller(holder, key_in_body=header is None)


def _from_header(value: str) -> str | None:
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


async def _from_body(request: Request) -> str | None:
    if not has_body(request):
        return None
    try:
        return _key_body.decode(await _read_body(request)).api_key
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def has_body(request: Request) -> bool:
    """Whether the request announces a body."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _read_body(request: Request) -> bytes:
    """The body, as far as it came. The connection ends a request that never sends it (connection.py)."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise _unauthorized(connection="close")
    except ClientDisconnect:
        pass
    return body


def _unauthorized(**headers: str) -> Refusal:
    return Refusal("unauthorized", "Unauthorized access", headers={"www-authenticate": "Bearer", **headers})
