"""A validator that lost its disk: restores every position from the checkpoint, then follows without a gap.

The checkpoint says up to which order it goes; the stream goes on with the next. A gap that the server cannot
fill (it was away for days) makes it restore again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec

from ptn_api.client import AsyncPTNClient, Cursor, Gap, NoCursorFile, Stream
from ptn_api.model.position import Position

STREAM = os.environ.get("PTN_WS_URL", "ws://localhost:8765")
REST = os.environ.get("PTN_REST_URL", "http://localhost:48888")
TARGET = Path(os.environ.get("PTN_RESTORE_DIR", "restored"))


def write(position: Position) -> None:
    """As a validator does: a closed position leaves its place among the open ones."""
    pair = TARGET / position.miner_hotkey / "positions" / position.trade_pair[0]
    place = "closed" if position.is_closed_position else "open"
    (pair / place).mkdir(parents=True, exist_ok=True)
    (pair / "open" / position.position_uuid).unlink(missing_ok=True)
    (pair / place / position.position_uuid).write_bytes(msgspec.json.encode(position))


async def restore() -> Cursor:
    async with AsyncPTNClient(REST) as api:
        checkpoint = await api.validator_checkpoint()
    for miner in checkpoint.positions.values():
        for position in miner.positions:
            write(position)
    assert checkpoint.sequence is not None
    print(f"restored up to {checkpoint.sequence}", flush=True)
    return Cursor(checkpoint.sequence, checkpoint.epoch)


async def follow(start: Cursor) -> None:
    """Until there is a gap."""
    gaps: list[Gap] = []
    async with Stream(STREAM, cursor_store=NoCursorFile(start), on_gap=gaps.append) as stream:
        async for message in stream:
            if gaps:  # told in its place: what comes now lies behind it
                return
            write(message.position)
            print(message.sequence, flush=True)


async def main() -> None:
    while True:
        await follow(await restore())


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
