"""Costs of the client beyond decoding (see `decode`): delivery and cursor.

make bench ARGS=client
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.figures import Figures
from ptn_api.client.arguments import Timing
from ptn_api.client.connection import Connection
from ptn_api.client.cursor_file import CursorFile, CursorStore, NoCursorFile, cursor_path
from ptn_api.client.servers.server import Server
from ptn_api.client.stream import Stream
from ptn_api.model.position import PositionText, parse_position
from ptn_api.wire.client_session import ClientSession, Cursor
from ptn_api.wire.codec import encode, encode_batch, encode_message
from ptn_api.wire.frames import AuthSuccess, Subscribe, SubscriptionStatus
from tests.factories import T0, order, position

__all__ = ["live_session", "run"]

_BATCH = 100


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Returns frames of 100 messages with 6 orders each (no price sources), as a busy server batches them."""
    frames = _frames(orders=6, count=max(20_000, _BATCH))
    for what, store in (("no file", NoCursorFile()), ("cursor file", _cursor_file(folder))):
        rate = _rate(partial(_run, _stream, frames, store), frames)
        figures.add(f"client, frames -> `async for`: {what}", **rate)
        rate = _rate(partial(_run, _stream_batches, frames, store), frames)
        figures.add(f"client, frames -> `batches()`: {what}", **rate)


def _frames(*, orders: int, count: int) -> list[bytes]:
    text = _text(orders)
    messages = [
        encode_message(sequence=n, timestamp_ms=T0, text=text, order=text.orders[-1], n_orders=orders)
        for n in range(1, count + 1)
    ]
    return [encode_batch(messages[at : at + _BATCH]) for at in range(0, count, _BATCH)]


def _text(orders: int) -> PositionText:
    body = msgspec.json.encode(position(1, [order(n) for n in range(orders)]))
    return parse_position(body)[1]


def _rate(work: Callable[[], object], frames: list[bytes]) -> dict[str, float]:
    best = min(_seconds(work) for _ in range(3))
    size = sum(map(len, frames))
    return {"messages_per_s": round(_BATCH * len(frames) / best), "mb_per_s": round(size / best / 1e6)}


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def live_session() -> ClientSession:
    """Returns a session that has logged in and subscribed, in version 2, from sequence 1 on."""
    session = ClientSession(api_key="k", cursor=Cursor(0, "e"), subscription=Subscribe(all=True))
    session.start()
    for frame in _greeting():
        session.receive(frame, 0)
    return session


def _greeting() -> list[bytes]:
    accepted = AuthSuccess(
        current_sequence=0, tier=100, epoch="e", oldest_sequence=1, version=2, heartbeat_ms=15_000
    )
    subscribed = SubscriptionStatus(status="success", all=True, action="subscribe", received_timestamp=0)
    return [encode(accepted), encode(subscribed), b'{"type":"resumed","after":0,"head":0}']


# --- the client without its socket ------------------------------------------------------------------------


_Follow = Callable[[list[bytes], CursorStore], Coroutine[Any, Any, None]]


class _Canned(Connection):
    """A connection that reads prepared frames."""

    frames: list[bytes]

    async def run(self) -> None:
        session = live_session()
        for frame in self.frames:
            await self._handle_events(session, session.receive(frame, 0))
            await asyncio.sleep(0)
        await asyncio.Event().wait()


def _canned(frames: list[bytes], store: CursorStore) -> Stream:
    stream = Stream("ws://localhost:1", "k", cursor_store=store)
    source = stream._source
    assert isinstance(source, Server)
    connection = _Canned(
        "ws://localhost:1",
        "k",
        source.inbox,
        cursor=Cursor(),
        subscription=None,
        timing=Timing(),
        on_state=source.connection._on_state,
    )
    connection.frames = frames
    source.connection = connection
    return stream


def _run(follow: _Follow, frames: list[bytes], store: CursorStore) -> None:
    asyncio.run(follow(frames, store))


async def _stream(frames: list[bytes], store: CursorStore) -> None:
    left = _BATCH * len(frames)
    async with _canned(frames, store) as stream:
        async for _ in stream:
            left -= 1
            if not left:
                break


async def _stream_batches(frames: list[bytes], store: CursorStore) -> None:
    left = _BATCH * len(frames)
    async with _canned(frames, store) as stream:
        async for messages in stream.batches():
            left -= len(messages)
            if not left:
                break


def _cursor_file(folder: Path) -> CursorFile:
    return CursorFile(cursor_path(folder, "localhost:1", "k"), "localhost:1")
