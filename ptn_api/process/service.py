"""The server's main function: checks settings and files, opens the ports, runs the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import os
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ptn_api.access import find_key_file, make_demo_keys
from ptn_api.access.address import Proxies, is_loopback
from ptn_api.cluster.options import shared_key_file
from ptn_api.errors import PTNError, SettingsError
from ptn_api.file_version import user_name
from ptn_api.http.acceptor import BACKLOG
from ptn_api.http.cross_origin import CrossOrigin
from ptn_api.process.certificate import Certificate
from ptn_api.process.control import Progress, kind_of, process_names
from ptn_api.process.data_dir import DEMO_KEYS, DEMO_VALIDATOR, check_validator_dir, make_data_dir
from ptn_api.process.log_output import configure_logging, set_process_title
from ptn_api.process.metrics_server import MetricsServer
from ptn_api.process.settings import Settings
from ptn_api.process.supervisor import Supervisor

__all__ = ["listen", "listen_again", "port_holder", "serve"]

_LISTENING = "0A"
_LONGEST_COMMAND = 300
_IN_THE_CLEAR = (
    "listening beyond this machine without TLS: give --tls-cert and --tls-key, or let only a TLS proxy "
    "reach the ports"
)

logger = structlog.get_logger()


def serve(
    settings: Settings,
    *,
    announce: Callable[[str], None],
    hint: Callable[[Settings, str, str], None] | None = None,
    show: Callable[[Progress], None] | None = None,
    fail: Callable[[str], None] | None = None,
    queue_fd: int = -1,
    parent: int | None = None,
) -> int:
    """Runs everything until SIGTERM, SIGINT or the end of process `parent`; returns the exit status.

    SIGHUP stops a server that was started on a terminal, and is ignored otherwise. `announce` gets each line
    for standard output once all processes are ready, and `hint` the settings and both addresses after that.
    `show` gets the progress until then, and `fail` the reason if nothing starts; both are logged without it.
    """
    set_process_title("supervisor")
    configure_logging(settings.log_level, process="supervisor", node=settings.cluster_options.name)
    try:
        settings = _prepare(settings)
        # A validator that embeds the server makes its directory when it needs it.
        is_embedded = parent is not None
        waits = settings.demo or settings.wait_for_validator or is_embedded
        if settings.validator_dir and "intake" in settings.chosen_processes() and not waits:
            check_validator_dir(Path(settings.validator_dir))
        ws_host = settings.api_ws_host or settings.api_host
        if not settings.tls_cert and not (is_loopback(settings.api_host) and is_loopback(ws_host)):
            logger.warning("keys_in_the_clear", reason=_IN_THE_CLEAR)
        with contextlib.ExitStack() as stack:
            ws_host_flag = "--api-ws-host" if settings.api_ws_host else "--api-host"
            listeners: dict[str, socket.socket] = {}
            for name in process_names(settings):
                if name == "rest":
                    listener = listen(
                        settings.api_host,
                        settings.api_rest_port,
                        host_flag="--api-host",
                        port_flag="--api-rest-port",
                    )
                elif name in ("stream", "stream-1"):
                    listener = first = listen(
                        ws_host,
                        settings.api_ws_port,
                        host_flag=ws_host_flag,
                        port_flag="--api-ws-port",
                        shared=settings.stream_processes > 1,
                    )
                elif kind_of(name) == "stream":
                    listener = listen_again(first)
                else:
                    continue
                listeners[name] = stack.enter_context(listener)
            metrics = None
            if settings.metrics_port >= 0:
                metrics = stack.enter_context(contextlib.closing(MetricsServer(settings.metrics_port)))
            supervisor = Supervisor(settings, listeners, queue_fd, metrics)
            return asyncio.run(supervisor.run(announce, hint, parent, show))
    except PTNError as error:
        if fail is None:
            logger.error("cannot_start", reason=str(error))
        else:
            fail(str(error))
        return 1


def _prepare(settings: Settings) -> Settings:
    """Makes the data directory and resolves paths and empty defaults. Raises SettingsError."""
    data_dir, *tls = (
        Path(path).expanduser().absolute()
        for path in (settings.data_dir, settings.tls_cert, settings.tls_key)
    )
    settings.check()
    make_data_dir(data_dir, demo=settings.demo)
    Proxies(settings.rest.trusted_proxies)
    CrossOrigin(settings.rest.cors_origins)
    settings.chosen_processes()
    changes: dict[str, Any] = {"data_dir": str(data_dir)}
    if settings.cluster_options.servers:
        if importlib.util.find_spec("nats") is None:
            raise SettingsError(
                "--cluster needs more dependencies: in the checkout, pip install '.[server,cluster]'"
            )
        changes["cluster_options"] = options = settings.cluster_options.prepared()
        changes["rest"] = msgspec.structs.replace(settings.rest, node_name=options.name)
    if settings.cluster_options.cluster_keys:
        if not settings.cluster_options.servers:
            raise SettingsError("--cluster-keys needs --cluster")
        if settings.api_keys_file or settings.demo:
            raise SettingsError(
                "--cluster-keys replaces the key file: omit --api-keys-file and --demo (`ptn keys push` "
                "copies a file's keys into the cluster)"
            )
        changes["api_keys_file"] = str(shared_key_file(data_dir))
        if ignored := find_key_file(settings.validator_dir):
            logger.info("key_file_ignored", file=str(ignored), reason="--cluster-keys is set")
    elif settings.api_keys_file:
        changes["api_keys_file"] = str(Path(settings.api_keys_file).expanduser().absolute())
    if settings.demo:
        changes["validator_dir"] = str(data_dir / DEMO_VALIDATOR)
        if not os.path.exists(changes.get("api_keys_file", "")):
            changes["api_keys_file"] = str(data_dir / DEMO_KEYS)
            make_demo_keys(data_dir / DEMO_KEYS)
    elif settings.validator_dir:
        changes["validator_dir"] = str(Path(settings.validator_dir).expanduser().absolute())
    if settings.tls_cert and settings.tls_key:
        Certificate(*tls)
        changes["tls_cert"], changes["tls_key"] = map(str, tls)
    elif settings.tls_cert or settings.tls_key:
        raise SettingsError("--tls-cert and --tls-key go together: give both")
    return msgspec.structs.replace(settings, **changes)


def listen(host: str, port: int, *, host_flag: str, port_flag: str, shared: bool = False) -> socket.socket:
    """A listening socket for a child to inherit, on a port that no other process can share.

    `shared`: from now on, further sockets of this user can listen on the port. Raises SettingsError if the
    port is taken or the address is not local, naming the flag that changes it.
    """
    with contextlib.ExitStack() as on_error:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listener = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            if shared and sys.platform == "linux":  # now, since the bind has failed if the port is taken
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.listen(BACKLOG)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                free = "--api-rest-port 0 --api-ws-port 0"
                if os.environ.get("MAKELEVEL"):
                    words = ["make serve"]
                    if validator_dir := os.environ.get("VALIDATOR_DIR"):
                        words.append(f"VALIDATOR_DIR={shlex.quote(validator_dir)}")
                    free = " ".join([*words, f'ARGS="{free}"'])
                sentence = f"cannot listen on {host} port {port}: {error.strerror}"
                if error.errno == errno.EADDRINUSE and (holder := port_holder(port)):
                    sentence += f" by {holder}"
                remedy = f"choose another with {port_flag}, or any free ones: {free}"
                raise SettingsError(f"{sentence}; {remedy}", code="port_in_use") from None
            raise SettingsError(
                f"cannot listen on {host}: {error.strerror}; choose another address with {host_flag}"
            ) from None
        on_error.pop_all()
    listener.setblocking(False)
    return listener


def listen_again(listener: socket.socket) -> socket.socket:
    """One more listening socket on the address of a shared one, for another process.

    Linux distributes new connections among them by a hash of the client's address and port (SO_REUSEPORT).
    The alternative, one queue that all processes accept from, distributes them by chance: of 400 clients that
    connected at once, four processes took 45 to 178, with SO_REUSEPORT 90 to 112. After a kill, the other
    processes would take all of its clients before it is back, and keep them; of two processes, one had none
    left. Here, its own share of them waits for its restart: 92 of 400 clients. The supervisor holds every
    socket, so no connection is lost. The price: if a process cannot be started, its share goes on waiting.
    """
    if sys.platform != "linux":  # where only one of the sockets would get connections
        return listener.dup()
    with contextlib.ExitStack() as on_error:
        another = on_error.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        another.bind(listener.getsockname())
        another.listen(BACKLOG)
        on_error.pop_all()
    another.setblocking(False)
    return another


def port_holder(port: int) -> str:
    """The user that listens on the port, and the process if this user may see it; empty if unknown."""
    inodes: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            rows = [row.split() for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
            inodes |= {
                row[9]: int(row[7])
                for row in rows
                if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port
            }
    if not inodes:
        return ""
    sockets = {f"socket:[{inode}]" for inode in inodes}
    processes: list[int] = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # ended, or of another user
            if any(os.readlink(link) in sockets for link in folder.iterdir()):
                processes.append(int(folder.parent.name))
    user = user_name(next(iter(inodes.values())))
    if not processes:
        return user
    first = min(processes)  # the supervisor; its children inherit the socket
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{first}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{user}, process {first}: {command.strip()[:_LONGEST_COMMAND]}"
    return f"{user}, process {first}"
