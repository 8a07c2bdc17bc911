"""Fan-out of the same kilobyte to every client, compared with alternatives.

Each contestant sends from one core to the same sink on the other.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from benchmarks import native
from benchmarks.contest import alternate
from benchmarks.figures import Figures
from benchmarks.machine import LOAD, SERVER, cpu_seconds, on, start
from benchmarks.orders import END, client, filled_log, message, written
from benchmarks.peers import INSTALL, Nchan, nchan_installed
from benchmarks.stream_process import KEY
from ptn_api.event_log.contract import EventLogWriter, PositionWritten

__all__ = [
    "PYTHON",
    "Round",
    "finished",
    "plain",
    "run",
    "run_processes",
    "run_published",
    "sink",
    "stream_round",
]

PYTHON = sys.executable
APPENDED_AT_ONCE = 250
"""Orders that arrive during an append go into the next; this many fill about 20 ms."""


class Round(NamedTuple):
    """One round of a contestant: messages x clients, seconds until the last arrived, CPU seconds, bytes."""

    deliveries: int
    seconds: float
    cpu: float
    size: int = 0

    @property
    def rate(self) -> float:
        return self.deliveries / self.seconds

    @property
    def us_cpu(self) -> float:
        return self.cpu / self.deliveries * 1e6


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """One order at a time: the CPU time of a delivery, compared with loops that only send."""
    del folder
    clients, messages, size = arguments.clients, arguments.messages, len(message()) + 4
    contestants: dict[str, Callable[[], Round]] = {
        "this": lambda: stream_round(clients, messages),
        "C loop": lambda: plain(clients, messages, size),
        "Python loop": lambda: plain(clients, messages, size, in_c=False),
    }
    if native.compiler() is None:
        del contestants["C loop"]
        figures.skip("fan-out one by one / a loop of send() in C", "no compiler")
    rounds = alternate(contestants)
    figures.add(
        f"fan-out, {clients} clients, 1 KB, one by one",
        per_s=round(statistics.median(rounds.values("this", lambda one: one.rate))),
    )
    for name, at_most in (("C loop", 1.35), ("Python loop", None)):
        if name in contestants:
            figures.ratio(
                f"fan-out one by one, us of CPU per delivery / {name}",
                rounds,
                "this",
                name,
                value=lambda one: one.us_cpu,
                at_most=at_most,
            )


def run_published(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """As many orders as possible, until the last client has all: nchan's publisher pipelines its requests."""
    clients, orders = arguments.clients, arguments.published
    if not nchan_installed():
        figures.skip("orders as fast as possible / nchan", INSTALL)
        return
    changes = [written(n) for n in range(orders - 1)] + [_last(orders)]
    number = itertools.count()
    rounds = alternate(
        {
            "this": lambda: _appended(folder / str(next(number)), clients, changes),
            "nchan": lambda: _nchan(clients, orders),
        }
    )
    what = f"{orders} orders as fast as possible to {clients} clients"
    figures.ratio(
        f"{what}, deliveries/s / nchan", rounds, "this", "nchan", value=lambda one: one.rate, at_least=5
    )
    figures.ratio(
        f"{what}, us of CPU per delivery / nchan", rounds, "this", "nchan", value=lambda one: one.us_cpu
    )


def run_processes(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """The same fan-out by one and by two processes of the stream, which share all cores with the sink."""
    del folder
    clients, messages = arguments.clients, arguments.messages
    rounds = alternate(
        {
            "two": lambda: stream_round(clients, messages, processes=2),
            "one": lambda: stream_round(clients, messages, processes=1),
        }
    )
    what = f"fan-out, {clients} clients, 1 KB, one by one, deliveries/s: two processes / one"
    figures.ratio(what, rounds, "two", "one", value=lambda one: one.rate, at_least=1.3)


# --- the receiving end ------------------------------------------------------------------------------------


def sink(sockets: Sequence[socket.socket], cores: set[int] = LOAD) -> subprocess.Popen[str]:
    """Starts a process that reads from all sockets, on the load's core."""
    process = start([*native.command("sink"), str(len(sockets)), END], cores, sockets)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finished(process: subprocess.Popen[str]) -> tuple[float, int]:
    """Returns the monotonic time at which the last client was complete, and the bytes received."""
    out, _ = process.communicate(timeout=300)
    at, size, _ = out.split()
    return float(at), int(size)


def _closed(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()


# --- contestants ------------------------------------------------------------------------------------------


def plain(clients: int, messages: int, size: int, *, in_c: bool = True) -> Round:
    """Sends `messages` times as many bytes to every client in turn."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        here, there = [], []
        for _ in range(clients):
            there.append(socket.create_connection(listener.getsockname()))
            here.append(listener.accept()[0])
    command = native.command("sendloop", native=in_c)
    sender = start([*command, str(clients), str(messages), str(size), END], SERVER, here)
    receiver = sink(there)
    began = time.monotonic()
    assert sender.stdin is not None
    sender.stdin.write("\n")
    sender.stdin.flush()
    ended, _ = finished(receiver)
    cpu = float(sender.communicate()[0])
    _closed(here + there)
    return Round(clients * messages, ended - began, cpu)


def stream_round(
    clients: int,
    messages: int,
    *,
    processes: int = 0,
    log: Callable[[Path], AbstractContextManager[EventLogWriter]] = filled_log,
) -> Round:
    """`processes` share the clients and all cores with the sink; 0 = one process on the server's core."""
    cores = (SERVER | LOAD) if processes else SERVER
    with tempfile.TemporaryDirectory(prefix="ptn-bench-") as folder:
        data = Path(folder) / "data"
        with log(data) as writer:
            command = [PYTHON, "-m", "benchmarks.stream_process", str(data), "one"]
            servers = [start(command, cores) for _ in range(processes or 1)]
            ports = [int(_line(server)) for server in servers]
            sockets = [client(ports[number % len(ports)], KEY) for number in range(clients)]
            now = time.time_ns() // 1_000_000
            for number in range(0, messages, 500):
                some = [written(n) for n in range(number, min(number + 500, messages - 1))]
                writer.append(some, now)
            writer.append([_last(messages)], now)
        receiver = sink(sockets, cores if processes else LOAD)
        began = time.monotonic()
        for server in servers:
            assert server.stdin is not None
            server.stdin.write("\n")
            server.stdin.flush()
        ended, _ = finished(receiver)
        cpu = sum(float(_line(server)) for server in servers)
        _closed(sockets)
        for server in servers:
            server.communicate()
    return Round(clients * messages, ended - began, cpu)


def _line(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline()


def _last(number: int) -> PositionWritten:
    return written(number, comment=END)


def _nchan(clients: int, messages: int) -> Round:
    with Nchan() as nchan:
        sockets = [nchan.subscriber() for _ in range(clients)]
        receiver = sink(sockets)
        body = message()
        last = body[: -len(END)] + END.encode()
        cpu, began = nchan.cpu(), time.monotonic()
        nchan.publish([*[body] * (messages - 1), last])
        ended, size = finished(receiver)
        cpu = nchan.cpu() - cpu
        _closed(sockets)
    assert size >= clients * messages * len(body), "nchan has left out messages"
    return Round(clients * messages, ended - began, cpu, size)


def _appended(data: Path, clients: int, changes: Sequence[PositionWritten]) -> Round:
    """Measures from the first append to the last client's last message."""
    with filled_log(data) as log:
        server = start([PYTHON, "-m", "benchmarks.stream_process", str(data), "log"], SERVER)
        port = int(_line(server))
        sockets = [client(port, KEY) for _ in range(clients)]
        receiver = sink(sockets)
        cpu, began = cpu_seconds(server.pid), time.monotonic()
        with on(LOAD):
            for at in range(0, len(changes), APPENDED_AT_ONCE):
                log.append(changes[at : at + APPENDED_AT_ONCE], time.time_ns() // 1_000_000)
        ended, size = finished(receiver)
        cpu = cpu_seconds(server.pid) - cpu
        _closed(sockets)
        server.communicate()
    return Round(clients * len(changes), ended - began, cpu, size)
