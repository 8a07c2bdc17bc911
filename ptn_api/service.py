"""The wiring: which process runs what, and in which order they start and stop. Only this imports every room.

Three processes: intake (the only writer of the event log), rest and stream (readers). With `--demo` a fourth
one is the simulated validator. The supervisor opens both listening sockets and hands them on, so a restarted
process keeps its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from ptn_api.access import KeyFile, KeyRing, exposed_to, make_demo_keys
from ptn_api.access.address import Proxies
from ptn_api.access.usage import Usage, UsageFile, keep_usage
from ptn_api.board import PROCESSES, Board
from ptn_api.certificate import Certificate
from ptn_api.errors import KeyFileError, LogError, LogLockedError, PTNError, SettingsError
from ptn_api.event_log.contract import EventLog
from ptn_api.metrics import Sources, answer_questions
from ptn_api.metrics_server import MetricsServer, Watched
from ptn_api.settings import Settings
from ptn_api.supervisor import FATAL, Backoff, Child, listen, python_command, stop_when_orphaned

__all__ = ["configure_logging", "run_child", "serve"]

log = structlog.get_logger()
Tasks = list[asyncio.Task[Any]]
Options = TypeVar("Options", bound=msgspec.Struct)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told on its standard input."""

    room: str
    settings: Settings
    parent: int
    listener: int = -1
    queue: int = -1
    board: int = -1
    metrics: int = -1


# --- the supervisor ---------------------------------------------------------------------------------------


def serve(
    settings: Settings,
    *,
    announce: Callable[[str], None],
    hint: Callable[[Settings, str, str], None] | None = None,
    queue_fd: int = -1,
    parent: int | None = None,
) -> int:
    """Runs everything until SIGTERM or SIGINT (or the end of process `parent`); returns the exit status.

    `announce` gets the one line that says all is ready, `hint` the settings and both addresses after it.
    """
    configure_logging(settings.log_level, process="supervisor")
    try:
        settings = _prepare(settings)
        with contextlib.ExitStack() as stack:
            ws_host = settings.api_ws_host or settings.api_host
            rest = stack.enter_context(listen(settings.api_host, settings.api_rest_port, "--api-rest-port"))
            stream = stack.enter_context(listen(ws_host, settings.api_ws_port, "--api-ws-port"))
            metrics = None
            if settings.metrics_port >= 0:
                metrics = stack.enter_context(contextlib.closing(MetricsServer(settings.metrics_port)))
            supervisor = _Supervisor(settings, rest, stream, queue_fd, metrics)
            return asyncio.run(supervisor.run(announce, hint, parent))
    except PTNError as error:
        log.error("cannot start", reason=str(error))
        return 1


def _prepare(settings: Settings) -> Settings:
    """Makes the data directory and says what the defaults stand for. Raises SettingsError."""
    data_dir = Path(settings.data_dir).expanduser().absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = data_dir / f".writable-{os.getpid()}"
        probe.touch(0o600)
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"--data-dir cannot be written: {error.strerror}", code="data_dir") from None
    Proxies(settings.trusted_proxies)
    keys = Path(settings.api_keys_file).expanduser().absolute()
    changes: dict[str, Any] = {"data_dir": str(data_dir), "api_keys_file": str(keys)}
    if settings.demo:
        if settings.validator_dir or settings.checkpoint:
            raise SettingsError(
                "--demo simulates a validator: give no --validator-dir or --checkpoint with it"
            )
        changes["validator_dir"] = str(data_dir / "demo-validator")
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
            loop.add_signal_handler(number, self._stop.set)
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
        orders = Orders(
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
            python_command("ptn_api.service:run_child", f"ptn-api-{room}"),
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


async def _all_ready(children: Iterable[Child]) -> None:
    for child in children:
        await child.ready.wait()


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


# --- the children -----------------------------------------------------------------------------------------


def run_child() -> int:
    """The main function of a child process: reads its orders from standard input and runs its room."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    ready_fd = int(sys.argv[-1])
    _raise_file_limit()
    configure_logging(orders.settings.log_level, process=orders.room)

    def ready() -> None:
        with contextlib.suppress(OSError):  # said before, or the supervisor is gone
            os.write(ready_fd, b"1")

    try:
        if orders.room == "simulator":
            return _run_simulator(orders, ready)
        _new_event_loop(orders.room)(_run_room(orders, ready))
    except LogLockedError as error:
        log.error("cannot start", reason=str(error))
        return FATAL
    except PTNError as error:
        log.error("stopped by an error", code=error.code, reason=str(error))
        return 1
    return 0


def _new_event_loop(room: str) -> Callable[[Coroutine[Any, Any, None]], None]:
    """uvloop where sockets are served; plain asyncio for intake, which serves none."""
    if room == "intake":
        return asyncio.run
    import uvloop

    return uvloop.run


def _raise_file_limit() -> None:
    """Every client is an open file: as many as the system allows, not the shell's default."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run_room(orders: Orders, ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    settings = orders.settings
    orphaned = asyncio.create_task(stop_when_orphaned(stop, orders.parent, settings.parent_check_ms))
    try:
        if orders.room == "intake":
            await _run_intake(orders, stop, ready)
        else:
            await _run_reader(orders, stop, ready)
    finally:
        orphaned.cancel()


def _chores(orders: Orders, sources: Sources, log_unwritable: Callable[[], bool] = lambda: False) -> Tasks:
    """What every room does beside its work: it says that it lives, and what it has counted."""
    board = Board(orders.board, silent_ms=orders.settings.process_silent_ms)
    tasks = [asyncio.create_task(board.keep_beating(orders.room, log_unwritable))]
    if orders.metrics >= 0:
        listener = socket.socket(fileno=os.dup(orders.metrics))
        tasks.append(asyncio.create_task(answer_questions(listener, orders.room, sources)))
    return tasks


async def _ended(tasks: Tasks) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _run_intake(orders: Orders, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    from ptn_api.event_log import open_writer
    from ptn_api.intake.counters import IntakeCounters
    from ptn_api.intake.options import IntakeOptions
    from ptn_api.intake.run import run_intake

    settings = orders.settings
    event_log = open_writer(
        Path(settings.data_dir),
        late_ms=settings.late_ms,
        retention_ms=settings.retention_ms,
        retention_bytes=settings.retention_bytes,
    )
    counters = IntakeCounters()
    chores = _chores(orders, Sources(counters), lambda: counters.unwritable)
    try:
        await run_intake(
            log=event_log,
            options=_options(
                IntakeOptions,
                settings,
                data_dir=Path(settings.data_dir),
                validator_dir=Path(settings.validator_dir) if settings.validator_dir else None,
                checkpoint=Path(settings.checkpoint) if settings.checkpoint else None,
            ),
            queue_fd=orders.queue if orders.queue >= 0 else None,
            stop=stop,
            ready=ready,
            counters=counters,
        )
    finally:
        await _ended(chores)
        event_log.close()


async def _run_reader(orders: Orders, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    from ptn_api.event_log import open_reader

    settings = orders.settings
    certificate = Certificate(Path(settings.tls_cert), Path(settings.tls_key)) if settings.tls_cert else None
    keys = KeyRing()
    key_file = KeyFile(Path(settings.api_keys_file), keys)
    _refresh(key_file, Path(settings.api_keys_file))
    event_log = await _when_there(lambda: open_reader(Path(settings.data_dir)), stop)
    if event_log is None:
        return
    run: Callable[..., Awaitable[None]]
    counters: Any
    if orders.room == "rest":
        from ptn_api.rest.counters import RestCounters
        from ptn_api.rest.run import RestOptions, run_rest

        counters = RestCounters()
        board = Board(orders.board, silent_ms=settings.process_silent_ms)
        run = partial(run_rest, options=_options(RestOptions, settings), surroundings=board)
    else:
        from ptn_api.stream.run import StreamCounters, StreamOptions, run_stream

        counters = StreamCounters()
        run = partial(run_stream, options=_options(StreamOptions, settings))
    data_dir, usage = Path(settings.data_dir), Usage()
    run = partial(run, counters=counters, usage=usage)
    chores = [
        *_chores(orders, Sources(counters, event_log, keys, key_file, data_dir)),
        asyncio.create_task(_reload_keys(key_file, keys, settings)),
        asyncio.create_task(keep_usage(usage, UsageFile(data_dir), every_ms=settings.usage_flush_ms)),
    ]
    if certificate is not None:
        run = partial(run, tls=certificate.context)
        chores.append(asyncio.create_task(certificate.keep_fresh(settings.key_check_ms)))
    try:
        with socket.socket(fileno=os.dup(orders.listener)) as listener:
            await run(log=event_log, keys=keys, sock=listener, stop=stop, ready=ready)
    finally:
        await _ended(chores)
        event_log.close()


def _options(kind: type[Options], settings: Settings, **others: Any) -> Options:
    """A room's options: the settings of the same names, and `others`."""
    names = {field.name for field in msgspec.structs.fields(kind)} & set(settings.__struct_fields__)
    return kind(**{name: getattr(settings, name) for name in names} | others)


def _refresh(key_file: KeyFile, path: Path) -> None:
    try:
        if key_file.refresh():
            log.info("API keys read")
            if danger := exposed_to(path):
                log.warning("API keys exposed", reason=danger)
    except KeyFileError as error:
        log.warning("API keys not read", code=error.code, reason=str(error))


async def _when_there(open_log: Callable[[], EventLog], stop: asyncio.Event) -> EventLog | None:
    """Opens the log as soon as intake has made it; None when told to stop before."""
    while not stop.is_set():
        try:
            return open_log()
        except LogError as error:
            if error.code != "no_log":
                raise
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)
    return None


async def _reload_keys(key_file: KeyFile, keys: KeyRing, settings: Settings) -> None:
    while True:
        await asyncio.sleep(settings.key_check_ms / 1000)
        _refresh(key_file, Path(settings.api_keys_file))
        if keys.expire():
            log.info("API keys expired")


def _run_simulator(orders: Orders, ready: Callable[[], None]) -> int:
    from ptn_api.simulator.options import SimulatorOptions
    from ptn_api.simulator.simulator import run_simulator

    settings = orders.settings
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    watch = threading.Thread(target=_watch_parent, args=(stop, orders.parent, settings), daemon=True)
    watch.start()
    options = SimulatorOptions(
        seed=settings.demo_seed,
        miners=settings.demo_miners,
        positions=settings.demo_positions,
        orders_per_minute=settings.demo_orders_per_minute,
    )
    run_simulator(options, Path(settings.validator_dir), stop=stop, ready=ready)
    return 0


def _watch_parent(stop: threading.Event, parent: int, settings: Settings) -> None:
    while not stop.wait(settings.parent_check_ms / 1000):
        if os.getppid() != parent:
            stop.set()


def configure_logging(level: str, *, process: str) -> None:
    """structlog to standard error: for people on a terminal, JSON otherwise."""

    def add_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"process": process} | dict(event)

    renderer: Any = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
