"""The supervisor: which process runs what, and in which order they start and stop.

Three processes: intake (the only writer of the event log), rest and stream (readers). With `--demo` a fourth
one simulates the validator; with `--stream-processes` there are several of the stream. A machine of a cluster
may run some of them; without intake, another process, `copy`, keeps its copy of the log. The listening
sockets are open before any process starts and are inherited, so a restarted process keeps its port. Each
process imports its own folder of the package (worker.py).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import structlog

from ptn_api.access import find_key_file, key_file_places
from ptn_api.backoff import Backoff
from ptn_api.clock import SteadyClock, monotonic_ms, wall_ms
from ptn_api.problems import PROBLEMS, Findings, ProblemRegister, Troubles, merged
from ptn_api.process.child import Child, python_command
from ptn_api.process.control import (
    HealthReport,
    PeerGone,
    PeerPresence,
    Progress,
    WorkerConfig,
    kind_of,
    peer_name,
    process_names,
)
from ptn_api.process.memory import MemoryWatch
from ptn_api.process.metrics_server import MetricsServer
from ptn_api.process.settings import Settings
from ptn_api.tasks import wait_for_event

__all__ = ["Supervisor", "stop_when_orphaned"]

logger = structlog.get_logger()

# Intake takes no more and flushes. Then both servers close their connections.
_STOP_ORDER = (("simulator",), ("intake", "copy"), ("stream", "rest"))
_STOP_MARGIN_MS = 5_000
"""What a stop may take beyond the timeouts of its stages: killed processes end, their channels close."""


class Supervisor:
    """The processes of one server: started, watched and stopped together."""

    def __init__(
        self,
        settings: Settings,
        listeners: Mapping[str, socket.socket],
        queue_fd: int,
        metrics: MetricsServer | None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._names = process_names(settings)
        self._listeners = listeners
        self._queue_fd = queue_fd
        self._machine = secrets.token_hex(4) if settings.cluster_options.servers else ""
        """Another one after each start: connections before it are gone."""
        self._stop = asyncio.Event()
        self._stopping = False
        self._children: dict[str, Child] = {}
        self._known_peers: set[str] = set()
        """Processes of which the others have been told."""
        self._running: list[asyncio.Task[None]] = []
        self._register = ProblemRegister()
        self._register.watch(self._find_problems)

        def pids() -> dict[str, int]:
            running = {name: child.pid for name, child in self._children.items() if child.pid is not None}
            return {"supervisor": os.getpid(), **running}

        self._memory = MemoryWatch(pids, settings.memory_limit_bytes)
        self._register.watch(self._memory.find_problems)
        self._show: Callable[[Progress], None] = self._log_progress
        self._progress_logged_ms = monotonic_ms()
        self._logged: Troubles = {}
        self._logged_ms: dict[str, int] = {}
        """When each problem was last logged."""
        jump_ms, settle_ms = settings.rest.clock_jump_ms, settings.rest.clock_settle_ms
        self._clock = SteadyClock(jump_ms=jump_ms, settle_ms=settle_ms)
        """The children start with its time: the system's may have been wrong before their restart."""

    async def run(
        self,
        announce: Callable[[str], None],
        hint: Callable[[Settings, str, str], None] | None,
        parent: int | None,
        show: Callable[[Progress], None] | None = None,
    ) -> int:
        """Runs until a stop or a fatal end; returns the exit status. `show` gets the start's progress."""
        self._show = show or self._show
        self._handle_signals()
        watch = None
        if parent is not None:
            limit_ms = len(_STOP_ORDER) * self._settings.stop_timeout_ms + _STOP_MARGIN_MS
            check_ms = self._settings.parent_check_ms
            watch = asyncio.create_task(
                stop_when_orphaned(self._stop, parent, check_ms=check_ms, kill_after_ms=limit_ms)
            )
        try:
            if await self._start():
                s = "s" if self._settings.tls_cert else ""
                schemes = {"rest": "http", "stream": "ws"}
                urls = {}
                for name, listener in self._listeners.items():
                    urls[kind_of(name)] = _url(schemes[kind_of(name)] + s, listener)
                words = {"rest": "REST", "stream": "WebSocket"}
                announce(
                    " ".join(["PTN API ready:", *(f"{words[name]} {url}" for name, url in urls.items())])
                )
                if self._metrics is not None:
                    announce(f"PTN API metrics: {self._metrics.url}")
                if hint is not None and len(urls) == len(words):
                    hint(self._settings, urls["rest"], urls["stream"])
                await self._stop_or_fatal()
        finally:
            self._stopping = True
            self._report_health()  # so that /ready sends no more clients here
            for kinds in _STOP_ORDER:
                stopping = [child for name, child in self._children.items() if kind_of(name) in kinds]
                await asyncio.gather(*(child.stop() for child in stopping))
            await asyncio.gather(*self._running)
            if watch is not None:
                watch.cancel()
        return 1 if any(child.fatal for child in self._children.values()) else 0

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_on_signal, number)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
            return
        try:  # now: at the signal, the terminal is gone
            os.close(os.open("/dev/tty", os.O_RDWR))
        except OSError:  # a service, for which SIGHUP means "reload"
            reason = "keys and certificate are reloaded when they change"
            log = partial(logger.info, "nothing_to_reload", reason=reason, signal="SIGHUP")
            loop.add_signal_handler(signal.SIGHUP, log)
        else:
            loop.add_signal_handler(signal.SIGHUP, self._stop_on_signal, signal.SIGHUP)

    def _stop_on_signal(self, number: signal.Signals) -> None:
        logger.info("stopping", signal=number.name)
        self._stop.set()

    async def _start(self) -> bool:
        """Starts all processes; returns True once all are ready, False after a stop or a fatal end."""
        self._choose_key_file()
        if not self._settings.api_keys_file:
            places = [str(place) for place in key_file_places(self._settings.validator_dir)]
            reason = "every key is refused until one of these exists: create it with `ptn keys add`"
            logger.warning("no_key_file", files=places, reason=reason)
        if self._settings.demo and not await self._until_ready(self._spawn("simulator")):
            return False
        children = []
        for name in self._names:
            listener = self._listeners.get(name)
            queue = self._queue_fd if name == "intake" else -1
            children.append(self._spawn(name, listener=listener.fileno() if listener else -1, queue=queue))
        if self._metrics is not None:
            self._metrics.watch(children, self._problems, self._memory.samples)
        return await self._until_ready(*children)

    def _spawn(self, process: str, *, listener: int = -1, queue: int = -1) -> Child:
        settings, peer = self._settings, peer_name(process, self._machine)

        def config() -> WorkerConfig:
            clock = self._clock.as_start()
            return WorkerConfig(
                process=process,
                settings=self._settings,
                listener=listener,
                queue=queue,
                clock=clock,
                machine=self._machine,
            )

        child = Child(
            process,
            python_command(
                "ptn_api.process.worker:run_child",
                f"ptn-api-{process}",
                without=["rich"],  # structlog imports it if installed: 5 MB and 50 ms for each process
            ),
            config=config,
            fds=[fd for fd in (listener, queue) if fd >= 0],
            backoff=Backoff(first_ms=settings.restart_backoff_ms, max_ms=settings.restart_backoff_max_ms),
            settled_ms=settings.restart_backoff_max_ms,
            stop_timeout_ms=settings.stop_timeout_ms,
            silent_ms=settings.process_silent_ms,
            on_alive=self._report_health,
            on_presence=lambda update: self._tell_peers(process, PeerPresence(peer, update)),
            on_peer=lambda message: self._tell_peers(process, message),
            on_end=lambda: self._tell_peers(process, PeerGone(peer)),
        )
        self._children[process] = child
        self._running.append(asyncio.create_task(child.run()))
        return child

    def _tell_peers(self, process: str, message: PeerPresence | PeerGone) -> None:
        """Passes a message of, or about, a process that serves the stream on to the others.

        In a cluster, intake or the copy passes it on to other machines, and theirs on to here.
        """
        if isinstance(message, PeerPresence):
            self._known_peers.add(message.peer)
        elif message.peer not in self._known_peers:
            return
        kinds = {"rest", "stream", "intake", "copy"} if self._machine else {"rest", "stream"}
        for name, child in self._children.items():
            if name != process and {kind_of(name), kind_of(process)} <= kinds:
                child.send(message)

    def _report_health(self) -> None:
        """Sends rest and stream the health of all others, and the key file; logs problems."""
        self._choose_key_file()
        self._clock()  # sees a jump when it happens, not at the next start of a child
        children = self._children
        progress = [child.progress for child in children.values() if child.progress is not None]
        if progress and not self._stop.is_set():
            self._show(progress[0])
        if all(name in children for name in self._names):
            self._log_problems()
            alive_until_ms = {name: children[name].alive_until_ms for name in self._names}
            for name in self._listeners:
                problems = self._problems(without=name)
                report = HealthReport(alive_until_ms, problems, self._settings.api_keys_file, self._stopping)
                children[name].send(report)

    def _log_progress(self, progress: Progress) -> None:
        """Logs the progress once in `process_silent_ms`."""
        now = monotonic_ms()
        if now - self._progress_logged_ms >= self._settings.process_silent_ms:
            self._progress_logged_ms = now
            logger.info("starting", doing=progress.doing, done=progress.done, total=progress.total)

    def _find_problems(self) -> Findings:
        """What only the supervisor knows."""
        children, now = self._children.values(), monotonic_ms()
        return {
            "process_down": sum(
                child.alive_until_ms < now for child in children if child.name in self._names
            ),
            "process_restarting": sum(child.recent_restarts for child in children),
        }

    def _problems(self, *, without: str = "") -> Troubles:
        """All problems, or those that a process did not find itself."""
        found = (child.problems for child in self._children.values() if child.name != without)
        return merged(self._register.look(), *found)

    def _log_problems(self) -> None:
        """Logs each problem when it begins and when it ends; one that comes and goes, once a minute."""
        now, present = monotonic_ms(), self._problems()
        for code in present.keys() - self._logged.keys() - {"starting"}:
            if now - self._logged_ms.get(code, -sys.maxsize) < self._settings.problem_log_ms:
                continue
            problem, count = PROBLEMS[code], present[code].count
            log = logger.warning if problem.severity == "degraded" else logger.error
            settings = self._settings
            remedy = problem.remedy_for(
                cluster=bool(settings.cluster_options.servers), data_dir=settings.data_dir
            )
            log("problem", code=code, reason=problem.sentence, remedy=remedy, count=count)
            self._logged[code], self._logged_ms[code] = present[code], now
        for code in self._logged.keys() - present.keys():
            logger.info("problem_ended", code=code, lasted_ms=wall_ms() - self._logged.pop(code).since_ms)

    def _choose_key_file(self) -> None:
        """Chooses the key file, if the operator named none, as soon as there is one; then it stays."""
        if self._settings.api_keys_file or (found := find_key_file(self._settings.validator_dir)) is None:
            return
        logger.info("key_file_chosen", file=str(found))
        self._settings = msgspec.structs.replace(self._settings, api_keys_file=str(found))

    async def _until_ready(self, *children: Child) -> bool:
        """Waits until all are ready; returns False after a stop or a fatal end."""

        async def all_ready() -> None:
            for child in children:
                await child.ready.wait()

        ready, ended = asyncio.create_task(all_ready()), asyncio.create_task(self._stop_or_fatal())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if ready.done():
            return True
        ready.cancel()
        return False

    async def _stop_or_fatal(self) -> None:
        """Waits for a stop, or for a child that has ended for good."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({stopping, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def stop_when_orphaned(stop: asyncio.Event, parent: int, *, check_ms: int, kill_after_ms: int) -> None:
    """Stops an embedded supervisor when its validator is gone, and kills it if that takes too long.

    Polls: a pipe or socket would stay open in the validator's own forks, and the kernel's parent-death signal
    fires when the starting thread ends.
    """
    while not stop.is_set():
        if os.getppid() != parent:
            logger.error("parent_gone")
            stop.set()
            await asyncio.sleep(kill_after_ms / 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        await wait_for_event(stop, check_ms)
