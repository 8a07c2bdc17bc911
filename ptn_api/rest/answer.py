"""What a handler hands back, and how it goes out: ETag, 304, HEAD, codings, backpressure."""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

import msgspec
from starlette.requests import Request
from starlette.types import Send

from ptn_api.rest.accept import has_already, negotiate
from ptn_api.rest.breather import Breather
from ptn_api.rest.refusal import Refusal
from ptn_api.rest.snapshot import Snapshot

__all__ = ["JSON", "Answer", "send_answer", "send_refusal"]

JSON = "application/json"
RawHeaders = list[tuple[bytes, bytes]]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A document to be sent. Without a snapshot the request was a HEAD that needed no body to be answered."""

    snapshot: Snapshot | None
    headers: dict[str, str] = {}
    media_type: str = JSON
    status: int = 200


async def send_answer(answer: Answer, request: Request, send: Send, *, private: bool, store: bool) -> None:
    """`private`: the answer depends on the key; `store`: whether caches may keep it, to ask again."""
    headers = _headers(answer.headers)
    headers.append((b"vary", b"Accept-Encoding, Authorization" if private else b"Accept-Encoding"))
    kept = b"private, no-cache" if private else b"no-cache"
    headers.append((b"cache-control", kept if store else b"no-store"))
    headers.append((b"content-type", answer.media_type.encode()))
    if answer.snapshot is None:
        await _send(send, answer.status, headers)
        return
    coding = negotiate(request.headers.get("accept-encoding"))
    etag = f'"{answer.snapshot.tag}-{coding}"'
    headers.append((b"etag", etag.encode()))
    if answer.status == 200 and has_already(request.headers.get("if-none-match"), etag):
        await _send(send, 304, [h for h in headers if h[0] != b"content-type"])
        return
    body = await answer.snapshot.body(coding)
    if coding != "identity":
        headers.append((b"content-encoding", coding.encode()))
    headers.append((b"content-length", b"%d" % body.length))
    await _send(send, answer.status, headers, () if request.method == "HEAD" else body.chunks())


async def send_refusal(refusal: Refusal, send: Send, *, head: bool) -> None:
    body = msgspec.json.encode(refusal.body())
    headers = _headers({"content-type": JSON, "cache-control": "no-store", **refusal.headers})
    headers.append((b"content-length", b"%d" % len(body)))
    await _send(send, refusal.status, headers, () if head else (body,))


async def _send(
    send: Send, status: int, headers: RawHeaders, chunks: Iterable[bytes | memoryview] = ()
) -> None:
    """Chunk by chunk: `send` waits while the client is behind, so that no more than one waits in memory."""
    headers.append((b"date", _date(int(time.time()))))
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    breather = Breather()
    last: bytes | memoryview = b""
    for chunk in chunks:
        if last:
            await send({"type": "http.response.body", "body": last, "more_body": True})
            await breather()
        last = chunk
    await send({"type": "http.response.body", "body": last, "more_body": False})


def _headers(headers: dict[str, str]) -> RawHeaders:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
