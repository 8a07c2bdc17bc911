"""A cluster on this machine whose parts can be killed, frozen, wiped and cut off.

Clients reach the machines that serve through two proxies (`stream`, `rest`), which choose one at random for
each connection.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from ptn_api.clock import wall_ms
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import BrokerError, LogError
from ptn_api.event_log import open_reader
from tests.chaos import ChaosProxy
from tests.cluster.machines import begin
from tests.cluster.network import Link, Network
from tests.cluster.servers import Server, Servers, nats_servers
from tests.processes import lives, suspend
from tests.system.api import Api, api
from tests.waiting import until

__all__ = ["Cluster", "Machine", "running_cluster"]

START_S = 180.0
"""A machine that starts on an empty disk copies the log first."""


class Machine:
    """One `ptn serve --cluster` with its data directory and its link to the NATS servers."""

    def __init__(self, folder: Path, name: str, link: Link, keys: Path, settings: dict[str, object]) -> None:
        self.name = name
        self.link = link
        self.data_dir = folder / name / "data"
        self.api: Api
        self._keys = keys
        self._settings = settings
        self._running = contextlib.ExitStack()

    @property
    def log(self) -> Path:
        return self.data_dir.parent / "server.log"

    def start(self) -> None:
        self.data_dir.parent.mkdir(exist_ok=True)
        self.api = self._running.enter_context(
            api(self.data_dir, keys=self._keys, wait=False, cluster=self.link.urls, **self._settings)
        )

    def stop(self) -> None:
        """Ends it in order."""
        self._running.close()

    def kill(self) -> None:
        """kill -9 of all its processes, as when a machine loses power."""
        suspend(self.api.process.pid)  # it must not start a process meanwhile
        family = [psutil.Process(pid) for pid in self.pids()]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not any(lives(process) for process in family[1:]), what=f"the end of {self.name}")
        self._running.close()

    def wipe(self) -> None:
        """Deletes the data directory of a killed machine."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def pids(self) -> list[int]:
        """Its processes, the supervisor first."""
        try:
            supervisor = psutil.Process(self.api.process.pid)
            children = supervisor.children(recursive=True)
            return [supervisor.pid, *(child.pid for child in children if lives(child))]
        except psutil.NoSuchProcess:
            return []

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        pids = self.pids()
        suspend(pids[0])  # first: it would start a process in place of one that it does not hear
        for pid in pids[1:]:
            suspend(pid)
        yield
        for pid in pids[1:] + pids[:1]:
            psutil.Process(pid).resume()

    def term(self) -> int:
        """The term in which this machine writes, as far as its copy knows; 0 if it does not."""
        with contextlib.suppress(LogError), contextlib.closing(open_reader(self.data_dir)) as log:
            status = log.copy_status()
            return status.term if status is not None and status.active else 0
        return 0


class Cluster:
    """All its parts run, except while a method of the soak's troubles has ended some."""

    def __init__(
        self,
        servers: Servers,
        network: Network,
        intakes: list[Machine],
        nodes: list[Machine],
        stream: ChaosProxy,
        rest: ChaosProxy,
        broker: JetStreamBroker,
    ) -> None:
        self.servers = servers
        self.network = network
        self.intakes = intakes
        self.nodes = nodes
        self.stream = stream
        self.rest = rest
        self.broker = broker
        """Connected without a proxy."""

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.rest.port}"

    def pids(self) -> dict[str, list[int]]:
        """The processes of each role."""
        return {
            "nats": [server.pid for server in self.servers if server.running],
            "intakes": [pid for machine in self.intakes for pid in machine.pids()],
            "nodes": [pid for machine in self.nodes for pid in machine.pids()],
        }

    def leader(self) -> Server:
        """The leader of the log's stream; any server if there is none."""
        with contextlib.suppress(BrokerError):
            if name := self.broker.status()["log"].leader:
                return self.servers.named(name)
        return random.choice(self.servers)

    def active(self) -> Machine:
        """The machine that writes, as far as it knows; any machine with intake if none does."""
        return max(self.intakes, key=Machine.term)

    def standby(self) -> Machine:
        active = self.active()
        return next(machine for machine in self.intakes if machine is not active)

    def is_current(self) -> bool:
        """Whether every NATS server has everything, so that any one of them may lose its disk."""
        try:
            streams = self.broker.status().values()
        except BrokerError:
            return False
        return self.servers.healthy() and all(s.leader and not s.lagging for s in streams)

    def find_nodes(self) -> None:
        """Leads clients to the addresses that the nodes have now."""
        self.stream.retarget(*(node.api.ws_port for node in self.nodes))
        self.rest.retarget(*(int(node.api.rest.rpartition(":")[2]) for node in self.nodes))


@contextlib.contextmanager
def running_cluster(
    folder: Path, *, validator: Path, keys: Path, nodes: int, seed: int, **settings: object
) -> Iterator[Cluster]:
    """Three NATS servers, two machines with intake, and `nodes` that only serve, all up to date."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        servers = stack.enter_context(nats_servers(folder / "nats", routes=network.routes))
        broker = JetStreamBroker(ClusterOptions(cluster=servers.urls))
        stack.callback(broker.close)
        broker.create_streams()
        begin(broker, wall_ms())

        def machine(name: str, **own: object) -> Machine:
            made = Machine(folder, name, network.link(servers), keys, settings | own)
            made.start()
            stack.callback(made.stop)
            return made

        intake: dict[str, object] = {"processes": "intake", "validator_dir": validator, "metrics_port": -1}
        intakes = [machine(f"intake-{number + 1}", **intake) for number in range(2)]
        serving = [machine(f"node-{number + 1}", processes="rest,stream") for number in range(nodes)]
        stream = stack.enter_context(ChaosProxy(0, seed=seed))
        rest = stack.enter_context(ChaosProxy(0, seed=seed))
        cluster = Cluster(servers, network, intakes, serving, stream, rest, broker)
        for node in serving:
            node.api.wait_ready(START_S)
        cluster.find_nodes()
        until(lambda: any(one.term() for one in intakes), seconds=START_S, what="an active intake")
        yield cluster
