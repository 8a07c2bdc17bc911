"""An operator's survey of a cluster: its NATS servers, what the credentials permit, and this machine's copy.

Nothing is changed. Every remark is a level and a sentence with the remedy, as `ptn doctor` prints them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from ptn_api.cluster.broker import PART_BYTES
from ptn_api.cluster.commit import decode_part
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.snapshot import load_tip
from ptn_api.errors import BrokerError, EntriesPurgedError, LogError
from ptn_api.event_log.database import connect_reader, log_path
from ptn_api.problems import PROBLEMS

__all__ = ["LEAST_VERSION", "Remark", "is_old", "server_version", "survey", "syncs", "why_unanswered"]

LEAST_VERSION = "2.12"
_LEAST_PAYLOAD = 2 * PART_BYTES
_CONNECT_MS = 3_000
_MONITOR_S = 2.0
_SKEW_MS = 1_000
_ALONE = ("127.0.0.1", "localhost", "::1")

Remark = tuple[Literal["ok", "warn", "bad"], str]


def survey(options: ClusterOptions, data_dir: Path, *, writes: bool) -> Iterator[Remark]:
    """Yields remarks about everything; `writes` for a machine with intake. Raises SettingsError."""
    yield from _files(options)
    yield from _servers(options)
    for url in options.monitoring_ports:
        if (synced := syncs(url)) is None:
            yield (
                "warn",
                f"{url} does not answer, so whether its server syncs every write is unknown: check that it"
                " has `sync_interval: always`, or give the monitoring ports with --monitors",
            )
        elif not synced:
            sentence = f"the server at {url} may lose orders in a power failure: set `sync_interval: always`"
            yield "bad", sentence
    with contextlib.closing(JetStreamBroker(options)) as broker:
        yield from _streams(broker, options)
        yield from _permissions(broker, writes=writes)
        yield from _clock(broker)
        yield from _copy(broker, data_dir)


def server_version(options: ClusterOptions, url: str) -> str:
    """The version of one server. Raises BrokerError if it cannot be reached, SettingsError."""
    with contextlib.closing(_connection(options, url)) as broker:
        return broker.server().version


def why_unanswered(options: ClusterOptions, error: BrokerError) -> str:
    """A sentence on a broker that does not answer: which of its servers do, and the remedy."""
    up, down = [], []
    for url in options.servers:
        try:
            server_version(options, url)
        except BrokerError:
            down.append(urlsplit(url).netloc)
        else:
            up.append(urlsplit(url).netloc)
    total = len(options.servers)
    if not up:
        remedy = (
            f"{error}. None of the {total} NATS servers can be used: check --cluster, the credentials and"
        )
        remedy += " the network"
    elif 2 * len(up) <= total:
        remedy = (
            f"only {len(up)} of {total} NATS servers can be reached ({', '.join(up)}), which is not a"
            f" majority. Start the others: {', '.join(down)}"
        )
    else:
        remedy = (
            f"{error}. {len(up)} of {total} NATS servers can be reached ({', '.join(up)}): they may be"
            " electing a leader. If it lasts, check that they reach each other"
        )
    return f"the cluster cannot be asked: {remedy}"


def is_old(version: str) -> bool:
    """Whether a server of this version lacks what a cluster needs."""
    return _numbers(version) < _numbers(LEAST_VERSION)


def syncs(monitor: str) -> bool | None:
    """Whether the server with this monitoring port acknowledges only what is on its disk; None: unknown."""
    try:
        with urllib.request.urlopen(f"{monitor}/varz", timeout=_MONITOR_S) as answer:  # noqa: S310 - the operator's
            return bool(json.load(answer)["jetstream"]["config"].get("sync_always"))
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:2])


def _connection(options: ClusterOptions, url: str) -> JetStreamBroker:
    return JetStreamBroker(msgspec.structs.replace(options, cluster=url, request_ms=_CONNECT_MS))


def _files(options: ClusterOptions) -> Iterator[Remark]:
    if options.cluster_credentials:
        path = Path(options.cluster_credentials).expanduser()
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
                yield "warn", f"other users can read {path}, and so write orders; chmod 600 {path}"
    hosts = [urlsplit(server) for server in options.servers]
    if any(host.scheme != "tls" and host.hostname not in _ALONE for host in hosts):
        yield (
            "warn",
            "without TLS (tls:// addresses), orders can be read on the network between the machines",
        )


def _servers(options: ClusterOptions) -> Iterator[Remark]:
    """Of each server: whether it answers, its version and its limit on messages."""
    down: list[str] = []
    for url in options.servers:
        place = urlsplit(url).netloc
        try:
            with contextlib.closing(_connection(options, url)) as broker:
                server = broker.server()
        except BrokerError as error:
            down.append(f"{place} cannot be used: {error}")
            continue
        if is_old(server.version):
            yield (
                "bad",
                f"{place} has nats-server {server.version}: upgrade it to {LEAST_VERSION} or newer",
            )
        elif server.max_payload < _LEAST_PAYLOAD:
            yield "bad", f"{place} has max_payload {server.max_payload:,}: set it to at least 1MB"
        else:
            yield "ok", f"{place} answers: {server.name}, nats-server {server.version}"
    lost = 2 * len(down) >= len(options.servers)
    remedy = "check that it runs, the network and --cluster-credentials"
    for sentence in down:
        yield "bad" if lost else "warn", f"{sentence}; {remedy}"


def _streams(broker: JetStreamBroker, options: ClusterOptions) -> Iterator[Remark]:
    """Whether each stream has as many replicas as it should, and all of them everything."""
    try:
        streams = broker.status()
    except BrokerError as error:
        yield "bad", f"the streams cannot be read: {error}"
        return
    for name, stream in streams.items():
        if stream.replicas != options.replicas:
            yield (
                "warn",
                f"the stream of the {name} has {stream.replicas} replicas, --replicas is {options.replicas}:"
                " run ptn cluster init with the right number",
            )
        if stream.lagging:
            lagging = ", ".join(stream.lagging)
            yield "warn", f"the stream of the {name} is not up to date on {lagging}: wait, or start them"
        elif stream.replicas == options.replicas:
            yield "ok", f"the stream of the {name} has {stream.replicas} replicas, all up to date"
    if options.replicas < 3:
        yield "warn", "with fewer than three replicas, new orders stop when one NATS server does"


def _permissions(broker: JetStreamBroker, *, writes: bool) -> Iterator[Remark]:
    try:
        if forbidden := broker.forbidden(writes=writes):
            yield (
                "bad",
                f"the credentials may not use {', '.join(forbidden)}: compare their permissions with"
                " docs/cluster.md",
            )
            return
        broker.read(max(broker.last() - 1, 0), 1)
    except EntriesPurgedError:
        pass
    except BrokerError as error:
        if error.code != "no_streams":  # which is said already
            yield "bad", f"the stream cannot be read: {error}"
        return
    what = "read and write the log" if writes else "read the log"
    yield "ok", f"the credentials permit this machine to {what}"


def _clock(broker: JetStreamBroker) -> Iterator[Remark]:
    """As of the stream's last index, which the check of the permissions asked for."""
    if (skew_ms := broker.clock_skew_ms) is None:
        return
    if abs(skew_ms) > _SKEW_MS:
        side = "ahead of" if skew_ms > 0 else "behind"
        sentence = f"this machine's clock is {abs(skew_ms) / 1000:.1f} s {side} the NATS server's"
        yield "warn", f"{sentence}: check both (NTP), since delayed tiers depend on them"
    else:
        yield "ok", "this machine's clock agrees with the NATS server's"


def _copy(broker: JetStreamBroker, data_dir: Path) -> Iterator[Remark]:
    """Whether the data directory has a copy of this cluster's log, and how much it lacks."""
    path = log_path(data_dir)
    if not path.exists():
        yield "ok", f"{data_dir} has no copy yet; the server makes one when it starts"
        return
    try:
        with contextlib.closing(connect_reader(path)) as db:
            tip = load_tip(db)
        if tip is None:
            yield (
                "bad",
                f"{data_dir} has the log of a single machine: give another --data-dir; to continue this log"
                " in a new cluster, ptn cluster init --from",
            )
            return
        last = broker.last()
        try:
            entries = broker.read(tip.index - 1, 1) if tip.index else []
        except EntriesPurgedError:
            entries = []
        if entries and decode_part(entries[0].payload).link.commit_id != tip.commit_id:
            problem = PROBLEMS["cluster_forked"]
            yield "bad", f"{problem.sentence}. {problem.remedy.replace('`', '')}"
        elif last < tip.index:
            yield (
                "warn",
                f"the copy has commit {tip.index}, the NATS server that answered only {last}: it lags, or"
                " the cluster was restored from a backup. Try again",
            )
        else:
            yield "ok", f"the copy has commit {tip.index} of {last}"
    except (LogError, sqlite3.Error) as error:
        yield "bad", f"the copy in {data_dir} cannot be compared with the cluster: {error}"
