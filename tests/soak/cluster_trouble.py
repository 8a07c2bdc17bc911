"""The faults of a cluster's soak: of NATS servers, of machines, and of the network between them."""

from __future__ import annotations

import time
from collections.abc import Callable

import requests

from ptn_api.clock import wall_ms
from ptn_api.cluster.turns import request_takeover
from tests.cluster.servers import Server
from tests.soak.checker import Verdict
from tests.soak.cluster import START_S, Cluster, Machine
from tests.soak.trouble import Injector
from tests.waiting import until

__all__ = ["ClusterTrouble"]

KILLED_MEANWHILE = 0.25
"""The share of lasting faults during which a process of a machine is killed."""


class ClusterTrouble(Injector):
    """Injects one fault at a time; `times` has when each began and was over (epoch ms)."""

    def __init__(self, seed: int, *, cluster: Cluster, verdict: Verdict, takeover_ms: int) -> None:
        super().__init__(seed)
        self.times: list[tuple[str, int, int]] = []
        self._cluster = cluster
        self._verdict = verdict
        self._takeover_s = takeover_ms / 1000
        kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "leader killed": (2, lambda: self._kill_servers([cluster.leader()])),
            "other server killed": (1, lambda: self._kill_servers(self._others(1))),
            "quorum lost": (2, self._lose_quorum),
            "leader frozen": (2, self._freeze),
            "server's disk wiped": (1, self._wipe_server),
            "leader cut off": (2, lambda: self._cut_off(cluster.leader())),
            "other server cut off": (1, lambda: self._cut_off(*self._others(1))),
            "machine cut off": (2, self._cut_off_machine),
            "active intake killed": (2, lambda: self._kill_machine(cluster.active())),
            "active intake suspended": (1, self._suspend),
            "active intake stopped": (1, self._stop),
            "standby killed": (1, lambda: self._kill_machine(cluster.standby())),
            "standby's disk wiped": (1, lambda: self._kill_machine(cluster.standby(), wipe=True)),
            "take-over demanded": (1, self._demand_takeover),
            "copy process killed": (2, lambda: self._kill_child("copy")),
            "serving process killed": (1, lambda: self._kill_child(self.random.choice(["rest", "stream"]))),
            "node killed": (2, lambda: self._kill_machine(self._node())),
            "node's disk wiped": (1, lambda: self._kill_machine(self._node(), wipe=True)),
            "everything killed": (1, self._kill_everything),
            "clients cut": (3, self._cut_clients),
        }
        self.kinds = {name: (often, self._timed(name, work)) for name, (often, work) in kinds.items()}

    def _timed(self, name: str, work: Callable[[], None]) -> Callable[[], None]:
        def inject() -> None:
            began = wall_ms()
            work()
            self.times.append((name, began, wall_ms()))

        return inject

    # --- NATS servers -------------------------------------------------------------------------------------

    def _kill_servers(self, servers: list[Server], longest_s: float = 3.0) -> None:
        for server in servers:
            server.kill()
        self._last(longest_s)
        for server in servers:
            server.start()
        self.wait_healthy()

    def _lose_quorum(self) -> None:
        self._kill_servers(self.random.sample(self._cluster.servers, 2), longest_s=8.0)

    def _freeze(self) -> None:
        server = self._cluster.leader()
        server.freeze()
        self._last(8.0)
        server.thaw()
        self.wait_healthy()

    def _wipe_server(self) -> None:
        """Only while all others are current: with one that lags, the majority would have lost commits."""
        self._verdict.expect("trouble_still_shown", "a server lags", self._cluster.is_current, START_S)
        server = self.random.choice(self._cluster.servers)
        server.kill()
        server.wipe()
        server.start()
        self.wait_healthy()

    def _cut_off(self, server: Server) -> None:
        around = self._cluster.network.around(self._cluster.servers.index(server))
        with around.interrupted(abrupt=self.random.random() < 0.5):
            self._last(15.0)
        self.wait_healthy()

    def _others(self, count: int) -> list[Server]:
        leader = self._cluster.leader()
        return self.random.sample([s for s in self._cluster.servers if s is not leader], count)

    # --- machines -----------------------------------------------------------------------------------------

    def _kill_machine(self, machine: Machine, *, wipe: bool = False) -> None:
        machine.kill()
        if wipe:
            machine.wipe()
        self._last(2 * self._takeover_s, killing=False)
        self._start(machine)

    def _start(self, *machines: Machine) -> None:
        for machine in machines:
            machine.start()
        nodes = [machine for machine in machines if machine in self._cluster.nodes]
        for node in nodes:
            node.api.wait_ready(START_S)
        self._cluster.find_nodes()
        for node in nodes:
            self._shows(node, behind=False)

    def _kill_child(self, name: str) -> None:
        api = self._node().api
        api.wait_restarted(name, api.kill(name))

    def _suspend(self) -> None:
        """Longer than the others wait, so that another machine has taken over when it goes on."""
        with self._cluster.active().suspended():
            self._last(2 * self._takeover_s, at_least_s=self._takeover_s, killing=False)

    def _stop(self) -> None:
        machine = self._cluster.active()
        machine.stop()
        self._last(3.0)
        machine.start()

    def _demand_takeover(self) -> None:
        data_dir = self._cluster.standby().data_dir
        until(data_dir.is_dir, seconds=START_S, what="a standby whose disk was wiped has a folder again")
        request_takeover(data_dir)

    def _cut_off_machine(self) -> None:
        """A node that is cut off from NATS says so, until it has caught up."""
        machine = self.random.choice(self._cluster.intakes + self._cluster.nodes)
        with machine.link.interrupted(abrupt=self.random.random() < 0.5):
            if machine in self._cluster.nodes:
                self._shows(machine, behind=True)
            self._last(2 * self._takeover_s, killing=False)
        if machine in self._cluster.nodes:
            self._shows(machine, behind=False)

    def _kill_everything(self) -> None:
        """kill -9 of all NATS servers and machines; only files are left."""
        machines = self._cluster.intakes + self._cluster.nodes
        for server in self._cluster.servers:
            server.kill()
        for machine in machines:
            machine.kill()
        for server in self._cluster.servers:
            server.start()
        self._start(*machines)
        self.wait_healthy()

    def _cut_clients(self) -> None:
        self._cluster.rest.cut()
        self.counts["connections cut"] += self._cluster.stream.cut(self.random.uniform(0.1, 1.0))

    # --- waiting ------------------------------------------------------------------------------------------

    def wait_healthy(self) -> None:
        what = "NATS servers are not healthy again"
        self._verdict.expect("trouble_still_shown", what, self._cluster.servers.healthy, START_S)

    def _last(self, longest_s: float, *, at_least_s: float = 0.0, killing: bool = True) -> None:
        """Lets a fault last; sometimes a process is killed meanwhile."""
        ends = time.monotonic() + self.random.uniform(at_least_s, longest_s)
        if killing and self.random.random() < KILLED_MEANWHILE:
            self.counts["process killed meanwhile"] += 1
            self._kill_child(self.random.choice(["copy", "rest", "stream"]))
        time.sleep(max(ends - time.monotonic(), 0))

    def _shows(self, node: Machine, *, behind: bool) -> None:
        """Waits until the node's /health has `cluster_behind`, or has it no longer."""

        def shown() -> bool:
            try:
                problems = requests.get(f"{node.api.rest}/health", timeout=30).json()["problems"]
            except (requests.RequestException, ValueError):
                return False
            return ("cluster_behind" in problems) == behind

        kind = "trouble_not_shown" if behind else "trouble_still_shown"
        self._verdict.expect(kind, f"cluster_behind of {node.name}", shown, START_S)

    def _node(self) -> Machine:
        return self.random.choice(self._cluster.nodes)
