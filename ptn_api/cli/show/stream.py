"""`ptn stream`, `ptn record` and `ptn replay`: orders, live or past, printed, kept in a file or served."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec

from ptn_api.cli.client import authentication_failure, check_stream, open_client, print_client_log, ws_url
from ptn_api.cli.config import read_api_key
from ptn_api.cli.row_options import View
from ptn_api.cli.show.choices import known_trade_pairs, matching_hotkey
from ptn_api.cli.show.following import state_printer, stop_on_signals, whole_hotkeys
from ptn_api.cli.show.output import order_handler
from ptn_api.cli.show.table import print_document
from ptn_api.client.arguments import Timing, as_list
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.delivery import Dispatcher, OnError
from ptn_api.client.recording import Recording
from ptn_api.client.replaying import Replay, ReplayServer, replay
from ptn_api.client.rest import PTNClient
from ptn_api.client.servers.several import Difference
from ptn_api.client.stream import Stream
from ptn_api.errors import AuthenticationError
from ptn_api.summary import counted
from ptn_api.tasks import run_with
from ptn_api.wire.client_session import Gap

__all__ = [
    "run",
    "run_recorder",
    "run_replay",
    "run_replay_server",
]


def run(
    urls: Sequence[str],
    api_key_files: Sequence[Path],
    view: View,
    *,
    command: str | None,
    on_error: OnError,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    delta: bool,
    count: int,
    resume: bool,
    name: str,
    max_age_ms: int | None,
    wait: bool,
) -> None:
    """Prints orders, and what happens to the connection on standard error.

    The place in the stream is saved under `name` if `resume` is given, and always with a command: its exit
    status decides whether an order is done. The two do not share it, because an order that was only printed
    must not be taken for one that the command has seen, nor the reverse.
    """
    print_client_log()
    addresses = [ws_url(url) for url in urls] or [ws_url(None)]
    keys = [read_api_key(file) for file in api_key_files] or [read_api_key(None)]
    stream = Stream(
        addresses,
        keys[0].value if len(keys) == 1 else [key.value for key in keys],
        name="-".join(filter(None, ("ptn", "stream" if command is None else "exec", name))),
        cursor_store=None if resume or command is not None else NoCursorFile(),
        max_age_ms=max_age_ms,
        miners=whole_hotkeys(miners, api_key_files[0] if api_key_files else None),
        trade_pairs=known_trade_pairs(trade_pairs) if trade_pairs else None,
        format="delta" if delta else "full",
        on_state=state_printer(),
        on_difference=_print_difference,
        stop_on_auth_error=True,
    )
    handler = order_handler(view.output, command, wide=view.wide)

    async def follow() -> None:
        stop_on_signals([stream])
        if not wait:
            checks = [check_stream(address) for address in addresses]
            failures = [f for f in await asyncio.gather(*checks, return_exceptions=True) if f is not None]
            if len(failures) == len(addresses):
                raise failures[0]
        dispatcher = Dispatcher(
            stream, [handler], on_error=on_error if command else "stop", retries=5, timing=Timing()
        )
        handled = 0
        async with stream:
            async for message in stream:
                if not await dispatcher.dispatch([message]):
                    break
                handled += 1
                if handled == count:
                    break

    try:
        asyncio.run(follow())
    except AuthenticationError as error:
        raise authentication_failure(error, ", ".join(addresses), keys[0]) from None


def run_recorder(
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
    """Continues the file where it ends. Stops at a signal, or after `count` orders."""
    print_client_log()
    address, key = ws_url(url), read_api_key(api_key_file)
    hotkeys = whole_hotkeys(miners, api_key_file)
    pairs = known_trade_pairs(trade_pairs) if trade_pairs else None
    recording = Recording(file)  # after the choices: a wrong one creates no file
    stream = Stream(
        address,
        key.value,
        cursor_store=recording,
        miners=hotkeys,
        trade_pairs=pairs,
        on_state=state_printer(),
        stop_on_auth_error=True,
    )

    async def flush_every_second() -> None:
        while True:
            await asyncio.sleep(1)
            recording.flush()

    async def take() -> None:
        async with stream:
            async for item in stream.items():
                recording.take(item)
                if isinstance(item.value, Gap):
                    _print_gap(item.value)
                if recording.written == count > 0:
                    break

    async def record() -> None:
        stop_on_signals([stream])
        if not wait:
            await check_stream(address)
        await run_with(take(), [asyncio.create_task(flush_every_second())])

    try:
        asyncio.run(record())
    except AuthenticationError as error:
        raise authentication_failure(error, address, key) from None
    finally:
        recording.close()
    if as_json:
        print_document(msgspec.json.encode({"file": str(file), "orders": recording.written}))
    else:
        print(f"ptn: {counted(recording.written, 'orders')} recorded in {file}", file=sys.stderr)


def _print_difference(other: Difference) -> None:
    order = f"order {other.order_uuid} of {other.miner_hotkey}"
    print(
        f"ptn: {other.server} states {other.leverage:+g} at {other.price:g} for {order}, "
        f"delivered as {other.delivered_leverage:+g} at {other.delivered_price:g}",
        file=sys.stderr,
    )


def _print_gap(gap: Gap) -> None:
    print(f"ptn: messages between {gap.after} and {gap.next} are missing: {gap.reason}", file=sys.stderr)


# --- past orders ------------------------------------------------------------------------------------------


def _hotkeys_in(source: PTNClient | Path, names: Sequence[str]) -> list[str] | None:
    """The chosen hotkeys, of which parts are looked up in the server or in the file itself."""

    def known() -> list[str]:
        if isinstance(source, Path):
            return sorted({message.position.miner_hotkey for message in Replay(source)})
        return source.hotkeys()

    names = as_list(names or None) or []
    return [matching_hotkey(name, known) for name in names] or None


def run_replay(
    file: Path | None,
    url: str | None,
    api_key_file: Path | None,
    view: View,
    *,
    command: str | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    speed: float | None,
    span: tuple[int | None, int | None],
) -> None:
    """Replays the file, or without one the orders that the server still has."""
    start_ms, end_ms = span
    with open_client(url, api_key_file) if file is None else nullcontext(file) as source:
        replayed = replay(
            source,
            order_handler(view.output, command, wide=view.wide, live=False),
            speed=speed,
            start_ms=start_ms,
            end_ms=end_ms,
            miners=_hotkeys_in(source, miners),
            trade_pairs=known_trade_pairs(trade_pairs) if trade_pairs else None,
            on_gap=_print_gap,
        )
    if replayed == 0:
        print("ptn: no orders match", file=sys.stderr)


def run_replay_server(
    file: Path | None,
    url: str | None,
    api_key_file: Path | None,
    *,
    port: int,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    speed: float | None,
    span: tuple[int | None, int | None],
) -> None:
    """Starts with the first subscriber and runs until interrupted, so that a client can reconnect."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    start_ms, end_ms = span
    with open_client(url, api_key_file) if file is None else nullcontext(file) as source:
        past = Replay(
            source,
            speed=speed,
            start_ms=start_ms,
            end_ms=end_ms,
            miners=_hotkeys_in(source, miners),
            trade_pairs=known_trade_pairs(trade_pairs) if trade_pairs else None,
        )
        with ReplayServer(past, port=port) as server:
            print(f"PTN replay ready: WebSocket {server.url}", flush=True)
            served = server.play(stop)
            print(
                f"ptn: {counted(served, 'orders')} served; press Ctrl-C to end", file=sys.stderr, flush=True
            )
            stop.wait()
