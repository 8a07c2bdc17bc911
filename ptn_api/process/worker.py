"""A child of the service: one room in a process of its own, with what every room needs beside its work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ptn_api.access import KeyFile, KeyRing
from ptn_api.access.usage import Usage, UsageFile
from ptn_api.errors import LogLockedError, LogMissingError, LogUnusableError, PTNError
from ptn_api.event_log.contract import EventLog
from ptn_api.process.background import keep_certificate, keep_keys, keep_usage, read_keys
from ptn_api.process.certificate import Certificate
from ptn_api.process.liveness import Board
from ptn_api.process.log_output import configure_logging
from ptn_api.process.metrics import Sources, answer_questions
from ptn_api.process.settings import Settings
from ptn_api.process.supervisor import FATAL, stop_when_orphaned
from ptn_api.tasks import run_with, wait_for_event

__all__ = ["WorkerConfig", "run_child"]

logger = structlog.get_logger()

_HOPELESS = (LogLockedError, LogUnusableError)
"""What intake may find of the log that beginning again does not mend: it ends a start, though not a server
that was ready. Readers may have looked while the log was being made; they do begin again."""

Tasks = list[asyncio.Task[Any]]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told on its standard input."""

    room: str
    settings: Settings
    parent: int
    listener: int = -1
    queue: int = -1
    board: int = -1
    metrics: int = -1


def run_child() -> int:
    """The main function of a child process: reads its orders from standard input and runs its room."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerConfig)
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
    except PTNError as error:
        logger.error("stopped_by_error", code=error.code, reason=str(error))
        return FATAL if orders.room == "intake" and isinstance(error, _HOPELESS) else 1
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


async def _run_room(orders: WorkerConfig, ready: Callable[[], None]) -> None:
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


def _chores(
    orders: WorkerConfig, sources: Sources, log_unwritable: Callable[[], bool] = lambda: False
) -> Tasks:
    """What every room does beside its work: it says that it lives, and what it has counted."""
    board = Board(orders.board, silent_ms=orders.settings.process_silent_ms)
    tasks = [asyncio.create_task(board.keep_beating(orders.room, log_unwritable))]
    if orders.metrics >= 0:
        listener = socket.socket(fileno=os.dup(orders.metrics))
        tasks.append(asyncio.create_task(answer_questions(listener, orders.room, sources)))
    return tasks


async def _run_intake(orders: WorkerConfig, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    from ptn_api.event_log import open_writer
    from ptn_api.intake.merge import IntakeCounters
    from ptn_api.intake.options import IntakeOptions
    from ptn_api.intake.run import run_intake

    settings = orders.settings
    event_log = open_writer(
        Path(settings.data_dir),
        late_ms=settings.intake.late_ms,
        retention_ms=settings.intake.retention_ms,
        retention_bytes=settings.intake.retention_bytes,
    )
    counters = IntakeCounters()
    work = run_intake(
        log=event_log,
        options=IntakeOptions(
            **msgspec.structs.asdict(settings.intake),
            data_dir=Path(settings.data_dir),
            validator_dir=Path(settings.validator_dir) if settings.validator_dir else None,
            checkpoint=Path(settings.checkpoint) if settings.checkpoint else None,
        ),
        queue_fd=orders.queue if orders.queue >= 0 else None,
        stop=stop,
        ready=ready,
        counters=counters,
    )
    try:
        await run_with(work, _chores(orders, Sources(counters), lambda: counters.unwritable))
    finally:
        event_log.close()


async def _run_reader(orders: WorkerConfig, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    from ptn_api.event_log import open_reader

    settings = orders.settings
    certificate = Certificate(Path(settings.tls_cert), Path(settings.tls_key)) if settings.tls_cert else None
    keys = KeyRing()
    keys_path = Path(settings.api_keys_file)
    key_file = KeyFile(keys_path, keys)
    read_keys(key_file, keys_path)
    event_log = await _when_there(lambda: open_reader(Path(settings.data_dir)), stop)
    if event_log is None:
        return
    run: Callable[..., Coroutine[Any, Any, None]]
    counters: Any
    if orders.room == "rest":
        from ptn_api.rest.counters import RestCounters
        from ptn_api.rest.run import run_rest

        counters = RestCounters()
        board = Board(orders.board, silent_ms=settings.process_silent_ms)
        run = partial(run_rest, options=settings.rest, health=board)
    else:
        from ptn_api.stream.counters import StreamCounters
        from ptn_api.stream.server import run_stream

        counters = StreamCounters()
        run = partial(run_stream, options=settings.stream)
    data_dir, usage = Path(settings.data_dir), Usage()
    run = partial(run, counters=counters, usage=usage)
    chores = [
        *_chores(orders, Sources(counters, event_log, keys, key_file, data_dir)),
        asyncio.create_task(keep_keys(key_file, keys_path, keys, every_ms=settings.key_check_ms)),
        asyncio.create_task(keep_usage(usage, UsageFile(data_dir), every_ms=settings.usage_flush_ms)),
    ]
    if certificate is not None:
        run = partial(run, tls=certificate.context)
        keeping = keep_certificate(certificate, every_ms=settings.key_check_ms)
        chores.append(asyncio.create_task(keeping))
    try:
        with socket.socket(fileno=os.dup(orders.listener)) as listener:
            await run_with(run(log=event_log, keys=keys, sock=listener, stop=stop, ready=ready), chores)
    finally:
        event_log.close()


async def _when_there(open_log: Callable[[], EventLog], stop: asyncio.Event) -> EventLog | None:
    """Opens the log as soon as intake has made it; None when told to stop before."""
    while not stop.is_set():
        try:
            return open_log()
        except LogMissingError:
            await wait_for_event(stop, 50)
    return None


def _run_simulator(orders: WorkerConfig, ready: Callable[[], None]) -> int:
    from ptn_api.simulator.simulator import run_simulator

    settings = orders.settings
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    watch = threading.Thread(target=_watch_parent, args=(stop, orders.parent, settings), daemon=True)
    watch.start()
    run_simulator(settings.simulator, Path(settings.validator_dir), stop=stop, ready=ready)
    return 0


def _watch_parent(stop: threading.Event, parent: int, settings: Settings) -> None:
    while not stop.wait(settings.parent_check_ms / 1000):
        if os.getppid() != parent:
            stop.set()
