"""Delivery from append to the median of a hundred clients, a replay to one client, and idle clients."""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.fanout import finished, sink
from benchmarks.figures import Figures, percentile
from benchmarks.machine import LOAD, SERVER, cpu_seconds, on, start
from benchmarks.orders import END, client, filled_log, logged_in, position_with, subscribe, written
from benchmarks.server import DEFAULT_PERIODS, prepared
from benchmarks.stream_process import KEY
from ptn_api.access import add_key
from ptn_api.clock import wall_ms
from ptn_api.event_log import open_writer
from ptn_api.event_log.contract import EventLogWriter
from ptn_api.model.position import parse_position
from ptn_api.wire.codec import encode_message
from tests.system.api import api

__all__ = ["idle", "latency", "replay", "wire"]

_PER_SECOND = 20
_CLIENTS = 100


@contextmanager
def _stream_over(data: Path) -> Iterator[tuple[int, int]]:
    """Starts the stream process alone on the server's core. Returns its port and process."""
    server = start([sys.executable, "-m", "benchmarks.stream_process", str(data), "log"], SERVER)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline()), server.pid
    finally:
        server.communicate()


def latency(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    prepared(folder, arguments)
    log = open_writer(folder / "data", clock=lambda: wall_ms() - 60_000)  # before the orders
    with _stream_over(folder / "data") as (port, _):
        sockets = [client(port, KEY) for _ in range(_CLIENTS)]
        with on(LOAD):
            appends, times = _appended(log, sockets, arguments.orders)
        for one in sockets:
            one.close()
    log.close()
    figures.add_times("the durable append of it", appends)
    figures.add_times(f"order appended -> median of {_CLIENTS} clients, {_PER_SECOND} orders/s", times)
    figures.target("order appended -> median client, p50 ms", statistics.median(times), at_most=3)
    figures.target("order appended -> median client, p99 ms", percentile(times, 0.99), at_most=20)


def _appended(log: EventLogWriter, sockets: list[socket.socket], n: int) -> tuple[list[float], list[float]]:
    """Measures each durable append, and the time from its begin to the median client, in ms."""
    selector = selectors.DefaultSelector()
    for one in sockets:
        selector.register(one, selectors.EVENT_READ)
    appends, times, due = [], [], time.monotonic()
    for number in range(n):
        due += 1 / _PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
        change = written(10**6 + number)
        began, arrived = time.monotonic(), dict.fromkeys(sockets, 0.0)
        log.append([change], time.time_ns() // 1_000_000)
        appends.append((time.monotonic() - began) * 1000)
        uuid = change.position.orders[-1].order_uuid.encode()
        waiting = set(sockets)
        while waiting:
            for key, _ in selector.select():
                one: socket.socket = key.fileobj  # type: ignore[assignment]
                arrived[one] = time.monotonic()
                if uuid in one.recv(1 << 16):
                    waiting.discard(one)
        times.append((statistics.median(arrived.values()) - began) * 1000)
    return appends, times


def replay(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Measures the replay of all orders to one client, 1 KB each."""
    orders, data = arguments.replayed, folder / "data"
    with filled_log(data) as log:
        after, now = log.head().sequence, time.time_ns() // 1_000_000
        for at in range(0, orders, 1000):
            log.append([written(n) for n in range(at, min(at + 1000, orders - 1))], now)
        log.append([written(orders, comment=END)], now)
        epoch = log.epoch
    with _stream_over(data) as (port, pid):
        rates, costs = [], []
        for _ in range(3):
            one = logged_in(port, KEY, last_sequence=after, epoch=epoch, version=2)
            receiver = sink([one])
            began, cpu = time.monotonic(), cpu_seconds(pid)
            subscribe(one)
            ended, size = finished(receiver)
            rates.append(orders / (ended - began))
            costs.append((cpu_seconds(pid) - cpu) / orders)
            one.close()
    figures.add(
        f"replay of {orders} orders to one client",
        per_s=round(max(rates)),
        us_cpu=round(min(costs) * 1e6, 2),
        MB=round(size / 1e6),
    )
    figures.target("replay to one client, messages/s", max(rates), at_least=100_000)


def wire(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Measures the size of the message for the 300th order of a position."""
    import msgspec

    _, text = parse_position(msgspec.json.encode(position_with(1, 300)))
    sizes = {
        kind: len(
            encode_message(
                sequence=1_760_000_001,
                timestamp_ms=1_760_000_000_000,
                text=text,
                order=text.orders[-1],
                n_orders=300,
                format=kind,  # type: ignore[arg-type]
            )
        )
        for kind in ("delta", "full")
    }
    figures.add("bytes per order, position with 300 orders", **sizes)
    figures.target("bytes per order, delta, position with 300 orders", sizes["delta"], at_most=2_048)


def idle(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Measures all processes with clients that receive only heartbeats."""
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    settings = DEFAULT_PERIODS | {"max_connections_per_key": arguments.idle_clients}
    with api(folder / "data", validator_dir=validator.root, wait=False, **settings) as server:
        server.wait_ready(300)
        sockets = [client(server.ws_port, key, version=2) for _ in range(arguments.idle_clients)]
        time.sleep(8)  # the first sweep
        processes = server.children()
        before = {room: (cpu_seconds(p.pid), _wakes(p)) for room, p in processes.items()}
        time.sleep(arguments.idle_seconds)
        shares = {}
        for room, process in processes.items():
            cpu, wakes = cpu_seconds(process.pid) - before[room][0], _wakes(process) - before[room][1]
            shares[room] = cpu / arguments.idle_seconds
            figures.add(
                f"{arguments.idle_clients} idle clients: {room}",
                percent=round(100 * shares[room], 2),
                wakes_per_s=round(wakes / arguments.idle_seconds, 1),
            )
        for one in sockets:
            one.close()
    figures.target(
        f"{arguments.idle_clients} idle clients: stream, % of a core", 100 * shares["stream"], at_most=1
    )
    figures.target(
        f"{arguments.idle_clients} idle clients: all, % of a core", 100 * sum(shares.values()), at_most=1
    )


def _wakes(process: psutil.Process) -> int:
    """Returns the voluntary context switches of all threads."""
    total = 0
    for status in Path(f"/proc/{process.pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total
