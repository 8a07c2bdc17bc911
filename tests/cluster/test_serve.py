"""`ptn serve --cluster` with real processes: one machine with the validator, one that only serves."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.access import add_key
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import open_cluster_writer
from ptn_api.errors import BrokerError
from ptn_api.event_log import open_writer
from tests import factories
from tests.cluster.machines import begin, content
from tests.cluster.servers import Servers, missing
from tests.factories import T0, written
from tests.system.api import Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


class Machines:
    """Starts the machines of one cluster, which share a key file."""

    def __init__(self, folder: Path, options: ClusterOptions) -> None:
        self.folder = folder
        self.key = add_key(folder / "api_keys.json", "user", 100)
        self._settings = {"cluster": options.cluster, "cluster_name": options.cluster_name}

    def start(self, name: str, **settings: Any) -> contextlib.AbstractContextManager[Api]:
        (self.folder / name).mkdir(exist_ok=True)
        keys = self.folder / "api_keys.json"
        return api(self.folder / name / "data", keys=keys, **(self._settings | settings))

    def get(self, server: Api, path: str) -> Any:
        request = urllib.request.Request(server.rest + path, headers={"Authorization": f"Bearer {self.key}"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            with error:  # the copy is behind for a moment; /health has a body all the same
                return json.load(error)


@pytest.fixture
def machines(options: ClusterOptions, tmp_path: Path) -> Iterator[Machines]:
    with contextlib.closing(JetStreamBroker(options)) as broker:
        begin(broker)
    made = Machines(tmp_path, options)
    yield made
    for log in tmp_path.rglob("server.log"):
        assert made.key not in log.read_text(errors="replace")


def test_two_machines_serve_the_same(machines: Machines, servers: Servers, tmp_path: Path) -> None:
    """The one with the validator and one without: the same sequences, positions and epoch.

    A server of the broker may be killed meanwhile, and the machine that only serves may be restarted.
    """
    validator = Validator(tmp_path / "validator")
    position = validator.place()
    with (
        machines.start("first", validator_dir=tmp_path / "validator") as first,
        machines.start("second", processes="rest,stream") as second,
        Follower(first.stream, machines.key) as near,
        Follower(second.stream, machines.key) as far,
    ):
        assert set(first.children()) == {"intake", "rest", "stream"}
        assert set(second.children()) == {"copy", "rest", "stream"}
        for _ in range(5):
            position = validator.add_order(position)
        near.wait_for(5)
        far.wait_for(5)
        servers[0].kill()
        for _ in range(5):
            position = validator.add_order(position)
        near.wait_for(10)
        far.wait_for(10)
        second.wait_restarted("copy", second.kill("copy"))
        position = validator.add_order(position)
        near.wait_for(11)
        far.wait_for(11)
        assert far.sequences == near.sequences == sorted(set(near.sequences))
        assert far.order_uuids == near.order_uuids
        assert near.order_uuids == [order["order_uuid"] for order in position["orders"][1:]]
        for server, log in ((first, "intake"), (second, "copy")):
            wanted = dict.fromkeys((log, "rest", "stream"), "up")
            until(lambda: machines.get(server, "/health")["processes"] == wanted)  # noqa: B023
        # Each machine puts its documents together by itself.
        until(lambda: len({json.dumps(machines.get(s, "/miner-positions")) for s in (first, second)}) == 1)
        assert first.stop() == 0
        wanted = content(tmp_path / "first" / "data")
        until(lambda: content(tmp_path / "second" / "data") == wanted, what="equal copies")


def test_a_machine_waits_for_the_cluster(no_streams: ClusterOptions, tmp_path: Path) -> None:
    """Until it has a log, and serves without it once it has a copy."""
    machines = Machines(tmp_path, no_streams)
    validator = Validator(tmp_path / "validator")
    validator.place()
    with machines.start("first", wait=False, validator_dir=tmp_path / "validator") as first:
        until(lambda: first.log.exists() and "ptn cluster init" in first.log.read_text())
        until(lambda: '"code": "cluster_unreachable"' in first.log.read_text(), what="a problem in /health")
        with contextlib.closing(JetStreamBroker(no_streams)) as broker:
            broker.create_streams()
            begin(broker)
        first.wait_ready()
        until(lambda: "cluster_unreachable" not in machines.get(first, "/health")["problems"])
        with machines.start("second", processes="rest,stream") as second:
            assert second.stop() == 0
    with machines.start("second", processes="rest,stream", cluster="nats://127.0.0.1:1") as second:
        assert len(machines.get(second, "/miner-positions")) == 1


def test_a_newer_versions_commits(machines: Machines, options: ClusterOptions, tmp_path: Path) -> None:
    """They stop the copies of this version, which name the remedy and go on serving; no process restarts."""
    validator = Validator(tmp_path / "validator")
    position = validator.place()
    with (
        machines.start("first", validator_dir=validator.root) as first,
        machines.start("second", processes="rest,stream") as second,
        contextlib.closing(JetStreamBroker(options)) as broker,
    ):
        both = (first, "intake"), (second, "copy")
        before = {name: server.children()[name].pid for server, name in both}

        def published() -> bool:
            with contextlib.suppress(BrokerError):
                broker.publish(b"\xff", expected=broker.last())
                return True
            return False

        until(published)
        validator.add_order(position)
        for server, name in both:

            def stopped(server: Api = server) -> bool:
                return "cluster_outdated" in machines.get(server, "/health")["problems"]

            until(stopped, what=f"{name} has stopped")
            assert '"reason": "the cluster\'s writer has a newer version' in server.log.read_text()
            assert len(machines.get(server, "/miner-positions")) == 1
            assert server.children()[name].pid == before[name]
        assert (first.stop(), second.stop()) == (0, 0)


def test_an_intake_of_another_cluster(machines: Machines, options: ClusterOptions, tmp_path: Path) -> None:
    """It serves what it has, names the problem, and does not end; the other cluster is left as it is."""
    validator = Validator(tmp_path / "validator")
    validator.place()
    with machines.start("first", validator_dir=validator.root):
        pass
    other = msgspec.structs.replace(options, cluster_name=f"{options.cluster_name}-other")
    with contextlib.closing(JetStreamBroker(other)) as broker:
        broker.create_streams()
        begin(broker)
        with contextlib.closing(open_cluster_writer(tmp_path / "writer", broker)) as writer:
            writer.take_over()
            writer.baseline([], T0)
            while broker.last() < 20:
                writer.append([written(factories.position(broker.last(), [factories.order(1)]))], T0)
        last = broker.last()
        with machines.start("first", validator_dir=validator.root, cluster_name=other.cluster_name) as first:
            until(lambda: "cluster_forked" in machines.get(first, "/health")["problems"])
            until(lambda: machines.get(first, "/health")["processes"]["intake"] == "up")
            assert len(machines.get(first, "/miner-positions")) == 1
            pid = first.children()["intake"].pid
            assert first.log.read_text().count("cluster_copy_stopped") == 1
            assert first.children()["intake"].pid == pid
            assert first.stop() == 0
        assert broker.last() == last


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "nats://user:secret@127.0.0.1:1"}, "use --cluster-credentials"),
        ({"processes": "intake,rest,typo"}, "--processes"),
        ({"cluster": "", "processes": "rest"}, "--processes needs --cluster"),
        ({"name": "alone"}, "use another data directory"),
    ],
)
def test_what_ends_the_start(
    machines: Machines, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    """With a reason that repeats no secret."""
    validator = Validator(tmp_path / "validator")
    validator.place()
    open_writer(tmp_path / "alone" / "data").close()
    common: dict[str, Any] = {"name": "first", "wait": False, "validator_dir": tmp_path / "validator"}
    with machines.start(**(common | settings)) as first:
        assert first.process.wait(PATIENCE_S) in (1, 2)
    text = first.log.read_text()
    assert message in text
    assert "secret" not in text


def test_a_copy_is_not_written_alone(machines: Machines, tmp_path: Path) -> None:
    """Without --cluster the log would fork, and clients would see it."""
    validator = Validator(tmp_path / "validator")
    validator.place()
    with machines.start("first", validator_dir=tmp_path / "validator"):
        pass
    before = content(tmp_path / "first" / "data")
    with machines.start("first", wait=False, validator_dir=tmp_path / "validator", cluster="") as alone:
        assert alone.process.wait(PATIENCE_S) == 1
    assert "holds a copy of a cluster's log" in alone.log.read_text()
    assert content(tmp_path / "first" / "data") == before
