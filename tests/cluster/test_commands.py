"""`ptn cluster` against real NATS servers."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.cli import cluster
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker, NodeReport
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import open_cluster_writer
from ptn_api.errors import BrokerError, LogError
from ptn_api.event_log import open_writer
from tests.cli.ptn import Ended, Ptn
from tests.cluster.machines import content
from tests.cluster.servers import Servers, missing, nats_servers
from tests.event_log.reading import NOW, numbers
from tests.factories import T0, order, position, written
from tests.live import bare_environment
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def ptn(tmp_path: Path) -> Ptn:
    return Ptn(tmp_path, bare_environment(tmp_path))


def addressed(options: ClusterOptions) -> dict[str, str]:
    return {"PTN_CLUSTER": options.cluster, "PTN_CLUSTER_NAME": options.cluster_name}


def single_machine(folder: Path) -> None:
    with contextlib.closing(open_writer(folder, clock=lambda: T0)) as log:
        log.baseline([], T0)
        for number in (1, 2, 3):
            log.append([written(position(number, [order(number)]), fingerprint="local")], NOW)


def succeeded(ended: Ended) -> Any:
    assert ended.status == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_takeover_without_an_intake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that only serves. It is an error, and a later start of an intake does not follow it."""
    monkeypatch.setattr(cluster, "_TAKEOVER_S", 0)
    with pytest.raises(BrokerError, match="none runs on"):
        cluster.takeover(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_cluster(ptn: Ptn, servers: Servers, no_streams: ClusterOptions, tmp_path: Path) -> None:
    """It has one empty log, which a second call keeps."""
    known = addressed(no_streams)
    refused = ptn("cluster", "status", **known)
    assert refused.status == 1
    assert "run ptn cluster init" in refused.stderr
    answers = [
        succeeded(ptn("cluster", "init", "--json", "--monitors", servers.monitors, **known)) for _ in "ab"
    ]
    assert answers == [{"cluster": no_streams.cluster_name, "replicas": 3, "head": 1}] * 2
    with contextlib.closing(JetStreamBroker(no_streams)) as broker:
        assert broker.status()["log"].replicas == 3
        with contextlib.closing(open_copy(tmp_path / "copy", broker, Copy)) as copy:
            assert copy.confirm()
            assert not copy.ready()


def test_the_log_of_a_single_machine(
    ptn: Ptn, servers: Servers, no_streams: ClusterOptions, tmp_path: Path
) -> None:
    """It goes on in the cluster with everything that clients know; its directory is left as it was."""
    single_machine(tmp_path / "alone")
    before = content(tmp_path / "alone")
    words = ["cluster", "init", "--json", "--from", tmp_path / "alone", "--monitors", servers.monitors]
    known = addressed(no_streams)
    first = succeeded(ptn(*words, **known))
    assert succeeded(ptn(*words, **known)) == first  # as after an interruption
    with (
        contextlib.closing(JetStreamBroker(no_streams)) as broker,
        contextlib.closing(open_copy(tmp_path / "copy", broker, Copy)) as copy,
    ):
        assert copy.confirm()
        assert content(tmp_path / "copy") == content(tmp_path / "alone") == before
        with contextlib.closing(open_cluster_writer(tmp_path / "writer", broker)) as writer:
            writer.take_over()
            writer.append([written(position(4, [order(4)]))], NOW)
        copy.confirm()
        assert numbers(copy) == [1, 2, 3, 4]
        assert set(copy.fingerprints().values()) <= {""}
    with contextlib.closing(open_writer(tmp_path / "alone")) as log:
        assert numbers(log) == [1, 2, 3]
    # A copy, where all servers were lost.
    words[4] = tmp_path / "copy"
    again = msgspec.structs.replace(no_streams, cluster_name="again")
    assert succeeded(ptn(*words, **addressed(again)))["head"] == 1
    with (
        contextlib.closing(JetStreamBroker(again)) as broker,
        contextlib.closing(open_copy(tmp_path / "new", broker, Copy)) as copy,
    ):
        assert copy.confirm()
        assert numbers(copy) == [1, 2, 3, 4]
    with contextlib.closing(open_writer(tmp_path / "other")) as log:
        log.baseline([], T0)
    words[4] = tmp_path / "other"
    assert "the cluster has another log" in ptn(*words, **known).stderr


@pytest.mark.parametrize(
    ("state", "message"),
    [("missing", "no such data directory"), ("empty", "no log in"), ("unready", "no content"), ("open", "")],
)
def test_a_log_that_cannot_be_taken_over(
    ptn: Ptn, servers: Servers, no_streams: ClusterOptions, tmp_path: Path, state: str, message: str
) -> None:
    """The cluster stays empty."""
    folder = tmp_path / "alone"
    with contextlib.ExitStack() as stack:
        if state == "empty":
            folder.mkdir()
        elif state == "unready":
            open_writer(folder).close()
        elif state == "open":
            single_machine(folder)
            stack.enter_context(contextlib.closing(open_writer(folder)))
        ended = ptn(
            "cluster", "init", "--from", folder, "--monitors", servers.monitors, **addressed(no_streams)
        )
    assert ended.status in (1, 2)
    assert message in ended.stderr
    with contextlib.closing(JetStreamBroker(no_streams)) as broker:
        assert broker.last() == 0


def test_servers_must_sync(ptn: Ptn, tmp_path: Path) -> None:
    """Those that acknowledge earlier are refused, unless that is accepted; an unknown state is a warning."""
    with nats_servers(tmp_path / "nats", count=1, sync="2m") as servers:
        known = {"PTN_CLUSTER": servers.urls, "PTN_REPLICAS": "1"}
        refused = ptn("cluster", "init", "--monitors", servers.monitors, **known)
        assert refused.status == 1
        assert "sync_interval: always" in refused.stderr
        assert "no streams" in ptn("cluster", "status", **known).stderr
        warned = ptn("cluster", "init", "--monitors", "http://127.0.0.1:1", **known)
        assert warned.status == 0
        assert "warning" in warned.stderr
        accepted = ptn("cluster", "init", "--accept-unsynced", **known)
        assert (accepted.status, "warning" in accepted.stderr) == (0, False)


def test_wrong_usage(ptn: Ptn) -> None:
    """Missing or unusable addresses are wrong usage."""
    for environment in (
        {},
        {"PTN_CLUSTER": "http://a"},
        {"PTN_CLUSTER": "nats://a", "PTN_CLUSTER_NAME": "É"},
    ):
        for command in ("init", "status"):
            assert ptn("cluster", command, **environment).status == 2


def test_the_status(ptn: Ptn, options: ClusterOptions, tmp_path: Path) -> None:
    """Streams, snapshots with their age, and the machines that report."""
    report = NodeReport(
        node="web-1", id="0a0a", index=7, behind_ms=12, processes=["rest"], active=True, term=3
    )
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(LogError):
                broker.report(report)
                broker.report(msgspec.structs.replace(report, id="0b0b"))

    single_machine(tmp_path / "alone")
    known = addressed(options)
    words = ["cluster", "init", "--accept-unsynced", "--from", tmp_path / "alone"]
    assert ptn(*words, **known).status == 0
    broker = JetStreamBroker(options)
    broker.last()  # connected: it logs that to what the command prints otherwise
    thread = threading.Thread(target=send)
    thread.start()
    try:
        found = succeeded(ptn("cluster", "status", "--json", **known))
        table = ptn("cluster", "status", **known).stdout
    finally:
        stop.set()
        thread.join()
        broker.close()
    assert found["streams"]["log"]["last"] == 1
    assert found["streams"]["log"]["replicas"] == 3
    (snapshot,) = found["snapshots"]
    assert snapshot["index"] == 1
    assert 0 <= snapshot["age_ms"] < 3_600_000
    assert [(node["node"], node["id"], node["behind_ms"]) for node in found["nodes"]] == [
        ("web-1", "0a0a", 12),
        ("web-1", "0b0b", 12),
    ]
    for own_id in ("0a0a", "0b0b"):  # where names are equal
        assert f"web-1 ({own_id})\t7\t12 ms\trest\tactive, term 3" in table


def test_the_status_without_a_majority(ptn: Ptn, tmp_path: Path) -> None:
    """It names the servers that are left and those to start."""
    with nats_servers(tmp_path / "nats") as servers:
        known = {"PTN_CLUSTER": servers.urls}
        assert ptn("cluster", "init", **known).status == 0
        # A leader that is left goes on to answer for a while.
        with contextlib.closing(JetStreamBroker(ClusterOptions(cluster=servers.urls))) as broker:
            leaders = {stream.leader for stream in until(broker.status).values()}
        left = next(server for server in servers if server.name not in leaders)
        killed = [server for server in servers if server is not left]
        for server in killed:
            server.kill()
        ended = ptn("cluster", "status", **known)
        assert (ended.status, ended.stdout) == (4, "")
        for said in ("only 1 of 3", f"(127.0.0.1:{left.port})", *(f"127.0.0.1:{one.port}" for one in killed)):
            assert said in ended.stderr
        left.kill()
        ended = ptn("cluster", "status", **known)
        assert (ended.status, "None of the 3" in ended.stderr) == (4, True)
