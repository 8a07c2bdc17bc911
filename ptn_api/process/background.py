"""Periodic tasks of rest and stream, each until it is cancelled: keys, certificate, usage."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog

from ptn_api.access import KeyFile, KeyRing, exposed_to
from ptn_api.access.usage import Usage, UsageFile
from ptn_api.errors import KeyFileError, SettingsError
from ptn_api.problems import ProblemRegister
from ptn_api.process.certificate import Certificate

__all__ = ["flush_usage", "read_keys", "reload_certificate", "reload_keys"]

_LOGGED_PROBLEMS = 20
"""How many problems of a key file's entries are logged; `ptn keys check` prints all."""

logger = structlog.get_logger()


def read_keys(key_file: KeyFile, *, report_entries: bool) -> None:
    """Reads the key file if it changed; logs an unusable one and keeps the last good keys.

    `report_entries`: also log what is wrong with entries, once for each content of the file.
    """
    log = logger.bind(file=str(key_file.path))
    try:
        if not key_file.refresh():
            return
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

    `chosen` returns the path of the key file, if that was not known at the start.
    """
    while True:
        await asyncio.sleep(every_ms / 1000)
        if key_file.path is None and (path := chosen()):
            key_file.path = Path(path)
        read_keys(key_file, report_entries=report_entries)
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
