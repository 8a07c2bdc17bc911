"""The least work of a small response: fixed bytes for whatever arrives, by a protocol on uvloop.

    python -m benchmarks.fixed <port>

It parses nothing and checks nothing, so what it costs is the kernel's and the event loop's.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.checks import Captured, read_setup


def _response(captured: Captured) -> bytes:
    """Returns a 304 for a document that is larger than a packet, else a 200."""
    body = Path(captured.file).read_bytes()
    is_small = len(body) < 1_000
    lines = [f"{k}: {v}\r\n" for k, v in captured.headers.items() if is_small or not k.startswith("content-")]
    status = "200 OK" if is_small else "304 Not Modified"
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode() + (body if is_small else b"")


class _Protocol(asyncio.Protocol):
    def __init__(self, responses: dict[bytes, bytes]) -> None:
        self._responses = responses

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._responses[data[4:7]])


async def _serve(port: int) -> None:
    documents = read_setup().documents
    responses = {path[:3].encode(): _response(captured) for path, captured in documents.items()}
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(responses), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
