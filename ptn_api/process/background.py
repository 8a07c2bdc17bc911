"""Periodic tasks of rest and stream, each until it is cancelled: keys, certificate, usage."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import structlog

from ptn_api.access import KeyFile, KeyRing, exposed_to
from ptn_api.access.usage import Usage, UsageFile
from ptn_api.errors import KeyFileError, SettingsError
from ptn_api.process.certificate import Certificate

__all__ = ["flush_usage", "read_keys", "reload_certificate", "reload_keys"]

logger = structlog.get_logger()


def read_keys(key_file: KeyFile, path: Path) -> None:
    """Reads the key file if it changed; logs an unusable one and keeps the last good keys."""
    try:
        if key_file.refresh():
            logger.info("keys_read", file=str(path))
            if danger := exposed_to(path):
                logger.warning("keys_exposed", file=str(path), reason=danger)
    except KeyFileError as error:
        logger.warning("keys_not_read", file=str(path), code=error.code, reason=str(error))


async def reload_keys(key_file: KeyFile, path: Path, keys: KeyRing, *, every_ms: int) -> None:
    """Rereads the key file when it has changed, and expires keys."""
    while True:
        await asyncio.sleep(every_ms / 1000)
        read_keys(key_file, path)
        if keys.expire():
            logger.info("keys_expired")


async def reload_certificate(certificate: Certificate, *, every_ms: int) -> None:
    """Reloads the certificate when its files have changed."""
    while True:
        await asyncio.sleep(every_ms / 1000)
        try:
            if certificate.refresh():
                logger.info("certificate_read")
        except SettingsError as error:
            logger.error("certificate_not_read", reason=str(error))


async def flush_usage(usage: Usage, file: UsageFile, *, every_ms: int) -> None:
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
    finally:
        with contextlib.suppress(sqlite3.Error, OSError):  # logged above; the counts end with the process
            file.add(usage.take())
