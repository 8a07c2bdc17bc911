"""`ptn stream`: every order as it happens."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ptn_api.cli.api_key import read_api_key
from ptn_api.cli.client import hear_the_client, try_stream, ws_url
from ptn_api.cli.output import Output, Sink, sink
from ptn_api.client.arguments import Timing
from ptn_api.client.delivery import Dispatcher, OnError
from ptn_api.client.stream import Stream
from ptn_api.wire.client_session import Gap, State

__all__ = ["run", "stop_on_signals", "tell_gap", "tell_state"]


def run(
    url: str | None,
    api_key_file: Path | None,
    *,
    output: Output,
    command: str | None,
    on_error: OnError,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    delta: bool,
    count: int,
    resume: bool,
    name: str,
    wait: bool,
) -> None:
    """Orders go to the sink, what happens to the connection to standard error.

    What is done with is remembered under the name: with a command, which decides, or if asked for.
    """
    hear_the_client()
    address = ws_url(url)
    stream = Stream(
        address,
        read_api_key(api_key_file),
        name=f"ptn-stream-{name}" if name else "ptn-stream",
        resume=resume or command is not None,
        miners=list(miners) or None,
        trade_pairs=list(trade_pairs) or None,
        format="delta" if delta else "full",
        on_state=tell_state,
        stop_on_auth_error=True,
    )
    handle = sink(output, command)
    asyncio.run(_follow(stream, handle, on_error if command else "stop", count, None if wait else address))


async def _follow(stream: Stream, handle: Sink, on_error: OnError, count: int, address: str | None) -> None:
    stop_on_signals(stream)
    if address is not None:
        await try_stream(address)
    dispatcher = Dispatcher(stream, [handle], on_error=on_error, retries=5, timing=Timing())
    done = 0
    async with stream:
        async for message in stream:
            if not await dispatcher.dispatch([message]):
                break
            done += 1
            if done == count:
                break


def stop_on_signals(stream: Stream) -> None:
    """The first asks it to stop in order, the second ends the program."""
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)
        stream.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)


def tell_state(state: State) -> None:
    print(f"ptn: {state}", file=sys.stderr)


def tell_gap(gap: Gap) -> None:
    print(f"ptn: messages between {gap.after} and {gap.next} are missing: {gap.reason}", file=sys.stderr)
