"""Follows the documents beside the positions: reading and writing 60 MB must not hold up an order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import structlog

from ptn_api.clock import Clock, Monotonic
from ptn_api.errors import LogUnwritableError
from ptn_api.event_log.contract import DocumentWritten, EventLogWriter
from ptn_api.intake.document_files import DOCUMENT_FILES, DocumentFiles

__all__ = ["DocumentFollower"]

logger = structlog.get_logger()

T = TypeVar("T")


class DocumentFollower:
    """Looks at every document whenever it is `due` and appends what changed, all in `executor`.

    One at a time, so that one document is what memory holds of them. `clock` gives epoch ms, `monotonic`
    ms that only grow.
    """

    def __init__(
        self,
        files: DocumentFiles,
        log: EventLogWriter,
        executor: Executor,
        *,
        clock: Clock,
        monotonic: Monotonic,
        retry_ms: int = 100,
        retry_max_ms: int = 5_000,
    ) -> None:
        self._files = files
        self._log = log
        self._executor = executor
        self._clock = clock
        self._monotonic = monotonic
        self._retry_ms = retry_ms
        self._retry_max_ms = retry_max_ms
        self._due = asyncio.Event()

    def due(self) -> None:
        """Something may have happened to a document."""
        self._due.set()

    def refused(self) -> int:
        """Number of documents that are skipped at present."""
        return self._files.refused

    def baseline(self) -> Iterator[DocumentWritten]:
        """Every document that there is, whether it was read before or not."""
        for document in DOCUMENT_FILES:
            change = self._files.check(document, self._monotonic(), force=True)
            if change is not None:
                yield change

    async def run(self) -> None:
        """Follows until cancelled. Raises LogError for anything but a log that is not writable now."""
        while True:
            await self._due.wait()
            self._due.clear()
            for document in DOCUMENT_FILES:
                change = await self._in_thread(partial(self._files.check, document, self._monotonic()))
                if change is not None:
                    await self._append(change)

    async def _append(self, change: DocumentWritten) -> None:
        pause_ms = self._retry_ms
        while True:
            try:
                await self._in_thread(lambda: self._log.append([change], self._clock()))
                return
            except LogUnwritableError as error:
                logger.warning("document_waits", document=change.document.value, reason=str(error))
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, self._retry_max_ms)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
