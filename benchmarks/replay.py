"""Replays: to one client, and to a thousand that reconnect at once.

The limit of the first is one process that reads the same rows with SQLite and sends the same bytes; of the
second, a loop in C that sends the same bytes from memory.
"""

from __future__ import annotations

import argparse
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import native
from benchmarks.contest import alternate
from benchmarks.fanout import PYTHON, Round, finished, plain, sink
from benchmarks.figures import Figures
from benchmarks.machine import SERVER, cpu_seconds, start
from benchmarks.orders import END, filled_log, logged_in, subscribe, written
from benchmarks.stream_process import KEY
from ptn_api.event_log.database import log_path

__all__ = ["reconnect", "replay", "stream_over"]

_PAGE = 128
_WRITE_BYTES = 64 * 1024
_IDLE_S = 0.005
"""CPU time in 0.1 s of a stream that does nothing."""

_Connect = Callable[[], socket.socket]
"""Logs in a client that has missed every order of the log; they follow its subscribe."""


@contextmanager
def stream_over(data: Path) -> Iterator[tuple[int, int]]:
    """Starts the stream process alone on the server's core. Returns its port and process."""
    server = start([PYTHON, "-m", "benchmarks.stream_process", str(data), "log"], SERVER)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline()), server.pid
    finally:
        server.communicate()


@contextmanager
def _missed(data: Path, orders: int) -> Iterator[tuple[_Connect, int]]:
    """Fills a log. Returns how a client logs in that has missed all of it, and the server's process."""
    with filled_log(data) as log:
        after, now = log.head().sequence, time.time_ns() // 1_000_000
        for at in range(0, orders - 1, 1000):
            log.append([written(n) for n in range(at, min(at + 1000, orders - 1))], now)
        log.append([written(orders, comment=END)], now)
        epoch = log.epoch
    with stream_over(data) as (port, pid):
        yield lambda: logged_in(port, KEY, last_sequence=after, epoch=epoch, version=2), pid


def _replayed(connect: _Connect, pid: int, clients: int, orders: int) -> Round:
    sockets = [connect() for _ in range(clients)]
    receiver = sink(sockets)
    began, cpu = time.monotonic(), cpu_seconds(pid)
    for one in sockets:
        subscribe(one)
    ended, size = finished(receiver)
    cpu = cpu_seconds(pid) - cpu
    for one in sockets:
        one.close()
    while True:  # the next contestant needs the core, on which the server now closes its side
        before = cpu_seconds(pid)
        time.sleep(0.1)
        if cpu_seconds(pid) - before < _IDLE_S:
            break
    return Round(clients * orders, ended - began, cpu, size)


def replay(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Measures the replay of all orders to one client, 1 KB each."""
    orders, data = arguments.replayed, folder / "data"
    with _missed(data, orders) as (connect, pid):
        size = _replayed(connect, pid, 1, orders).size
        rounds = alternate(
            {
                "this": lambda: _replayed(connect, pid, 1, orders),
                "SQLite and send": lambda: _read_and_sent(data, orders, size),
            }
        )
    figures.add(
        f"replay of {orders} orders to one client",
        per_s=round(max(rounds.values("this", lambda one: one.rate))),
        MB=round(size / 1e6),
    )
    figures.ratio(
        "replay, us of CPU per message / read of the rows and send of the bytes",
        rounds,
        "this",
        "SQLite and send",
        value=lambda one: one.us_cpu,
        at_most=2.5,
    )


def reconnect(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Measures the time from the first subscribe until every client has every order that it missed."""
    clients, orders = arguments.reconnecting, arguments.missed
    if native.compiler() is None:
        figures.skip("reconnecting clients", "no compiler")
        return
    with _missed(folder / "data", orders) as (connect, pid):
        size = _replayed(connect, pid, 1, orders).size
        rounds = alternate(
            {
                "this": lambda: _replayed(connect, pid, clients, orders),
                "C loop": lambda: plain(clients, size // _WRITE_BYTES, _WRITE_BYTES),
            }
        )
    what = f"{clients} clients reconnect, {orders} missed orders each"
    figures.ratio(
        f"{what}, s / the same bytes by a C loop",
        rounds,
        "this",
        "C loop",
        value=lambda one: one.seconds,
        at_most=3,
    )
    figures.ratio(
        f"{what}, s of CPU / the same bytes by a C loop", rounds, "this", "C loop", value=lambda one: one.cpu
    )


def _read_and_sent(data: Path, orders: int, size: int) -> Round:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here = listener.accept()[0]
    receiver = sink([there])
    began = time.monotonic()
    command = [PYTHON, "-m", "benchmarks.replay", str(log_path(data)), str(orders), str(size)]
    process = start(command, SERVER, [here])
    cpu = float(process.communicate()[0])
    ended, _ = finished(receiver)
    here.close()
    there.close()
    return Round(orders, ended - began, cpu, size)


def _read_and_send(path: str, orders: int, size: int) -> None:
    """The least that a replay has to do: reads the events and their positions' orders, and sends as much."""
    here = socket.socket(fileno=3)
    db = sqlite3.connect(path)
    first = db.execute("SELECT min(sequence) FROM events").fetchone()[0]
    page = b"x" * (size * _PAGE // orders)
    sent = 0
    before = time.process_time()
    for at in range(first, first + orders, _PAGE):
        span = (at, at + _PAGE - 1)
        db.execute("SELECT * FROM events WHERE sequence BETWEEN ? AND ?", span).fetchall()
        db.execute(
            "SELECT orders.* FROM (SELECT DISTINCT position FROM events WHERE sequence BETWEEN ? AND ?)"
            " CROSS JOIN orders ON id BETWEEN position << 32 AND (position + 1 << 32) - 1",
            span,
        ).fetchall()
        part = page[: size - sent]
        here.sendall(part)
        sent += len(part)
    print(f"{time.process_time() - before:.4f}")
    here.sendall(END.encode())


if __name__ == "__main__":
    _read_and_send(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
