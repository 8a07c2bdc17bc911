"""A validator that lost its disk: it restores every position from the checkpoint, then follows without a gap.

The checkpoint includes every order up to a sequence, and the stream continues with the next one. A gap that
the server cannot fill (after days without a connection) makes it restore again.
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
    """Writes a position as a validator does: a closed one moves out of the `open` folder."""
    pair = TARGET / position.miner_hotkey / "positions" / position.trade_pair_id
    folder = "closed" if position.is_closed_position else "open"
    (pair / folder).mkdir(parents=True, exist_ok=True)
    (pair / "open" / position.position_uuid).unlink(missing_ok=True)
    (pair / folder / position.position_uuid).write_bytes(msgspec.json.encode(position))


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
    """Follows the stream until there is a gap."""
    gaps: list[Gap] = []
    async with Stream(STREAM, cursor_store=NoCursorFile(start), on_gap=gaps.append) as stream:
        async for message in stream:
            if gaps:  # reported in order: this message comes after the gap
                return
            write(message.position)
            print(message.sequence, flush=True)


async def main() -> None:
    while True:
        await follow(await restore())


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
