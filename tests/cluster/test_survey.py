"""`ptn doctor` of a machine of a cluster, against real NATS servers."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.cli.doctor import CHECKS, Finding
from ptn_api.cluster import jetstream
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.survey import is_old, syncs
from ptn_api.event_log import open_writer
from ptn_api.process.settings import load_settings
from tests.cluster.machines import begin
from tests.cluster.servers import Servers, missing, nats_servers
from tests.cluster.test_jetstream import Secured, secured
from tests.factories import T0

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

__all__ = ["secured"]

(CHECK,) = (check for check in CHECKS if check.__name__ == "cluster")


def doctor(data_dir: Path, **values: Any) -> list[Finding]:
    settings = load_settings({"data_dir": str(data_dir), **values}, {})
    return list(CHECK(settings))


def texts(findings: list[Finding], level: str) -> str:
    assert all(finding.topic == "cluster" for finding in findings)
    return "\n".join(finding.sentence for finding in findings if finding.level == level)


@pytest.fixture
def begun(options: ClusterOptions) -> Iterator[JetStreamBroker]:
    with contextlib.closing(JetStreamBroker(options)) as broker:
        begin(broker)
        yield broker


def known(options: ClusterOptions, servers: Servers) -> dict[str, str]:
    return {
        "cluster": options.cluster,
        "cluster_name": options.cluster_name,
        "monitors": servers.monitors,
    }


def test_a_cluster_that_is_well(
    begun: JetStreamBroker, options: ClusterOptions, servers: Servers, tmp_path: Path
) -> None:
    """Nothing but good findings, with and without intake; nothing was written."""
    last = begun.last()
    for processes in ("intake", "rest,stream"):
        findings = doctor(tmp_path, processes=processes, **known(options, servers))
        assert {finding.level for finding in findings} == {"ok"}
        good = texts(findings, "ok")
        for server in servers:
            assert f"{server.url.rpartition('/')[2]} answers: {server.name}, nats-server 2." in good
        assert "the stream of the log has 3 replicas, all up to date" in good
        assert ("permit this machine to read and write" in good) == (processes == "intake")
        assert "clock agrees" in good
        assert "no copy yet" in good
    assert begun.last() == last
    assert begun.snapshots() == []
    assert doctor(tmp_path) == []  # a single machine


def test_this_machines_copy(
    begun: JetStreamBroker, options: ClusterOptions, servers: Servers, tmp_path: Path
) -> None:
    """How much it has, and whether it is one of this cluster."""
    common = known(options, servers)
    open_copy(tmp_path / "copy", begun, Copy).close()
    assert "the copy has commit 1 of 1" in texts(doctor(tmp_path / "copy", **common), "ok")
    other = ClusterOptions(cluster=options.cluster, cluster_name=f"{options.cluster_name}-other")
    with contextlib.closing(JetStreamBroker(other)) as broker:
        broker.create_streams()
        found(broker, T0 + 1)
    elsewhere = doctor(tmp_path / "copy", **common | {"cluster_name": other.cluster_name})
    assert "are not those of this machine's copy" in texts(elsewhere, "bad")
    open_writer(tmp_path / "alone").close()
    assert "the log of a single machine" in texts(doctor(tmp_path / "alone", **common), "bad")


def test_a_monitoring_port_of_several_servers_is_asked_once() -> None:
    """On one computer, the usual port of all of them is the same."""
    options = ClusterOptions(cluster="nats://127.0.0.1:1,nats://127.0.0.1:2,nats://[::1]:3")
    assert options.monitoring_ports == ["http://127.0.0.1:8222", "http://::1:8222"]


def test_servers_that_fail(
    begun: JetStreamBroker, options: ClusterOptions, servers: Servers, tmp_path: Path
) -> None:
    """One is a warning; without a majority nothing works."""
    dead, dead_too = "nats://127.0.0.1:1", "nats://127.0.0.1:2"
    common = known(options, servers) | {"monitors": f"{servers[0].monitor},http://127.0.0.1:1"}
    alive = ",".join(server.url for server in servers[:2])
    warned = texts(doctor(tmp_path, **common | {"cluster": f"{alive},{dead}"}), "warn")
    assert "127.0.0.1:1 cannot be used" in warned
    assert "Connection refused" in warned
    assert "http://127.0.0.1:1 does not answer" in warned
    findings = doctor(tmp_path, **common | {"cluster": f"{servers[0].url},{dead},{dead_too}"})
    assert texts(findings, "bad").count("cannot be used") == 2
    assert "the streams cannot be read" in texts(doctor(tmp_path, **common | {"cluster": dead}), "bad")


def test_a_server_with_wrong_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses orders, takes too little at a time, or is not enough; and the clocks differ."""
    with nats_servers(tmp_path / "nats", count=1, sync="2m", extra="max_payload: 600KB") as servers:
        common = {"cluster": servers.urls, "monitors": servers.monitors}
        with contextlib.closing(JetStreamBroker(ClusterOptions(cluster=servers.urls, replicas=1))) as broker:
            broker.create_streams()
            begin(broker)
        wall = jetstream.wall_ms
        monkeypatch.setattr(jetstream, "wall_ms", lambda: wall() - 5_000)
        findings = doctor(tmp_path, **common)
    failed, warned = texts(findings, "bad"), texts(findings, "warn")
    assert "set `sync_interval: always`" in failed
    assert "max_payload 614,400" in failed
    assert "has 1 replicas, --replicas is 3" in warned
    assert re.search(r"clock is [1-5]\.\d s behind the NATS server's", warned)  # less if it was answered late


def test_credentials(secured: Secured, tmp_path: Path) -> None:
    """Those of nats.conf suffice for their machines; a node's do not for intake. Files are private."""
    with contextlib.closing(secured.connect("admin")) as admin:
        admin.create_streams()
        begin(admin)
        before = admin.last()

    def permitted(user: str, processes: str) -> list[Finding]:
        (secured.folder / user).chmod(0o600)
        return doctor(
            tmp_path,
            cluster=secured.url,
            cluster_ca=str(secured.ca),
            cluster_credentials=str(secured.folder / user),
            processes=processes,
            replicas=1,
        )

    for user, processes in (("node", "rest,stream"), ("intake", "intake,rest,stream")):
        findings = permitted(user, processes)
        assert texts(findings, "bad") == ""
        assert "the credentials permit this machine" in texts(findings, "ok")
    denied = texts(permitted("node", "intake"), "bad")
    for subject in ("ptn.log", "ptn.beat", "ptn.snapshot.check.info", "$JS.API.STREAM.PURGE.PTN_LOG"):
        assert subject in denied
    assert "uthorization" in texts(permitted("stranger", "rest"), "bad")
    (secured.folder / "node").chmod(0o644)
    common = {"cluster": secured.url, "cluster_ca": str(secured.ca), "processes": "rest,stream"}
    exposed = doctor(tmp_path, cluster_credentials=str(secured.folder / "node"), **common)
    assert "other users can read" in texts(exposed, "warn")
    missing_file = doctor(tmp_path, cluster_credentials="/nowhere", **common)
    assert "--cluster-credentials cannot be read" in texts(missing_file, "bad")
    with contextlib.closing(secured.connect("admin")) as admin:
        assert admin.last() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cluster": "http://a"}, "expected nats://"),
        ({"cluster": "nats://a", "processes": "typo"}, "--processes"),
        ({"processes": "rest"}, "--processes needs --cluster"),
        ({"cluster": "nats://a", "node_name": "a b"}, "--node-name"),
    ],
)
def test_wrong_settings(tmp_path: Path, values: dict[str, str], message: str) -> None:
    """They are a finding, not the end of the report."""
    assert message in texts(doctor(tmp_path, **values), "bad")


@pytest.mark.parametrize(
    ("version", "old"),
    [("2.11.9", True), ("2.12.0", False), ("2.12.0-RC.1", False), ("2.9", True), ("3.0", False), ("", True)],
)
def test_versions(version: str, old: bool) -> None:
    assert is_old(version) == old


def test_what_a_machine_does_not_run_is_not_checked(tmp_path: Path) -> None:
    """A machine that only serves has no validator, one that only takes in has no keys and no ports."""
    checks: dict[str, Callable[..., Any]] = {check.__name__: check for check in CHECKS}
    common = {"cluster": "nats://a", "data_dir": str(tmp_path), "api_keys_file": str(tmp_path / "keys")}
    serving = load_settings(common | {"processes": "rest,stream"}, {})
    taking_in = load_settings(common | {"processes": "intake"}, {})
    for name in ("validator", "file_system", "inotify"):
        assert list(checks[name](serving)) == []
    for name in ("keys", "tls"):
        assert list(checks[name](taking_in)) == []
    assert list(checks["validator"](taking_in)) != []
    assert list(checks["keys"](serving)) != []


def test_a_port_that_is_not_for_monitoring() -> None:
    """Such as the one for clients: whether its server syncs is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"INFO {}\r\n")
                connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        assert syncs(f"http://127.0.0.1:{listener.getsockname()[1]}") is None
        thread.join()
