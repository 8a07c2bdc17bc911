"""Processes that are kept running: started, restarted with backoff, stopped in order.

A child is this interpreter running one function of `ptn_api`, in a session of its own (a Ctrl-C reaches
only the supervisor), with the file descriptors it needs. It says that it is ready by a byte on a pipe, and
ends by itself when its parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from ptn_api.errors import SettingsError
from ptn_api.tasks import wait_for_event

__all__ = ["FATAL", "Backoff", "Child", "listen", "python_command", "stop_when_orphaned"]

FATAL = 78
"""A child's exit status for "starting again would not help"; the reason is on its standard error."""

logger = structlog.get_logger()


class Backoff(msgspec.Struct, kw_only=True):
    """Pauses between restarts: doubling, and forgotten after a run of `max_ms` or more."""

    first_ms: int
    max_ms: int
    _next_ms: int = 0

    def pause_ms(self, ran_ms: float) -> int:
        """How long to wait after a run that lasted `ran_ms`."""
        pause = self.first_ms if ran_ms >= self.max_ms or not self._next_ms else self._next_ms
        self._next_ms = min(pause * 2, self.max_ms)
        return pause


def python_command(function: str, *arguments: str) -> list[str]:
    """The command that runs `package.module:function` of this very package.

    Neither `-m` (which would find a validator's own `ptn_api` in its working directory) nor multiprocessing
    (which would import the validator's main module again).
    """
    root = str(Path(__file__).resolve().parents[2])
    module, _, name = function.partition(":")
    code = f"import sys; sys.path.insert(0, {root!r}); from {module} import {name}; sys.exit({name}())"
    return [sys.executable, "-I", "-c", code, *arguments]


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket that children inherit; nobody else can share its port.

    Raises SettingsError if the port is taken or the address is not ours, naming the flag that changes it.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with {flag}",
            code="port_in_use",
        ) from None
    listener.setblocking(False)
    return listener


class Child:
    """One supervised process. `run()` keeps it running until `stop()`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        stdin: bytes,
        fds: Sequence[int],
        backoff: Backoff,
        stop_timeout_ms: int,
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.restarts = 0
        self.fatal = False
        self._command = command
        self._stdin = stdin
        self._fds = fds
        self._backoff = backoff
        self._stop_timeout = stop_timeout_ms / 1000
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        process = self._process
        return None if process is None else process.pid

    async def run(self) -> None:
        """Starts the process and starts it again when it ends, until `stop()` or a fatal exit."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            try:
                status = await self._run_once()
            except OSError as error:  # no process, no memory, no file to be had now
                logger.error("process_not_started", child=self.name, reason=str(error))
                status = None
            if self._stopping.is_set():
                return
            if status == FATAL and not self.ready.is_set():
                self.fatal = True
                return
            pause = self._backoff.pause_ms((loop.time() - started) * 1000)
            self.restarts += 1
            logger.error("process_ended", child=self.name, status=status, pause_ms=pause)
            await wait_for_event(self._stopping, pause)

    async def _run_once(self) -> int:
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(writing),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(*self._fds, writing),
                start_new_session=True,
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        logger.debug("process_started", child=self.name, pid=self._process.pid)
        watch = asyncio.create_task(self._watch_ready(reading))
        try:
            if self._stopping.is_set():  # told so while there was no process yet
                await self.stop()
            await self._process.communicate(self._stdin)
            return await self._process.wait()
        finally:
            await watch
            self._process = None

    async def _watch_ready(self, reading: int) -> None:
        """Waits for the byte that says ready; the end of the pipe without one says that it never will be."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(reading, arrived.set)
        try:
            await arrived.wait()
            if os.read(reading, 1):
                self.ready.set()
        finally:
            loop.remove_reader(reading)
            os.close(reading)

    async def stop(self) -> None:
        """Asks the process to stop, and kills it when it takes too long."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._stop_timeout)
        except asyncio.TimeoutError:
            logger.error("process_killed", child=self.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def stop_when_orphaned(stop: asyncio.Event, parent: int, check_ms: int, grace_s: float = 0.5) -> None:
    """For a child: sets `stop` when its parent is gone, and ends the process if that is not enough.

    Polls: a pipe would stay open in the validator's own forks, and the kernel's parent-death signal fires
    when the starting thread ends.
    """
    while not stop.is_set():
        if os.getppid() != parent:
            logger.error("parent_gone")
            stop.set()
            await asyncio.sleep(grace_s)
            os.kill(os.getpid(), signal.SIGKILL)
        await wait_for_event(stop, check_ms)
