"""A machine of a cluster: its copy of the log, in intake's process or in one of its own.

The copy follows the stream in a thread. So does intake's writer: it stands by until its turn comes, and takes
up where another machine stopped.

The same process has the machine's connection to the broker, so it does what needs one (shared.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from ptn_api import __version__
from ptn_api.clock import monotonic_ms, wall_ms
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker, NodeReport
from ptn_api.cluster.presence import PresenceRelay
from ptn_api.cluster.snapshot import publish_snapshot
from ptn_api.cluster.turns import TurnKeeper
from ptn_api.cluster.writer import ClusterWriter
from ptn_api.errors import BrokerError, LogError, LogMissingError, LogUnusableError
from ptn_api.event_log.contract import EventLogWriter
from ptn_api.event_log.database import log_path
from ptn_api.problems import Code, Findings
from ptn_api.process.control import WorkerControl
from ptn_api.process.metrics import Sources
from ptn_api.process.settings import Settings
from ptn_api.process.shared import share
from ptn_api.tasks import run_with, wait_for_event

__all__ = ["run_machine"]

C = TypeVar("C", bound=Copy)

logger = structlog.get_logger()

_RETRY_MS = 500
_REPORT_S = 1.0
_STOPPED_BY: Mapping[str, Code] = {
    "forked": "cluster_forked",
    "diverged": "cluster_forked",
    "newer_commit": "cluster_outdated",
}
"""Codes of errors that a restart of the process would only repeat, and the problems that they are."""
_SNAPSHOT_CHECK_MS = 2_000


async def run_machine(
    settings: Settings,
    control: WorkerControl,
    take_in: Callable[[EventLogWriter, TurnKeeper], Awaitable[None]] | None = None,
) -> None:
    """Keeps this machine's copy until a stop; with `take_in`, writes the log while it is this machine's turn.

    Waits for the cluster if there is no copy yet. Raises SettingsError, LogError.
    """
    with contextlib.closing(JetStreamBroker(settings.cluster_options)) as broker:
        relay = PresenceRelay(broker, control.machine, control.pass_on)
        sharing = asyncio.create_task(share(broker, relay, settings, control))
        await run_with(_keep_log(settings, control, broker, take_in, relay.leave), [sharing])


async def _keep_log(
    settings: Settings,
    control: WorkerControl,
    broker: JetStreamBroker,
    take_in: Callable[[EventLogWriter, TurnKeeper], Awaitable[None]] | None,
    leave: Callable[[], None],
) -> None:
    with contextlib.ExitStack() as stack:
        kind = Copy if take_in is None else ClusterWriter
        copy = await _open(settings, broker, kind, control)
        if copy is None:
            return
        stack.callback(copy.close)
        stop = threading.Event()
        thread = ThreadPoolExecutor(1, thread_name_prefix="cluster-copy")

        def end_thread() -> None:
            stop.set()
            leave()
            broker.close()  # wakes it
            thread.shutdown()

        stack.callback(end_thread)

        async def follow() -> None:
            await asyncio.get_running_loop().run_in_executor(thread, copy.run, stop)

        def find_problems() -> Findings:
            copy.clock_skew_ms = broker.clock_skew_ms
            return {
                **copy.findings,
                "cluster_leaderless": broker.leaderless,
            }

        control.problems.watch(find_problems)

        background = [follow(), _report(copy, broker, settings)]
        keeper: TurnKeeper | None = None
        if isinstance(copy, ClusterWriter):
            options, data_dir = settings.cluster_options, Path(settings.data_dir)
            keeper = TurnKeeper(
                copy, broker, data_dir, takeover_ms=options.takeover_ms, beat_ms=options.beat_ms
            )
            background += [keeper.run(), _publish_snapshots(keeper, copy, broker, settings)]

        async def work() -> None:
            if take_in is None or keeper is None:
                control.problems.watch(lambda: {"log_damaged": copy.damaged()})
                control.sources = Sources(None, copy=copy)
                control.ready()
                await control.stop.wait()
                return
            try:
                await take_in(copy, keeper)
            finally:
                await keeper.leave()

        try:
            await run_with(work(), [asyncio.create_task(task) for task in background])
        except LogUnusableError as error:
            if (problem := _STOPPED_BY.get(error.code)) is None:
                raise
            # The operator decides what is right. Until then the other processes serve what the copy has.
            logger.error("cluster_copy_stopped", code=error.code, reason=str(error))
            control.problems.watch(lambda: {problem: True})
            control.ready()
            await control.stop.wait()


async def _open(
    settings: Settings, broker: JetStreamBroker, kind: type[C], control: WorkerControl
) -> C | None:
    """Opens the copy, once the cluster has a log to copy; None if a stop comes first."""
    waiting, stop = "", control.stop
    intake = settings.intake
    while not stop.is_set():
        try:
            return await asyncio.to_thread(
                partial(
                    open_copy,
                    Path(settings.data_dir),
                    broker,
                    kind,
                    late_ms=intake.late_ms,
                    retention_ms=intake.retention_ms,
                    retention_bytes=intake.retention_bytes,
                )
            )
        except (BrokerError, LogMissingError) as error:
            control.problems.set("cluster_unreachable", True)  # until the copy finds its problems itself
            if str(error) != waiting:
                waiting = str(error)
                logger.warning("cluster_awaited", reason=waiting)
        await wait_for_event(stop, _RETRY_MS)
    return None


async def _report(copy: Copy, broker: JetStreamBroker, settings: Settings) -> None:
    """Reports this machine's state once a second, for `ptn cluster status`."""
    place = f"{socket.gethostname()}:{settings.data_dir}"  # there may be several on a host
    own_id = hashlib.blake2b(place.encode(), digest_size=4).hexdigest()

    def report() -> None:
        writes = isinstance(copy, ClusterWriter) and copy.active
        tip = copy.tip()
        broker.report(
            NodeReport(
                node=settings.cluster_options.name,
                index=tip.index,
                behind_ms=copy.behind_ms(),
                processes=list(settings.chosen_processes()),
                active=writes,
                term=tip.term,
                version=__version__,
                id=own_id,
            )
        )

    while True:
        with contextlib.suppress(LogError):
            await asyncio.to_thread(report)
        await asyncio.sleep(_REPORT_S)


async def _publish_snapshots(
    keeper: TurnKeeper, writer: ClusterWriter, broker: JetStreamBroker, settings: Settings
) -> None:
    """Publishes snapshots in this machine's turn: the first one once there is a baseline.

    The others when the last one is old or the stream has grown.
    """
    options, path = settings.cluster_options, log_path(Path(settings.data_dir))
    before = 0
    """The stream's size after the last snapshot."""
    failing = False

    def due() -> bool:
        log, stored = broker.status()["log"], broker.snapshots_stored()
        if stored and stored[0][0].index >= log.last:
            return False
        age_ms = wall_ms() - stored[0][1].timestamp() * 1000 if stored else options.snapshot_ms
        return age_ms >= options.snapshot_ms or log.size - before > options.snapshot_bytes

    while True:
        await asyncio.sleep(min(options.snapshot_ms, _SNAPSHOT_CHECK_MS) / 1000)
        try:
            if keeper.active and writer.ready() and await asyncio.to_thread(due):
                started_ms = monotonic_ms()
                info = await asyncio.to_thread(publish_snapshot, broker, path)
                writer.snapshot_ms = wall_ms()
                before = (await asyncio.to_thread(broker.status))["log"].size
                took_ms = monotonic_ms() - started_ms
                logger.info("cluster_snapshot_published", index=info.index, size=info.size, ms=took_ms)
            failing = False
        except LogError as error:
            if not failing:
                logger.warning("cluster_snapshot_not_published", reason=str(error))
            failing = True
