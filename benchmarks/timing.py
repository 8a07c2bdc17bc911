"""How well the time of an answer at tier 0 reveals an order that is still hidden. AUC 0.5 means: not at all.

Each round places an order, waits until tier 100 shows it, and times the next request on an open connection:
for the miner of the order or another one, in random order; or for all miners, after the first order of a new
miner or one of a known miner.
"""

from __future__ import annotations

import argparse
import random
import socket
import time
from pathlib import Path

import requests

from benchmarks.figures import Figures, percentile
from benchmarks.server import DEFAULT_PERIODS, prepared
from ptn_api.access import add_key
from tests.system.api import api
from tests.waiting import until

__all__ = ["run"]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    validator = prepared(folder, arguments)
    keys = {tier: add_key(folder / "api_keys.json", f"tier-{tier}", tier) for tier in (0, 100)}
    limit = {"requests_per_minute": 1_000_000_000}
    with (
        api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS | limit) as server,
        requests.Session() as session,
    ):
        server.wait_ready(300)
        session.headers["Authorization"] = f"Bearer {keys[0]}"
        shown = session.get(f"{server.rest}/miner-hotkeys").json()
        session.headers["Authorization"] = f"Bearer {keys[100]}"
        miners = shown[:2]

        def place(miner: str) -> None:
            position = validator.place(miner=miner)["position_uuid"]
            url = f"{server.rest}/miner-positions/{miner}"
            until(lambda: position in session.get(url).text)

        choices = random.Random(arguments.seed)
        for coding in ("gzip", "identity"):
            with Connection(server.rest, keys[0], coding) as connection:
                with_order: list[float] = []
                without: list[float] = []
                for _ in range(arguments.orders):
                    for hotkey in miners:
                        connection.time("/" + hotkey)
                    miner = choices.choice(miners)
                    place(miner)
                    for hotkey in choices.sample(miners, 2):
                        (with_order if hotkey == miner else without).append(connection.time("/" + hotkey))
            _add(
                f"tier 0, {coding}: a miner with a hidden order, another miner", with_order, without, figures
            )

        with Connection(server.rest, keys[0], "gzip") as connection:
            first_orders: list[float] = []
            others: list[float] = []
            new = "5New"
            place(new)
            for number in range(arguments.orders):
                connection.time("?tier=0")
                is_first = choices.random() < 0.5
                new = f"5New{number}" if is_first else new
                place(new)
                (first_orders if is_first else others).append(connection.time("?tier=0"))
        _add("tier 0: all miners, after a first order, after another order", first_orders, others, figures)


def _add(what: str, one: list[float], other: list[float], figures: Figures) -> None:
    figures.add(
        what,
        n=len(one),
        p50_us=round(percentile(one, 0.5) * 1e6),
        other_p50_us=round(percentile(other, 0.5) * 1e6),
        auc=round(area_under_curve(one, other), 3),
    )


def area_under_curve(larger: list[float], smaller: list[float]) -> float:
    """Returns how often a value of the first list is above one of the second."""
    above = sum((a > b) + 0.5 * (a == b) for a in larger for b in smaller)
    return above / (len(larger) * len(smaller))


class Connection:
    """A bare connection: nothing but the server's time should be measured."""

    def __init__(self, url: str, key: str, coding: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: x\r\nAuthorization: Bearer {key}\r\nAccept-Encoding: {coding}\r\n\r\n"

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def time(self, target: str) -> float:
        """Returns the seconds from the request to the first byte, and reads the rest."""
        request = f"GET /miner-positions{target} HTTP/1.1\r\n{self._head}".encode()
        began = time.perf_counter()
        self._socket.sendall(request)
        data = self._socket.recv(1 << 20)
        took = time.perf_counter() - began
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        missing = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) - len(body)
        while missing > 0:
            missing -= len(self._socket.recv(1 << 20))
        return took
