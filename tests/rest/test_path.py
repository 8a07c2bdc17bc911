"""How many files a newcomer opens to follow one request through the server."""

from __future__ import annotations

import asyncio
import contextlib

from ptn_api.access.usage import Usage
from ptn_api.clock import SteadyClock, wall_ms
from tests.rest.serving import serving
from tests.tracing import files_executed

MAX_FILES = 12
GET = b"GET /me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k100\r\n\r\n"


async def test_a_request_passes_few_files_from_socket_to_socket() -> None:
    """With a key, a rate limit and the service's clock and usage; the second request of a connection."""
    async with serving(clock=SteadyClock(), usage=Usage(wall_ms)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        with contextlib.closing(writer):
            writer.write(GET)
            await reader.readuntil(b'"}')
            with files_executed() as files:
                writer.write(GET)
                await reader.readuntil(b'"}')
    assert len(files) <= MAX_FILES, sorted(files)
