"""Attacks on the servers, each measured by what an innocent user notices of it.

    python -m benchmarks attacks                              # all, one after the other
    python -m benchmarks attacks --only filters --seconds 20  # one

Each runs for `--seconds` against a server of its own, from a process of its own. Meanwhile a victim requests
small answers, on an open connection and on new ones, and follows the stream. Its times are compared with
those of a quiet server; memory is that of the process that is attacked, before, at its highest, and once the
attack is over.

To add one, write `async def attack_x(target: Target) -> None`, which attacks until `target.over`, and add a
row to ATTACKS.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import psutil
import requests

from benchmarks.figures import Figures, percentile
from benchmarks.machine import LOAD, SERVER, on, pinned, start
from benchmarks.server import DEFAULT_PERIODS, BenchValidator, prepared
from ptn_api.access import add_key
from tests.system.api import Api, api
from tests.system.follower import Follower

__all__ = ["ATTACKS", "Attack", "Target", "run"]

_VICTIM_PERIOD_S = 0.02
_ORDER_PERIOD_S = 0.2
_RECOVERY_S = 20
"""How long to wait for memory to be given back, at most."""


class Target(msgspec.Struct):
    """What an attack is told: addresses, the attacker's key, the log's epoch, and when to end."""

    rest: str
    stream: str
    key: str
    epoch: str
    seconds: float
    outcomes: dict[str, int] = {}
    """What became of the attacker's requests: HTTP statuses, and the kinds of errors."""
    began: float = msgspec.field(default_factory=time.monotonic)

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    @property
    def over(self) -> bool:
        return self.left_s <= 0

    @property
    def left_s(self) -> float:
        return self.began + self.seconds - time.monotonic()

    @property
    def rest_address(self) -> tuple[str, int]:
        parts = urlsplit(self.rest)
        return parts.hostname or "", parts.port or 0


# --- the attacks ------------------------------------------------------------------------------------------


async def attack_filters(target: Target) -> None:
    """300 connections that request filtered documents again and again, uncompressed and compressed."""
    queries = ["trade_pair=BTCUSD", "trade_pair=BTCUSD,ETHUSD,EURUSD", "status=closed", "status=open"]
    await _repeated(target, [f"/miner-positions?tier=0&{query}" for query in queries], connections=300)


async def attack_since(target: Target) -> None:
    """60 mirrors that are as late as can be."""
    await _repeated(target, [f"/miner-positions?since={target.epoch}:0"], connections=60)


async def attack_messages(target: Target) -> None:
    """60 clients that read the log from its start, with a filter that passes little."""
    path = "/messages?after={oldest}&limit=10000&trade_pair=EURUSD"
    oldest = await asyncio.to_thread(_oldest_sequence, target)
    await _repeated(target, [path.format(oldest=oldest - 1)], connections=60)


async def attack_checkpoint(target: Target) -> None:
    """60 downloads of the checkpoint at once, uncompressed."""
    await _repeated(target, ["/validator-checkpoint"], connections=60, codings=["identity"])


async def attack_slow_filters(target: Target) -> None:
    """300 connections that request filtered documents and read slowly: 8 KB/s each."""
    path = "/miner-positions?tier=0&status=closed"
    await _repeated(target, [path], connections=300, read_bytes=8_192, pause_s=1)


class Attack(NamedTuple):
    """A row of the table. `tier` is the attacker's, `process` the one whose memory is measured."""

    run: Callable[[Target], Awaitable[None]]
    tier: int
    process: str = "rest"


ATTACKS: dict[str, Attack] = {
    "filters": Attack(attack_filters, tier=0),
    "since": Attack(attack_since, tier=100),
    "messages": Attack(attack_messages, tier=100),
    "checkpoint": Attack(attack_checkpoint, tier=100),
    "slow-filters": Attack(attack_slow_filters, tier=0),
}


async def _repeated(
    target: Target,
    paths: list[str],
    *,
    connections: int,
    codings: list[str] | None = None,
    read_bytes: int = 1 << 18,
    pause_s: float = 0,
) -> None:
    """Requests the paths in turn over that many connections, each again as soon as it is answered."""
    codings = codings or ["identity", "gzip"]

    async def one(number: int) -> None:
        while not target.over:
            path, coding = paths[number % len(paths)], codings[number // len(paths) % len(codings)]
            try:
                refused = await _request(target, path, coding, read_bytes, pause_s)
                await asyncio.sleep(0.2 if refused else 0)
            except (OSError, EOFError) as error:
                target.count(type(error).__name__)
                await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(one(number)) for number in range(connections)]
    await asyncio.wait(tasks, timeout=target.left_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _request(target: Target, path: str, coding: str, read_bytes: int, pause_s: float) -> bool:
    """One request on a connection of its own; the body is discarded. Returns whether it was refused."""
    reader, writer = await asyncio.open_connection(*target.rest_address, limit=read_bytes)
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {target.key}\r\n"
    try:
        writer.write(f"{head}accept-encoding: {coding}\r\n\r\n".encode())
        status = await reader.readline()
        if not status:
            raise EOFError
        code = status.split()[1].decode()
        target.count(code)
        while await reader.read(read_bytes):
            await asyncio.sleep(pause_s)
        return code != "200"
    finally:
        writer.close()


def _oldest_sequence(target: Target) -> int:
    headers = {"Authorization": f"Bearer {target.key}"}
    gone = requests.get(f"{target.rest}/messages?after=0", headers=headers, timeout=60)
    return int(gone.json().get("oldest_sequence", 1))


# --- the victim -------------------------------------------------------------------------------------------


class Victim:
    """An innocent user: small answers on a kept connection and on new ones, and live orders.

    A request that is due while the former one is still unanswered counts from the time at which it was due.
    """

    def __init__(self, server: Api, validator: BenchValidator, key: str) -> None:
        self.kept_ms: list[float] = []
        self.new_ms: list[float] = []
        self.orders_ms: list[float] = []
        self.unanswered = 0
        self._address = urlsplit(server.rest).netloc
        self._headers = {"Authorization": f"Bearer {key}"}
        self._validator = validator
        self._follower = Follower(server.stream, key)
        self._stop = threading.Event()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        self._stop.clear()
        del self.kept_ms[:], self.new_ms[:], self.orders_ms[:]
        self.unanswered = 0
        jobs = (self._request_on_kept, self._request_on_new, self._place_orders)
        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def __enter__(self) -> Victim:
        self._follower.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.__exit__()

    def figures(self) -> dict[str, float]:
        times = {"small_p99_ms": self.kept_ms, "new_p99_ms": self.new_ms, "order_p99_ms": self.orders_ms}
        return {name: round(percentile(values or [0.0], 0.99), 1) for name, values in times.items()}

    def _due_times(self, period_s: float) -> Iterator[float]:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            yield due
            due += period_s

    def _request_on_kept(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        for due in self._due_times(_VICTIM_PERIOD_S):
            self._ask(connection)
            self.kept_ms.append(1000 * (time.monotonic() - due))
        connection.close()

    def _request_on_new(self) -> None:
        for due in self._due_times(_VICTIM_PERIOD_S):
            connection = http.client.HTTPConnection(self._address, timeout=60)
            self._ask(connection)
            connection.close()
            self.new_ms.append(1000 * (time.monotonic() - due))

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("GET", "/me", headers=self._headers)
            answer = connection.getresponse()
            answer.read()
            self.unanswered += answer.status != 200
        except (OSError, http.client.HTTPException):
            connection.close()
            self.unanswered += 1

    def _place_orders(self) -> None:
        placed: dict[str, int] = {}
        before = len(self._follower.messages)
        for _ in self._due_times(_ORDER_PERIOD_S):
            self._validator.place()
            placed[self._validator.placed[-1]] = self._validator.moved_ns
        with contextlib.suppress(AssertionError):
            self._follower.wait_for(before + len(placed), 60)
        received = dict(zip(self._follower.order_uuids, self._follower.received_ns, strict=False))
        late = time.time_ns()
        self.orders_ms = [(received.get(uuid, late) - at) / 1e6 for uuid, at in placed.items()]


class Memory:
    """The memory of a process in MB, sampled in a thread."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.highest = self.now()
        self._stop = threading.Event()

    def now(self) -> float:
        try:
            return self._process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:  # killed by the attack
            return 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.highest = max(self.highest, self.now())


# --- measuring --------------------------------------------------------------------------------------------


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    for name in [arguments.only] if arguments.only else ATTACKS:
        place = folder / name
        place.mkdir()
        _measure(name, place, arguments, figures)


def _measure(name: str, folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    validator, keys = prepared(folder, arguments), folder / "api_keys.json"
    attack, seconds = ATTACKS[name], arguments.seconds
    victims = add_key(keys, "victim", 100, requests_per_minute=1_000_000_000)
    attackers = add_key(keys, "attacker", attack.tier)
    # The limits are those of an ordinary server, except that of the address, which both users share here.
    limits = {"requests_per_minute": 600, "connects_per_minute": 0, "frames_per_minute": 120}
    settings = DEFAULT_PERIODS | limits
    with api(folder / "data", validator_dir=validator.root, wait=False, **settings) as server:
        server.wait_ready(300)
        headers = {"Authorization": f"Bearer {victims}"}
        epoch = requests.get(f"{server.rest}/miner-positions", headers=headers, timeout=60).headers[
            "x-ptn-epoch"
        ]
        pids = {child: process.pid for child, process in server.children().items()}
        pinned([*pids.values()], SERVER)
        memory = Memory(pids[attack.process])
        target = Target(server.rest, server.stream, attackers, epoch, seconds)
        with on(LOAD), Victim(server, validator, victims) as victim:
            with victim.measuring():
                time.sleep(seconds)
            quiet, before = victim.figures(), memory.now()
            with memory.watched(), victim.measuring():
                outcomes = _attack(name, target)
            attacked = victim.figures()
        time.sleep(1)
        until = time.monotonic() + _RECOVERY_S
        while memory.now() > before * 1.1 and time.monotonic() < until:
            time.sleep(0.5)
        figures.add(f"attack {name}: quiet", **quiet)
        figures.add(f"attack {name}: attacked", **attacked, failed=victim.unanswered)
        mb = {"before_MB": before, "highest_MB": memory.highest, "after_MB": memory.now()}
        figures.add(f"attack {name}: {attack.process}", **{key: round(value) for key, value in mb.items()})
        figures.add(f"attack {name}: answers to the attacker", **outcomes)
        same = server.children().get(attack.process)
        figures.target(
            f"attack {name}: processes restarted",
            int(same is None or same.pid != pids[attack.process]),
            at_most=0,
        )
    for key, value in attacked.items():
        figures.target(f"attack {name}: {key}", value, at_most=round(max(3 * quiet[key], 100.0)))
    figures.target(
        f"attack {name}: highest memory, MB more", memory.highest - before, at_most=arguments.attack_mb
    )
    figures.target(
        f"attack {name}: memory kept, MB more", mb["after_MB"] - before, at_most=arguments.attack_mb / 2
    )


def _attack(name: str, target: Target) -> dict[str, Any]:
    """Runs the attack in a process of its own; returns the counts of its answers."""
    attacker = start([sys.executable, "-m", "benchmarks.attacks", name], LOAD)
    try:
        told, _ = attacker.communicate(msgspec.json.encode(target).decode(), timeout=target.seconds + 60)
    finally:
        attacker.kill()
        attacker.wait()
    counts: dict[str, Any] = msgspec.json.decode(told)
    return counts


def _main(name: str) -> None:
    """The attacker's process."""
    os.nice(5)  # the victim's clock must not suffer from the attacker's work
    target = msgspec.json.decode(sys.stdin.read(), type=Target)
    target.began = time.monotonic()
    asyncio.run(ATTACKS[name].run(target))  # type: ignore[arg-type]
    print(msgspec.json.encode(target.outcomes).decode())


if __name__ == "__main__":
    _main(sys.argv[1])
