"""The validator's documents, served whole: read when they change, and appended to the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from ptn_api.clock import Clock, Monotonic
from ptn_api.errors import InvalidInputError, LogUnwritableError
from ptn_api.event_log.contract import Document, DocumentWritten, EventLogWriter
from ptn_api.intake.files import is_settled, read_whole, version_of

__all__ = ["DOCUMENT_FILES", "DocumentFiles", "DocumentFollower", "check_object"]

logger = structlog.get_logger()

T = TypeVar("T")

DOCUMENT_FILES = {
    Document.ELIMINATIONS: "validation/eliminations.json",
    Document.CHALLENGEPERIOD: "validation/challengeperiod.json",
    Document.STATISTICS: "runnable/minerstatistics.json",
    Document.PERF_LEDGERS: "validation/perf_ledgers.json",
}
"""Where each lies in the validator's directory, the small ones first."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_object(body: bytes | msgspec.Raw) -> None:
    """Raises InvalidInputError, code `not_json` or `not_an_object` (NaN is no JSON)."""
    try:
        _object.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="not_an_object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"no JSON: {error}", code="not_json") from None


class DocumentFiles:
    """`known` are the fingerprints that the log has. Not thread-safe: one thread at a time.

    A document counts as removed when it is missing twice, `confirm_ms` apart, in a directory that is there.
    """

    def __init__(
        self, validator_dir: Path, known: Mapping[Document, str], *, limit: int, confirm_ms: int
    ) -> None:
        self._paths = {document: str(validator_dir / name) for document, name in DOCUMENT_FILES.items()}
        self._handed_on = {document: known[document] for document in DOCUMENT_FILES if document in known}
        self._refused: dict[Document, tuple[str, str]] = {}
        self._missing_since: dict[Document, int] = {}
        self._limit = limit
        self._confirm_ms = confirm_ms

    @property
    def refused(self) -> int:
        """Number of documents that are skipped at present."""
        return len(self._refused)

    def check(self, document: Document, now_ms: int, *, force: bool = False) -> DocumentWritten | None:
        """The document's change, if it has changed and can be used; `force` reads it in any case.

        `now_ms` only has to grow steadily.
        """
        path = self._paths[document]
        try:
            version = version_of(os.stat(path))
            self._missing_since.pop(document, None)
            if not force and self._is_old(document, version):
                return None
            return self._read(document, path)
        except FileNotFoundError:
            return self._missing(document, now_ms)
        except InvalidInputError as error:
            self._refuse(document, version, error)
        except OSError as error:
            self._refuse(document, "", InvalidInputError(f"{error.strerror}", code="unreadable"))
        return None

    def _is_old(self, document: Document, version: str) -> bool:
        refused, code = self._refused.get(document, ("", ""))
        return self._handed_on.get(document) == version or (refused == version and code != "unreadable")

    def _read(self, document: Document, path: str) -> DocumentWritten:
        body, status = read_whole(path, self._limit)
        check_object(body)
        self._refused.pop(document, None)
        fingerprint = version_of(status)
        self._handed_on[document] = fingerprint if is_settled(status.st_ctime_ns) else ""
        return DocumentWritten(document=document, content=body, fingerprint=fingerprint)

    def _missing(self, document: Document, now_ms: int) -> DocumentWritten | None:
        self._refused.pop(document, None)
        since = self._missing_since.setdefault(document, now_ms)
        if document not in self._handed_on or now_ms - since < self._confirm_ms:
            return None
        if not os.path.isdir(os.path.dirname(self._paths[document])):
            return None
        del self._handed_on[document]
        logger.info("document_removed", document=document.value)
        return DocumentWritten(document=document, content=None)

    def _refuse(self, document: Document, version: str, error: InvalidInputError) -> None:
        if self._refused.get(document) == (version, error.code):
            return
        self._refused[document] = (version, error.code)
        logger.warning("document_skipped", document=document.value, code=error.code, reason=str(error))


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
