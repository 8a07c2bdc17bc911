"""Attacks on the servers, each measured by what an innocent user notices of it.

    python -m benchmarks attacks                               # all, one after the other
    python -m benchmarks attacks --only filters --seconds 20   # one
    python -m benchmarks attacks --seconds 1 --nginx           # behind nginx, as deploy/ configures it
    python -m benchmarks attacks --seconds 1 --files 1024      # with a limit of open files
    python -m benchmarks attacks --seconds 1 --memory-mb 600   # with a limit of memory (address space)
    python -m benchmarks attacks --seconds 1 --rounds 3        # three times: does memory grow on?

A victim requests small answers, on an open connection and on new ones, and follows the stream. Each attack
(benchmarks/attackers.py) runs for `--seconds` in a process of its own, in `--windows` parts; before each part
the victim is measured for as long without it. The median of the parts' 99th percentiles counts, so that
neither other programs on the machine nor one slow moment decides. A row passes if the attacked p99 is at most
3 times the quiet one, or 100 ms, and if the victim got every answer and stayed connected.

All attacks meet the same server, so memory that one of them leaks shows in the next. Victim and attackers
share a core, and the server has the other one. Elsewhere an attacker does not slow down its victim's own
machine, so the victim has the higher priority.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import os
import ssl
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import psutil
import requests

from benchmarks.attackers import ATTACKS, Target
from benchmarks.figures import Figures, percentile
from benchmarks.machine import LOAD, SERVER, cpu_seconds, on, pinned, start
from benchmarks.server import DEFAULT_PERIODS, BenchValidator, prepared
from ptn_api.access import add_key
from tests.system.api import api
from tests.system.certificates import Files, certificates
from tests.system.follower import Follower
from tests.system.nginx import nginx

__all__ = ["ATTACKS", "run"]

_VICTIM_PERIOD_S = 0.04
_ORDER_PERIOD_S = 0.1
_SETTLE_S = 8
"""How long the server may work on the remains of an attack before the next quiet part, at most."""
_RECOVERY_S = 20
"""How long to wait for memory to be given back after the last attack, at most."""
_ATTACKERS_NICE = 10
_LIMIT_MS = 100.0
_RATIO = 3.0
_LIMITS = {"requests_per_minute": 600, "frames_per_minute": 600, "failed_logins_per_minute": 30}
"""Those of an ordinary server, which tests switch off. Loopback is exempt from those per address."""


# --- the victim -------------------------------------------------------------------------------------------


class Victim:
    """An innocent user: small answers on a kept connection and on new ones, and live orders.

    A request that is due while the former one is still unanswered counts from the time at which it was due.
    A connection that is closed before the response is replaced once, as HTTP clients do.
    """

    def __init__(
        self, rest: str, stream: str, validator: BenchValidator, key: str, tls: Files | None
    ) -> None:
        self.times_ms: dict[str, list[float]] = {"small": [], "new": [], "orders": []}
        self.faults: Counter[str] = Counter()
        self._host = urlsplit(rest).netloc
        self._tls = None if tls is None else ssl.create_default_context(cafile=str(tls.authority))
        self._headers = {"Authorization": f"Bearer {key}"}
        self._validator = validator
        miners = (validator.root / "validation" / "miners").iterdir()
        self._miners = itertools.cycle(sorted(path.name for path in miners))
        if tls is not None:
            os.environ["SSL_CERT_FILE"] = str(tls.authority)  # for the follower
        self._follower = Follower(stream, key)
        self._stop = threading.Event()

    def __enter__(self) -> Victim:
        self._follower.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.__exit__()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        self._stop.clear()
        self.times_ms = {name: [] for name in self.times_ms}
        self.faults.clear()
        logins = len(self._follower.success)
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
            self.faults["stream reconnects"] += len(self._follower.success) - logins

    def p99_ms(self) -> dict[str, float]:
        return {name: percentile(values or [0.0], 0.99) for name, values in self.times_ms.items()}

    def _due_times(self, period_s: float) -> Iterator[float]:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            yield due
            due += period_s

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, timeout=60)
        return http.client.HTTPSConnection(self._host, timeout=60, context=self._tls)

    def _request_on_kept(self) -> None:
        connection = self._connection()
        for due in self._due_times(_VICTIM_PERIOD_S):
            self._ask(connection, "open")
            self.times_ms["small"].append(1000 * (time.monotonic() - due))
        connection.close()

    def _request_on_new(self) -> None:
        for due in self._due_times(_VICTIM_PERIOD_S):
            connection = self._connection()
            self._ask(connection, "new")
            connection.close()
            self.times_ms["new"].append(1000 * (time.monotonic() - due))

    def _ask(self, connection: http.client.HTTPConnection, kind: str) -> None:
        for retried in (False, True):
            try:
                connection.request("GET", "/me", headers=self._headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.faults[f"status {answer.status}"] += 1
                return
            except (OSError, http.client.HTTPException):
                connection.close()
                self.faults["failed" if retried else f"{kind} connections lost"] += 1

    def _place_orders(self) -> None:
        placed: dict[str, int] = {}
        before = len(self._follower.messages)
        for _ in self._due_times(_ORDER_PERIOD_S):
            # A miner's view is rebuilt after each of its orders, so no miner may get many.
            self._validator.place(miner=next(self._miners))
            placed[self._validator.placed[-1]] = self._validator.moved_ns
        with contextlib.suppress(AssertionError):
            self._follower.wait_for(before + len(placed), 30)
        received = dict(zip(self._follower.order_uuids, self._follower.received_ns, strict=False))
        late = time.time_ns()
        self.faults["orders missed"] += sum(uuid not in received for uuid in placed)
        self.times_ms["orders"] = [(received.get(uuid, late) - at) / 1e6 for uuid, at in placed.items()]


class Memory:
    """The memory of the server's processes in MB, sampled in a thread."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.pids = pids
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.highest = self.now()
        self._stop = threading.Event()

    def now(self) -> dict[str, float]:
        found = {}
        for name, process in self._processes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[name] = process.memory_info().rss / 1e6
        return found

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        self._stop.clear()
        self.highest = self.now()
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for name, value in self.now().items():
                self.highest[name] = max(self.highest.get(name, 0.0), value)


# --- the attacker -----------------------------------------------------------------------------------------


class Attacker:
    """A process that attacks when it is told to."""

    def __init__(self, name: str, target: Target) -> None:
        self._process = start([sys.executable, "-m", "benchmarks.attackers", name], LOAD)
        os.setpriority(os.PRIO_PROCESS, self._process.pid, _ATTACKERS_NICE)
        self._seconds = target.seconds
        self._tell(msgspec.json.encode(target).decode())
        self.outcomes: Counter[str] = Counter()

    def __enter__(self) -> Attacker:
        self._expect_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def attack(self, *, last: bool) -> None:
        """Attacks for its time, and gets ready again."""
        guard = threading.Timer(self._seconds + 60, self._process.kill)
        guard.start()
        self._tell("go")
        self.outcomes.update(msgspec.json.decode(self._line(), type=dict[str, int]))
        if not last:
            self._expect_ready()
        guard.cancel()

    def _expect_ready(self) -> None:
        assert self._line() == "ready"

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


# --- measuring --------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of the table: p99 by measure, in ms, and memory in MB of the process that grew most."""

    description: str
    quiet: dict[str, float]
    attacked: dict[str, float]
    memory: str
    met: bool

    def text(self) -> str:
        quiet, attacked = (
            " / ".join(f"{value:.0f}" for value in values.values()) for values in (self.quiet, self.attacked)
        )
        ratio = max(self.attacked[name] / self.quiet[name] for name in self.quiet)
        verdict = "passes" if self.met else "**fails**"
        return f"| {self.description} | {quiet} | {attacked} | {ratio:.1f} | {self.memory} | {verdict} |"


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    sys.setswitchinterval(0.000_5)  # the victim's threads must not wait for each other
    names = arguments.only or [*ATTACKS]
    groups: dict[tuple[int, bool], list[str]] = {}
    for name in names:
        attack = ATTACKS[name]
        if (attack.files or attack.tls) and (arguments.nginx or arguments.files or arguments.memory_mb):
            continue  # measured on a server of its own anyway
        groups.setdefault((attack.files or arguments.files, attack.tls), []).append(name)
    rows: list[Row] = []
    for number, ((files, tls), group) in enumerate(groups.items()):
        place = folder / str(number)
        place.mkdir()
        rows += _measure(group, place, arguments, figures, files=files, tls=tls)
    print("\n| Attack | Quiet p99, ms | Attacked p99, ms | Ratio | Memory, MB | Verdict |")
    print("|---|---|---|---|---|---|")
    print("\n".join(row.text() for row in rows), flush=True)


def _measure(
    names: list[str], folder: Path, arguments: argparse.Namespace, figures: Figures, *, files: int, tls: bool
) -> list[Row]:
    validator, keys = prepared(folder, arguments), folder / "api_keys.json"
    victims = add_key(keys, "victim", 100, requests_per_minute=1_000_000_000)
    attackers = {
        # A user each time: the limits per minute start again.
        name: [
            add_key(keys, f"{name}-{n}", ATTACKS[name].tier)
            for n in range(arguments.rounds * arguments.windows)
        ]
        for name in names
    }
    settings: dict[str, Any] = DEFAULT_PERIODS | _LIMITS
    limits = f"ulimit -n {files}; " if files else ""
    limits += f"ulimit -v {arguments.memory_mb * 1024}; " if arguments.memory_mb else ""
    prefix = ("sh", "-c", limits + 'exec "$@"', "sh")
    pem = certificates(folder / "tls") if tls or arguments.nginx else None
    if tls and pem is not None:
        settings |= {"tls_cert": pem.certificate, "tls_key": pem.key}
    if arguments.nginx:
        settings |= {"trusted_proxies": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            api(folder / "data", validator_dir=validator.root, wait=False, prefix=prefix, **settings)
        )
        server.wait_ready(300)
        rest, stream = server.rest, server.stream
        if arguments.nginx and pem is not None:
            ports = stack.enter_context(nginx(folder / "nginx", pem, rest, stream))
            rest, stream = f"https://localhost:{ports[1]}", f"wss://localhost:{ports[1]}"
        elif tls:
            rest, stream = rest.replace("127.0.0.1", "localhost"), stream.replace("127.0.0.1", "localhost")
        epoch, oldest = _warmed(rest, victims, pem)
        pids = {child: process.pid for child, process in server.children().items()}
        pinned([*pids.values()], SERVER)
        memory = Memory(pids)
        label = f"server with {files or 'ordinary'} files{', TLS' * tls}{', nginx' * arguments.nginx}"
        rows = []
        stack.enter_context(on(LOAD))
        with Victim(rest, stream, validator, victims, pem) as victim:
            before = memory.now()
            for number in range(arguments.rounds):
                for name in names:
                    target = Target(
                        rest,
                        stream,
                        "" if pem is None else str(pem.authority),
                        attackers[name][number :: arguments.rounds],
                        epoch,
                        oldest,
                        str(keys),
                        str(validator.root),
                        arguments.seconds / arguments.windows,
                    )
                    rows.append(_attacked(name, target, victim, memory, figures))
                until = time.monotonic() + _RECOVERY_S
                while sum(memory.now().values()) > sum(before.values()) + 30 and time.monotonic() < until:
                    time.sleep(0.5)
                after = memory.now()
                figures.add(
                    f"{label}: memory after round {number + 1}, MB",
                    **{name: f"{before[name]:.0f}->{after.get(name, 0):.0f}" for name in before},
                )
                figures.target(
                    f"{label}: memory kept by a process after round {number + 1}, MB more",
                    max(after[name] - before[name] for name in after),
                    at_most=arguments.attack_mb / 2,
                )
                before = after
        same = {child: process.pid for child, process in server.children().items()} == pids
        figures.target(f"{label}: processes restarted", int(not same), at_most=0)
        log = server.log.read_text(errors="replace")
        wrong = log.count("Traceback") + log.count('"level": "error"') + log.count('"level": "critical"')
        figures.target(f"{label}: tracebacks and errors logged", wrong, at_most=0)
        if wrong:
            Path("/tmp/attacks-server.log").write_text(log)
    return rows


def _warmed(rest: str, key: str, pem: Files | None) -> tuple[str, int]:
    """Requests what the server then keeps; returns the log's epoch and oldest sequence."""
    verify: Any = True if pem is None else str(pem.authority)
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"

        def get(path: str, coding: str = "identity") -> requests.Response:
            headers = {"Accept-Encoding": coding}
            return session.get(rest + path, headers=headers, timeout=60, verify=verify)

        for path in ("/miner-positions", "/miner-positions?tier=0", "/validator-checkpoint"):
            get(path)
            get(path, "gzip")
        epoch = get("/miner-positions").headers["x-ptn-epoch"]
        return epoch, int(get("/messages?after=0").json().get("oldest_sequence", 1))


def _settle(pids: dict[str, int]) -> None:
    """Waits until the server is idle."""
    until = time.monotonic() + _SETTLE_S
    busy = 1.0
    while busy > 0.05 and time.monotonic() < until:
        before = sum(cpu_seconds(pid) for pid in pids.values())
        time.sleep(0.2)
        busy = (sum(cpu_seconds(pid) for pid in pids.values()) - before) / 0.2


def _attacked(name: str, target: Target, victim: Victim, memory: Memory, figures: Figures) -> Row:
    quiet: list[dict[str, float]] = []
    attacked: list[dict[str, float]] = []
    faults: Counter[str] = Counter()
    before, highest = memory.now(), memory.now()
    with Attacker(name, target) as attacker:
        for window in range(len(target.keys)):
            _settle(memory.pids)
            with victim.measuring():
                time.sleep(target.seconds)
            quiet.append(victim.p99_ms())
            with memory.watched(), victim.measuring():
                attacker.attack(last=window == len(target.keys) - 1)
            attacked.append(victim.p99_ms())
            faults += victim.faults
            for process, value in memory.highest.items():
                highest[process] = max(highest.get(process, 0.0), value)
    medians = [
        {measure: statistics.median(one[measure] for one in windows) for measure in windows[0]}
        for windows in (quiet, attacked)
    ]
    late = [one for one in medians[0] if medians[1][one] > max(_RATIO * medians[0][one], _LIMIT_MS)]
    grown = {process: highest[process] - before.get(process, 0.0) for process in highest}
    most = max(grown, key=lambda process: grown[process])
    after = memory.now()
    used = f"{most} {before.get(most, 0):.0f}, {highest[most]:.0f}, {after.get(most, 0):.0f}"
    wrong = {fault: count for fault, count in faults.items() if count}
    figures.add(
        f"attack {name}",
        quiet="/".join(f"{value:.0f}" for value in medians[0].values()),
        attacked="/".join(f"{value:.0f}" for value in medians[1].values()),
        memory=used,
        faults=str(wrong or "none"),
        outcomes=str(dict(attacker.outcomes)),
    )
    for measure in medians[0]:
        figures.target(
            f"attack {name}: p99 of {measure}, ms",
            medians[1][measure],
            at_most=round(max(_RATIO * medians[0][measure], _LIMIT_MS)),
        )
    figures.target(f"attack {name}: faults that the victim saw", sum(wrong.values()), at_most=0)
    return Row(ATTACKS[name].description, medians[0], medians[1], used, not late and not wrong)
