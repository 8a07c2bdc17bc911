"""`ptn cluster`: the streams of a log that several machines share, and what they report."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from ptn_api.cli.settings_options import Command, CommandGroup
from ptn_api.clock import monotonic_ms, wall_ms
from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import BrokerError, SettingsError
from ptn_api.process.settings import SETTINGS

if TYPE_CHECKING:
    from ptn_api.cluster.jetstream import JetStreamBroker

__all__ = ["cluster_app", "connected"]

cluster_app = typer.Typer(
    cls=CommandGroup, help="Set up and inspect a log that several machines share.", no_args_is_help=True
)

_MONITOR_PORT = 8222
_FOUND_MS = 10_000
_LISTEN_MS = 2_500
"""Machines report once a second."""


def _option(name: str) -> typer.models.OptionInfo:
    setting = SETTINGS[name]
    option: typer.models.OptionInfo = typer.Option(
        setting.flag, metavar=setting.unit, help=f"{setting.description}.", envvar=setting.variable
    )
    return option


_DEFAULTS = ClusterOptions()
Servers = Annotated[str, _option("cluster")]
Name = Annotated[str, _option("cluster_name")]
Credentials = Annotated[str, _option("cluster_credentials")]
Authority = Annotated[str, _option("cluster_ca")]
Replicas = Annotated[int, _option("replicas")]
DataDir = Annotated[
    Path,
    typer.Option(metavar="DIR", help="The server's data directory.", envvar=SETTINGS["data_dir"].variable),
]
_DATA_DIR = Path(SETTINGS["data_dir"].default)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cluster_app.command(cls=Command)
def init(
    cluster: Servers = _DEFAULTS.cluster,
    cluster_name: Name = _DEFAULTS.cluster_name,
    cluster_credentials: Credentials = _DEFAULTS.cluster_credentials,
    cluster_ca: Authority = _DEFAULTS.cluster_ca,
    replicas: Replicas = _DEFAULTS.replicas,
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Continue the log in this data directory, of a stopped server; clients resume.",
        ),
    ] = None,
    monitors: Annotated[
        str,
        typer.Option(
            "--monitors",
            metavar="URLS",
            help=f"Ask these monitoring ports whether the servers sync every write"
            f" (default: port {_MONITOR_PORT} of each server).",
        ),
    ] = "",
    accept_unsynced: Annotated[
        bool,
        typer.Option(
            "--accept-unsynced", help="Accept servers that may lose acknowledged orders in a power failure."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Create the streams of a cluster, or set their options again. Existing content is kept."""
    from ptn_api.cluster.adopt import adopt
    from ptn_api.cluster.copy import found

    options = ClusterOptions(
        cluster=cluster,
        cluster_name=cluster_name,
        cluster_credentials=cluster_credentials,
        cluster_ca=cluster_ca,
        replicas=replicas,
    )
    with connected(options) as broker:
        if not accept_unsynced:
            _require_synced(options, monitors)
        broker.create_streams()
        if from_dir is not None:
            if not from_dir.is_dir():
                raise SettingsError(f"no such data directory: {from_dir}")
            index = adopt(broker, from_dir).index
        else:
            deadline_ms = monotonic_ms() + _FOUND_MS
            while True:
                try:
                    found(broker, wall_ms())
                    break
                except BrokerError:  # new streams do not answer for a moment
                    if monotonic_ms() > deadline_ms:
                        raise
                    time.sleep(0.1)
            index = broker.last()
    if json:
        typer.echo(msgspec.json.encode({"cluster": cluster_name, "replicas": replicas, "head": index}))
    else:
        typer.echo(f"ptn: the cluster {cluster_name} is ready: {replicas} replicas, head {index}", err=True)


@cluster_app.command(cls=Command)
def status(
    cluster: Servers = _DEFAULTS.cluster,
    cluster_name: Name = _DEFAULTS.cluster_name,
    cluster_credentials: Credentials = _DEFAULTS.cluster_credentials,
    cluster_ca: Authority = _DEFAULTS.cluster_ca,
    json: Json = False,
) -> None:
    """Print the state of the streams, the snapshots, and each machine's copy."""
    from ptn_api.cli.output import print_rows

    options = ClusterOptions(
        cluster=cluster,
        cluster_name=cluster_name,
        cluster_credentials=cluster_credentials,
        cluster_ca=cluster_ca,
    )
    with connected(options) as broker:
        streams = broker.status()
        snapshots = [
            (info, max(0, wall_ms() - int(stored.timestamp() * 1000)))
            for info, stored in broker.snapshots_stored()
        ]
        nodes = broker.reports(_LISTEN_MS)
    if json:
        content = {
            "cluster": cluster_name,
            "streams": streams,
            "snapshots": [
                {"index": info.index, "bytes": info.size, "age_ms": age_ms} for info, age_ms in snapshots
            ],
            "nodes": nodes,
        }
        typer.echo(msgspec.json.encode(content))
        return
    print_rows(
        ("stream", "head", "from", "bytes", "leader", "up to date", "lagging"),
        [
            (
                *(name, str(found.last), str(found.first), str(found.size), found.leader or "none"),
                *(" ".join(found.current), " ".join(found.lagging)),
            )
            for name, found in streams.items()
        ],
    )
    print_rows(
        ("snapshot", "bytes", "age"),
        [(str(info.index), str(info.size), f"{age_ms // 1000} s") for info, age_ms in snapshots],
    )
    print_rows(
        ("machine", "copy", "behind", "processes", "intake", "version"),
        [
            (
                *(node.node, str(node.index)),
                "unknown" if node.behind_ms is None else f"{node.behind_ms} ms",
                " ".join(node.processes),
                f"active, term {node.term}" if node.active else "",
                node.version,
            )
            for node in nodes
        ],
    )


@cluster_app.command(cls=Command)
def takeover(data_dir: DataDir = _DATA_DIR) -> None:
    """Make the intake that runs on this data directory the active one."""
    from ptn_api.cluster.turns import request_takeover

    if not data_dir.is_dir():
        raise SettingsError(f"no such data directory: {data_dir} (give the server's with --data-dir)")
    request_takeover(data_dir)
    typer.echo("ptn: requested; ptn cluster status shows which intake is active", err=True)


@cluster_app.command(cls=Command)
def leave(data_dir: DataDir = _DATA_DIR, json: Json = False) -> None:
    """Make a copy the log of a single machine. Stop its server first, and the cluster's intakes.

    Otherwise two logs would give the same numbers to different orders.
    """
    from ptn_api.cluster.adopt import leave as leave_cluster

    index = leave_cluster(data_dir).index
    if json:
        typer.echo(msgspec.json.encode({"head": index}))
    else:
        typer.echo(f"ptn: the log is this machine's alone, as of commit {index}", err=True)


@contextlib.contextmanager
def connected(options: ClusterOptions) -> Iterator[JetStreamBroker]:
    """The connection to the cluster's broker. Raises SettingsError."""
    if not options.servers:
        raise SettingsError("give the NATS servers with --cluster nats://HOST,nats://HOST,nats://HOST")
    try:
        from ptn_api.cluster.jetstream import JetStreamBroker
    except ModuleNotFoundError as error:
        if str(error.name).startswith("ptn_api"):
            raise
        missing = f"the cluster's dependencies are missing ({error.name})"
        raise SettingsError(f"{missing}: pip install 'ptn-api[server,cluster]'") from None
    import structlog  # with the server's dependencies, as the broker's client

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with contextlib.closing(JetStreamBroker(options)) as broker:
            yield broker
    finally:
        structlog.configure(**before)


def _require_synced(options: ClusterOptions, monitors: str) -> None:
    """Raises BrokerError if a server acknowledges before it has synced; warns where that cannot be seen."""
    import httpx  # half the time that other commands take

    urls = [url.strip() for url in monitors.split(",") if url.strip()]
    for url in urls or [f"http://{urlsplit(server).hostname}:{_MONITOR_PORT}" for server in options.servers]:
        try:
            found = httpx.get(f"{url.rstrip('/')}/varz", timeout=2).raise_for_status().json()
            synced = bool(found["jetstream"]["config"].get("sync_always"))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError):
            typer.echo(
                f"ptn: warning: {url} does not answer: make sure that its server has `sync_interval: always`",
                err=True,
            )
            continue
        if not synced:
            raise BrokerError(
                f"the server at {url} may lose acknowledged orders in a power failure: set"
                " `sync_interval: always` in its jetstream section, or give --accept-unsynced"
            )
