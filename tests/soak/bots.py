"""Many bots in one process: each follows the stream and remembers what it received.

python -m tests.soak.bots ORDERS.json     until SIGTERM; then writes what was received
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ptn_api.client.book import Book
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.pace import Pace
from ptn_api.client.stream import Stream
from ptn_api.model.checksum import position_checksum
from ptn_api.wire.client_session import Gap, State

__all__ = ["BotOrders", "BotReport", "End", "Received", "order_number", "read_received"]

PACE = Pace(
    connect=2.0, backoff=0.2, backoff_max=2.0, settled=2.0, refused=1.0, eviction=1.0, ping=1.0, tick=0.1
)


class BotOrders(msgspec.Struct):
    """What the process is told."""

    stream_url: str
    rest_url: str
    api_keys: list[str]
    """One bot each; every tenth is a mirror."""
    state_dir: str
    report: str
    ready: str
    """A file that is made when every bot has been live once."""
    end: str
    """A file that says, when the process is told to end, what every bot has to reach first (`End`)."""


class End(msgspec.Struct):
    """`head`: the last sequence; `checksum`: of all positions, as heartbeats say it."""

    head: int
    checksum: str


class Received(NamedTuple):
    """One message as a bot got it; times in epoch ms. `order` stands for the order's uuid."""

    sequence: int
    order: int
    timestamp: int
    received: int
    processed_ms: int
    late: bool
    replay: bool


_RECORD = struct.Struct("<qQqqq??")


def order_number(order_uuid: str) -> int:
    """64 bits of a uuid's hash: a soak has tens of millions of deliveries to remember."""
    return int.from_bytes(hashlib.blake2b(order_uuid.encode(), digest_size=8).digest(), "big")


def read_received(report: BotReport) -> Iterator[Received]:
    """What a bot noted, message by message."""
    if report.file:
        with open(report.file, "rb") as file:
            while chunk := file.read(_RECORD.size * 4096):
                yield from map(Received._make, _RECORD.iter_unpack(chunk))


class BotReport(msgspec.Struct):
    """What one bot has to say. `connected`: when connections were made, in epoch ms.

    `positions`, of a mirror: position uuid -> checksum of its text.
    """

    kind: Literal["full", "delta", "mirror"]
    file: str = ""
    """Its messages, one `Received` after the other."""
    deliveries: int = 0
    gaps: list[str] = []
    connected: list[int] = []
    positions: dict[str, int] = {}

    def note_state(self, state: State) -> None:
        if state == "connecting":
            self.connected.append(time.time_ns() // 1_000_000)


class Bot:
    """One follower; every second one asks for delta messages."""

    def __init__(self, number: int, orders: BotOrders) -> None:
        self.report = BotReport(
            kind="delta" if number % 2 else "full", file=f"{orders.state_dir}-{number}.received"
        )
        self._last = -1
        self.live = asyncio.Event()
        self.stream = Stream(
            orders.stream_url,
            orders.api_keys[number],
            state_dir=orders.state_dir,
            format="delta" if number % 2 else "full",
            on_gap=self._gap,
            on_state=self._state,
            pace=PACE,
        )

    async def run(self) -> None:
        with open(self.report.file, "wb", buffering=1 << 16) as file:
            async with self.stream:
                async for message in self.stream:
                    file.write(_RECORD.pack(*self._noted(message)))
                    self.report.deliveries += 1
                    self._last = message.sequence

    def _noted(self, message: PTNWebSocketMessage) -> Received:
        order = message.new_order
        return Received(
            message.sequence,
            order_number(order.order_uuid),
            message.timestamp,
            time.time_ns() // 1_000_000,
            order.processed_ms,
            message.late,
            message.replay,
        )

    def _gap(self, gap: Gap) -> None:
        self.report.gaps.append(f"{gap.reason} {gap.after}-{gap.next}")

    def _state(self, state: State) -> None:
        self.report.note_state(state)
        if state == "live":
            self.live.set()

    async def ready(self) -> None:
        await self.live.wait()

    def has_reached(self, end: End) -> bool:
        return self._last >= end.head

    def stop(self) -> None:
        self.stream.stop()


class MirrorBot:
    """A live mirror of every position."""

    def __init__(self, number: int, orders: BotOrders) -> None:
        self.report = BotReport(kind="mirror")
        self._stop = asyncio.Event()
        self._book = Book(
            orders.stream_url,
            orders.rest_url,
            orders.api_keys[number],
            on_state=self.report.note_state,
            mend_within=1.0,
            pace=PACE,
        )

    async def run(self) -> None:
        async with self._book as book:
            await self._stop.wait()
            for position in book.positions():
                text = book.text(position.miner_hotkey, position.position_uuid)
                assert text is not None
                self.report.positions[position.position_uuid] = position_checksum(text)

    async def ready(self) -> None:
        while len(self._book) == 0:
            await asyncio.sleep(0.05)

    def has_reached(self, end: End) -> bool:
        return self._book.checksum == end.checksum

    def stop(self) -> None:
        self._stop.set()


async def main(orders: BotOrders) -> None:
    bots = [
        (MirrorBot if number % 10 == 9 else Bot)(number, orders) for number in range(len(orders.api_keys))
    ]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [asyncio.create_task(bot.run()) for bot in bots]
    for bot in bots:
        await bot.ready()
    Path(orders.ready).touch()
    await stop.wait()
    await _reached(bots, msgspec.json.decode(Path(orders.end).read_bytes(), type=End))
    for bot in bots:
        bot.stop()
    await asyncio.gather(*tasks)
    Path(orders.report).write_bytes(msgspec.json.encode([bot.report for bot in bots]))


async def _reached(bots: list[Bot | MirrorBot], end: End) -> None:
    """All bots have everything, or will not have it within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if all(bot.has_reached(end) for bot in bots):
            return
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=BotOrders)))
