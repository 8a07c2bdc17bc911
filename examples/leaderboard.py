"""The ten best miners by their open positions, from a live mirror; redrawn as it changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from math import prod

from rich.live import Live
from rich.table import Table

from ptn_api.client import PositionMirror

STREAM = os.environ.get("PTN_WS_URL", "ws://localhost:8765")
REST = os.environ.get("PTN_REST_URL", "http://localhost:48888")


def standings(mirror: PositionMirror) -> Table:
    miners: dict[str, list[float]] = {}
    for position in mirror.positions(status="open"):
        miners.setdefault(position.miner_hotkey, []).append(position.current_return)
    table = Table("miner", "open positions", "return", title=f"as of order {mirror.cursor.sequence}")
    best = sorted(miners.items(), key=lambda miner: prod(miner[1]), reverse=True)
    for hotkey, returns in best[:10]:
        table.add_row(hotkey, str(len(returns)), f"{prod(returns):.5f}")
    return table


async def main() -> None:
    changed = asyncio.Event()
    async with PositionMirror(STREAM, REST, on_change=lambda hotkey, uuid: changed.set()) as mirror:
        await mirror.loaded()
        with Live(standings(mirror)) as screen:
            while True:
                await changed.wait()
                changed.clear()
                screen.update(standings(mirror))
                await asyncio.sleep(0.2)  # at most five redraws a second


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
