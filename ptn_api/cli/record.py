"""`ptn record`: what the stream says, in a file that can be replayed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ptn_api.cli.api_key import read_api_key
from ptn_api.cli.client import hear_the_client, try_stream, ws_url
from ptn_api.cli.stream import stop_on_signals, tell_gap, tell_state
from ptn_api.cli.table import print_document
from ptn_api.client.recording import Recording
from ptn_api.client.stream import Stream
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.client_session import Gap

__all__ = ["run"]


def run(
    file: Path,
    url: str | None,
    api_key_file: Path | None,
    *,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    count: int,
    wait: bool,
    as_json: bool,
) -> None:
    """Goes on where the file ends. Stops at a signal, or after `count` orders."""
    hear_the_client()
    address, key = ws_url(url), read_api_key(api_key_file)
    recording = Recording(file)
    stream = Stream(
        address,
        key,
        cursor_store=recording,
        miners=list(miners) or None,
        trade_pairs=list(trade_pairs) or None,
        on_state=tell_state,
        stop_on_auth_error=True,
    )
    try:
        asyncio.run(_record(stream, recording, count, None if wait else address))
    finally:
        recording.close()
    if as_json:
        print_document(msgspec.json.encode({"file": str(file), "orders": recording.written}))
    else:
        print(f"ptn: {recording.written} orders recorded in {file}", file=sys.stderr)


async def _record(stream: Stream, recording: Recording, count: int, address: str | None) -> None:
    stop_on_signals(stream)
    if address is not None:
        await try_stream(address)
    flushing = asyncio.create_task(_flush(recording))
    try:
        async with stream:
            async for item in stream.items():
                recording.take(item)
                if isinstance(item.value, Gap):
                    tell_gap(item.value)
                if recording.written == count > 0:
                    break
    finally:
        await cancel_and_wait([flushing])


async def _flush(recording: Recording) -> None:
    """What waits to be compressed together waits a second at most."""
    while True:
        await asyncio.sleep(1)
        recording.flush()
