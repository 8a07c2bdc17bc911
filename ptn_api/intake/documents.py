"""Follows the documents, beside the positions: reading 60 MB must not hold up an order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ptn_api.clock import Clock
from ptn_api.event_log.contract import Document, DocumentWritten
from ptn_api.intake.document_files import DOCUMENT_FILES, DocumentFiles
from ptn_api.intake.merge import Merge

__all__ = ["DocumentFollower"]


class DocumentFollower:
    """Looks at every document whenever it is `due`, in a thread of its own. `monotonic` gives ms."""

    def __init__(self, files: DocumentFiles, merge: Merge, *, monotonic: Clock) -> None:
        self._files = files
        self._merge = merge
        self._monotonic = monotonic
        self._due = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake-documents")

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
        """Hands on what changes, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            for document in DOCUMENT_FILES:
                change = await self._check(document)
                if change is not None:
                    self._merge.put([change])

    async def _check(self, document: Document) -> DocumentWritten | None:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._files.check, document, self._monotonic())

    def close(self) -> None:
        self._thread.shutdown()
