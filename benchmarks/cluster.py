"""A cluster compared with a single machine: three NATS servers that sync every write, all on this machine.

Contestants alternate within a run. Ratios are those of the medians; `spread` has the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import requests

from benchmarks.fanout import Round, stream_round
from benchmarks.figures import Figures, percentile
from benchmarks.load import measured
from benchmarks.machine import SERVER, cpu_seconds, pinned
from benchmarks.orders import filled_log, written
from benchmarks.server import DEFAULT_PERIODS, BenchValidator, prepared
from ptn_api.access import add_key
from ptn_api.client import follow
from ptn_api.client.arguments import Timing
from ptn_api.clock import wall_ms
from ptn_api.cluster.adopt import adopt
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import ClusterWriter, open_cluster_writer
from ptn_api.errors import LogUnwritableError
from ptn_api.event_log import open_reader
from ptn_api.event_log.contract import EventLogWriter
from tests.cluster.machines import begin
from tests.cluster.network import Network
from tests.cluster.servers import Servers, missing, nats_servers
from tests.factories import MINER
from tests.soak.cluster import Cluster, Machine, running_cluster
from tests.system.api import api
from tests.waiting import until

__all__ = ["run", "run_failures"]

ROUNDS = 5
APPENDS = 100
PER_SECOND = 20
CAUGHT_UP = 2_000
FAILURES = 3
PAUSE_S = 0.02
"""Between two orders while a failure is measured."""

_COPY = """
import sys, threading
from pathlib import Path
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from tests.soak.orphan import end_with_parent
end_with_parent()
broker = JetStreamBroker(ClusterOptions(cluster=sys.argv[2], cluster_name=sys.argv[3]))
open_copy(Path(sys.argv[1]), broker, Copy).run(threading.Event())
"""


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Everything in which nothing fails."""
    if missing():
        figures.skip("a cluster", missing())
        return
    with nats_servers(folder / "nats") as servers:
        with (
            filled_log(folder / "single") as single,
            _writer(folder / "writer", servers, "appends") as writer,
            _copy_process(folder / "copy", servers, "appends"),
        ):
            _appends(single, writer, figures)
            _readers(folder, writer, arguments, figures)
            _hundreds(single, writer, figures)
            _catch_up(folder, servers, writer, figures)
        _streams(folder, arguments, servers, figures)
        _nodes(folder, arguments, servers, figures)


@contextlib.contextmanager
def _writer(data_dir: Path, servers: Servers, name: str) -> Iterator[ClusterWriter]:
    """The active writer of a new cluster with this name, and with an empty log."""
    options = ClusterOptions(cluster=servers.urls, cluster_name=name)
    with contextlib.closing(JetStreamBroker(options)) as broker:
        broker.create_streams()
        begin(broker, wall_ms() - 60_000)  # before the orders, which become events
        with contextlib.closing(open_cluster_writer(data_dir, broker)) as writer:
            writer.take_over()
            writer.baseline([], wall_ms())
            yield writer


@contextlib.contextmanager
def _copy_process(data_dir: Path, servers: Servers, name: str) -> Iterator[None]:
    """Another machine's copy, which follows in a process of its own."""
    process = subprocess.Popen([sys.executable, "-c", _COPY, str(data_dir), servers.urls, name])
    try:
        until((data_dir / "log.sqlite3").exists, what="the copy")
        yield
    finally:
        process.kill()
        process.wait()


def _spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


# --- appends ----------------------------------------------------------------------------------------------


def _appends(single: EventLogWriter, writer: ClusterWriter, figures: Figures) -> None:
    """One order at a time."""
    times: dict[str, list[list[float]]] = {"SQLite": [], "three NATS servers": []}
    number = 0
    for _ in range(ROUNDS):
        for name, log in zip(times, (single, writer), strict=True):
            took = []
            for _ in range(APPENDS):
                number += 1
                change = written(number)
                began = time.perf_counter()
                log.append([change], wall_ms())
                took.append((time.perf_counter() - began) * 1000)
            times[name].append(took)
    every = {name: [one for took in rounds for one in took] for name, rounds in times.items()}
    for name, took in every.items():
        figures.add_times(f"append of one order: {name}", took)
    ours, alone = every["three NATS servers"], every["SQLite"]
    rounds = list(zip(times["three NATS servers"], times["SQLite"], strict=True))
    for share in (0.5, 0.99):
        figures.add(
            f"append, three NATS servers / SQLite, p{share * 100:.0f}, each round",
            spread=_spread([percentile(a, share) / percentile(b, share) for a, b in rounds]),
        )
        ratio = percentile(ours, share) / percentile(alone, share)
        figures.target(f"append, three NATS servers / SQLite, p{share * 100:.0f}", ratio, at_most=4)


def _readers(folder: Path, writer: ClusterWriter, arguments: argparse.Namespace, figures: Figures) -> None:
    """From the call of append until a reader on each machine has the order."""
    names = {"the writer's machine": "writer", "another machine": "copy"}
    times: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        readers = {
            name: stack.enter_context(contextlib.closing(open_reader(folder / data)))
            for name, data in names.items()
        }
        wanted = writer.head().sequence
        for reader in readers.values():
            until(lambda reader=reader: reader.head().sequence == wanted)  # type: ignore[misc]
        due = time.perf_counter()
        for number in range(arguments.orders):
            due += 1 / PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            wanted += 1
            change = written(10**5 + number)
            appending = threading.Thread(target=writer.append, args=([change], wall_ms()))
            began = time.perf_counter()
            appending.start()
            waiting = dict(readers)
            while waiting:
                for name, reader in list(waiting.items()):
                    if reader.head().sequence >= wanted:
                        times[name].append((time.perf_counter() - began) * 1000)
                        del waiting[name]
                time.sleep(0.000_1)
            appending.join()
    for name, took in times.items():
        figures.add_times(f"append called -> a reader on {name} has the order", took)
    ratio = statistics.median(times["another machine"]) / statistics.median(times["the writer's machine"])
    figures.target("the same, another machine / the writer's, p50", ratio, at_most=1.2)


def _hundreds(single: EventLogWriter, writer: ClusterWriter, figures: Figures) -> None:
    """Appends of a hundred orders each."""
    rates: dict[str, list[float]] = {"SQLite": [], "three NATS servers": []}
    number = 10**6
    for _ in range(ROUNDS):
        for name, log in zip(rates, (single, writer), strict=True):
            batches = [[written(number + 100 * n + i) for i in range(100)] for n in range(10)]
            number += 1_000
            began = time.perf_counter()
            for batch in batches:
                log.append(batch, wall_ms())
            rates[name].append(1_000 / (time.perf_counter() - began))
    for name, rate in rates.items():
        figures.add(f"appends of 100 orders: {name}", orders_per_s=round(statistics.median(rate)))
    ours, alone = rates["three NATS servers"], rates["SQLite"]
    figures.add(
        "appends of 100, three NATS servers / SQLite, each round",
        spread=_spread([a / b for a, b in zip(ours, alone, strict=True)]),
    )
    ratio = statistics.median(ours) / statistics.median(alone)
    figures.target("appends of 100 orders, three NATS servers / SQLite", ratio, at_least=0.5)


def _catch_up(folder: Path, servers: Servers, writer: ClusterWriter, figures: Figures) -> None:
    """A copy that reads, decodes and applies many commits of one order."""
    options = ClusterOptions(cluster=servers.urls, cluster_name="appends")
    with contextlib.closing(JetStreamBroker(options)) as broker:
        opened = [open_copy(folder / f"late-{number}", broker, Copy) for number in range(FAILURES)]
        for copy in opened:
            copy.follow()
        for number in range(CAUGHT_UP):
            writer.append([written(2 * 10**6 + number)], wall_ms())
        rates = []
        for copy in opened:
            began = time.perf_counter()
            commits = copy.follow()
            rates.append(commits / (time.perf_counter() - began))
            copy.close()
    figures.add("a copy catches up", commits_per_s=round(statistics.median(rates)), spread=_spread(rates))
    figures.target("a copy catches up, commits/s", statistics.median(rates), at_least=4_000)


# --- a machine that only serves ---------------------------------------------------------------------------


def _streams(folder: Path, arguments: argparse.Namespace, servers: Servers, figures: Figures) -> None:
    """The same fan-out as in the benchmark `fanout`, from a machine's copy and from a log of its own."""

    @contextlib.contextmanager
    def copied(data_dir: Path) -> Iterator[EventLogWriter]:
        name = f"stream{len(rounds['node'])}"
        with (
            _writer(data_dir.parent / "writer", servers, name) as writer,
            _copy_process(data_dir, servers, name),
            contextlib.closing(open_reader(data_dir)) as reader,
        ):
            until(reader.ready)
            yield writer
            until(lambda: reader.head() == writer.head())

    rounds: dict[str, list[Round]] = {"single machine": [], "node": []}
    for _ in range(3):
        for name, log in (("single machine", filled_log), ("node", copied)):
            rounds[name].append(stream_round(arguments.clients, arguments.messages, log=log))
    rates = {name: [one.deliveries / one.cpu for one in some] for name, some in rounds.items()}
    for name, rate in rates.items():
        figures.add(
            f"fan-out, {arguments.clients} clients, 1 KB, one by one: {name}",
            per_core_s=round(statistics.median(rate)),
        )
    figures.add(
        "the same, node / single machine, each round",
        spread=_spread([a / b for a, b in zip(rates["node"], rates["single machine"], strict=True)]),
    )
    ratio = statistics.median(rates["node"]) / statistics.median(rates["single machine"])
    figures.target("fan-out per core-second, node / single machine", ratio, at_least=0.95)


def _nodes(folder: Path, arguments: argparse.Namespace, servers: Servers, figures: Figures) -> None:
    """Starts of a node, empty and with its copy; then REST of the node and of a single machine."""
    size = f"{arguments.miners} x {arguments.positions}"
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    options = ClusterOptions(cluster=servers.urls, cluster_name="nodes")
    with contextlib.closing(JetStreamBroker(options)) as broker:
        broker.create_streams()
        adopt(broker, folder / "data")
    shared = DEFAULT_PERIODS | {"requests_per_minute": 1_000_000_000, "keys": folder / "api_keys.json"}
    node = shared | {"cluster": servers.urls, "cluster_name": "nodes", "processes": "rest,stream"}
    starts: dict[str, list[float]] = {"empty": [], "with its copy": []}
    for number in range(3):
        data = folder / f"node-{number}" / "data"
        data.parent.mkdir()
        for took in starts.values():
            began = time.perf_counter()
            with api(data, wait=False, **node) as server:  # type: ignore[arg-type]
                server.wait_ready(300)
                until(lambda: _answers(server.rest, key))
                took.append(time.perf_counter() - began)
    for name, took in starts.items():
        figures.add(
            f"start of a node, {name}, until REST answers ({size})", s=round(statistics.median(took), 2)
        )
    figures.add(
        "the same, empty / with its copy, each round",
        spread=_spread([a / b for a, b in zip(*starts.values(), strict=True)]),
    )
    ratio = statistics.median(starts["empty"]) / statistics.median(starts["with its copy"])
    figures.target(f"start of a node, empty / with its copy ({size})", ratio, at_most=1.6)
    with (
        api(folder / "data", validator_dir=validator.root, wait=False, **shared) as alone,  # type: ignore[arg-type]
        api(folder / "node-0" / "data", wait=False, **node) as serving,  # type: ignore[arg-type]
    ):
        rates: dict[tuple[str, str], list[float]] = {}
        for server in (alone, serving):
            server.wait_ready(300)
            until(lambda: _answers(server.rest, key))  # noqa: B023
            pinned([process.pid for process in server.children().values()], SERVER)
        hotkey = requests.get(f"{alone.rest}/miner-hotkeys", headers=_bearer(key)).json()[0]
        for _ in range(3):
            for name, server in (("single machine", alone), ("node", serving)):
                pid = server.children()["rest"].pid
                for path in ("/miner-positions", f"/miner-positions/{hotkey}", "/me"):
                    rate = measured(
                        server.rest + path,
                        lambda: cpu_seconds(pid),  # noqa: B023
                        seconds=2,
                        connections=8,
                        Accept_Encoding="gzip",
                        **_bearer(key),
                    )
                    shown = path.replace(hotkey, "<hotkey>")
                    rates.setdefault((shown, name), []).append(rate.per_core_s)
    for path in dict.fromkeys(path for path, _ in rates):
        ours, single = rates[path, "node"], rates[path, "single machine"]
        figures.add(
            f"REST, {path}, per core-second, node / single machine",
            node=round(statistics.median(ours)),
            single=round(statistics.median(single)),
            spread=_spread([a / b for a, b in zip(ours, single, strict=True)]),
        )
        ratio = statistics.median(ours) / statistics.median(single)
        figures.target(f"{path} per core-second, node / single machine", ratio, at_least=0.95)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _answers(url: str, key: str) -> bool:
    try:
        with requests.get(
            f"{url}/miner-positions", headers=_bearer(key), timeout=30, stream=True
        ) as response:
            return response.ok
    except requests.RequestException:
        return False


# --- failures ---------------------------------------------------------------------------------------------


def run_failures(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """The time without new orders when servers and machines fail."""
    del arguments
    if missing():
        figures.skip("failures of a cluster", missing())
        return
    _servers_fail(folder, figures)
    _machines_fail(folder, figures)


class _Orders:
    """A thread that appends one order after the other, as intake does; `longest_s` between two of them."""

    def __init__(self, writer: ClusterWriter) -> None:
        self.longest_s = 0.0
        self.count = 0
        self._writer = writer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Orders:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(PAUSE_S):
            with contextlib.suppress(LogUnwritableError):
                self._writer.append([written(self.count)], wall_ms())
                self.count += 1
                self.longest_s = max(self.longest_s, time.monotonic() - last)
                last = time.monotonic()

    def pause_s(self, fail: Callable[[], object]) -> float:
        """How long there was no new order because of a failure."""
        self.more(5)
        self.longest_s = 0.0
        fail()
        self.more(20)
        return self.longest_s

    def more(self, count: int) -> None:
        wanted = self.count + count
        until(lambda: self.count >= wanted, what="orders")


def _servers_fail(folder: Path, figures: Figures) -> None:
    pauses: dict[str, list[float]] = {"stopped in order": [], "killed": [], "cut off from the others": []}
    with (
        Network() as network,
        nats_servers(folder / "nats", routes=network.routes) as servers,
        _writer(folder / "writer", servers, "ptn") as writer,
        contextlib.closing(JetStreamBroker(ClusterOptions(cluster=servers.urls))) as broker,
        _Orders(writer) as orders,
    ):
        for _ in range(FAILURES):
            for name, took in pauses.items():
                servers.restore()
                until(lambda: not broker.status()["log"].lagging)
                server = servers.named(broker.status()["log"].leader)
                around = network.around(servers.index(server))
                if name == "killed":
                    took.append(orders.pause_s(server.kill))
                elif name == "stopped in order":
                    took.append(orders.pause_s(server.stop))
                    server.kill()
                else:
                    took.append(orders.pause_s(lambda: around.interrupt(abrupt=False)))  # noqa: B023
                    around.restore()
    for name, took in pauses.items():
        _add_pause(f"the leading NATS server is {name}: pause of new orders", took, figures)
        limit = 1.0 if name == "stopped in order" else 10.0
        figures.target(f"pause of new orders, leading NATS server {name}, s", max(took), at_most=limit)


def _machines_fail(folder: Path, figures: Figures) -> None:

    def connections(machine: Machine) -> int:
        return machine.log.read_text().count("cluster_connected")

    takeover_s = ClusterOptions().takeover_ms / 1000
    key = add_key(folder / "api_keys.json", "bench", 100)
    (folder / "machines").mkdir()
    (folder / "validator" / "validation" / "miners").mkdir(parents=True)
    validator = BenchValidator(folder / "validator")
    validator.place()
    with (
        running_cluster(
            folder / "machines",
            validator=validator.root,
            keys=folder / "api_keys.json",
            nodes=2,
            seed=1,
            **DEFAULT_PERIODS,
        ) as cluster,
        _Placing(validator),
    ):
        with _Client(cluster.nodes[0].api.stream, key, folder) as client:
            took = []
            for _ in range(FAILURES):
                machine = cluster.active()
                took.append(client.pause_s(machine.kill))
                before = connections(machine)
                machine.start()
                until(lambda: connections(machine) > before, what="the new standby")  # noqa: B023
                client.more(250)
        _add_pause("the active intake is killed: pause of new orders", took, figures)
        limit = takeover_s + 1
        figures.target("pause of new orders, active intake killed, s", max(took), at_most=limit)
        _node_fails(cluster, key, folder, figures)


def _node_fails(cluster: Cluster, key: str, folder: Path, figures: Figures) -> None:
    took = []
    for number in range(FAILURES):
        gone, left = cluster.nodes[number % 2], cluster.nodes[(number + 1) % 2]
        cluster.stream.retarget(gone.api.ws_port)

        def fail() -> None:
            cluster.stream.retarget(left.api.ws_port)  # noqa: B023 - as a balancer that asks for /health
            gone.kill()  # noqa: B023

        # A client each time: one that has just lost a connection waits for longer.
        with _Client(cluster.stream.url, key, folder) as client:
            took.append(client.pause_s(fail))
        gone.start()
        gone.api.wait_ready()
    _add_pause("a node is killed: its client's next order from another one", took, figures)
    limit = 1 + Timing().backoff
    figures.target("a node is killed: its client's next order elsewhere, s", max(took), at_most=limit)


def _add_pause(what: str, took: Sequence[float], figures: Figures) -> None:
    figures.add(what, median_s=round(statistics.median(took), 2), spread=_spread(took))


class _Placing:
    """A thread that places orders."""

    def __init__(self, validator: BenchValidator) -> None:
        self._validator = validator
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Placing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.wait(PAUSE_S):
                return
            # Of many miners: each order has its miner's entry rebuilt, with all of the miner's positions.
            self._validator.place(miner=f"{MINER[:-4]}{number % 100:04}")


class _Client(_Orders):
    """A client of the library, with its default delays, that follows the stream."""

    def __init__(self, url: str, key: str, folder: Path) -> None:
        self.longest_s = 0.0
        self.count = 0
        self._following = follow(url, key, state_dir=folder, resume=False)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __exit__(self, *_: object) -> None:
        self._following.stop()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        with self._following as orders:
            for _ in orders:
                self.count += 1
                self.longest_s = max(self.longest_s, time.monotonic() - last)
                last = time.monotonic()
