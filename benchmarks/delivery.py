"""Paced delivery from append to a hundred clients, the size of a message, and idle clients."""

from __future__ import annotations

import argparse
import itertools
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil

from benchmarks import native
from benchmarks.contest import alternate
from benchmarks.figures import Figures, percentile
from benchmarks.machine import LOAD, cpu_seconds, on, start
from benchmarks.orders import client, filled_log, message, position_with, written
from benchmarks.peers import INSTALL, Nchan, answers, nchan_installed, post
from benchmarks.replay import stream_over
from benchmarks.server import DEFAULT_PERIODS, prepared
from benchmarks.stream_process import KEY
from ptn_api.access import add_key
from ptn_api.event_log.contract import EventLogWriter
from ptn_api.model.position import parse_position
from ptn_api.wire.codec import encode_message
from tests.system.api import api

__all__ = ["idle", "latency", "wire"]

_CLIENTS = 100
_MARK = "BENCHMARK-"

_Publish = Callable[[Sequence[int]], None]
"""Publishes the orders with these numbers."""


def latency(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Paced orders, each from the moment it is due to each client; ours are durable before they are sent."""
    if native.compiler() is None or not nchan_installed():
        figures.skip("paced orders / nchan and an insert", f"no compiler, or {INSTALL}")
        return
    number = itertools.count()
    for rate in arguments.rates:
        orders = round(rate * arguments.paced_seconds)
        rounds = alternate(
            {
                "this": partial(_appended, folder, number, rate, orders),
                "nchan": partial(_nchan, rate, orders),
                "insert": partial(_inserted, folder, number, rate, orders),
            }
        )
        for name in ("this", "nchan", "insert"):
            times = [one * 1000 for of_round in rounds.values(name, list) for one in of_round]
            figures.add_times(f"{rate} orders/s to {_CLIENTS} clients: {name}", times)
        figures.ratio(
            f"{rate} orders/s to {_CLIENTS} clients, p99 ms of append -> client / nchan's + an insert's",
            rounds,
            "this",
            ("nchan", "insert"),
            value=lambda times: percentile(times, 0.99) * 1000,
            at_most=1.5 if rate == 200 else None,
        )


def _appended(folder: Path, number: Iterator[int], rate: int, orders: int) -> list[float]:
    data = folder / str(next(number))
    with filled_log(data) as log, stream_over(data) as (port, _):
        sockets = [client(port, KEY) for _ in range(_CLIENTS)]
        return _paced(sockets, rate, orders, partial(_append, log))


def _append(log: EventLogWriter, numbers: Sequence[int]) -> None:
    changes = [written(number, comment=f"{_MARK}{number:08}") for number in numbers]
    log.append(changes, time.time_ns() // 1_000_000)


def _nchan(rate: int, orders: int) -> list[float]:
    with Nchan() as nchan, nchan.publisher() as publisher:
        sockets = [nchan.subscriber() for _ in range(_CLIENTS)]
        body = message()

        def publish(numbers: Sequence[int]) -> None:
            marks = (f"{_MARK}{number:08}".encode() for number in numbers)
            publisher.sendall(b"".join(post(body[: -len(mark)] + mark) for mark in marks))
            left = len(numbers)
            while left > 0:
                left -= answers(publisher)

        return _paced(sockets, rate, orders, publish)


def _paced(sockets: list[socket.socket], rate: int, orders: int, publish: _Publish) -> list[float]:
    """Publishes at this rate. Returns each order's time to each client."""
    command = [*native.command("arrivals"), str(len(sockets)), str(orders), _MARK]
    receiver = start(command, LOAD, sockets)
    assert receiver.stdout is not None
    receiver.stdout.readline()
    began = time.monotonic() + 0.1
    with on(LOAD):
        done = 0
        while done < orders:
            time.sleep(max(0.0, began + done / rate - time.monotonic()))
            due = min(orders, int((time.monotonic() - began) * rate) + 1)  # more than one if a call took long
            publish(range(done, due))
            done = due
    out, _ = receiver.communicate(timeout=60)
    for one in sockets:
        one.close()
    return [float(line) - began - place // len(sockets) / rate for place, line in enumerate(out.split())]


def _inserted(folder: Path, number: Iterator[int], rate: int, orders: int) -> list[float]:
    """Measures inserts of the message, each synced to disk, at the same pace."""
    db = sqlite3.connect(folder / f"{next(number)}.sqlite3", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 2000"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, content BLOB NOT NULL)")
    times, body, due = [], message(), time.monotonic()
    with on(LOAD):
        for sequence in range(orders):
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            db.execute("INSERT INTO events VALUES (?, ?)", (sequence, body))
            times.append(time.monotonic() - began)
    db.close()
    return times


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
