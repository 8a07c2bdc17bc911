"""Finding the API key in a request, and whose it is.

The key stands in `Authorization: Bearer <key>` or, as some existing clients send it, in a JSON body of a
GET; the header wins. It is never taken from the URL, which ends up in the logs of proxies.
"""

from __future__ import annotations

import msgspec

from ptn_api.access.key_ring import KeyHolder, KeyRing, digest_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.request import BODY_LIMIT, Request

__all__ = ["authenticate"]


class _KeyBody(msgspec.Struct):
    api_key: str


_key_body = msgspec.json.Decoder(_KeyBody)


def authenticate(request: Request, keys: KeyRing) -> KeyHolder:
    """Who asks. Raises HTTPError `unauthorized`, whatever is wrong."""
    if request.key_digest is None:
        key = _key(request)
        request.key_digest = digest_of(key) if key else b""
    holder = keys.whose(request.key_digest)
    if holder is None:
        raise HTTPError("unauthorized", "Unauthorized access", headers={"www-authenticate": "Bearer"})
    return holder


def _key(request: Request) -> str | None:
    return _from_body(request.body) if request.key_in_body else _from_header(request.headers["authorization"])


def _from_header(value: str) -> str | None:
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _from_body(body: bytes) -> str | None:
    if not body or len(body) > BODY_LIMIT:
        return None
    try:
        return _key_body.decode(body).api_key
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
