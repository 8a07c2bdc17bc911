"""Event streams as a client reads them, event by event."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx

from tests.waiting import PATIENCE_S

__all__ = ["Event", "Events", "events", "parse"]


class Event(NamedTuple):
    """An event. `id` is (epoch, sequence, revision)."""

    kind: str
    id: tuple[str, int, int]
    data: dict[str, Any]

    @property
    def cursor(self) -> str:
        return ":".join(map(str, self.id))


class Events:
    """An open stream: its events, and what else came."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self.retry_ms: int | None = None
        self._lines = response.aiter_lines()

    async def next(self, *kinds: str) -> Event:
        """Returns the next event, or the next of these kinds. Raises EOFError at the stream's end."""
        while True:
            event = await asyncio.wait_for(self._read(), PATIENCE_S)
            if not kinds or event.kind in kinds:
                return event

    async def orders(self, count: int) -> list[Event]:
        return [await self.next("order") for _ in range(count)]

    async def end(self) -> list[Event]:
        """Reads up to the stream's end."""
        found = []
        with contextlib.suppress(EOFError, httpx.ReadError, httpx.RemoteProtocolError):
            while True:
                found.append(await self.next())
        return found

    async def _read(self) -> Event:
        lines: list[str] = []
        while True:
            try:
                line = await anext(self._lines)
            except StopAsyncIteration:
                raise EOFError from None
            if line.startswith(":"):
                self.comments.append(line[2:])
            elif line.startswith("retry: "):
                self.retry_ms = int(line[7:])
            elif line:
                lines.append(line)
            elif lines:
                return parse(lines)


def parse(lines: list[str]) -> Event:
    """Returns the event that these lines are; each event has exactly three."""
    fields = [line.partition(": ") for line in lines]
    assert [name for name, _, _ in fields] == ["event", "id", "data"], lines
    epoch, sequence, revision = fields[1][2].split(":")
    return Event(fields[0][2], (epoch, int(sequence), int(revision)), json.loads(fields[2][2]))


@contextlib.asynccontextmanager
async def events(
    client: httpx.AsyncClient, path: str = "/stream", key: str = "k100", **headers: str
) -> AsyncIterator[Events]:
    """Opens a stream; its response must be a success."""
    sent = {"authorization": f"Bearer {key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    async with client.stream("GET", path, headers=sent) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)
