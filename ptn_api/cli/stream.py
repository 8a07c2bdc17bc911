"""`ptn stream`: every order as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import typer

from ptn_api.cli.api_key import read_api_key
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.stream import Stream
from ptn_api.wire.client_session import Gap, State

__all__ = ["run"]


def run(url: str, api_key_file: Path | None, *, as_json: bool, count: int, resume: bool) -> None:
    """Prints orders on standard output, and what happens to the connection on standard error."""
    stream = Stream(
        url,
        read_api_key(api_key_file),
        name="ptn-stream",
        resume=resume,
        on_gap=_tell_gap,
        on_state=_tell_state,
        stop_on_auth_error=True,
    )
    asyncio.run(_print_orders(stream, as_json=as_json, count=count))


async def _print_orders(stream: Stream, *, as_json: bool, count: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stream.stop)
    printed = 0
    with contextlib.suppress(BrokenPipeError):  # `ptn stream | head` has seen enough
        async with stream:
            async for message in stream:
                print(_json(message) if as_json else _line(message), flush=True)
                printed += 1
                if printed == count:
                    stream.stop()


def _line(message: PTNWebSocketMessage) -> str:
    order, position = message.new_order, message.position
    marks = " late" * message.late + " replay" * message.replay
    return (
        f"{message.sequence}  {position.miner_hotkey[:8]}  {order.trade_pair:<7} {order.order_type:<5} "
        f"{order.leverage:+.4f} @ {order.price:<12g} net {position.net_leverage:+.4f}  "
        f"return {position.current_return:.5f}  {message.timelag_from_order} ms{marks}"
    )


def _json(message: PTNWebSocketMessage) -> str:
    import msgspec

    fields = {"sequence": message.sequence, "timestamp": message.timestamp, "data": message.data}
    marks = {"late": message.late, "replay": message.replay}
    return msgspec.json.encode(fields | {k: v for k, v in marks.items() if v}).decode()


def _tell_state(state: State) -> None:
    typer.echo(f"ptn: {state}", err=True)


def _tell_gap(gap: Gap) -> None:
    print(f"ptn: {gap.reason}: orders between {gap.after} and {gap.next} will not come", file=sys.stderr)
