"""What a handler hands back, and what becomes of it: ETag, 304, HEAD, codings."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from ptn_api.http.accept import has_already, negotiate
from ptn_api.http.body import Body, Coding, EncodedBody
from ptn_api.http.errors import HTTPError
from ptn_api.http.reply import Reply, lines
from ptn_api.http.request import Request

__all__ = ["JSON", "Answer", "give", "refuse"]

JSON = "application/json"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A document to be sent. Without a snapshot the request was a HEAD that needed no body to be answered.

    `headers` are lines (`reply.lines`). `vary`: a header of the request that it depends on, besides those
    that all answers do.
    """

    snapshot: Body | None
    headers: bytes = b""
    vary: str = ""
    media_type: str = JSON
    status: int = 200


async def give(reply: Reply, answer: Answer, request: Request, *, private: bool, store: bool) -> None:
    """`private`: the answer depends on the key; `store`: whether caches may keep it, to ask again."""
    reply.status = answer.status
    common = answer.headers + _caching(answer.vary, private, store)
    snapshot = answer.snapshot
    if snapshot is None:
        reply.headers = common + lines({"content-type": answer.media_type})
        return
    coding = negotiate(request.headers.get("accept-encoding"))
    etag = f'"{snapshot.tag}-{coding}"'
    if answer.status == 200 and has_already(request.headers.get("if-none-match"), etag):
        reply.status, reply.headers = 304, common + _tagged(etag)
        return
    body = await snapshot.encoded(coding)
    reply.coding = coding
    reply.headers = common + _described(etag, answer.media_type, coding, body.length)
    if request.method != b"HEAD":
        reply.body = body


def refuse(reply: Reply, refusal: HTTPError, *, method: bytes = b"GET") -> None:
    body = EncodedBody([msgspec.json.encode(refusal.body())])
    headers = {"content-type": JSON, "cache-control": "no-store", "content-length": str(body.length)}
    reply.status, reply.coding = refusal.status.value, "identity"
    reply.headers = lines(headers | refusal.headers)
    if method != b"HEAD":
        reply.body = body


# These are the same again and again: what is sent is put together from few pieces.


@lru_cache
def _caching(vary: str, private: bool, store: bool) -> bytes:
    all_vary = "Accept-Encoding, Authorization" if private else "Accept-Encoding"
    kept = "private, no-cache" if private else "no-cache"
    return lines(
        {
            "vary": f"{vary}, {all_vary}" if vary else all_vary,
            "cache-control": kept if store else "no-store",
        }
    )


@lru_cache(maxsize=1024)
def _tagged(etag: str) -> bytes:
    return lines({"etag": etag})


@lru_cache(maxsize=1024)
def _described(etag: str, media_type: str, coding: Coding, length: int) -> bytes:
    headers = {"etag": etag, "content-type": media_type, "content-length": str(length)}
    return lines(headers if coding == "identity" else headers | {"content-encoding": coding})
