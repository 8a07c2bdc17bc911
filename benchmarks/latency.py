"""Orders placed while the validator rewrites its open positions, and without that: delay to client and REST.

Once a minute a validator rewrites each open position, as fast as it can. An order in the midst of it must not
wait for the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import requests

from benchmarks.contest import alternate
from benchmarks.figures import Figures, percentile
from benchmarks.rewriter import rewriting
from benchmarks.server import BenchValidator, running
from tests.system.follower import Follower

__all__ = ["run"]

_BURSTS = 7
"""Rewrites of all open positions per round."""
_ORDERS = 4
"""Orders per rewrite: while the files are written, and while the server reads them."""
_SPACING_S = 0.12
_REST_S = 0.6
"""After the last order of a rewrite, so that the server is done with it."""
_POLL_S = 0.001
_REWRITTEN = 500


class Delays(NamedTuple):
    """The milliseconds from each order's file to the subscribed client, and to its miner's entry in REST."""

    client: list[float]
    rest: list[float]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    with (
        running(folder, arguments) as (server, validator, follower, key),
        rewriting(validator.root, _REWRITTEN) as (found, rewrite),
    ):
        assert found == _REWRITTEN, f"the directory has only {found} open positions"
        orders = _Orders(server.rest, key, validator, follower)
        rounds = alternate(
            {"quiet": lambda: orders.round(lambda: None), "rewrite": lambda: orders.round(rewrite)},
            rounds=arguments.latency_rounds,
        )
    size = f"{arguments.miners} x {arguments.positions}"
    for target in Delays._fields:
        for name in ("quiet", "rewrite"):
            delays = [delay for one in rounds.results[name] for delay in getattr(one, target)]
            also = f", while {_REWRITTEN} positions are rewritten" if name == "rewrite" else ""
            figures.add_times(f"order's file moved -> {target}{also} ({size})", delays)
        figures.ratio(
            f"order -> {target}, p99 ms, in the midst of {_REWRITTEN} rewritten positions / without",
            rounds,
            "rewrite",
            "quiet",
            value=lambda delays, target=target: percentile(getattr(delays, target), 0.99),  # type: ignore[misc]
            at_most=2,
        )


class _Orders:
    """Places orders at fixed times after the start of a rewrite, and waits for each at both ends."""

    def __init__(self, url: str, key: str, validator: BenchValidator, follower: Follower) -> None:
        self._url = f"{url}/miner-positions/{validator.miner}"
        self._validator = validator
        self._follower = follower
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        validator.place()
        follower.wait_for(1)

    def round(self, rewrite: Callable[[], None]) -> Delays:
        delays = Delays([], [])
        for _ in range(_BURSTS):
            rewrite()
            next_s = time.monotonic()
            for _ in range(_ORDERS):
                next_s += _SPACING_S
                time.sleep(max(0, next_s - time.monotonic()))
                self._one(delays)
            time.sleep(_REST_S)
        return delays

    def _one(self, delays: Delays) -> None:
        sequence, seen = self._sequence(), len(self._follower.messages)
        self._validator.place()
        moved_ns = self._validator.moved_ns
        while self._sequence() <= sequence:
            time.sleep(_POLL_S)
        delays.rest.append((time.time_ns() - moved_ns) / 1e6)
        self._follower.wait_for(seen + 1)
        delays.client.append((self._follower.received_ns[seen] - moved_ns) / 1e6)

    def _sequence(self) -> int:
        return int(self._session.head(self._url, timeout=30).headers["x-ptn-sequence"])
