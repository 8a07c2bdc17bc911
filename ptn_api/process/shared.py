"""What the machines of a cluster share besides the log: keys, presence and usage.

It does not depend on the log: a machine whose copy has stopped still gets revocations.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import structlog

from ptn_api.access.usage import UsageFile
from ptn_api.clock import monotonic_ms
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.key_copy import KeyCopy
from ptn_api.cluster.presence import PresenceRelay
from ptn_api.cluster.usage_copy import UsageCopy
from ptn_api.errors import KeyFileError, LogError
from ptn_api.process.control import WorkerControl
from ptn_api.process.settings import Settings
from ptn_api.tasks import run_with, wait_for_event

__all__ = ["share"]

logger = structlog.get_logger()

_KEYS_LAG_MS = 50
"""After an announcement of new keys, another of the broker's servers may not have them for a moment."""


async def share(
    broker: JetStreamBroker, relay: PresenceRelay, settings: Settings, control: WorkerControl
) -> None:
    """Exchanges all of it with the other machines, until cancelled."""
    control.listen(relay.send, lambda peer: relay.send(peer, None))
    tasks = [asyncio.create_task(_publish_usage(broker, settings))]
    if settings.cluster_options.cluster_keys:
        tasks.append(asyncio.create_task(_keep_keys(broker, settings, control)))
    await run_with(relay.run(), tasks)


async def _keep_keys(broker: JetStreamBroker, settings: Settings, control: WorkerControl) -> None:
    """Keeps this machine's copy of the shared keys up to date; reports when that has failed for a while."""
    keys, options = KeyCopy(broker, Path(settings.data_dir)), settings.cluster_options
    loop, announced = asyncio.get_running_loop(), asyncio.Event()

    def heard() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(announced.set)

    broker.hear_keys(heard)
    read_ms, reason, is_news = monotonic_ms(), "", False
    while True:
        announced.clear()
        changed = False
        try:
            if changed := await asyncio.to_thread(keys.update):
                logger.info("cluster_keys_read")
            reason = ""
            if not broker.leaderless:  # a server that is cut off from the others answers as well
                read_ms = monotonic_ms()
        except (LogError, KeyFileError, OSError) as error:
            if str(error) != reason:
                reason = str(error)
                logger.warning("cluster_keys_not_read", reason=reason)
        control.problems.set("cluster_keys_stale", monotonic_ms() - read_ms > options.behind_ms)
        pause_ms = _KEYS_LAG_MS if is_news and not changed else options.keys_poll_ms
        is_news = await wait_for_event(announced, pause_ms)


async def _publish_usage(broker: JetStreamBroker, settings: Settings) -> None:
    """Publishes this machine's usage records, those of its last run first."""
    usage, failing = UsageCopy(broker, UsageFile(Path(settings.data_dir))), False
    while True:
        try:
            await asyncio.to_thread(usage.publish)
            failing = False
        except (LogError, sqlite3.Error, OSError) as error:
            if not failing:
                logger.warning("cluster_usage_not_published", reason=str(error))
            failing = True
        await asyncio.sleep(settings.cluster_options.usage_publish_ms / 1000)
