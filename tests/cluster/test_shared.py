"""What machines share besides the log, with real NATS servers: keys, limits of users, usage."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ptn_api.access import fingerprint
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.key_copy import read_shared_keys
from ptn_api.cluster.options import ClusterOptions, shared_key_file
from ptn_api.errors import PublishRefusedError
from ptn_api.wire import close_codes
from tests.cli.ptn import Ended, Ptn
from tests.cluster.machines import begin
from tests.cluster.servers import Servers, missing
from tests.live import bare_environment
from tests.system.api import Api, api
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def brokers(options: ClusterOptions) -> Iterator[list[JetStreamBroker]]:
    """Two connections to a cluster whose log has begun."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(contextlib.closing(JetStreamBroker(options))) for _ in range(2)]
        for broker in found:
            begin(broker)
        yield found


# --- the broker's promises --------------------------------------------------------------------------------


def test_the_keys_are_one_value(brokers: list[JetStreamBroker]) -> None:
    """Replaced only by an edit that knows it; announced to all machines; the one before is gone."""
    one, other = brokers
    announced: list[None] = []
    one.hear_keys(lambda: announced.append(None))
    assert one.keys(0) is None
    assert one.put_keys(b"a", expected=0) == 1
    until(lambda: announced)
    for wrong in (0, 2):
        with pytest.raises(PublishRefusedError):
            other.put_keys(b"b", expected=wrong)
    assert other.put_keys(b"b", expected=1) == 2
    found = until(lambda: one.keys(1))
    assert (found.index, found.payload) == (2, b"b")
    until(lambda: (first := one.keys(0)) is not None and first.index == 2)
    assert one.keys(2) is None


def test_usage_is_found_by_name(brokers: list[JetStreamBroker]) -> None:
    """By day, machine and key; a record replaces the one of the same name."""
    one, other = brokers
    assert list(one.usage("*.*.*")) == []
    assert one.last_usage("*.*.*") is None
    for n in range(1_100):
        one.put_usage(f"2026-01-01.m1.{n}", b"%d" % n)
    for name, record in (("2026-01-02.m1.7", b"x"), ("2026-01-02.m2.7", b"y"), ("2026-01-02.m1.7", b"z")):
        one.put_usage(name, record)
    until(lambda: other.last_usage("*.*.*") == b"z")
    assert list(other.usage("2026-01-01.*.*")) == [b"%d" % n for n in range(1_100)]
    assert list(other.usage("2026-01-02.*.*")) == [b"y", b"z"]
    assert list(other.usage("*.m1.7")) == [b"7", b"z"]
    assert other.last_usage("*.m2.*") == b"y"
    assert other.last_usage("*.*.8") == b"8"


def test_presence_is_heard_everywhere(brokers: list[JetStreamBroker]) -> None:
    one, other = brokers
    heard: list[bytes] = []
    one.hear_presence(heard.append)
    other.hear_presence(heard.append)
    for broker in brokers:
        broker.last()  # connected
    one.send_presence(b"a")
    until(lambda: heard == [b"a"] * 2)


# --- the operator -----------------------------------------------------------------------------------------


def test_ptn_keys_edits_the_cluster(options: ClusterOptions, tmp_path: Path) -> None:
    """With --cluster, or where the server uses the cluster's keys; a key file is neither read nor written."""
    ptn = Ptn(tmp_path, bare_environment(tmp_path))
    known = {"PTN_CLUSTER": options.cluster, "PTN_CLUSTER_NAME": options.cluster_name}
    shared = known | {"PTN_CLUSTER_KEYS": "true"}
    local = ptn("keys", "add", "local", "--tier=30", **known)
    assert "api_keys.json" in local.stderr
    file = tmp_path / "ptn_api" / "api_keys.json"
    before = file.read_bytes()
    added = ptn("keys", "add", "alice", "--tier=100", **shared)
    assert (added.status, added.stderr.count(f"the cluster {options.cluster_name}")) == (0, 1)
    rotated = ptn("keys", "rotate", "alice", "--grace=0", **shared)
    keys = [added.stdout.strip(), rotated.stdout.strip()]
    listed = ptn("keys", "list", "--cluster", options.cluster, "--cluster-name", options.cluster_name)
    assert [line.split("\t")[::4] for line in listed.lines[1:]] == [["alice", "never"]]
    assert fingerprint(keys[1]) in listed.stdout
    assert "1 key, no problems" in ptn("keys", "check", **shared).stdout
    refused = ptn("keys", "push", file, **shared)
    assert (refused.status, "--replace" in refused.stderr) == (1, True)
    assert ptn("keys", "push", file, "--replace", **shared).status == 0
    assert "local" in ptn("keys", "list", **shared).stdout
    assert "alice" not in ptn("keys", "list", **shared).stdout
    assert "unknown user" in ptn("keys", "revoke", "alice", **shared).stderr
    assert ptn("keys", "revoke", "local", **shared).status == 0
    assert ptn("keys", "usage", **shared).lines == ["user\tday\trequests\tbytes\tmessages"]
    assert file.read_bytes() == before
    unclear = ptn("keys", "push", file, **known)
    assert "PTN_CLUSTER_KEYS=true" in unclear.stderr
    for wrong in (
        ptn("keys", "list", "--api-keys-file", file, **shared),
        ptn("keys", "list", PTN_CLUSTER_KEYS="true"),
        unclear,
    ):
        assert (wrong.status, wrong.stdout) == (2, "")
    assert not any(key in str(ended) for key in keys for ended in (listed, refused))


# --- machines ---------------------------------------------------------------------------------------------


class Machines:
    """Two machines that use the cluster's keys, and `ptn` of its operator."""

    def __init__(self, folder: Path, options: ClusterOptions) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = {
            "cluster": options.cluster,
            "cluster_name": options.cluster_name,
            "cluster_keys": True,
            "api_keys_file": None,
            "presence_ms": 200,
            "usage_publish_ms": 100,
            "eviction_delay_ms": 0,
        }
        self._options = ["--cluster", options.cluster, "--cluster-name", options.cluster_name]
        self._ptn = Ptn(folder, bare_environment(folder))

    def start(self, name: str, **settings: Any) -> contextlib.AbstractContextManager[Api]:
        (self.folder / name).mkdir(exist_ok=True)
        return api(self.folder / name / "data", **(self.settings | settings))

    def keys(self, *words: object) -> Ended:
        ended = self._ptn("keys", *words, *self._options)
        assert ended.status == 0, ended.stderr
        return ended


def status(server: Api, key: str) -> int:
    request = urllib.request.Request(
        f"{server.rest}/miner-hotkeys", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextlib.contextmanager
def login(server: Api, key: str) -> Iterator[ClientConnection]:
    """A connection that is logged in, as soon as the server knows the key."""

    def accepted() -> bool:
        connection.send(json.dumps({"api_key": key}))
        return bool(json.loads(connection.recv(timeout=PATIENCE_S))["status"] == "success")

    until(lambda: status(server, key) == 200)
    while True:
        with connect(server.stream, open_timeout=PATIENCE_S) as connection:
            if accepted():
                yield connection
                return


def close_code(connection: ClientConnection) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            connection.recv(timeout=PATIENCE_S)
    assert connection.protocol.close_code is not None
    return connection.protocol.close_code


def test_machines_share_keys_limits_and_usage(
    brokers: list[JetStreamBroker], servers: Servers, options: ClusterOptions, tmp_path: Path
) -> None:
    """Connections are counted over all machines, and a revocation closes those of all.

    The servers of the broker never have a key. A machine that starts without them has the last keys.
    """
    machines = Machines(tmp_path, options)
    Validator(tmp_path / "validator").place()
    (tmp_path / "old.json").write_text('{"bob": "key-of-bob-in-the-clear"}')
    bob = "key-of-bob-in-the-clear"
    machines.keys("push", tmp_path / "old.json")
    with (
        machines.start("first", wait=False, validator_dir=tmp_path / "validator") as first,
        machines.start("second", wait=False, processes="rest,stream") as second,
    ):
        for server in (first, second):
            server.wait_ready()
        alice = machines.keys("add", "alice", "--tier=100").stdout.strip()
        # The sixth connection evicts the oldest, wherever each is.
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(login(server, alice)) for server in (first, first, second, first, second)
            ]
            opened.append(stack.enter_context(login(second, alice)))
            assert close_code(opened[0]) == close_codes.REPLACED.code
            opened.append(stack.enter_context(login(first, alice)))
            assert close_code(opened[1]) == close_codes.REPLACED.code
            kept = stack.enter_context(login(second, bob))
            machines.keys("revoke", "alice")
            for connection in opened[2:]:
                assert close_code(connection) == close_codes.KEY_REVOKED.code
            kept.ping().wait(PATIENCE_S)
            until(lambda: [status(server, alice) for server in (first, second)] == [401, 401])
        requests = 1  # of the login
        for server, count in ((first, 3), (second, 4)):
            requests += count
            assert [status(server, bob) for _ in range(count)] == [200] * count

        def counted() -> bool:
            _, *rows = machines.keys("usage").lines
            return sum(int(row.split("\t")[2]) for row in rows if row.startswith("bob\t")) == requests

        until(counted)
        (row,) = machines.keys("list").lines[1:]
        assert row.startswith("bob\t100\t")
        assert "never" not in row.split("\t")[4]
    stored = b"".join(
        path.read_bytes() for server in servers for path in server.store.rglob("*") if path.is_file()
    )
    text = repr(read_shared_keys(brokers[0]))
    assert "bob" in text
    for key in (alice, bob):
        assert key.encode() not in stored
        assert key not in text
        assert all(key not in log.read_text() for log in tmp_path.rglob("server.log"))
    with machines.start("second", processes="rest,stream", cluster="nats://127.0.0.1:1") as second:
        assert status(second, bob) == 200
        assert shared_key_file(tmp_path / "second" / "data").stat().st_mode & 0o777 == 0o600
