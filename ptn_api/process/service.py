"""The wiring: which process runs what, and in which order they start and stop. The rooms are imported by
their processes (worker.py).

Three processes: intake (the only writer of the event log), rest and stream (readers). With `--demo` a fourth
one is the simulated validator. The supervisor opens both listening sockets and hands them on, so a restarted
process keeps its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ptn_api.access import make_demo_keys
from ptn_api.access.address import Proxies, is_loopback
from ptn_api.errors import PTNError, SettingsError
from ptn_api.process.certificate import Certificate
from ptn_api.process.data_dir import DEMO_VALIDATOR, make_data_dir
from ptn_api.process.liveness import PROCESSES, Board
from ptn_api.process.log_output import configure_logging
from ptn_api.process.metrics_server import MetricsServer, Watched
from ptn_api.process.settings import Settings
from ptn_api.process.supervisor import Backoff, Child, listen, python_command, stop_when_orphaned
from ptn_api.process.worker import WorkerConfig

__all__ = ["IN_THE_CLEAR", "serve"]

IN_THE_CLEAR = (
    "it listens beyond this machine without TLS: give --tls-cert and --tls-key, or leave that to a proxy "
    "which alone can reach it"
)

logger = structlog.get_logger()


def serve(
    settings: Settings,
    *,
    announce: Callable[[str], None],
    hint: Callable[[Settings, str, str], None] | None = None,
    queue_fd: int = -1,
    parent: int | None = None,
) -> int:
    """Runs everything until SIGTERM or SIGINT (or the end of process `parent`); returns the exit status.

    SIGHUP stops it too where it means that its terminal is gone; a service without one takes no notice.

    `announce` gets the one line that says all is ready, `hint` the settings and both addresses after it.
    """
    configure_logging(settings.log_level, process="supervisor")
    try:
        settings = _prepare(settings)
        ws_host = settings.api_ws_host or settings.api_host
        if not settings.tls_cert and not (is_loopback(settings.api_host) and is_loopback(ws_host)):
            logger.warning("keys_in_the_clear", reason=IN_THE_CLEAR)
        with contextlib.ExitStack() as stack:
            rest = stack.enter_context(listen(settings.api_host, settings.api_rest_port, "--api-rest-port"))
            stream = stack.enter_context(listen(ws_host, settings.api_ws_port, "--api-ws-port"))
            metrics = None
            if settings.metrics_port >= 0:
                metrics = stack.enter_context(contextlib.closing(MetricsServer(settings.metrics_port)))
            supervisor = _Supervisor(settings, rest, stream, queue_fd, metrics)
            return asyncio.run(supervisor.run(announce, hint, parent))
    except PTNError as error:
        logger.error("cannot_start", reason=str(error))
        return 1


def _prepare(settings: Settings) -> Settings:
    """Makes the data directory and says what the defaults stand for. Raises SettingsError."""
    data_dir = Path(settings.data_dir).expanduser().absolute()
    make_data_dir(data_dir, demo=settings.demo)
    Proxies(settings.rest.trusted_proxies)
    keys = Path(settings.api_keys_file).expanduser().absolute()
    changes: dict[str, Any] = {"data_dir": str(data_dir), "api_keys_file": str(keys)}
    if settings.demo:
        if settings.validator_dir or settings.checkpoint:
            raise SettingsError(
                "--demo simulates a validator: give no --validator-dir or --checkpoint with it"
            )
        changes["validator_dir"] = str(data_dir / DEMO_VALIDATOR)
        if not keys.exists():
            changes["api_keys_file"] = str(data_dir / "demo_api_keys.json")
            make_demo_keys(Path(changes["api_keys_file"]))
    elif settings.validator_dir:
        changes["validator_dir"] = str(Path(settings.validator_dir).expanduser().absolute())
    return _prepare_tls(msgspec.structs.replace(settings, **changes))


def _prepare_tls(settings: Settings) -> Settings:
    """Makes the paths absolute; raises SettingsError for a certificate or key that cannot be used."""
    if not settings.tls_cert and not settings.tls_key:
        return settings
    if not settings.tls_cert or not settings.tls_key:
        raise SettingsError("--tls-cert and --tls-key go together: give both")
    certificate, key = (Path(p).expanduser().absolute() for p in (settings.tls_cert, settings.tls_key))
    Certificate(certificate, key)
    return msgspec.structs.replace(settings, tls_cert=str(certificate), tls_key=str(key))


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        rest: socket.socket,
        stream: socket.socket,
        queue_fd: int,
        metrics: MetricsServer | None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._board = Board.make()
        self._rest = rest
        self._stream = stream
        self._queue_fd = queue_fd
        self._stop = asyncio.Event()
        self._children: list[Child] = []
        self._running: list[asyncio.Task[None]] = []

    async def run(
        self,
        announce: Callable[[str], None],
        hint: Callable[[Settings, str, str], None] | None,
        parent: int | None,
    ) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # or nohup means nothing
            loop.add_signal_handler(
                signal.SIGHUP, self._asked_to_stop if _has_terminal() else _hung_up, signal.SIGHUP
            )
        watch = None
        if parent is not None:
            watch = asyncio.create_task(
                stop_when_orphaned(self._stop, parent, self._settings.parent_check_ms, grace_s=15)
            )
        try:
            if await self._start():
                s = "s" if self._settings.tls_cert else ""
                rest, stream = _url("http" + s, self._rest), _url("ws" + s, self._stream)
                announce(f"PTN API ready: REST {rest} WebSocket {stream}")
                if self._metrics is not None:
                    announce(f"PTN API metrics: {self._metrics.url}")
                if hint is not None:
                    hint(self._settings, rest, stream)
                await self._stop_or_fatal()
        finally:
            await self._stop_in_order()
            if watch is not None:
                watch.cancel()
        return 1 if any(child.fatal for child in self._children) else 0

    def _asked_to_stop(self, number: signal.Signals) -> None:
        logger.info("stopping", signal=number.name)
        self._stop.set()

    async def _start(self) -> bool:
        """Starts all processes; True when all are ready, False when they never will be or are to stop."""
        if self._settings.demo and not await self._until_ready(self._spawn("simulator")):
            return False
        children = [
            self._spawn("intake", queue=self._queue_fd),
            self._spawn("rest", listener=self._rest.fileno()),
            self._spawn("stream", listener=self._stream.fileno()),
        ]
        return await self._until_ready(*children)

    def _spawn(self, room: str, *, listener: int = -1, queue: int = -1) -> Child:
        asked = self._metrics and room in PROCESSES and self._metrics.listener(room)
        metrics = asked.detach() if asked else -1
        orders = WorkerConfig(
            room=room,
            settings=self._settings,
            parent=os.getpid(),
            listener=listener,
            queue=queue,
            board=self._board,
            metrics=metrics,
        )
        child = Child(
            room,
            python_command("ptn_api.process.worker:run_child", f"ptn-api-{room}"),
            stdin=msgspec.json.encode(orders),
            fds=[fd for fd in (listener, queue, self._board, metrics) if fd >= 0],
            backoff=Backoff(
                first_ms=self._settings.restart_backoff_ms, max_ms=self._settings.restart_backoff_max_ms
            ),
            stop_timeout_ms=self._settings.stop_timeout_ms,
        )
        if self._metrics is not None and metrics >= 0:
            self._metrics.watch(room, Watched(lambda: child.pid, lambda: child.restarts))
        self._children.append(child)
        self._running.append(asyncio.create_task(child.run()))
        return child

    async def _until_ready(self, *children: Child) -> bool:
        ready = asyncio.create_task(_all_ready(children))
        ended = asyncio.create_task(self._stop_or_fatal())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        return not ready.cancel()

    async def _stop_or_fatal(self) -> None:
        """Returns when everything is to stop, or when a child has ended for good."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({stopping, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _stop_in_order(self) -> None:
        """Intake first (it takes no more and flushes), then stream and rest say goodbye together."""
        order = [{"simulator"}, {"intake"}, {"stream", "rest"}]
        for names in order:
            await asyncio.gather(*(child.stop() for child in self._children if child.name in names))
        await asyncio.gather(*self._running)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def _hung_up(number: signal.Signals) -> None:
    """Where others read their files again."""
    logger.info(
        "nothing_to_reload", reason="keys and certificate are read when they change", signal=number.name
    )


async def _all_ready(children: Iterable[Child]) -> None:
    for child in children:
        await child.ready.wait()


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
