"""The broker over NATS JetStream; nothing else in the package knows NATS.

Replicated streams for each cluster: the log, the snapshots in pieces, the shared keys and the usage records.
The servers announce entries of the log and new keys (`republish`), and readers get them in batches from any
replica (direct get). There are no consumers, so the cluster keeps no state for a reader that could be lost
with a server.

There is no message id: the servers would then acknowledge an entry that they do not store, within a window of
time. `Nats-Expected-Last-Sequence` refuses it instead, which the writer has to settle in any case.

One connection at a time, to one server. After a late answer it is replaced by one to the next server, because
a server that is frozen or cut off keeps its connections open. The library's own way of reconnecting is not
used: it would send what it could not send before, long after the caller has stopped waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import msgspec
import nats.errors
import nkeys
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from ptn_api.access.usage import KEPT_DAYS
from ptn_api.clock import wall_ms
from ptn_api.cluster.broker import PART_BYTES, Beat, Entry, SnapshotInfo
from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import (
    BrokerError,
    EntriesPurgedError,
    OutcomeUnknownError,
    PublishRefusedError,
    SettingsError,
    error_text,
)
from ptn_api.loop_thread import LoopThread
from ptn_api.tasks import cancel_and_wait

__all__ = ["JetStreamBroker", "NodeReport", "ServerInfo", "StreamStatus"]

P = ParamSpec("P")
T = TypeVar("T")

logger = structlog.get_logger()


def _is_not_late(record: logging.LogRecord) -> bool:
    """Whether the library logs anything but an answer that came after its timeout, as of a slow server.

    The connection has been given up by then.
    """
    kind = record.exc_info[0] if record.exc_info else None
    return kind is not asyncio.InvalidStateError


def _is_not_about_eof(record: logging.LogRecord) -> bool:
    """Whether asyncio logs anything but how the library's protocol ends, each time a server closes TLS."""
    return not str(record.msg).startswith("returning true from eof_received()")


logging.getLogger("nats.aio.client").addFilter(_is_not_late)
logging.getLogger("asyncio").addFilter(_is_not_about_eof)

_CONNECT_S = 1.0
_RECONNECT_PAUSE_S = 0.1
_CLOSE_S = 1.0
_BATCH = 1_000
"""Most entries of one answer; the callers limit its size."""
_PIECES = 8
"""Pieces of a snapshot in one answer."""
_MAX_MESSAGE_BYTES = PART_BYTES + 4_096
_EXPECTED_SEQUENCE = "Nats-Expected-Last-Sequence"
_EXPECTED_STREAM = "Nats-Expected-Stream"
_NEVER = 1 << 53
"""An index that no stream reaches."""
_VIOLATION = re.compile(r"permissions violation for (publish|subscription) to \"(\S+?)\"")
_END_OF_BATCH, _NOT_FOUND, _NO_RESPONDERS = "204", "404", "503"
_NO_STREAMS = "the cluster's broker has no leader, or no streams: see ptn cluster init"
_STREAM_NOT_FOUND = 10059
_REMEDIES = {
    "authorization violation": "check --cluster-credentials",
    "certificate verify failed": "check --cluster-ca, and the host names of the certificates",
}
"""By what an error contains, in lower case."""
_NAME_IN_USE = 10058


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine of the cluster reports about itself, once a second, to whoever listens."""

    node: str
    """The name that its operator gave it, or its host has."""
    index: int
    """The last commit that its copy contains."""
    behind_ms: int | None
    """How long ago its copy was complete; None: not since it started."""
    processes: list[str]
    active: bool = False
    """Whether its intake is the active one."""
    term: int = 0
    version: str = ""
    id: str = ""
    """Distinguishes machines of the same name."""


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a NATS server tells a client that connects."""

    name: str = ""
    version: str = ""
    max_payload: int = 0


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as one server sees it."""

    first: int
    last: int
    size: int
    replicas: int
    leader: str
    """The leading server's name; empty without a leader."""
    current: list[str]
    """The other servers that have everything."""
    lagging: list[str]


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0
    error: _Error | None = None


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0
    bytes: int = 0


class _Peer(msgspec.Struct):
    name: str = ""
    current: bool = False
    offline: bool = False


class _Group(msgspec.Struct):
    leader: str = ""
    replicas: list[_Peer] = []


class _Config(msgspec.Struct):
    num_replicas: int = 1


class _Info(msgspec.Struct):
    error: _Error | None = None
    ts: str = ""
    state: _State = msgspec.field(default_factory=_State)
    config: _Config = msgspec.field(default_factory=_Config)
    cluster: _Group = msgspec.field(default_factory=_Group)


_acks = msgspec.json.Decoder(_Ack)
_infos = msgspec.json.Decoder(_Info)
_snapshots = msgspec.json.Decoder(SnapshotInfo)
_reports = msgspec.json.Decoder(NodeReport)
_beats = msgspec.json.Decoder(Beat)


class JetStreamBroker:
    """A `Broker` (see broker.py). Connects in its own thread, and again whenever the connection breaks."""

    def __init__(self, options: ClusterOptions) -> None:
        """Does not wait for a connection. Raises SettingsError for unusable options and files."""
        options.check()
        self._options = options
        self._request_s = options.request_ms / 1000
        self._security = _security(options)
        name = options.cluster_name
        self._log_stream, self._log_subject = f"{name.upper()}_LOG", f"{name}.log"
        self._snapshot_stream, self._snapshot_subject = f"{name.upper()}_SNAPSHOT", f"{name}.snapshot"
        self._announced_subject, self._node_subject = f"{name}.announced", f"{name}.node"
        self._beat_subject, self._presence_subject = f"{name}.beat", f"{name}.presence"
        self._keys_stream, self._keys_subject = f"{name.upper()}_KEYS", f"{name}.keys"
        self._keys_announced_subject = f"{name}.keys.announced"
        self._usage_stream, self._usage_subject = f"{name.upper()}_USAGE", f"{name}.usage"
        self._servers = options.servers
        random.shuffle(self._servers)
        self._announced = threading.Condition()
        self._announced_index = 0
        self._listeners: list[Callable[[Beat], None]] = []
        self._presence_listeners: list[Callable[[bytes], None]] = []
        self._key_listeners: list[Callable[[], object]] = []
        self._closed = False
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._given_up = asyncio.Event()
        self._last_error = ""
        self._faulty: Client | None = None
        self._violations: dict[str, None] = {}
        """The subjects that the present connection's credentials were refused, in lower case."""
        self._leaderless: dict[str, bool] = {}
        """The servers tried since the last one that knew a leader: True for those that could be reached."""
        self.clock_skew_ms: int | None = None
        """How far this machine's clock is ahead of the servers', at least, as of the last call of `last`."""
        self._thread = LoopThread("cluster-broker")

        def start() -> None:
            self._connecting = asyncio.get_running_loop().create_task(self._keep_connected())

        self._thread.call(start)

    # --- the protocol -------------------------------------------------------------------------------------

    def publish(self, payload: bytes, *, expected: int) -> int:
        return self._call(self._publish, self._log_stream, self._log_subject, payload, expected)

    def read(self, after: int, max_bytes: int) -> list[Entry]:
        return self._call(self._read, after, max_bytes)

    def last(self) -> int:
        return self._call(self._last)

    def wait(self, after: int, timeout_ms: int) -> None:
        with self._announced:
            self._announced.wait_for(
                lambda: self._announced_index > after or self._closed, max(timeout_ms, 0) / 1000
            )

    def announce(self, beat: Beat) -> None:
        async def send() -> None:
            if (client := self._client) is not None:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await client.publish(self._beat_subject, msgspec.json.encode(beat))

        with contextlib.suppress(BrokerError):
            self._call(send)

    def listen(self, heard: Callable[[Beat], None]) -> None:
        self._listeners.append(heard)

    def purge(self, through: int) -> None:
        self._call(self._request, f"STREAM.PURGE.{self._log_stream}", {"seq": through + 1})

    def put_snapshot(self, info: SnapshotInfo, pieces: Iterable[bytes]) -> None:
        subject = f"{self._snapshot_subject}.{info.name}"
        try:
            for number, piece in enumerate(pieces):
                self._call(self._publish, self._snapshot_stream, f"{subject}.piece.{number}", piece)
        except BrokerError:
            with contextlib.suppress(BrokerError):
                self.delete_snapshot(info)
            raise
        # If this one fails, the pieces stay: the info may have been stored, or be stored later.
        self._call(self._publish, self._snapshot_stream, f"{subject}.info", msgspec.json.encode(info))

    def snapshots(self) -> list[SnapshotInfo]:
        return [info for info, _ in self.snapshots_stored()]

    def get_snapshot(self, info: SnapshotInfo) -> Iterator[bytes]:
        subject = f"{self._snapshot_subject}.{info.name}.piece"
        done, sequence = 0, 1
        while done < info.pieces:
            wanted = {
                "seq": sequence,
                "next_by_subj": f"{subject}.*",
                "batch": _PIECES,
                "max_bytes": _PIECES * _MAX_MESSAGE_BYTES,
            }
            found = self._call(self._batch, self._snapshot_stream, wanted)
            if not found:
                raise BrokerError(f"piece {done} of the snapshot of commit {info.index} is missing")
            for message in found:
                if _header(message, "Nats-Subject") != f"{subject}.{done}":
                    raise BrokerError(f"piece {done} of the snapshot of commit {info.index} is missing")
                yield message.data
                done += 1
            sequence = int(_header(found[-1], "Nats-Sequence")) + 1

    def delete_snapshot(self, info: SnapshotInfo) -> None:
        subject = f"{self._snapshot_subject}.{info.name}"
        # The info first: a snapshot of which pieces are gone must not be listed.
        for part in (".info", ".piece.*"):
            self._call(self._request, f"STREAM.PURGE.{self._snapshot_stream}", {"filter": subject + part})

    def delete_leftovers(self, kept: Iterable[SnapshotInfo]) -> None:
        firsts = []
        for info in kept:
            wanted = {"seq": 1, "next_by_subj": f"{self._snapshot_subject}.{info.name}.piece.0", "batch": 1}
            found = self._call(self._batch, self._snapshot_stream, wanted)
            if not found:  # a stale server
                return
            firsts.append(int(_header(found[0], "Nats-Sequence")))
        self._call(self._request, f"STREAM.PURGE.{self._snapshot_stream}", {"seq": min(firsts)})

    # --- keys, presence and usage: the protocols of key_copy.py, presence.py and usage_copy.py ------------

    def keys(self, after: int) -> Entry | None:
        found = self._call(self._batch, self._keys_stream, {"seq": after + 1, "batch": 1})
        return Entry(int(_header(found[0], "Nats-Sequence")), found[0].data) if found else None

    def put_keys(self, payload: bytes, *, expected: int) -> int:
        return self._call(self._publish, self._keys_stream, self._keys_subject, payload, expected)

    def hear_keys(self, heard: Callable[[], object]) -> None:
        self._key_listeners.append(heard)

    def send_presence(self, message: bytes) -> None:
        async def send() -> None:
            if (client := self._client) is not None:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await client.publish(self._presence_subject, message)

        self._call(send)

    def hear_presence(self, heard: Callable[[bytes], None]) -> None:
        self._presence_listeners.append(heard)

    def put_usage(self, name: str, record: bytes) -> None:
        self._call(self._publish, self._usage_stream, f"{self._usage_subject}.{name}", record)

    def usage(self, names: str) -> Iterator[bytes]:
        wanted = {"seq": 1, "next_by_subj": f"{self._usage_subject}.{names}", "batch": _BATCH}
        while found := self._call(self._batch, self._usage_stream, wanted):
            yield from (message.data for message in found)
            wanted["seq"] = int(_header(found[-1], "Nats-Sequence")) + 1

    def last_usage(self, names: str) -> bytes | None:
        wanted = {"last_by_subj": f"{self._usage_subject}.{names}"}
        found = self._call(self._get, self._usage_stream, wanted)
        return None if _header(found, "Status") == _NOT_FOUND else found.data

    def close(self) -> None:
        with self._announced:
            self._closed = True
            self._announced.notify_all()

        async def end() -> None:
            self._given_up.set()
            # Not cancelled at once: while it connects, the library may swallow that or leave a socket open.
            await asyncio.wait([self._connecting], timeout=_CLOSE_S)
            await cancel_and_wait([self._connecting])

        self._thread.close(end)
        self._thread.join()

    # --- the state of the servers -------------------------------------------------------------------------

    @property
    def leaderless(self) -> bool:
        """Whether no server that can be reached knows a leader: then no machine can write.

        False as well if none can be reached, since the others may write.
        """
        tried = dict(self._leaderless)
        return len(tried) == len(self._options.servers) and any(tried.values())

    # --- for operators ------------------------------------------------------------------------------------

    def server(self) -> ServerInfo:
        """The server of the present connection. Raises BrokerError without one."""

        async def ask() -> ServerInfo:
            client = await self._connection(self._request_s)
            return ServerInfo(
                name=str(client._server_info.get("server_name", "")),
                version=str(client._server_info.get("version", "")),
                max_payload=client.max_payload,
            )

        return self._call(ask)

    def forbidden(self, *, writes: bool) -> list[str]:
        """The subjects that these credentials may not use. Raises BrokerError without a connection.

        Tries each subject of a machine that only reads, or that also `writes`, with messages that everyone
        refuses: malformed ones, and entries for another stream after an index that does not exist.
        """
        streams = (self._log_stream, self._snapshot_stream)
        actions = ["DIRECT.GET", "STREAM.INFO", *(["STREAM.PURGE"] if writes else [])]
        subjects = [
            self._node_subject,
            *(f"$JS.API.{action}.{name}" for action in actions for name in streams),
            *(f"$JS.API.DIRECT.GET.{name}" for name in (self._keys_stream, self._usage_stream)),
        ]
        entries = [f"{self._usage_subject}.check"]
        if writes:
            subjects.append(self._beat_subject)
            entries += [self._log_subject, f"{self._snapshot_subject}.check.info"]

        async def try_all() -> list[str]:
            client = await self._connection(self._request_s)
            try:
                for subject in subjects:
                    await client.publish(subject, b"{")
                # The end of a process that does not exist: every machine would log a malformed message.
                await client.publish(self._presence_subject, b'{"peer":"","update":null}')
                for subject in entries:
                    refused = {_EXPECTED_STREAM: "none", _EXPECTED_SEQUENCE: str(_NEVER)}
                    await client.publish(subject, b"{", headers=refused)
                for _ in "ab":  # the library sends the first ping before what is still in its buffer
                    await client.flush(self._request_s)  # type: ignore[arg-type]
            except (nats.errors.Error, OSError) as error:
                raise BrokerError(f"the cluster's broker was lost: {error_text(error)}") from error
            usual = {subject.lower(): subject for subject in (*subjects, *entries, self._presence_subject)}
            return [usual.get(subject, subject) for subject in self._violations]

        return self._call(try_all)

    def create_streams(self) -> None:
        """Creates the streams, or changes their options to those of today. Raises BrokerError.

        Waits until they answer, which new streams do not at once.
        """
        options = {
            "storage": "file",
            "num_replicas": self._options.replicas,
            "retention": "limits",
            "discard": "new",
            "max_msg_size": _MAX_MESSAGE_BYTES,
            "allow_direct": True,
            "deny_delete": True,
        }
        republish = {"src": self._log_subject, "dest": self._announced_subject, "headers_only": True}
        announced = {"src": self._keys_subject, "dest": self._keys_announced_subject, "headers_only": True}
        newest = {"discard": "old", "max_msgs_per_subject": 1}
        kept_ns = KEPT_DAYS * 86_400 * 1_000_000_000
        for name, special in (
            (self._log_stream, {"subjects": [self._log_subject], "republish": republish}),
            (self._snapshot_stream, {"subjects": [f"{self._snapshot_subject}.>"]}),
            (self._keys_stream, {"subjects": [self._keys_subject], "republish": announced} | newest),
            (self._usage_stream, {"subjects": [f"{self._usage_subject}.>"], "max_age": kept_ns} | newest),
        ):
            self._settled(self._create_or_change, options | special | {"name": name})
            self._settled(self._batch, name, {"seq": 1, "batch": 1})

    def status(self) -> dict[str, StreamStatus]:
        """The log and the snapshots, as the server sees them that answers."""
        found = {}
        for name, stream in (("log", self._log_stream), ("snapshots", self._snapshot_stream)):
            info = self._call(self._info, stream)
            peers = info.cluster.replicas
            found[name] = StreamStatus(
                first=info.state.first_seq,
                last=info.state.last_seq,
                size=info.state.bytes,
                replicas=info.config.num_replicas,
                leader=info.cluster.leader,
                current=[peer.name for peer in peers if peer.current and not peer.offline],
                lagging=[peer.name for peer in peers if not peer.current or peer.offline],
            )
        return found

    def snapshots_stored(self) -> list[tuple[SnapshotInfo, datetime]]:
        """The snapshots, as `snapshots` returns them, and when they were stored, by the servers' clocks."""
        wanted = {"multi_last": [f"{self._snapshot_subject}.*.info"]}
        infos = []
        for message in self._call(self._batch, self._snapshot_stream, wanted):
            # To the second: Python 3.10 reads neither nine digits of its fraction nor "Z".
            stored = datetime.fromisoformat(f"{_header(message, 'Nats-Time-Stamp')[:19]}+00:00")
            with contextlib.suppress(msgspec.DecodeError):  # of another version, perhaps: not one to use
                infos.append((_snapshots.decode(message.data), stored))
        return sorted(infos, key=lambda pair: -pair[0].index)

    def report(self, report: NodeReport) -> None:
        """Sends a report to whoever listens; it may be lost. Raises BrokerError without a connection."""

        async def send() -> None:
            client = await self._connection(self._request_s)
            try:
                await client.publish(self._node_subject, msgspec.json.encode(report))
            except (nats.errors.Error, OSError) as error:
                raise BrokerError(f"the report was not sent: {error_text(error)}") from error

        self._call(send)

    def reports(self, listen_ms: int) -> list[NodeReport]:
        """The reports of all machines that send one within this time, by name."""
        found: dict[tuple[str, str], NodeReport] = {}

        async def take(message: Msg) -> None:
            with contextlib.suppress(msgspec.DecodeError):
                report = _reports.decode(message.data)
                found[report.node, report.id] = report

        async def listen() -> None:
            client = await self._connection(self._request_s)
            try:
                subscription = await client.subscribe(self._node_subject, cb=take)
                await asyncio.sleep(listen_ms / 1000)
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError) as error:
                raise BrokerError(f"the cluster's broker was lost: {error_text(error)}") from error

        self._call(listen)
        return [found[key] for key in sorted(found)]

    # --- in the loop's thread -----------------------------------------------------------------------------

    async def _publish(self, stream: str, subject: str, payload: bytes, expected: int | None = None) -> int:
        headers = {_EXPECTED_STREAM: stream}
        timeout_s = self._request_s
        if expected is not None:
            headers[_EXPECTED_SEQUENCE] = str(expected)
            timeout_s = self._options.ack_ms / 1000
        client = await self._connection(timeout_s)
        try:
            answer = await client.request(subject, payload, timeout=timeout_s, headers=headers)
        except nats.errors.NoRespondersError as error:
            raise PublishRefusedError("the cluster's broker has no leader, or no streams") from error
        except nats.errors.MaxPayloadError as error:
            raise BrokerError("the NATS servers' max_payload is too small: 1 MiB is needed") from error
        except (nats.errors.Error, OSError) as error:
            self._require_permission(subject)
            self._give_up(client, "no acknowledgement")
            raise OutcomeUnknownError(f"no acknowledgement: {error_text(error)}") from error
        ack = _decoded(_acks, answer)
        if ack.error is not None:
            raise PublishRefusedError(f"the entry was refused: {ack.error.description}")
        return ack.seq

    async def _read(self, after: int, max_bytes: int) -> list[Entry]:
        wanted = {"seq": after + 1, "batch": _BATCH, "max_bytes": max_bytes}
        found = await self._batch(self._log_stream, wanted)
        entries: list[Entry] = []
        for message in found:
            index = int(_header(message, "Nats-Sequence"))
            if index != after + len(entries) + 1:
                break
            entries.append(Entry(index, message.data))
        if entries:
            return entries
        if (await self._info(self._log_stream)).state.first_seq > after + 1:
            raise EntriesPurgedError(f"the entry {after + 1} was purged")
        if found:  # a server with a damaged disk; another one may answer next
            raise BrokerError(f"a server of the cluster's broker lacks the entry {after + 1}")
        return []

    async def _batch(self, stream: str, wanted: dict[str, Any]) -> list[Msg]:
        """The messages of one direct get; from any replica. A broken answer ends with its last message."""
        client = await self._connection(self._request_s)
        found: list[Msg] = []
        status = ""
        arrived = asyncio.Event()

        async def take(message: Msg) -> None:
            nonlocal status
            if message.headers and (code := message.headers.get("Status")):
                status = code
            else:
                found.append(message)
            arrived.set()

        inbox, subject = client.new_inbox(), f"$JS.API.DIRECT.GET.{stream}"
        try:
            subscription = await client.subscribe(inbox, cb=take)
            await client.publish(subject, msgspec.json.encode(wanted), reply=inbox)
            while not status:
                arrived.clear()
                await asyncio.wait_for(arrived.wait(), self._request_s)
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
            self._require_permission(subject)
            self._give_up(client, "no answer")
            if not found:
                raise BrokerError(f"the cluster's broker does not answer: {error_text(error)}") from error
        if status == _NO_RESPONDERS:
            raise BrokerError(_NO_STREAMS)
        if status not in ("", _END_OF_BATCH, _NOT_FOUND):
            raise BrokerError(f"the cluster's broker answers with status {status}")
        return found

    async def _get(self, stream: str, wanted: dict[str, Any]) -> Msg:
        """The answer to a direct get of one message, from any replica."""
        client, subject = await self._connection(self._request_s), f"$JS.API.DIRECT.GET.{stream}"
        try:
            return await client.request(subject, msgspec.json.encode(wanted), timeout=self._request_s)
        except nats.errors.NoRespondersError as error:
            raise BrokerError(_NO_STREAMS) from error
        except (nats.errors.Error, OSError) as error:
            self._require_permission(subject)
            self._give_up(client, "no answer")
            raise BrokerError(f"the cluster's broker does not answer: {error_text(error)}") from error

    async def _info(self, stream: str) -> _Info:
        return await self._request(f"STREAM.INFO.{stream}", {})

    async def _last(self) -> int:
        """Also finds out whether there is a leader, and which time it is there.

        A server that knows no leader may answer all the same, for as long as it is cut off from the others.
        Another one is asked next time.
        """
        client = await self._connection(self._request_s)
        server = self._servers[-1]
        try:
            await client.flush(self._request_s)  # type: ignore[arg-type]
        except (nats.errors.Error, OSError) as error:
            self._leaderless[server] = False  # frozen, or the network to it is broken
            self._give_up(client, "no answer")
            raise BrokerError(f"the cluster's broker does not answer: {error_text(error)}") from error
        sent_ms = wall_ms()
        try:
            info = await self._info(self._log_stream)
            if info.config.num_replicas > 1 and not info.cluster.leader:
                raise BrokerError("the cluster's broker has no leader")
        except BrokerError as error:
            if error.code in ("no_streams", "forbidden"):
                self._leaderless.clear()
            else:
                self._leaderless[server] = True
                self._give_up(client, "its server knows no leader")
            raise
        self._leaderless.clear()
        if info.ts:
            at_ms, received_ms = _milliseconds(info.ts), wall_ms()
            ahead_ms = max(sent_ms - at_ms, 0)
            self.clock_skew_ms = received_ms - at_ms if at_ms > received_ms else ahead_ms
        return info.state.last_seq

    async def _create_or_change(self, config: dict[str, Any]) -> None:
        name = config["name"]
        try:
            await self._request(f"STREAM.CREATE.{name}", config)
        except BrokerError as error:
            if error.code != str(_NAME_IN_USE):
                raise
            await self._request(f"STREAM.UPDATE.{name}", config)

    async def _request(self, action: str, wanted: dict[str, Any]) -> _Info:
        """A request of the JetStream API. Raises BrokerError."""
        client, subject = await self._connection(self._request_s), f"$JS.API.{action}"
        try:
            answer = await client.request(subject, msgspec.json.encode(wanted), timeout=self._request_s)
        except nats.errors.NoRespondersError as error:
            raise BrokerError("JetStream is not available: not enabled, or without a leader") from error
        except (nats.errors.Error, OSError) as error:
            self._require_permission(subject)
            self._give_up(client, "no answer")
            raise BrokerError(f"the cluster's broker does not answer: {error_text(error)}") from error
        info = _decoded(_infos, answer)
        if info.error is not None:
            if info.error.err_code == _STREAM_NOT_FOUND:
                raise BrokerError(
                    f"the cluster {self._options.cluster_name} has no streams: run ptn cluster init",
                    code="no_streams",
                )
            raise BrokerError(
                f"the cluster's broker refused: {info.error.description}", code=str(info.error.err_code)
            )
        return info

    # --- the connection -----------------------------------------------------------------------------------

    def _call(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a coroutine in the loop's thread. It is bounded in time by itself."""
        if self._closed:
            raise BrokerError("the connection to the cluster's broker was closed")
        try:
            return self._thread.run(partial(work, *args, **kwargs))
        except (RuntimeError, asyncio.CancelledError) as error:
            if not self._closed:
                raise
            raise BrokerError("the connection to the cluster's broker was closed") from error

    def _settled(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Repeats a request that fails until all servers had time for it."""
        deadline = time.monotonic() + 10 * self._request_s
        while True:
            try:
                return self._call(work, *args, **kwargs)
            except BrokerError as error:
                if self._closed or error.code == "forbidden" or time.monotonic() > deadline:
                    raise
                time.sleep(_RECONNECT_PAUSE_S)

    async def _connection(self, timeout_s: float) -> Client:
        """The connection, once there is one. Raises BrokerError: nothing was sent."""
        client = self._client
        if client is not None and not client.is_connected:
            self._give_up(client, "connection lost")
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        except asyncio.TimeoutError:
            reason = f": {self._last_error}" if self._last_error else ""
            raise BrokerError(f"no connection to the cluster's broker{reason}") from None
        if self._client is None:  # lost again since the event was set
            raise BrokerError("the connection to the cluster's broker was lost")
        return self._client

    def _require_permission(self, subject: str) -> None:
        """Raises BrokerError if the servers have refused the subject, which they do instead of an answer."""
        if subject.lower() in self._violations:
            raise BrokerError(
                f"the NATS servers do not permit these credentials to use {subject}:"
                " see deploy/cluster/nats.conf",
                code="forbidden",
            )

    def _give_up(self, client: Client, reason: str) -> None:
        if client is self._client:
            if not self._closed:
                logger.info("cluster_connection_given_up", reason=reason)
            self._client = None
            self._connected.clear()
            self._given_up.set()

    async def _keep_connected(self) -> None:
        while not self._closed:
            server = self._servers.pop(0)
            self._servers.append(server)
            client = Client()
            try:
                await self._connect(client, server)
            except nats.errors.NoServersError:
                self._leaderless[server] = False  # the reason is reported by `on_error`
            except Exception as error:  # noqa: BLE001 - of TLS, of a bad seed: all mean "not connected"
                self._leaderless[server] = False
                self._complain(client, server, error)
            else:
                logger.info("cluster_connected", server=_place(server))
                self._last_error = ""
                self._client = client
                self._given_up.clear()
                self._connected.set()
                if not self._closed:
                    await self._given_up.wait()
            finally:
                await _close(client)
            if not self._closed:
                await asyncio.sleep(_RECONNECT_PAUSE_S)

    async def _connect(self, client: Client, server: str) -> None:
        lost = self._give_up
        self._violations = {}

        async def on_close() -> None:
            lost(client, "closed")

        async def on_error(error: Exception) -> None:
            if violation := _VIOLATION.search(str(error)):
                self._violations[violation[2]] = None
            self._complain(client, server, error)

        connecting = client.connect(
            [server],
            name=f"ptn-{self._options.cluster_name}",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_CONNECT_S,  # type: ignore[arg-type]
            flush_timeout=self._request_s,  # or a call would wait forever behind what a frozen server left
            ping_interval=max(1, self._options.ping_ms // 1000),
            closed_cb=on_close,
            error_cb=on_error,
            **self._security,
        )
        await asyncio.wait_for(connecting, 3 * _CONNECT_S)
        await client.subscribe(self._announced_subject, cb=self._take_announcement)
        await client.subscribe(self._beat_subject, cb=self._take_beat)
        await client.subscribe(self._presence_subject, cb=self._take_presence)
        await client.subscribe(self._keys_announced_subject, cb=self._take_new_keys)
        await client.flush(1)

    def _complain(self, client: Client, server: str, error: BaseException) -> None:
        """Logs a connection's first fault, unless the one before had the same. Later ones follow from it."""
        if client is self._faulty:
            return
        self._faulty = client
        timed_out = isinstance(error, asyncio.TimeoutError)
        text = "no answer" if timed_out else error_text(error).removeprefix("nats: ").strip("'")
        for fault, remedy in _REMEDIES.items():
            if fault in text.lower():
                text += f" ({remedy})"
        if text != self._last_error:
            self._last_error = text
            logger.warning("cluster_not_connected", server=_place(server), reason=text)

    async def _take_announcement(self, message: Msg) -> None:
        index = int(_header(message, "Nats-Sequence") or 0)
        with self._announced:
            if index > self._announced_index:
                self._announced_index = index
                self._announced.notify_all()

    async def _take_beat(self, message: Msg) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            beat = _beats.decode(message.data)
            for heard in self._listeners:
                heard(beat)

    async def _take_presence(self, message: Msg) -> None:
        for heard in self._presence_listeners:
            heard(message.data)

    async def _take_new_keys(self, _: Msg) -> None:
        for heard in self._key_listeners:
            heard()


async def _close(client: Client) -> None:
    """Closes a connection that may be to a frozen server, which takes nothing any more."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.close(), _CLOSE_S)
    transport = getattr(client, "_transport", None)
    for name in ("_io_writer", "_bare_io_writer"):  # of TLS, and below it
        writer = getattr(transport, name, None)
        if writer is not None:
            writer.transport.abort()


def _security(options: ClusterOptions) -> dict[str, Any]:
    """The arguments of `connect` for credentials and TLS. Raises SettingsError."""
    arguments: dict[str, Any] = {}
    if options.cluster_credentials:
        path = Path(options.cluster_credentials).expanduser()
        try:
            content = path.read_text()
        except (OSError, ValueError) as error:
            raise SettingsError(f"--cluster-credentials cannot be read: {error_text(error)}") from None
        if "BEGIN NATS USER JWT" in content:
            arguments["user_credentials"] = str(path)
        else:
            try:
                nkeys.from_seed(bytearray(content.strip().encode())).wipe()
            except (nkeys.NkeysError, ValueError):
                what = "neither a NATS credentials file nor an nkey seed"
                raise SettingsError(f"--cluster-credentials: {what}") from None
            arguments["nkeys_seed"] = str(path)
    if options.cluster_ca or any(server.startswith("tls:") for server in options.servers):
        try:
            arguments["tls"] = ssl.create_default_context(
                cafile=str(Path(options.cluster_ca).expanduser()) if options.cluster_ca else None
            )
        except OSError as error:
            raise SettingsError(f"--cluster-ca cannot be used: {error_text(error)}") from None
    return arguments


def _place(server: str) -> str:
    parts = urlsplit(server)
    return f"{parts.hostname}:{parts.port or 4222}"


def _milliseconds(time_text: str) -> int:
    """Epoch milliseconds of a time in UTC with up to nine digits of a second's fraction."""
    seconds, _, fraction = time_text.rstrip("Z").partition(".")
    return int((datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{fraction}0")) * 1000)


def _header(message: Msg, name: str) -> str:
    return (message.headers or {}).get(name, "")


def _decoded(decoder: msgspec.json.Decoder[T], message: Msg) -> T:
    try:
        return decoder.decode(message.data)
    except msgspec.DecodeError as error:
        raise BrokerError("the cluster's broker sent a malformed answer") from error
