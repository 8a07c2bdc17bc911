"""`/ready` and `/health` of machines whose NATS servers fail: real processes and servers."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from tests.cluster.servers import Servers, missing
from tests.cluster.test_takeover import Machines, machines
from tests.system.api import Api
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

__all__ = ["machines"]


def ask(server: Api, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(server.rest + path, timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def answers(server: Api) -> tuple[int, int]:
    """The statuses of /health and /ready."""
    return ask(server, "/health")[0], ask(server, "/ready")[0]


def problems(server: Api) -> set[str]:
    return set(ask(server, "/health")[1]["problems"])


def test_readiness_without_servers(machines: Machines, servers: Servers, options: ClusterOptions) -> None:
    """A machine that is cut off is not ready. Without a quorum all stay ready, since none has newer data."""
    machines.validator.place()
    near = {"processes": "rest,stream", "behind_ms": 2_000, "process_silent_ms": 1_500}
    with contextlib.closing(JetStreamBroker(options)) as broker:
        leader = servers.named(until(lambda: broker.status()["log"].leader))
    first, other = (server for server in servers if server is not leader)
    with (
        machines.intake("a", wait=False) as intake,
        # Each knows one server, and so loses the cluster with it.
        machines.start("one", cluster=first.url, node_name="one", **near) as one,
        machines.start("two", cluster=leader.url, **near) as two,
    ):
        until(lambda: answers(one) == answers(two) == (200, 200), what="complete copies")
        assert ask(one, "/health")[1]["cluster"]["node"] == "one"
        assert all('"node": "one"' in line for line in one.log.read_text().splitlines() if "{" in line)
        first.kill()
        until(lambda: answers(one) == (503, 503), what="one machine out")
        # A cut-off copy cannot come back by itself, so what follows holds until the server starts again.
        assert ask(one, "/ready")[1] == {"ready": False, "reason": "cluster_behind"}
        assert "cluster_leaderless" not in problems(one)
        until(lambda: answers(two) == (200, 200), what="the other machine in")
        assert intake.stop() == 0  # whose beats would go on proving that the copies are complete, for a while
        other.kill()
        # The leader goes on answering for up to 20 seconds, and a slow copy may be behind at times meanwhile:
        # only both problems together say that there is no quorum.
        without_leader = {"cluster_behind", "cluster_leaderless"}
        until(lambda: without_leader <= problems(two) and answers(two) == (503, 200), what="no quorum")
        assert answers(one) == (503, 503)
        first.start()
        until(lambda: answers(one) == answers(two) == (200, 200), what="a quorum")
