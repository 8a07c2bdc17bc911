"""Many bots in one process: each follows the stream and remembers what it received.

python -m tests.soak.bots ORDERS.json     until SIGTERM; then writes what was received
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from ptn_api.client.arguments import Timing
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.mirror import PositionMirror
from ptn_api.client.stream import Stream
from ptn_api.clock import wall_ms
from ptn_api.model.checksum import position_checksum
from ptn_api.wire.client_session import Gap, State
from tests.soak.orphan import end_with_parent
from tests.soak.patience import Patience
from tests.soak.plain import PlainBot
from tests.soak.report import BotConfig, BotReport, End, Record, kind_of

__all__ = ["Bot", "MirrorBot"]

TIMING = Timing(
    connect=5.0, backoff=0.2, backoff_max=2.0, settled=2.0, refused=1.0, eviction=1.0, ping=5.0, tick=0.25
)


class Bot:
    """Our own client."""

    def __init__(self, number: int, config: BotConfig) -> None:
        kind = kind_of(number)
        self.report = BotReport(number, kind, f"{config.folder}/{number}.received")
        self._live = asyncio.Event()
        self._connecting = self._connected = 0
        self._stream = Stream(
            config.stream_url,
            config.api_keys[number],
            state_dir=config.folder,
            # A file for each would cost a disk sync per bot and second, on the log's disk.
            cursor_store=None if kind == "library delta" else NoCursorFile(),
            format="delta" if kind == "library delta" else "full",
            on_gap=self._gap,
            on_state=self._state,
            timing=TIMING,
        )

    async def run(self) -> None:
        record = Record(self.report)
        async with self._stream as stream:
            async for message in stream:
                order = message.new_order
                record.add(
                    message.sequence,
                    order.order_uuid,
                    message.timestamp,
                    order.processed_ms,
                    message.late,
                    message.replay,
                    self._connected,
                )
        record.close()

    def _gap(self, gap: Gap) -> None:
        self.report.gaps.append(f"{gap.reason} {gap.after}-{gap.next}")

    def _state(self, state: State) -> None:
        if state == "connecting" and not self._connecting:  # it comes again if its problems change
            self.report.connections += 1
            self._connecting = wall_ms()
        elif state in ("replaying", "live") and self._connecting:
            # Not before: messages of the former connection may still be waiting while it connects.
            self._connected, self._connecting = self._connecting, 0
        if state == "live":
            self._live.set()

    async def ready(self) -> None:
        await self._live.wait()

    def has_reached(self, end: End) -> bool:
        return self.report.last >= end.head

    def stop(self) -> None:
        self._stream.stop()


class MirrorBot:
    """Our own live mirror of every position."""

    def __init__(self, number: int, config: BotConfig) -> None:
        self.report = BotReport(number, kind_of(number), "")
        self._stop = asyncio.Event()
        self._mirror = PositionMirror(
            config.stream_url,
            config.rest_url,
            config.api_keys[number],
            on_state=self._state,
            mend_within=3.0,
            timing=TIMING,
        )

    async def run(self) -> None:
        async with self._mirror as mirror:
            await self._stop.wait()
            for position in mirror.positions():
                text = mirror.text(position.miner_hotkey, position.position_uuid)
                assert text is not None
                self.report.positions[position.position_uuid] = position_checksum(text)

    def _state(self, state: State) -> None:
        self.report.connections += state == "connecting"

    async def ready(self) -> None:
        await self._mirror.loaded()

    def has_reached(self, end: End) -> bool:
        self.report.last = self._mirror.cursor.sequence
        return self._mirror.checksum == end.checksum

    def stop(self) -> None:
        self._stop.set()


def make_bot(number: int, config: BotConfig) -> Bot | MirrorBot | PlainBot:
    match kind_of(number):
        case "library" | "library delta":
            return Bot(number, config)
        case "mirror":
            return MirrorBot(number, config)
        case _:
            return PlainBot(number, config)


async def main(config: BotConfig) -> None:
    bots = [make_bot(number, config) for number in config.api_keys]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [asyncio.create_task(bot.run()) for bot in bots]
    for bot in bots:
        await bot.ready()
    Path(config.ready).touch()
    await stop.wait()
    await _reached(bots, msgspec.json.decode(Path(config.end).read_bytes(), type=End))
    for bot in bots:
        bot.stop()
    await asyncio.gather(*tasks)
    Path(config.report).write_bytes(msgspec.json.encode([bot.report for bot in bots]))


async def _reached(bots: list[Bot | MirrorBot | PlainBot], end: End) -> None:
    """Waits until every bot has reached the end, or no other one makes progress."""
    patience = Patience()
    while away := [bot for bot in bots if not bot.has_reached(end)]:
        if not patience.lasts([bot.report.last for bot in away]):
            return
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    end_with_parent()
    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=BotConfig)))
