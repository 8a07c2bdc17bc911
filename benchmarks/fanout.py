"""Fan-out of the same kilobyte to every client, compared with alternatives.

Each contestant sends from one core to the same sink on the other. Rounds alternate and the best round of each
counts, since disturbances only slow a contestant down.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from benchmarks import native
from benchmarks.figures import Figures
from benchmarks.machine import LOAD, SERVER, cpu_seconds, start
from benchmarks.orders import END, client, filled_log, message, written
from benchmarks.peers import Nchan, nchan_installed
from benchmarks.stream_process import KEY
from ptn_api.event_log.contract import EventLogWriter, PositionWritten

__all__ = ["Round", "run", "run_processes", "sink", "stream_round"]

ROUNDS = 3
_PYTHON = sys.executable


class Round(NamedTuple):
    """One round of a contestant: messages x clients, seconds until the last arrived, CPU seconds."""

    deliveries: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.deliveries / self.seconds


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    clients, messages = arguments.clients, arguments.messages
    contestants: dict[str, Callable[[], Round]] = {
        "plain send() loop, C": lambda: _plain(clients, messages, in_c=True),
        "plain send() loop, Python": lambda: _plain(clients, messages, in_c=False),
        "this stream": lambda: stream_round(clients, messages),
        "nchan": lambda: _nchan(clients, messages),
        "await send() client by client": lambda: _awaiting(clients, messages // 4),
    }
    if native.compiler() is None:
        del contestants["plain send() loop, C"]
        figures.skip("plain send() loop in C", "no compiler")
    if not nchan_installed():
        del contestants["nchan"]
        figures.skip("nchan", "apt-get install nginx libnginx-mod-nchan")
    rounds: dict[str, list[Round]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            rounds[name].append(contestant())
    best = {name: max(them, key=lambda one: one.rate) for name, them in rounds.items()}
    cpu = {name: min(one.cpu / one.deliveries for one in them) * 1e6 for name, them in rounds.items()}
    for name, one in best.items():
        figures.add(
            f"fan-out, {clients} clients, 1 KB, one by one: {name}",
            per_s=round(one.rate),
            us_cpu=round(cpu[name], 2),
        )
    ours = best["this stream"].rate
    for name, wanted in (
        ("plain send() loop, C", 0.85),
        ("plain send() loop, Python", 0.85),
        ("nchan", 1.0),
        ("await send() client by client", 5.0),
    ):
        if name in best:
            figures.target(f"fan-out one by one / {name}", ours / best[name].rate, at_least=wanted)
    _burst(folder, arguments, figures)


def run_processes(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """The same fan-out by one and by two processes of the stream, which share all cores with the sink."""
    del folder
    clients, messages = arguments.clients, arguments.messages
    rounds: dict[int, list[Round]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for processes, done in rounds.items():
            done.append(stream_round(clients, messages, processes=processes))
    best = {processes: max(done, key=lambda one: one.rate) for processes, done in rounds.items()}
    for processes, one in best.items():
        figures.add(
            f"fan-out, {clients} clients, 1 KB, one by one, processes: {processes}",
            per_s=round(one.rate),
            us_cpu=round(one.cpu / one.deliveries * 1e6, 2),
        )
    figures.target("fan-out by two processes / by one", best[2].rate / best[1].rate, at_least=1.3)


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


def _plain(clients: int, messages: int, *, in_c: bool) -> Round:
    size = len(message()) + 4
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
            command = [_PYTHON, "-m", "benchmarks.stream_process", str(data), "one"]
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
        cpu, began = nchan.cpu(), time.monotonic()
        body = message()
        nchan.publish(body for _ in range(messages - 1))
        nchan.publish([body[: -len(END)] + END.encode()])
        ended, _ = finished(receiver)
        _closed(sockets)
        return Round(clients * messages, ended - began, nchan.cpu() - cpu)


def _awaiting(clients: int, messages: int) -> Round:
    server = start([_PYTHON, "-m", "benchmarks.awaiting", str(clients), str(messages)], SERVER)
    assert server.stdin is not None
    assert server.stdout is not None
    port = int(server.stdout.readline())
    sockets = [client(port, KEY) for _ in range(clients)]
    receiver = sink(sockets)
    began, cpu = time.monotonic(), cpu_seconds(server.pid)
    server.stdin.write("\n")
    server.stdin.flush()
    ended, _ = finished(receiver)
    cpu = cpu_seconds(server.pid) - cpu
    _closed(sockets)
    server.kill()
    server.communicate()
    return Round(clients * messages, ended - began, cpu)


# --- bursts -----------------------------------------------------------------------------------------------


def _burst(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Measures a burst at the log's own speed, from the first append to the last client's last message."""
    orders, clients = arguments.burst, arguments.clients
    changes = [written(n) for n in range(orders - 1)] + [_last(orders)]
    rounds = []
    for number in range(ROUNDS):
        data = folder / f"burst-{number}"
        with filled_log(data) as log:
            server = start([_PYTHON, "-m", "benchmarks.stream_process", str(data), "log"], SERVER)
            assert server.stdout is not None
            sockets = [client(int(server.stdout.readline()), KEY) for _ in range(1)]
            port = sockets[0].getpeername()[1]
            sockets += [client(port, KEY) for _ in range(clients - 1)]
            receiver = sink(sockets)
            began, cpu = time.monotonic(), cpu_seconds(server.pid)
            for at in range(0, orders, 250):  # orders that arrive during an append go into the next
                log.append(changes[at : at + 250], time.time_ns() // 1_000_000)
            appended = time.monotonic()
            ended, size = finished(receiver)
            cpu = cpu_seconds(server.pid) - cpu
            _closed(sockets)
            server.communicate()
        rounds.append(Round(clients * orders, ended - began, cpu))
        took = round((appended - began) * 1000)
    best = max(rounds, key=lambda one: one.rate)
    figures.add(
        f"fan-out, {clients} clients, burst of {orders} orders",
        per_s=round(best.rate),
        us_cpu=round(best.cpu / best.deliveries * 1e6, 2),
        MB_per_s=round(size / best.seconds / 1e6),
        appended_ms=took,
    )
    figures.target("fan-out in bursts, deliveries/s", best.rate, at_least=1_000_000)
