"""Periodic tasks of rest and stream, each until it is cancelled: keys, certificate, usage, garbage, lag."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from ptn_api.access import KeyFile, KeyRing, exposed_to
from ptn_api.access.usage import Usage, UsageFile
from ptn_api.errors import KeyFileError, SettingsError
from ptn_api.histogram import Histogram
from ptn_api.problems import ProblemRegister
from ptn_api.process.certificate import Certificate

__all__ = ["collect_garbage", "flush_usage", "read_keys", "reload_certificate", "reload_keys", "watch_loop"]

_LOGGED_PROBLEMS = 20
"""The largest number of entry problems to log; `ptn keys check` prints all."""

_BUSY_SHARE = 1 / 3
"""A loop that is late for a larger share of the time is a problem."""

_NEVER = 2**31 - 1
_YOUNG_COLLECTIONS = 10
"""So many collections of young objects justify a full one, as in Python's default."""

logger = structlog.get_logger()


async def read_keys(key_file: KeyFile, *, report_entries: bool) -> None:
    """Reads the key file if it changed; logs an unusable one and keeps the last good keys.

    `report_entries`: also log problems of entries, once for each content of the file.
    """
    log = logger.bind(file=str(key_file.path))
    try:
        if not await key_file.refresh_in_steps() or key_file.problem is not None:
            return  # with a problem, the keys of a missing file were revoked; that it is missing was logged
    except KeyFileError as error:
        log.warning("keys_not_read", code=error.code, reason=str(error))
        return
    log.info("keys_read")
    if key_file.path and (danger := exposed_to(key_file.path)):
        log.warning("keys_exposed", reason=danger)
    problems = key_file.entry_problems if report_entries else []
    for line, sentence in problems[:_LOGGED_PROBLEMS]:
        log.warning("key_entry_problem", line=line, reason=sentence)
    if more := len(problems[_LOGGED_PROBLEMS:]):
        log.warning("key_entry_problems_omitted", omitted=more, reason="`ptn keys check` prints all")


async def reload_keys(
    key_file: KeyFile, keys: KeyRing, chosen: Callable[[], str], *, report_entries: bool, every_ms: int
) -> None:
    """Rereads the key file when it has changed, and expires keys.

    `chosen` returns the path of the key file, if it was not known at the start.
    """
    while True:
        await asyncio.sleep(every_ms / 1000)
        if key_file.path is None and (path := chosen()):
            key_file.path = Path(path)
        await read_keys(key_file, report_entries=report_entries)
        if keys.expire():
            logger.info("keys_expired")


async def reload_certificate(certificate: Certificate, problems: ProblemRegister, *, every_ms: int) -> None:
    """Reloads the certificate when its files have changed."""
    while True:
        await asyncio.sleep(every_ms / 1000)
        try:
            if certificate.refresh():
                logger.info("certificate_read")
                problems.set("certificate_unreadable", present=False)
        except SettingsError as error:
            logger.error("certificate_not_read", reason=str(error))
            problems.set("certificate_unreadable", present=True)


async def flush_usage(usage: Usage, file: UsageFile, problems: ProblemRegister, *, every_ms: int) -> None:
    """Adds the usage to the file, and once more when cancelled. Counts of a failed write go into the next."""
    failing = False
    try:
        while True:
            await asyncio.sleep(every_ms / 1000)
            rows = usage.take()
            try:
                await asyncio.to_thread(file.add, rows)
                failing = False
            except (sqlite3.Error, OSError) as error:
                usage.put_back(rows)
                if not failing:
                    logger.warning("usage_not_written", reason=str(error))
                failing = True
            problems.set("usage_unwritable", failing)
    finally:
        with contextlib.suppress(sqlite3.Error, OSError):  # logged above; the counts end with the process
            file.add(usage.take())


async def collect_garbage(*, every_ms: int = 30_000) -> None:
    """Collects the garbage that only a full collection finds, at most this often.

    Python runs one whenever the number of objects has grown by a quarter: repeatedly while thousands of
    connections are opened or positions read, and each stops the process for 40 to 240 ms. Objects that exist
    at the first collection are frozen, so later ones do not examine them.
    """
    thresholds, known = gc.get_threshold(), False
    gc.set_threshold(*thresholds[:2], _NEVER)
    try:
        while True:
            await asyncio.sleep(every_ms / 1000)
            if gc.get_count()[2] >= _YOUNG_COLLECTIONS:
                gc.collect()
                if not known:
                    gc.freeze()
                    known = True
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def watch_loop(
    lag: Histogram, problems: ProblemRegister, *, every_ms: int = 250, window_ms: int = 10_000
) -> None:
    """Measures how late the event loop does what is due, and reports a loop that stays late.

    A load that nothing else reports, such as many small requests, is seen here.
    """
    loop, every_s, window_s = asyncio.get_running_loop(), every_ms / 1000, window_ms / 1000
    recent: deque[float] = deque()
    while True:
        due = loop.time() + every_s
        await asyncio.sleep(every_s)
        late = max(0.0, loop.time() - due)
        lag.observe(late)
        recent.append(late)
        while len(recent) > 1 and sum(recent) + len(recent) * every_s > window_s:
            recent.popleft()
        problems.set("event_loop_busy", sum(recent) > _BUSY_SHARE * window_s)
