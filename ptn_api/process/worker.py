"""The main function of a child process: runs intake, rest, stream or the simulator, with background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog

from ptn_api.access import KeyFile, KeyRing
from ptn_api.access.usage import Usage, UsageFile
from ptn_api.errors import (
    InvalidInputError,
    LogDamagedError,
    LogError,
    LogLockedError,
    LogUnusableError,
    PTNError,
    SettingsError,
)
from ptn_api.event_log.contract import EventLog, EventLogWriter
from ptn_api.problems import Findings
from ptn_api.process.background import (
    collect_garbage,
    flush_usage,
    read_keys,
    reload_certificate,
    reload_keys,
    watch_loop,
)
from ptn_api.process.certificate import Certificate
from ptn_api.process.control import (
    FATAL,
    Progress,
    WorkerConfig,
    WorkerControl,
    kind_of,
    read_config,
    take_over_stdin,
)
from ptn_api.process.log_output import configure_logging, set_process_title
from ptn_api.process.metrics import Sources
from ptn_api.tasks import run_with, wait_for_event

if TYPE_CHECKING:
    from ptn_api.intake.merge import Turn

__all__ = ["run_child"]

logger = structlog.get_logger()

_FATAL_LOG_ERRORS = (LogLockedError, LogUnusableError)
"""Faults of the log that a restart of intake cannot fix: they end a server's start, though not a server
that was ready before. Readers may have looked while intake made the log, so they are restarted."""


def run_child() -> int:
    """Runs the process that the supervisor's configuration names; returns the exit status."""
    try:
        sock = take_over_stdin()
        config = read_config(sock)
    except (EOFError, OSError):  # the supervisor is gone already
        return 1
    for descriptor in (config.listener, config.queue):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    # Every client is an open file: allow as many as the system does, not the shell's default.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than their limit says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = config.settings
    set_process_title(config.process)
    configure_logging(settings.log_level, process=config.process, node=settings.cluster_options.name)
    if kind_of(config.process) in ("rest", "stream"):  # plain asyncio where no sockets are served
        import uvloop

        return uvloop.run(_run_process(config, sock))
    return asyncio.run(_run_process(config, sock))


async def _run_process(config: WorkerConfig, sock: socket.socket) -> int:
    control = WorkerControl(config)
    await control.open(sock)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, control.stop.set)
    control_tasks = [
        asyncio.create_task(control.report_alive()),
        asyncio.create_task(control.end_with_supervisor()),
        asyncio.create_task(collect_garbage()),
    ]
    functions = {
        "intake": _run_intake,
        "copy": _run_copy,
        "rest": _run_reader,
        "stream": _run_reader,
        "simulator": _run_simulator,
    }
    try:
        await run_with(functions[kind_of(config.process)](config, control), control_tasks)
    except PTNError as error:
        logger.error("stopped_by_error", code=error.code, reason=str(error))
        log_unusable = config.process in ("intake", "copy") and isinstance(error, _FATAL_LOG_ERRORS)
        return FATAL if log_unusable or isinstance(error, SettingsError) else 1
    finally:
        await control.close()
    return 0


async def _run_intake(config: WorkerConfig, control: WorkerControl) -> None:
    if config.settings.cluster_options.servers:
        from ptn_api.process.cluster import run_machine

        await run_machine(config.settings, control, partial(_take_in, config, control))
        return
    from ptn_api.event_log import open_reader

    with (
        contextlib.suppress(LogError),  # a log that cannot be read is dealt with below
        contextlib.closing(open_reader(Path(config.settings.data_dir))) as existing,
    ):
        if existing.copy_status() is not None:  # writing to a copy would fork the cluster's log
            raise SettingsError(
                "--data-dir holds a copy of a cluster's log: give --cluster, or another directory",
                code="joined",
            )
    event_log = await _open_writer(config, control)
    if event_log is None:
        return
    with contextlib.closing(event_log):
        await _take_in(config, control, event_log)


async def _run_copy(config: WorkerConfig, control: WorkerControl) -> None:
    """Keeps this machine's copy of a cluster's log, which the other processes read."""
    from ptn_api.process.cluster import run_machine

    await run_machine(config.settings, control)


async def _take_in(
    config: WorkerConfig, control: WorkerControl, event_log: EventLogWriter, turn: Turn | None = None
) -> None:
    """Runs intake on an open log, which other machines may write in turns with this one."""
    from ptn_api.intake.merge import ALONE, IntakeCounters
    from ptn_api.intake.options import IntakeOptions
    from ptn_api.intake.run import run_intake

    settings, counters = config.settings, IntakeCounters()
    control.sources = Sources(
        counters, copy=cast(Any, event_log) if settings.cluster_options.servers else None
    )
    before = skipped = event_log.counters()["skipped"]

    def find_problems() -> Findings:
        nonlocal skipped
        with contextlib.suppress(LogError):  # an outage, which is reported; the last number stays
            skipped = event_log.counters()["skipped"]
        return {
            "log_unwritable": counters.unwritable,
            "log_unusable": counters.unusable,
            "log_damaged": event_log.damaged(),
            "queue_items_refused": counters.queue_refused,
            "changes_skipped": skipped - before,
        }

    control.problems.watch(find_problems)
    control.progress = lambda: (
        Progress("reading positions", counters.read, counters.listed) if counters.listed else None
    )
    try:
        await run_intake(
            log=event_log,
            options=IntakeOptions(
                **msgspec.structs.asdict(settings.intake),
                data_dir=Path(settings.data_dir),
                validator_dir=Path(settings.validator_dir) if settings.validator_dir else None,
                checkpoint=Path(settings.checkpoint) if settings.checkpoint else None,
            ),
            queue_fd=config.queue if config.queue >= 0 else None,
            clock_start=config.clock,
            stop=control.stop,
            ready=control.ready,
            counters=counters,
            turn=turn or ALONE,
        )
    except InvalidInputError as error:  # the one input whose fault ends intake
        sentence = f"--checkpoint {settings.checkpoint} cannot be used: {error}"
        raise SettingsError(sentence, code=error.code) from None


async def _run_reader(config: WorkerConfig, control: WorkerControl) -> None:
    """Runs rest or stream, which read the log as soon as intake has made it."""
    from ptn_api.event_log.sqlite_log import WaitingReader

    settings = config.settings
    certificate = Certificate(Path(settings.tls_cert), Path(settings.tls_key)) if settings.tls_cert else None
    keys = KeyRing()
    key_file = KeyFile(Path(settings.api_keys_file) if settings.api_keys_file else None, keys)
    report_entries = config.process == "rest"  # one of those that read the file
    await read_keys(key_file, report_entries=report_entries)
    event_log = cast(EventLog, WaitingReader(Path(settings.data_dir)))
    run: Callable[..., Coroutine[Any, Any, None]]
    counters: Any
    if config.process == "rest":
        from ptn_api.rest.counters import RestCounters
        from ptn_api.rest.run import run_rest

        counters = RestCounters()
        control.progress = lambda: (
            Progress("assembling miners", built, 0)
            if (built := sum(counters.views.build_seconds.counts))
            else None
        )
        run = partial(
            run_rest, options=settings.rest, stream_options=settings.stream, clock_start=config.clock
        )
    else:
        from ptn_api.fanout.counters import StreamCounters
        from ptn_api.stream.server import run_stream

        counters = StreamCounters()
        run = partial(run_stream, options=settings.stream)
    data_dir, usage = Path(settings.data_dir), Usage()
    control.sources = sources = Sources(counters, event_log, keys, key_file, data_dir)
    background = [
        reload_keys(
            key_file,
            keys,
            control.health.key_file,
            report_entries=report_entries,
            every_ms=settings.key_check_ms,
        ),
        flush_usage(usage, UsageFile(data_dir), control.problems, every_ms=settings.usage_flush_ms),
        watch_loop(sources.loop_lag, control.problems),
    ]
    control.problems.watch(lambda: key_file.findings)
    control.problems.watch(lambda: {"log_damaged": event_log.damaged()})
    if certificate is not None:
        run = partial(run, tls=certificate.context)
        background.append(reload_certificate(certificate, control.problems, every_ms=settings.key_check_ms))
    run = partial(run, log=event_log, keys=keys, counters=counters, usage=usage)
    run = partial(run, problems=control.problems, others=control.health, peers=control)
    with contextlib.closing(event_log), socket.socket(fileno=config.listener) as listener:
        tasks = [asyncio.create_task(work) for work in background]
        await run_with(run(sock=listener, stop=control.stop, ready=control.ready), tasks)


async def _open_writer(config: WorkerConfig, control: WorkerControl) -> EventLogWriter | None:
    """Opens the log; waits while the disk is full or the file damaged. None if a stop comes first.

    What intake reads first is read here, too, since a later error would end the start.
    """
    from ptn_api.event_log import open_writer
    from ptn_api.event_log.outage import RETRIED_WRITE_ERRORS

    settings, said = config.settings.intake, ""
    while not control.stop.is_set():
        try:
            event_log = open_writer(
                Path(config.settings.data_dir),
                late_ms=settings.late_ms,
                retention_ms=settings.retention_ms,
                retention_bytes=settings.retention_bytes,
            )
            with contextlib.ExitStack() as unread:
                unread.callback(event_log.close)
                event_log.fingerprints()
                event_log.document_fingerprints()
                unread.pop_all()
        except RETRIED_WRITE_ERRORS as error:
            is_damaged = isinstance(error, LogDamagedError)
            control.problems.set("log_unusable", is_damaged)
            control.problems.set("log_unwritable", not is_damaged)
            if str(error) != said:
                said = str(error)
                logger.error("log_not_opened", code=error.code, reason=said)
            await wait_for_event(control.stop, settings.retry_max_ms)
        else:
            control.problems.set("log_unusable", False)
            control.problems.set("log_unwritable", False)
            if said:
                logger.info("log_opened")
            return event_log
    return None


async def _run_simulator(config: WorkerConfig, control: WorkerControl) -> None:
    """Runs the simulated validator, which blocks, in a thread."""
    from ptn_api.simulator.simulator import run_simulator

    settings = config.settings
    loop, stop = asyncio.get_running_loop(), threading.Event()

    async def pass_on_stop() -> None:
        await control.stop.wait()
        stop.set()

    def ready() -> None:
        loop.call_soon_threadsafe(control.ready)

    def show(done: int, total: int) -> None:
        progress = Progress("simulating miners", done, total)
        control.progress = lambda: progress

    passing_on = asyncio.create_task(pass_on_stop())
    try:
        await asyncio.to_thread(
            run_simulator,
            settings.simulator,
            Path(settings.validator_dir),
            stop=stop,
            ready=ready,
            progress=show,
        )
    finally:
        stop.set()  # its thread cannot be cancelled
        passing_on.cancel()
