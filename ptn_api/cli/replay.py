"""`ptn replay`: past orders, handled like live ones or served to any client."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ptn_api.cli.client import open_client
from ptn_api.cli.output import OrderOutput, order_handler
from ptn_api.cli.stream import print_gap
from ptn_api.client.replaying import Replay, ReplayServer, replay

__all__ = ["run", "run_server"]


def run(
    file: Path | None,
    url: str | None,
    api_key_file: Path | None,
    *,
    output: OrderOutput,
    command: str | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    speed: float | None,
    span: tuple[int | None, int | None],
) -> None:
    """Replays the file, or without one the orders that the server still has."""
    start_ms, end_ms = span
    with open_client(url, api_key_file) if file is None else nullcontext(file) as source:
        replay(
            source,
            order_handler(output, command),
            speed=speed,
            start_ms=start_ms,
            end_ms=end_ms,
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
            on_gap=print_gap,
        )


def run_server(
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
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
        )
        with ReplayServer(past, port=port) as server:
            print(f"PTN replay ready: WebSocket {server.url}", flush=True)
            served = server.play(stop)
            print(f"ptn: {served} orders served; press Ctrl-C to end", file=sys.stderr, flush=True)
            stop.wait()
