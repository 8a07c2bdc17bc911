"""A child process that is kept running: started, restarted with backoff, stopped in order.

It is this interpreter running one function of `ptn_api`, in its own session (Ctrl-C reaches only the
supervisor), with a control channel on standard input and the file descriptors it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from ptn_api.backoff import Backoff
from ptn_api.clock import monotonic_ms
from ptn_api.problems import Troubles
from ptn_api.process.control import (
    FATAL,
    Alive,
    Channel,
    FromWorker,
    MetricSamples,
    MetricsRequest,
    PeerGone,
    PeerPresence,
    Presence,
    Progress,
    Ready,
    Stop,
)
from ptn_api.process.metrics import Samples
from ptn_api.tasks import wait_for_event

__all__ = ["Child", "python_command"]

logger = structlog.get_logger()

_FINAL_READ_MS = 1_000
"""Time limit for reading what an ended process has sent."""


def python_command(function: str, *arguments: str, without: Sequence[str] = ()) -> list[str]:
    """The command that runs `package.module:function` of this very package.

    `without` are modules that count as not installed. Not `-m`, which would find a validator's own `ptn_api`
    in its working directory, and not multiprocessing, which would import the validator's main module again.
    """
    root = str(Path(__file__).resolve().parents[2])
    module, _, name = function.partition(":")
    prepare = f"import sys; sys.path.insert(0, {root!r}); sys.modules.update({dict.fromkeys(without)})"
    code = f"{prepare}; from {module} import {name}; sys.exit({name}())"
    return [sys.executable, "-I", "-c", code, *arguments]


class Child:
    """One supervised process. `run()` keeps it running until `stop()`.

    `config()` is the first message on its control channel at each start, `fds` are the descriptors it
    inherits. After a run of `settled_ms` or more the backoff starts over. `on_alive` is called whenever the
    child reports, `on_presence` with what it tells of its users, `on_peer` with what processes of other
    machines tell, `on_end` at the end of each run.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        config: Callable[[], msgspec.Struct],
        fds: Sequence[int] = (),
        backoff: Backoff,
        settled_ms: int,
        stop_timeout_ms: int,
        silent_ms: int,
        on_alive: Callable[[], None] = lambda: None,
        on_presence: Callable[[msgspec.Raw], None] = lambda _: None,
        on_peer: Callable[[PeerPresence | PeerGone], None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.restarts = 0
        self._recent_restarts = 0
        self._started_ms = monotonic_ms()
        self.fatal = False
        self.alive_until_ms = monotonic_ms() + silent_ms
        self.problems: Troubles = {}
        """What the process has found, as it last reported."""
        self.progress: Progress | None = None
        """How far its start is, as it last reported; None once it is ready."""
        self._command = command
        self._config = config
        self._fds = fds
        self._backoff = backoff
        self._settled_ms = settled_ms
        self._stop_timeout_ms = stop_timeout_ms
        self._on_alive = on_alive
        self._on_presence = on_presence
        self._on_peer = on_peer
        self._on_end = on_end
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel[FromWorker] | None = None
        self._listening = False
        """Whether the current process has reported anything, and so reads its channel."""
        self._answer: asyncio.Future[Samples | None] | None = None
        """The answer to the one pending request for metrics."""

    @property
    def pid(self) -> int | None:
        """None while the process is not running."""
        process = self._process
        return None if process is None else process.pid

    async def run(self) -> None:
        """Starts the process, and restarts it whenever it ends, until `stop()` or a fatal end.

        Only a process that has never been ready can end so: a server that has served goes on trying.
        """
        while not self._stopping.is_set():
            self._started_ms = monotonic_ms()
            try:
                status = await self._run_once()
            except OSError as error:  # out of processes, memory or descriptors
                pause_ms = self._backoff.next_ms()
                logger.error(
                    "process_not_started", child=self.name, reason=str(error), pause_ms=round(pause_ms)
                )
            else:
                self.fatal = status == FATAL and not self.ready.is_set()
                if self._stopping.is_set() or self.fatal:
                    return
                if self._is_settled():
                    self._backoff.reset()
                    self._recent_restarts = 0
                pause_ms = self._backoff.next_ms()
                self.restarts += 1
                self._recent_restarts += 1
                logger.error("process_ended", child=self.name, status=status, pause_ms=round(pause_ms))
            await wait_for_event(self._stopping, pause_ms)

    @property
    def recent_restarts(self) -> int:
        """Restarts since the process last ran for a while; a pause before a restart is no run."""
        return 0 if self.pid is not None and self._is_settled() else self._recent_restarts

    def _is_settled(self) -> bool:
        return monotonic_ms() - self._started_ms >= self._settled_ms

    def send(self, message: msgspec.Struct) -> bool:
        """Sends the message to the process; returns False if it is not running or not reading."""
        return self._channel is not None and self._channel.send(message)

    async def samples(self, timeout_ms: int) -> Samples | None:
        """Returns the metrics of the process, or None if it does not answer in time."""
        if self._answer is None:
            if not self.send(MetricsRequest()):
                return None
            self._answer = asyncio.get_running_loop().create_future()
        answered, _ = await asyncio.wait({self._answer}, timeout=timeout_ms / 1000)
        return answered.pop().result() if answered else None

    async def stop(self) -> None:
        """Asks the process to stop, and kills it after the timeout."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not (self._listening and self.send(Stop())):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await self._wait_or_kill(process)

    async def _run_once(self) -> int | None:
        """Runs the process until it ends; returns its exit status. Raises OSError if it cannot be started."""
        ours, theirs = socket.socketpair()
        channel = Channel[FromWorker](FromWorker, self._receive)
        try:
            with theirs:
                await channel.open(ours)
                # First of all: reports to every child go out while the process is being started.
                channel.send(self._config())
                self._channel = channel
                self._process = process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=theirs.fileno(), pass_fds=self._fds, start_new_session=True
                )
            logger.debug("process_started", child=self.name, pid=process.pid)
            if self._stopping.is_set():  # stop() was called while there was no process yet
                await self.stop()
            # Usually both end at once. A process without a channel can no longer be controlled, so it has to
            # end. A channel may outlive its process: a fork of it holds the other end.
            ended = [asyncio.create_task(wait()) for wait in (process.wait, channel.closed.wait)]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            await self._wait_or_kill(process)
            await wait_for_event(channel.closed, _FINAL_READ_MS)
            ended[1].cancel()
            return process.returncode
        finally:
            await channel.close()
            self._process = self._channel = None
            self._listening = False
            self._resolve_answer(None)
            self._on_end()

    async def _wait_or_kill(self, process: asyncio.subprocess.Process) -> None:
        try:
            await asyncio.wait_for(process.wait(), self._stop_timeout_ms / 1000)
        except asyncio.TimeoutError:
            logger.error("process_killed", child=self.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _resolve_answer(self, samples: Samples | None) -> None:
        if self._answer is not None:
            self._answer.set_result(samples)
            self._answer = None

    def _receive(self, message: FromWorker) -> None:
        self._listening = True
        match message:
            case Ready():
                if self.restarts:
                    ms = monotonic_ms() - self._started_ms
                    logger.info("process_ready", child=self.name, ms=ms)
                self.ready.set()
                self.progress = None
            case Alive():
                self.alive_until_ms, self.problems = message.until_ms, message.problems
                self.progress = None if self.ready.is_set() else message.progress
                self._on_alive()
            case MetricSamples():
                self._resolve_answer(message.samples)
            case Presence():
                self._on_presence(message.update)
            case PeerPresence() | PeerGone():
                self._on_peer(message)
