"""`ptn cluster`: the streams of a log that several machines share, and what they report."""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer

from ptn_api.cli.row_options import View, Wide
from ptn_api.cli.settings_options import Command, CommandGroup
from ptn_api.clock import monotonic_ms, wall_ms
from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import BrokerError, ServerUnreachableError, SettingsError
from ptn_api.process.settings import SETTINGS

if TYPE_CHECKING:
    from ptn_api.cluster.jetstream import JetStreamBroker

__all__ = ["cluster_app", "connected", "without_log_lines"]

cluster_app = typer.Typer(
    cls=CommandGroup, help="Set up and inspect a log that several machines share.", no_args_is_help=True
)

_FOUND_MS = 10_000
_LISTEN_MS = 2_500
"""Machines report once a second."""
_TAKEOVER_S = 10
_LOOK_S = 0.1


def _with_options(*more: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options that reach the cluster, and `more` of its settings.

    The command gets them as its first argument, as ClusterOptions.
    """
    names = ("cluster", "cluster_name", "cluster_credentials", "cluster_ca", *more)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(_DEFAULTS, name),
                annotation=Annotated[type(getattr(_DEFAULTS, name)), _option(name)],
            )
            for name in names
        ]

        def run(**values: Any) -> None:
            command(ClusterOptions(**{name: values.pop(name) for name in names}), **values)

        parameters = [*options, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _option(name: str) -> typer.models.OptionInfo:
    setting = SETTINGS[name]
    default = f" (default: {setting.empty_default})" if setting.empty_default else ""
    option: typer.models.OptionInfo = typer.Option(
        setting.flag, metavar=setting.unit, help=f"{setting.description}{default}.", envvar=setting.variable
    )
    return option


_DEFAULTS = ClusterOptions()
DataDir = Annotated[
    Path,
    typer.Option(metavar="DIR", help="The server's data directory.", envvar=SETTINGS["data_dir"].variable),
]
_DATA_DIR = Path(SETTINGS["data_dir"].default)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cluster_app.command(cls=Command)
@_with_options("replicas", "monitors")
def init(
    options: ClusterOptions,
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Continue the log in this data directory, of a stopped server; clients resume.",
        ),
    ] = None,
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

    with connected(options) as broker:
        _require_usable(options, accept_unsynced=accept_unsynced)
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
    name, replicas = options.cluster_name, options.replicas
    if json:
        typer.echo(msgspec.json.encode({"cluster": name, "replicas": replicas, "head": index}))
    else:
        typer.echo(f"ptn: the cluster {name} is ready: {replicas} replicas, head {index}", err=True)


@cluster_app.command(cls=Command)
@_with_options()
def status(options: ClusterOptions, wide: Wide = False, json: Json = False) -> None:
    """Print the state of the streams, the snapshots, and each machine's copy."""
    from ptn_api.cli.show.table import COUNT, Column, Table, print_table

    with connected(options) as broker:
        try:
            streams = broker.status()
            snapshots = [
                (info, max(0, wall_ms() - int(stored.timestamp() * 1000)))
                for info, stored in broker.snapshots_stored()
            ]
            nodes = broker.reports(_LISTEN_MS)
        except BrokerError as error:
            from ptn_api.cluster.survey import why_unanswered

            if error.code == "no_streams":
                raise
            raise ServerUnreachableError(why_unanswered(options, error)) from error
    if json:
        content = {
            "cluster": options.cluster_name,
            "streams": streams,
            "snapshots": [
                {"index": info.index, "bytes": info.size, "age_ms": age_ms} for info, age_ms in snapshots
            ],
            "nodes": nodes,
        }
        typer.echo(msgspec.json.encode(content))
        return
    alike = Counter(node.node for node in nodes)
    tables = (
        Table(
            (
                Column("stream", "stream"),
                *(Column(name, name, COUNT) for name in ("head", "from", "bytes")),
                Column("leader", "leader"),
                Column("up_to_date", "up to date"),
                Column("lagging", "lagging"),
            ),
            [
                (
                    *(name, found.last, found.first, found.size, found.leader or "none"),
                    *(" ".join(found.current), " ".join(found.lagging)),
                )
                for name, found in streams.items()
            ],
            "streams",
        ),
        Table(
            tuple(Column(name, name, COUNT) for name in ("snapshot", "bytes", "age_ms")),
            [(info.index, info.size, age_ms) for info, age_ms in snapshots],
            "snapshots",
        ),
        Table(
            (
                Column("machine", "machine"),
                Column("copy", "copy", COUNT),
                Column("behind", "behind"),
                *(Column(name, name) for name in ("processes", "intake", "version")),
            ),
            [
                (
                    node.node if alike[node.node] == 1 else f"{node.node} ({node.id})",
                    node.index,
                    "unknown" if node.behind_ms is None else f"{node.behind_ms} ms",
                    " ".join(node.processes),
                    f"active, term {node.term}" if node.active else "",
                    node.version,
                )
                for node in nodes
            ],
            "machines",
        ),
    )
    for table in tables:
        print_table(table, View(wide=wide))


@cluster_app.command(cls=Command)
def takeover(data_dir: DataDir = _DATA_DIR) -> None:
    """Make the intake that runs on this data directory the active one."""
    from ptn_api.cluster.turns import request_takeover

    if not data_dir.is_dir():
        raise SettingsError(f"no such data directory: {data_dir} (give the server's with --data-dir)")
    request, deadline = request_takeover(data_dir), time.monotonic() + _TAKEOVER_S
    while request.exists():
        if time.monotonic() > deadline:
            request.unlink(missing_ok=True)  # or the next intake there would follow it
            raise BrokerError(
                f"no intake took over within {_TAKEOVER_S} s: none runs on {data_dir}, or the NATS servers"
                " have no leader (see ptn cluster status)"
            )
        time.sleep(_LOOK_S)
    typer.echo(f"ptn: the intake on {data_dir} is the active one", err=True)


@cluster_app.command(cls=Command)
@_with_options()
def leave(
    options: ClusterOptions,
    data_dir: DataDir = _DATA_DIR,
    force: Annotated[
        bool, typer.Option("--force", help="Leave without asking the NATS servers, which may be gone.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a copy the log of a single machine. Stop its server first, and the cluster's intakes.

    Otherwise two logs would give the same numbers to different orders.
    """
    from ptn_api.cluster.adopt import complete
    from ptn_api.cluster.adopt import leave as leave_cluster

    if not force:
        with connected(options) as broker:
            complete(broker, data_dir, listen_ms=_LISTEN_MS)
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
        raise SettingsError(f"{missing}: in the checkout, pip install '.[server,cluster]'") from None
    with without_log_lines(), contextlib.closing(JetStreamBroker(options)) as broker:
        yield broker


@contextlib.contextmanager
def without_log_lines() -> Iterator[None]:
    """Commands print their own sentences."""
    import structlog  # with the server's dependencies, as the broker's client

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _require_usable(options: ClusterOptions, *, accept_unsynced: bool) -> None:
    """Raises BrokerError if a server is too old, or acknowledges before it has synced.

    Warns where that cannot be seen.
    """
    from ptn_api.cluster.survey import LEAST_VERSION, is_old, server_version, syncs

    for url in options.servers:
        place = urlsplit(url).netloc
        try:
            version = server_version(options, url)
        except BrokerError as error:
            typer.echo(f"ptn: warning: the version of {place} is not known: {error}", err=True)
            continue
        if is_old(version):
            raise BrokerError(
                f"the server {place} has version {version}: upgrade it to {LEAST_VERSION} or newer"
            )
    for url in () if accept_unsynced else options.monitoring_ports:
        if (synced := syncs(url)) is None:
            typer.echo(
                f"ptn: warning: {url} does not answer: make sure that its server has `sync_interval: always`",
                err=True,
            )
        elif not synced:
            raise BrokerError(
                f"the server at {url} may lose acknowledged orders in a power failure: set"
                " `sync_interval: always` in its jetstream section, or give --accept-unsynced"
            )
