"""The broker's promises over real NATS servers, which are killed, frozen and wiped meanwhile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import nkeys
import pytest
import trustme
from structlog.testing import capture_logs

from ptn_api.access import add_key
from ptn_api.access.usage import UsageFile, UsageRow, day_of
from ptn_api.cluster import jetstream
from ptn_api.cluster.broker import PART_BYTES, Beat, Entry, SnapshotInfo
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker, NodeReport
from ptn_api.cluster.key_copy import SharedKeyStore
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.snapshot import publish_snapshot
from ptn_api.cluster.usage_copy import UsageCopy, usage_since
from ptn_api.cluster.writer import ClusterWriter, open_cluster_writer
from ptn_api.errors import (
    BrokerError,
    EntriesPurgedError,
    LogUnwritableError,
    OutcomeUnknownError,
    PublishRefusedError,
    SettingsError,
)
from ptn_api.event_log.database import log_path
from tests.cluster.machines import begin, content, done
from tests.cluster.servers import Servers, missing, nats_servers
from tests.event_log.reading import NOW, numbers
from tests.factories import T0, order, position, written
from tests.system.api import ROOT
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


class SettledBroker(JetStreamBroker):
    """Waits before each read until every server has what was written: any of them may answer."""

    async def _batch(self, stream: str, wanted: dict[str, Any]) -> list[Any]:
        client = await self._connection(self._request_s)
        while True:
            answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=self._request_s)
            replicas = json.loads(answer.data)["cluster"]["replicas"]
            if all(replica["current"] and not replica.get("lag") for replica in replicas):
                return await super()._batch(stream, wanted)
            await asyncio.sleep(0.01)


@pytest.fixture
def broker(options: ClusterOptions) -> Iterator[JetStreamBroker]:
    with contextlib.closing(SettledBroker(options)) as broker:
        yield broker


def published(broker: JetStreamBroker, *payloads: bytes) -> None:
    for payload in payloads:
        broker.publish(payload, expected=broker.last())


def answered(work: Callable[[], object]) -> bool:
    try:
        work()
    except BrokerError:
        return False
    return True


# --- entries ----------------------------------------------------------------------------------------------


def test_entries_are_stored_in_order(broker: JetStreamBroker) -> None:
    """From index 1 on, and only after the index that was expected."""
    assert broker.last() == 0
    assert broker.read(0, 1 << 20) == []
    assert [broker.publish(payload, expected=index) for index, payload in enumerate([b"a", b"b"])] == [1, 2]
    for wrong in (0, 1, 3):
        with pytest.raises(PublishRefusedError, match="wrong last sequence"):
            broker.publish(b"c", expected=wrong)
    assert broker.last() == 2
    assert broker.read(0, 1 << 20) == [Entry(1, b"a"), Entry(2, b"b")]
    assert broker.read(1, 1 << 20) == [Entry(2, b"b")]
    assert broker.read(7, 1 << 20) == []


def test_a_read_is_limited(broker: JetStreamBroker) -> None:
    """By its size, but not to nothing; many entries come in several reads without a gap."""
    large = secrets.token_bytes(PART_BYTES + 1_000)
    published(broker, large, large)
    assert broker.read(0, 1) == [Entry(1, large)]
    for number in range(1_200):
        broker.publish(b"%d" % number, expected=2 + number)
    found: list[Entry] = []
    while entries := broker.read(found[-1].index if found else 2, 4 << 20):
        found += entries
    assert [entry.payload for entry in found] == [b"%d" % number for number in range(1_200)]
    assert [entry.index for entry in found] == list(range(3, 1_203))


def test_an_entry_that_is_too_large_is_refused(broker: JetStreamBroker) -> None:
    """By the stream, or by the client if a server would not take it at all."""
    for size in (PART_BYTES + 8_192, 2 << 20):
        with pytest.raises(BrokerError):
            broker.publish(bytes(size), expected=0)
    published(broker, b"a")
    assert broker.last() == 1


def test_purged_entries(broker: JetStreamBroker) -> None:
    """They raise an error, also if nothing follows them; indexes go on."""
    published(broker, b"a", b"b", b"c")
    broker.purge(2)
    with pytest.raises(EntriesPurgedError):
        broker.read(0, 1 << 20)
    assert broker.read(2, 1 << 20) == [Entry(3, b"c")]
    broker.purge(3)
    with pytest.raises(EntriesPurgedError):
        broker.read(2, 1 << 20)
    assert broker.read(3, 1 << 20) == []
    assert broker.last() == 3
    assert broker.publish(b"d", expected=3) == 4


def test_entries_are_announced(options: ClusterOptions, broker: JetStreamBroker) -> None:
    """To other machines; without one, the wait ends in time."""
    with contextlib.closing(JetStreamBroker(options)) as other:
        other.last()  # connected
        other.wait(0, 1)
        waiting = threading.Thread(target=other.wait, args=(0, 600_000))
        waiting.start()
        published(broker, b"a")
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        other.wait(0, 600_000)


# --- snapshots --------------------------------------------------------------------------------------------


def snapshot(name: str, index: int, pieces: int) -> SnapshotInfo:
    return SnapshotInfo(
        name=name, index=index, commit_id=b"\xff\x00", schema=1, pieces=pieces, size=1, digest=b"d"
    )


def test_snapshots(broker: JetStreamBroker) -> None:
    """They are listed from the newest on, and returned piece by piece in their order."""
    assert broker.snapshots() == []
    pieces = [bytes([number]) * (PART_BYTES if number % 2 else 10) for number in range(20)]
    first, second = snapshot("aa", 5, 2), snapshot("bb", 9, len(pieces))
    broker.put_snapshot(second, iter(pieces))
    broker.put_snapshot(first, iter([b"1", b"2"]))
    assert broker.snapshots() == [second, first]
    assert list(broker.get_snapshot(first)) == [b"1", b"2"]
    assert list(broker.get_snapshot(second)) == pieces
    broker.delete_snapshot(second)
    broker.delete_snapshot(second)
    assert broker.snapshots() == [first]
    with pytest.raises(BrokerError, match="missing"):
        list(broker.get_snapshot(second))
    assert list(broker.get_snapshot(first)) == [b"1", b"2"]


def test_an_incomplete_snapshot(broker: JetStreamBroker) -> None:
    """It is not listed, and can be deleted; one with too few pieces raises an error."""

    def interrupted() -> Iterator[bytes]:
        yield b"1"
        raise BrokerError("lost")

    with pytest.raises(BrokerError, match="lost"):
        broker.put_snapshot(snapshot("aa", 5, 2), interrupted())
    assert broker.snapshots() == []
    assert broker.status()["snapshots"].size == 0
    broker.delete_snapshot(snapshot("aa", 5, 2))
    short = snapshot("bb", 6, 2)
    broker.put_snapshot(short, [b"1"])
    with pytest.raises(BrokerError, match=r"piece 1 .* is missing"):
        list(broker.get_snapshot(short))


def test_what_an_interrupted_snapshot_leaves(broker: JetStreamBroker) -> None:
    """Pieces of a process that was killed are deleted; those of the snapshots that are kept are not."""

    def killed() -> Iterator[bytes]:
        yield b"1"
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        broker.put_snapshot(snapshot("aa", 5, 2), killed())
    kept = [snapshot("bb", 9, 2), snapshot("cc", 7, 1)]
    for info in kept:
        broker.put_snapshot(info, [b"1", b"2"][: info.pieces])
    assert broker.status()["snapshots"].first == 1
    broker.delete_leftovers(kept)
    assert broker.status()["snapshots"].first == 2
    assert broker.snapshots() == kept
    assert [list(broker.get_snapshot(info)) for info in kept] == [[b"1", b"2"], [b"1"]]
    broker.delete_leftovers([snapshot("dd", 11, 1)])  # as of a server that does not have it yet
    assert broker.snapshots() == kept


def test_a_snapshot_of_another_version(broker: JetStreamBroker) -> None:
    """With a description that this version cannot read, it is not listed; the others are."""

    class Other(msgspec.Struct):
        name: str = "bb"

    broker.put_snapshot(snapshot("aa", 5, 1), [b"1"])
    broker.put_snapshot(cast(SnapshotInfo, Other()), [b"1"])
    assert broker.snapshots() == [snapshot("aa", 5, 1)]


# --- without a cluster ------------------------------------------------------------------------------------


def test_without_streams(servers: Servers) -> None:
    """Each call says what to do, or that nothing was stored."""
    options = ClusterOptions(cluster=servers.urls, cluster_name="nothing")
    with contextlib.closing(JetStreamBroker(options)) as broker:
        with pytest.raises(BrokerError, match="ptn cluster init") as caught:
            broker.last()
        assert caught.value.code == "no_streams"
        with pytest.raises(PublishRefusedError):
            broker.publish(b"a", expected=0)
        for work in (broker.snapshots, lambda: broker.read(0, 1), lambda: broker.purge(1)):
            with pytest.raises(BrokerError):
                work()
        broker.wait(0, 1)


def test_without_servers() -> None:
    """Calls end after their time with the reason, which is logged once."""
    options = ClusterOptions(cluster="nats://127.0.0.1:1", ack_ms=300, request_ms=300)
    with capture_logs() as logs, contextlib.closing(JetStreamBroker(options)) as broker:
        with pytest.raises(BrokerError, match="Connection refused") as caught:
            broker.publish(b"a", expected=0)
        assert not isinstance(caught.value, OutcomeUnknownError)
        with pytest.raises(BrokerError, match="no connection"):
            broker.read(0, 1)
        broker.wait(0, 1)
    assert [entry["event"] for entry in logs] == ["cluster_not_connected"]


def test_closing_ends_calls_in_other_threads(servers: Servers) -> None:
    """Also waits."""
    options = ClusterOptions(cluster="nats://127.0.0.1:1", ack_ms=600_000)
    broker = JetStreamBroker(options)
    errors: list[BaseException] = []

    def publish() -> None:
        try:
            broker.publish(b"a", expected=0)
        except BrokerError as error:
            errors.append(error)

    threads = [
        threading.Thread(target=publish),
        threading.Thread(target=broker.wait, args=(0, 600_000)),
    ]
    for thread in threads:
        thread.start()
    broker.close()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(BrokerError, match="closed"):
        broker.last()
    broker.close()


def test_closing_while_it_reconnects(servers: Servers) -> None:
    """At any moment of it."""
    options = ClusterOptions(cluster=servers.urls, cluster_name="nothing")
    for number in range(18):
        broker = JetStreamBroker(options)
        assert not answered(broker.last)
        client = broker._client
        assert client is not None
        broker._thread.call(lambda broker=broker, client=client: broker._give_up(client, "test"))  # type: ignore[misc]
        time.sleep(number % 6 * 0.000_5)
        broker.close()
    for number in range(16):
        broker = JetStreamBroker(options)
        for server in servers if number > 14 else ():
            server.freeze()
        time.sleep(number * 0.001)
        broker.close()
        for server in servers:
            server.thaw()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": "nats://user:secret@a"}, "--cluster-credentials"),
        ({"cluster": "http://a"}, "expected nats://"),
        ({"cluster": "nats://a:99999"}, "expected nats://"),
        ({"cluster": "nats://a", "cluster_name": "A b"}, "--cluster-name"),
        ({"cluster": "nats://a", "cluster_credentials": "/nowhere"}, "--cluster-credentials cannot be read"),
        ({"cluster": "nats://a", "cluster_ca": "/nowhere"}, "--cluster-ca"),
    ],
)
def test_unusable_settings(fields: dict[str, str], message: str) -> None:
    """They are refused without repeating a secret."""
    with pytest.raises(SettingsError, match=message) as caught:
        JetStreamBroker(ClusterOptions(**fields))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "SU", "SUAGARBAGE\n", "-----BEGIN CERTIFICATE-----", "U" * 56])
def test_a_credentials_file_with_something_else(tmp_path: Path, content: str) -> None:
    """Such as a public key, or a seed that was copied in part: it ends the start instead of being retried."""
    (tmp_path / "seed").write_text(content)
    with pytest.raises(SettingsError, match="neither a NATS credentials file nor an nkey seed"):
        JetStreamBroker(ClusterOptions(cluster="nats://a", cluster_credentials=str(tmp_path / "seed")))


def test_the_servers_time(broker: JetStreamBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is wrong shows, by how much and in which direction; an answer's travel time does not."""
    wall = jetstream.wall_ms
    assert broker.clock_skew_ms is None
    for ahead_ms in (0, 5_000, -5_000):
        monkeypatch.setattr(jetstream, "wall_ms", lambda ahead_ms=ahead_ms: wall() + ahead_ms)
        broker.last()
        skew_ms = broker.clock_skew_ms
        assert skew_ms is not None
        assert min(0, ahead_ms) <= skew_ms <= max(0, ahead_ms)
        assert bool(skew_ms) == bool(ahead_ms)


# --- credentials and TLS ----------------------------------------------------------------------------------

NATS_CONF = ROOT / "deploy" / "cluster" / "nats.conf"


def used(data_dir: Path) -> UsageFile:
    """Usage records with one row."""
    data_dir.mkdir()
    file = UsageFile(data_dir)
    file.add([UsageRow("alice", "ffffffff", day_of(NOW), 1, 0, 0, NOW)])
    return file


class Secured(NamedTuple):
    url: str
    ca: Path
    folder: Path

    def connect(self, user: str, **fields: Any) -> JetStreamBroker:
        chosen = {"cluster_credentials": str(self.folder / user), "cluster_ca": str(self.ca)} | fields
        return JetStreamBroker(ClusterOptions(cluster=self.url, replicas=1, **chosen))

    def refused(self, user: str) -> JetStreamBroker:
        """A connection for what the user may not do: the servers answer such a request with silence."""
        return self.connect(user, ack_ms=300, request_ms=300)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server with TLS, and the users of deploy/cluster/nats.conf."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(folder / "cert"), append=True)
    permissions = NATS_CONF.read_text().partition("\nauthorization")[2]
    for name in ("node", "intake", "admin", "stranger"):
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        (folder / name).write_bytes(seed)
        public = nkeys.from_seed(bytearray(seed)).public_key.decode()
        permissions = permissions.replace(f"$PTN_{name.upper()}_NKEY", public)
    extra = f"""
        tls {{ cert_file: "{folder / "cert"}", key_file: "{folder / "key"}" }}
        authorization {permissions}
    """
    with nats_servers(folder / "nats", count=1, extra=extra) as servers:
        yield Secured(servers.urls.replace("nats:", "tls:"), folder / "ca", folder)


def test_permissions_are_enough(secured: Secured, tmp_path: Path) -> None:
    """Those of deploy/cluster/nats.conf; and a machine that only serves can publish nothing."""
    with contextlib.closing(secured.connect("admin")) as admin:
        admin.create_streams()
        admin.create_streams()
        begin(admin)
    with (
        contextlib.closing(secured.connect("intake")) as own,
        contextlib.closing(secured.connect("node")) as other,
        contextlib.closing(secured.refused("node")) as denied,
        contextlib.closing(open_cluster_writer(tmp_path / "writer", own)) as writer,
        contextlib.closing(open_copy(tmp_path / "copy", other, Copy)) as copy,
    ):
        writer.take_over()
        writer.baseline([], T0)
        for _ in range(3):
            publish_snapshot(own, log_path(tmp_path / "writer"))
        other.wait(0, 600_000)
        assert copy.confirm()
        own.report(NodeReport(node="a", index=1, behind_ms=0, processes=[]))
        other.report(NodeReport(node="b", index=1, behind_ms=0, processes=[]))
        assert other.snapshots() == own.snapshots() != []
        heard: list[Beat] = []
        for machine in (own, other):
            machine.listen(heard.append)
        beat = Beat(writer=b"a", term=1, index=2, active=True, leaving=True)
        own.announce(beat)
        until(lambda: heard == [beat] * 2, what="a beat on both machines")
        last = own.last()
        with capture_logs() as logs:
            other.announce(beat)
            until(lambda: any("ermissions" in str(entry.get("reason")) for entry in logs))
            for forbidden in (
                lambda: denied.publish(b"a", expected=last),
                lambda: denied.put_snapshot(snapshot("aa", 5, 1), [b"1"]),
                lambda: denied.purge(1),
            ):
                assert not answered(forbidden)
        assert own.last() == last
        assert all(info.name != "aa" for info in own.snapshots())
        assert len(heard) == 2


def test_permissions_for_what_machines_share(secured: Secured, tmp_path: Path) -> None:
    """A machine reads the keys, and publishes presence and usage; only an operator changes keys."""
    with (
        contextlib.closing(secured.connect("admin")) as admin,
        contextlib.closing(secured.connect("intake")) as intake,
        contextlib.closing(secured.connect("node")) as node,
    ):
        admin.create_streams()
        heard: list[bytes] = []
        for machine in (intake, node):
            machine.hear_presence(heard.append)
            machine.hear_keys(lambda: heard.append(b"new keys"))
            assert machine.keys(0) is None
        add_key(SharedKeyStore(admin), "alice", 100)
        until(lambda: heard == [b"new keys"] * 2)
        for machine, user in ((intake, "intake"), (node, "node")):
            before = machine.keys(0)
            assert before is not None
            with contextlib.closing(secured.refused(user)) as denied:
                assert not answered(lambda: denied.put_keys(b"a", expected=before.index))  # noqa: B023
            assert machine.keys(0) == admin.keys(0) == before
            assert UsageCopy(machine, used(tmp_path / str(machine is node))).publish() == 1
            heard.clear()
            machine.send_presence(b"presence")
            until(lambda: heard == [b"presence"] * 2)
        assert len(list(usage_since(admin, day_of(NOW), 1))) == 2


def refusal(broker: JetStreamBroker) -> str:
    """Why the broker cannot be used. It may not be known at the first attempt."""
    with pytest.raises(BrokerError) as caught:
        broker.last()
    return str(caught.value)


@pytest.mark.parametrize(
    ("user", "fields", "message"),
    [
        ("stranger", {}, r"[Aa]uthorization .*\(check --cluster-credentials\)"),
        ("node", {"cluster_credentials": ""}, r"[Aa]uthorization .*\(check --cluster-credentials\)"),
        ("node", {"cluster_ca": ""}, "certificate verify failed.*check --cluster-ca"),
    ],
)
def test_refused_connections(
    secured: Secured,
    user: str,
    fields: dict[str, str],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error names the reason and the setting; the libraries log nothing of their own at each attempt."""
    with contextlib.closing(secured.connect(user, request_ms=300, **fields)) as broker:
        until(lambda: re.search(message, refusal(broker)), what=message)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_what_is_not_permitted_is_named(secured: Secured) -> None:
    """The servers do not answer such a request, which is not taken for a fault of theirs."""
    with contextlib.closing(secured.connect("admin")) as admin:
        admin.create_streams()
    with contextlib.closing(secured.refused("node")) as node:
        last = node.last()

        def refused(request: Callable[[], object], subject: str) -> bool:
            """A busy server may refuse after the timeout."""
            with pytest.raises(BrokerError) as caught:
                request()
            message = f"do not permit these credentials to use {subject}: see deploy/cluster/nats.conf"
            return str(caught.value).endswith(message) and "perhaps" not in str(caught.value)

        for request, subject in (
            (lambda: node.publish(b"a", expected=last), "ptn.log"),
            (lambda: add_key(SharedKeyStore(node), "eve", 100), "ptn.keys"),
            (node.create_streams, "$JS.API.STREAM.CREATE.PTN_LOG"),
        ):
            until(lambda: refused(request, subject))  # noqa: B023


# --- credentials files ------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """A pair of keys: of an operator, an account or a user."""

    seed: bytes
    public: str


def identity(prefix: int) -> Identity:
    seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
    return Identity(seed, nkeys.from_seed(bytearray(seed)).public_key.decode())


def token(issuer: Identity, subject: Identity, **claims: Any) -> str:
    """A JWT as NATS uses it, about the subject, signed by the issuer."""
    content = {"iat": 1, "iss": issuer.public, "sub": subject.public, "nats": claims | {"version": 2}}
    parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, content]
    signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{_base64(nkeys.from_seed(bytearray(issuer.seed)).sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def credentials(path: Path, account: Identity, **permissions: Any) -> str:
    """A file as nsc writes it, for a new user of the account."""
    user = identity(nkeys.PREFIX_BYTE_USER)
    jwt = token(account, user, type="user", subs=-1, data=-1, payload=-1, **permissions)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    path.chmod(0o600)
    return str(path)


def test_credentials_files(tmp_path: Path) -> None:
    """Of a server whose users are known by signed tokens alone, with the permissions in them."""
    operator = identity(nkeys.PREFIX_BYTE_OPERATOR)
    system, account, stranger = (identity(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(3))
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    accounts = {
        system.public: token(operator, system, type="account", limits=limits),
        account.public: token(operator, account, type="account", limits=limits | storage),
    }
    preloaded = "\n".join(f"{public}: {jwt}" for public, jwt in accounts.items())
    extra = f"""
        operator: {token(operator, operator, type="operator")}
        system_account: {system.public}
        resolver: MEMORY
        resolver_preload: {{ {preloaded} }}
    """
    with nats_servers(tmp_path / "nats", count=1, extra=extra) as servers:

        def connect(file: str, **fields: Any) -> contextlib.closing[JetStreamBroker]:
            options = ClusterOptions(cluster=servers.urls, cluster_credentials=file, replicas=1, **fields)
            return contextlib.closing(JetStreamBroker(options))

        with connect(credentials(tmp_path / "admin", account)) as admin:
            admin.create_streams()
            assert admin.forbidden(writes=True) == []
            published(admin, b"a")
        file = credentials(tmp_path / "node", account, pub={"deny": ["ptn.log"]})
        with connect(file, ack_ms=300) as node:
            assert node.read(0, 1) == [Entry(1, b"a")]
            assert node.forbidden(writes=True) == ["ptn.log"]
            with pytest.raises(BrokerError):
                node.publish(b"b", expected=1)
        with connect(credentials(tmp_path / "other", stranger), request_ms=300) as other:
            until(lambda: re.search("[Aa]uthorization", refusal(other)), what="the reason")


# --- status and reports -----------------------------------------------------------------------------------


def test_status(broker: JetStreamBroker) -> None:
    """Of both streams; they exist three times."""
    published(broker, b"a", b"b")
    status = until(lambda: (found := broker.status()) and not found["log"].lagging and found)
    assert status["log"].last == 2
    assert status["log"].replicas == 3
    assert {status["log"].leader, *status["log"].current} == {"n1", "n2", "n3"}
    assert set(status) == {"log", "snapshots"}
    broker.create_streams()
    assert broker.last() == 2


def test_reports(options: ClusterOptions, broker: JetStreamBroker) -> None:
    """The newest of each machine; what is malformed is left out."""
    reports = [
        NodeReport(node="b", index=3, behind_ms=None, processes=["rest"]),
        NodeReport(node="a", index=4, behind_ms=12, processes=["intake"], active=True, term=2),
    ]
    stop = threading.Event()

    def send() -> None:
        with contextlib.closing(JetStreamBroker(options)) as other:
            while not stop.wait(0.05):
                for report in reports:
                    other.report(report)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        until(lambda: broker.reports(200) == reports[::-1])
    finally:
        stop.set()
        thread.join()


# --- disturbances -----------------------------------------------------------------------------------------


def leader_killed(servers: Servers, leader: str) -> None:
    servers.named(leader).kill()


def leader_frozen(servers: Servers, leader: str) -> None:
    servers.named(leader).freeze()


def disk_wiped(servers: Servers, leader: str) -> None:
    servers.named(leader).kill()
    servers.named(leader).wipe()
    servers.named(leader).start()


def quorum_lost(servers: Servers, leader: str) -> None:
    """The leader goes on alone, and answers reads for a while."""
    for server in servers:
        if server.name != leader:
            server.kill()


class Machines:
    """A writer that appends orders, and two copies that follow; one of them knows a single server."""

    def __init__(self, folder: Path, options: ClusterOptions, only: str) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._brokers: list[JetStreamBroker] = []
        self.folder = folder
        self.acknowledged: list[int] = []
        self.writer: ClusterWriter = open_cluster_writer(
            folder / "writer", self._broker(options), pause_ms=20
        )
        self.copies = [
            open_copy(
                folder / name,
                self._broker(msgspec.structs.replace(options, cluster=chosen)),
                Copy,
                pause_ms=20,
            )
            for name, chosen in {
                "a": options.cluster,
                "b": only,
            }.items()
        ]
        until(lambda: done(self.writer.take_over), what="the take-over")
        until(lambda: done(lambda: self.writer.baseline([], T0)), what="the baseline")
        self._spawn(self._write)
        for log in self.copies:
            self._spawn(lambda log=log: log.run(self._stop))  # type: ignore[misc]

    def _broker(self, options: ClusterOptions) -> JetStreamBroker:
        self._brokers.append(JetStreamBroker(options))
        return self._brokers[-1]

    def _spawn(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        self._threads.append(thread)

    def _write(self) -> None:
        for number in itertools.count(1):
            while True:
                if self._stop.is_set():
                    return
                with contextlib.suppress(LogUnwritableError):
                    self.writer.append([written(position(number, [order(number)]))], NOW)
                    self.acknowledged.append(number)
                    break
                time.sleep(0.05)
            time.sleep(0.002)

    def more(self, count: int = 5) -> None:
        """Waits until that many more orders are acknowledged."""
        wanted = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= wanted, what="acknowledged orders")

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self.end()
        for log in (self.writer, *self.copies):
            log.close()
        for broker in self._brokers:
            broker.close()


@pytest.mark.parametrize("disturb", [leader_killed, leader_frozen, disk_wiped, quorum_lost])
def test_nothing_is_lost_or_repeated(
    tmp_path: Path,
    servers: Servers,
    options: ClusterOptions,
    hasty: ClusterOptions,
    disturb: Callable[[Servers, str], None],
) -> None:
    """Every acknowledged order is in every copy once, whatever happens to the servers meanwhile.

    Outcomes that became unknown are settled, and a copy follows that knows only the server at fault.
    """
    with contextlib.closing(JetStreamBroker(options)) as broker:
        begin(broker)
        leader = until(lambda: broker.status()["log"].leader)
        with contextlib.closing(Machines(tmp_path, hasty, servers.named(leader).url)) as machines:
            machines.more()
            disturb(servers, leader)
            if disturb is quorum_lost:
                until(lambda: machines.writer.counts["unknown"] + machines.writer.counts["refused"])
                servers.restore()
            machines.more()
            servers.restore()
            machines.more()
            machines.end()
            logs = [machines.writer, *machines.copies]
            for log in logs:
                until(lambda log=log: answered(log.confirm) and log.confirm())  # type: ignore[misc]
            for log in logs:
                assert numbers(log)[: len(machines.acknowledged)] == machines.acknowledged
                assert (
                    len(numbers(log)) <= len(machines.acknowledged) + 1
                )  # the last one's outcome is unknown
            wanted = content(tmp_path / "writer")
            assert content(tmp_path / "a") == wanted
            assert content(tmp_path / "b") == wanted


def test_an_outcome_is_unknown(broker: JetStreamBroker, servers: Servers, hasty: ClusterOptions) -> None:
    """Without an answer in time the call ends, and reading on tells what happened."""
    published(broker, b"a")
    with contextlib.closing(JetStreamBroker(hasty)) as other:
        until(lambda: answered(other.last), what="a connection")
        for server in servers:
            server.freeze()
        with pytest.raises(OutcomeUnknownError):
            other.publish(b"b", expected=1)
        for work in (other.last, lambda: other.read(0, 1), lambda: other.publish(b"c", expected=1)):
            with pytest.raises(BrokerError):
                work()
    servers.restore()
    entries = until(lambda: answered(broker.last) and broker.read(0, 1 << 20))
    assert [entry.payload for entry in entries] in ([b"a"], [b"a", b"b"])
    # Late entries are possible still, and expected: the writer reads on after each refusal.
    until(lambda: answered(lambda: published(broker, b"d")))
    payloads = [entry.payload for entry in broker.read(0, 1 << 20)]
    assert payloads in ([b"a", b"d"], [b"a", b"b", b"d"])


def test_no_call_waits_forever_for_a_frozen_server(servers: Servers, hasty: ClusterOptions) -> None:
    """Also if more was sent than the connection and the library hold back."""
    with contextlib.closing(JetStreamBroker(hasty)) as broker:
        until(lambda: answered(broker.last), what="a connection")
        for server in servers:
            server.freeze()
        ended = threading.Event()

        def send() -> None:
            with contextlib.suppress(BrokerError):
                for _ in range(40):
                    broker.send_presence(bytes(500_000))
            ended.set()

        threading.Thread(target=send).start()
        until(ended.is_set, what="the end of the calls")


def test_a_machine_joins_from_a_snapshot(tmp_path: Path, options: ClusterOptions) -> None:
    """Of a stream whose beginning is purged."""
    with contextlib.closing(JetStreamBroker(options)) as broker:
        begin(broker)
        with contextlib.closing(open_cluster_writer(tmp_path / "writer", broker)) as writer:
            writer.take_over()
            writer.baseline([], T0)
            for number in range(1, 7):
                writer.append([written(position(number, [order(number)]))], NOW)
                if number % 3 == 0:
                    publish_snapshot(broker, log_path(tmp_path / "writer"))
            with pytest.raises(EntriesPurgedError):
                broker.read(0, 1)
            with contextlib.closing(open_copy(tmp_path / "copy", broker, Copy)) as copy:
                assert copy.confirm()
                assert numbers(copy) == [1, 2, 3, 4, 5, 6]
            assert content(tmp_path / "copy") == content(tmp_path / "writer")


def test_an_answer_that_comes_too_late_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The library would log it with a traceback; anything else that it logs stays."""
    library = logging.getLogger("nats.aio.client")
    future: asyncio.Future[bool] = asyncio.Future(loop=asyncio.new_event_loop())
    future.cancel()
    with contextlib.closing(future.get_loop()):
        try:
            future.set_result(True)
        except asyncio.InvalidStateError as error:
            library.error("nats: encountered error", exc_info=error)
    library.error("nats: encountered error", exc_info=ValueError("other"))
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["other"]
