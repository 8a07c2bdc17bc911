"""What a server process keeps up beside its work, each until it is cancelled: keys, certificate, usage."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import structlog

from ptn_api.access import KeyFile, KeyRing, exposed_to
from ptn_api.access.usage import Usage, UsageFile
from ptn_api.certificate import Certificate
from ptn_api.errors import KeyFileError, SettingsError

__all__ = ["keep_certificate", "keep_keys", "keep_usage", "read_keys"]

log = structlog.get_logger()


def read_keys(key_file: KeyFile, path: Path) -> None:
    """Reads the keys if their file changed; what cannot be used is logged, and the last good ones stand."""
    try:
        if key_file.refresh():
            log.info("API keys read", file=str(path))
            if danger := exposed_to(path):
                log.warning("API keys exposed", file=str(path), reason=danger)
    except KeyFileError as error:
        log.warning("API keys not read", file=str(path), code=error.code, reason=str(error))


async def keep_keys(key_file: KeyFile, path: Path, keys: KeyRing, *, every_ms: int) -> None:
    while True:
        await asyncio.sleep(every_ms / 1000)
        read_keys(key_file, path)
        if keys.expire():
            log.info("API keys expired")


async def keep_certificate(certificate: Certificate, *, every_ms: int) -> None:
    """A renewed certificate needs no restart."""
    while True:
        await asyncio.sleep(every_ms / 1000)
        try:
            if certificate.refresh():
                log.info("TLS certificate read")
        except SettingsError as error:
            log.error("TLS certificate not read, the last one stands", reason=str(error))


async def keep_usage(usage: Usage, file: UsageFile, *, every_ms: int) -> None:
    """Adds what was used to the file, and once more at the end. What cannot be written waits."""
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
                    log.warning("usage not written, trying again", reason=str(error))
                failing = True
    finally:
        with contextlib.suppress(sqlite3.Error, OSError):  # told above; there is no other time
            file.add(usage.take())
