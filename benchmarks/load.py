"""Requests at the rate of one core: by wrk if installed, otherwise by a loop in Python."""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.machine import LOAD, installed, on

__all__ = ["Rate", "measured"]

_COUNT = re.compile(r"(\d+) requests in ([\d.]+)(m?s)")
_FAILED = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


class Rate(NamedTuple):
    """Answers per second of wall time and of server CPU time; disturbances hardly change the second."""

    per_s: float
    per_core_s: float
    seconds: float


def measured(
    url: str, cpu: Callable[[], float], *, seconds: float = 3, connections: int = 16, **headers: str
) -> Rate:
    """Sends GETs for one URL over persistent connections; underscores in header names become hyphens.

    `cpu` tells the server's CPU seconds.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    before = cpu()
    answers, took = (_wrk if installed("wrk") else _loop)(url, seconds, connections, named)
    return Rate(answers / took, answers / (cpu() - before), took)


def _wrk(url: str, seconds: float, connections: int, headers: dict[str, str]) -> tuple[int, float]:
    options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    with on(LOAD):
        said = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{int(seconds)}s", "--timeout", "60s", *options, url],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert not _FAILED.search(said), said
    found = _COUNT.search(said)
    assert found, said
    return int(found[1]), float(found[2]) / (1000 if found[3] == "ms" else 1)


def _loop(url: str, seconds: float, connections: int, headers: dict[str, str]) -> tuple[int, float]:
    """Counts answers by bytes, assuming that all are as long as the first."""
    parts = urlsplit(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n{lines}\r\n".encode()
    address = (parts.hostname or "", parts.port or 80)
    length = _answer_length(address, request)
    selector, received, answers = selectors.DefaultSelector(), {}, 0
    for _ in range(connections):
        one = socket.create_connection(address)
        received[one] = 0
        selector.register(one, selectors.EVENT_READ)
        one.sendall(request)
    began = time.monotonic()
    with on(LOAD):
        while time.monotonic() - began < seconds:
            for key, _ in selector.select(1):
                one = key.fileobj
                received[one] += len(one.recv(1 << 20))  # type: ignore[index, union-attr]
                if received[one] >= length:  # type: ignore[index]
                    received[one] = 0  # type: ignore[index]
                    answers += 1
                    one.sendall(request)  # type: ignore[union-attr]
    for one in received:
        one.close()
    return answers, time.monotonic() - began


def _answer_length(address: tuple[str, int], request: bytes) -> int:
    with socket.create_connection(address) as one:
        one.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += one.recv(1 << 16)
        head = data.partition(b"\r\n\r\n")[0]
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return len(head) + 4 + (int(found[1]) if found else 0)
