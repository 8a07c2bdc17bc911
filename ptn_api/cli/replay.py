"""`ptn replay`: orders of the past, to the same sinks as live ones, or served to any client."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ptn_api.cli.client import asking
from ptn_api.cli.output import Output, sink
from ptn_api.cli.stream import tell_gap
from ptn_api.client.replaying import Replay, ReplayServer, replay
from ptn_api.client.rest import PTNClient

__all__ = ["run", "run_server"]


def run(
    file: Path | None,
    url: str | None,
    api_key_file: Path | None,
    *,
    output: Output,
    command: str | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    speed: float | None,
    span: tuple[int | None, int | None],
) -> None:
    """Without a file: what the server still has."""
    with _source(file, url, api_key_file) as source:
        replay(
            source,
            sink(output, command),
            speed=speed,
            start_ms=span[0],
            end_ms=span[1],
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
            on_gap=tell_gap,
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
    """Begins with the first subscriber; stays until interrupted, so that a client can come again."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _source(file, url, api_key_file) as source:
        past = Replay(
            source,
            speed=speed,
            start_ms=span[0],
            end_ms=span[1],
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
        )
        with ReplayServer(past, port=port) as server:
            print(f"PTN replay ready: WebSocket {server.url}", flush=True)
            served = server.play(stop)
            print(f"ptn: {served} orders served; Ctrl-C ends", file=sys.stderr, flush=True)
            stop.wait()


def _source(
    file: Path | None, url: str | None, api_key_file: Path | None
) -> AbstractContextManager[Path | PTNClient]:
    return asking(url, api_key_file) if file is None else nullcontext(file)
