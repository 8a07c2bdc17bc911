"""A hundred clients that poll the whole document every two seconds, with and without a change in between.

Each has the ETag of its last response, so without a change it gets a 304. Polls are spread evenly over the
period. The time of a poll begins when it is due, even if an earlier one still keeps the client busy.
"""

from __future__ import annotations

import argparse
import re
import selectors
import socket
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.contest import Rounds, alternate
from benchmarks.figures import Figures, percentile
from benchmarks.machine import LOAD, cpu_seconds, installed, on
from benchmarks.peers import INSTALL
from benchmarks.rest import NoSendfile, Service, served
from ptn_api.access import add_key

__all__ = ["Pollers", "run", "run_changing"]

_POLLERS, _EVERY_S, _PERIODS = 100, 2.0, 2
_BUFFER = 1 << 20


class Polled(NamedTuple):
    cpu_ms: float
    """CPU time of the server per poll."""
    times_ms: list[float]
    received: int
    """Bytes of bodies."""


class _Poller:
    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._head = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept-Encoding: gzip\r\n"
        self._head += f"Authorization: Bearer {key}\r\n"
        self._etag = ""
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        self.due = 0.0
        self.polling = False

    def send(self) -> None:
        condition = f"If-None-Match: {self._etag}\r\n" if self._etag else ""
        self.socket.sendall(f"{self._head}{condition}\r\n".encode())
        self.polling, self._received, self._left = True, b"", -1

    def receive(self, buffer: bytearray) -> int:
        """Reads what has arrived; returns the number of bytes of the body."""
        size = self.socket.recv_into(buffer)
        assert size, "the server closed the connection"
        if self._left < 0:
            self._received += buffer[:size]
            head, end, body = self._received.partition(b"\r\n\r\n")
            if not end:
                return 0
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 304")), head
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self._left = int(length[1]) if length and head.startswith(b"HTTP/1.1 200") else 0
            found = re.search(rb"etag: (\S+)", head, re.IGNORECASE)
            assert found, head
            self._etag, size = found[1].decode(), len(body)
        self._left -= size
        self.polling = self._left > 0
        return size


class Pollers:
    """Clients with a key each, or with one for all."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self._pollers = [_Poller(url, key) for key in keys]
        self._selector = selectors.DefaultSelector()
        self._buffer = bytearray(_BUFFER)
        for poller in self._pollers:
            self._selector.register(poller.socket, selectors.EVENT_READ, poller)

    def poll(self, cpu: Callable[[], float], change: Callable[[], object], periods: int = _PERIODS) -> Polled:
        """Polls for some periods; `change` is called at the start of each."""
        with on(LOAD):
            before, began, times, received = cpu(), time.monotonic(), [], 0
            for place, poller in enumerate(self._pollers):
                poller.due = began + _EVERY_S * (place + 0.5) / len(self._pollers)
            end, next_change = began + periods * _EVERY_S, began
            while True:
                now = time.monotonic()
                if now >= next_change and next_change < end:
                    change()
                    next_change += _EVERY_S
                waiting = [poller for poller in self._pollers if not poller.polling and poller.due < end]
                for poller in waiting:
                    if poller.due <= now:
                        poller.send()
                if not waiting and not any(poller.polling for poller in self._pollers):
                    break
                due = min([end, next_change, *(poller.due for poller in waiting if not poller.polling)])
                for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                    poller = key.data
                    received += poller.receive(self._buffer)
                    if not poller.polling:
                        times.append((time.monotonic() - poller.due) * 1000)
                        poller.due += _EVERY_S
            return Polled((cpu() - before) * 1000 / len(times), times, received)

    def close(self) -> None:
        for poller in self._pollers:
            poller.socket.close()
        self._selector.close()


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    _run(folder, arguments, figures, changing=False)


def run_changing(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    _run(folder, arguments, figures, changing=True)


def _run(folder: Path, arguments: argparse.Namespace, figures: Figures, *, changing: bool) -> None:
    if not installed("nginx"):
        figures.skip("nginx", INSTALL)
        return
    keys = [add_key(folder / "api_keys.json", f"poller{place}", 100) for place in range(_POLLERS)]
    with served(folder, arguments) as service, NoSendfile() as nginx:
        replace = _replacing(nginx, service)
        replace()
        place: Callable[[], object] = service.validator.place
        if not changing:
            place = replace = lambda: None
        pollers = {
            "this": Pollers(f"{service.api.rest}/miner-positions", keys),
            "nginx": Pollers(f"http://127.0.0.1:{nginx.port}/gzip/body", keys),
        }
        contestants = {
            "this": partial(pollers["this"].poll, partial(cpu_seconds, service.pid), place),
            "nginx": partial(pollers["nginx"].poll, nginx.cpu, replace),
        }
        for contestant in contestants.values():
            contestant(periods=1)  # every client has an ETag, and the text is compressed
        rounds = alternate(contestants)
        for one in pollers.values():
            one.close()
    what = f"{_POLLERS} pollers every {_EVERY_S:.0f} s, " + (
        "a change in between" if changing else "no change"
    )
    figures.ratio(f"{what}: CPU per poll / nginx without sendfile", rounds, "this", "nginx", value=_cpu_ms)
    for name in contestants:
        _add(f"{what}: {name}", rounds, name, figures)


def _cpu_ms(polled: Polled) -> float:
    return polled.cpu_ms


def _add(what: str, rounds: Rounds[Polled], name: str, figures: Figures) -> None:
    median = statistics.median
    figures.add(
        what,
        cpu_ms_per_poll=round(median(rounds.values(name, _cpu_ms)), 3),
        p50_ms=round(median(rounds.values(name, lambda one: median(one.times_ms))), 2),
        p99_ms=round(median(rounds.values(name, lambda one: percentile(one.times_ms, 0.99))), 2),
        MB_per_poll=round(median(rounds.values(name, lambda one: one.received / len(one.times_ms) / 1e6)), 2),
    )


def _replacing(nginx: NoSendfile, service: Service) -> Callable[[], object]:
    """Returns a function that puts another version of the document in its place."""
    body = service.ask("/miner-positions", Accept_Encoding="gzip").raw.read(decode_content=False)
    files = nginx.files / "gzip"

    def replace() -> None:
        (files / "next").write_bytes(body)
        (files / "next").replace(files / "body")

    return replace
