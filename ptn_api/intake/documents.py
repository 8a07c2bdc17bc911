"""The validator's documents: served whole, read when they change, and appended to the log."""

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

from ptn_api.backoff import Backoff
from ptn_api.clock import Clock, Monotonic
from ptn_api.errors import InvalidInputError, LogUnwritableError
from ptn_api.event_log.contract import Document, DocumentWritten, EventLogWriter
from ptn_api.file_version import is_settled, version_of
from ptn_api.intake.files import read_file

__all__ = ["DOCUMENT_FILES", "DocumentFiles", "DocumentFollower", "check_object"]

logger = structlog.get_logger()

T = TypeVar("T")

DOCUMENT_FILES = {
    Document.ELIMINATIONS: "validation/eliminations.json",
    Document.CHALLENGEPERIOD: "validation/challengeperiod.json",
    Document.STATISTICS: "runnable/minerstatistics.json",
    Document.PERF_LEDGERS: "validation/perf_ledgers.json",
}
"""Paths in the validator's directory, the small files first."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_object(body: bytes | msgspec.Raw) -> None:
    """Raises InvalidInputError, code `not_json` or `not_an_object` (NaN is not JSON)."""
    try:
        _object.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="not_an_object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}", code="not_json") from None


class DocumentFiles:
    """The documents' files, with the version of each that was delivered.

    `known` are the log's fingerprints. A document counts as removed when it is missing twice, `confirm_ms`
    apart, from a directory that exists. Not thread-safe.
    """

    def __init__(
        self, validator_dir: Path, known: Mapping[Document, str], *, limit: int, confirm_ms: int
    ) -> None:
        self._paths = {document: str(validator_dir / name) for document, name in DOCUMENT_FILES.items()}
        self._delivered = {document: known[document] for document in DOCUMENT_FILES if document in known}
        self._refused: dict[Document, tuple[str, str]] = {}
        self._missing_since: dict[Document, int] = {}
        self._limit = limit
        self._confirm_ms = confirm_ms

    @property
    def refused(self) -> int:
        """Number of documents that are skipped at present."""
        return len(self._refused)

    def check(self, document: Document, now_ms: int, *, force: bool = False) -> DocumentWritten | None:
        """Returns the document's change if it has a new and valid version; `force` reads any version.

        `now_ms` is a monotonic time.
        """
        path = self._paths[document]
        version = ""
        try:
            version = version_of(os.stat(path))
            self._missing_since.pop(document, None)
            refused, code = self._refused.get(document, ("", ""))
            # An unreadable file may become readable without a new version: it is tried each time.
            is_old = version == self._delivered.get(document) or (version == refused and code != "unreadable")
            if is_old and not force:
                return None
            body, status = read_file(path, self._limit)
            version = version_of(status)  # the file may have been replaced since it was examined
            check_object(body)
        except FileNotFoundError:
            return self._missing(document, now_ms)
        except InvalidInputError as error:
            self._refuse(document, version, error)
            return None
        except OSError as error:
            self._refuse(document, "", InvalidInputError(f"{error.strerror}", code="unreadable"))
            return None
        self._refused.pop(document, None)
        self._delivered[document] = version if is_settled(status.st_ctime_ns) else ""
        return DocumentWritten(document=document, content=body, fingerprint=version)

    def _missing(self, document: Document, now_ms: int) -> DocumentWritten | None:
        self._refused.pop(document, None)
        since_ms = self._missing_since.setdefault(document, now_ms)
        if document not in self._delivered or now_ms - since_ms < self._confirm_ms:
            return None
        if not os.path.isdir(os.path.dirname(self._paths[document])):
            return None
        del self._delivered[document]
        logger.info("document_removed", document=document.value)
        return DocumentWritten(document=document, content=None)

    def _refuse(self, document: Document, version: str, error: InvalidInputError) -> None:
        if self._refused.get(document) == (version, error.code):
            return
        self._refused[document] = (version, error.code)
        logger.warning("document_skipped", document=document.value, code=error.code, reason=str(error))


class DocumentFollower:
    """Appends documents that changed, in `executor`: reading and writing 60 MB must not delay an order.

    One document at a time, so that memory holds no more than one. `clock` gives epoch ms, `monotonic` ms
    that only grow.
    """

    def __init__(
        self,
        files: DocumentFiles,
        log: EventLogWriter,
        executor: Executor,
        *,
        clock: Clock,
        monotonic: Monotonic,
        retry: Backoff,
    ) -> None:
        self._files = files
        self._log = log
        self._executor = executor
        self._clock = clock
        self._monotonic = monotonic
        self._retry = retry
        self._due = asyncio.Event()

    def due(self) -> None:
        """Has `run` look at the documents: one of them may have changed."""
        self._due.set()

    def refused(self) -> int:
        """Returns the number of documents that are skipped at present."""
        return self._files.refused

    def baseline(self) -> Iterator[DocumentWritten]:
        """Yields every valid document, whether or not it was read before."""
        for document in DOCUMENT_FILES:
            change = self._files.check(document, self._monotonic(), force=True)
            if change is not None:
                yield change

    async def run(self) -> None:
        """Follows until cancelled. Raises LogError for anything but a log that is unwritable for now."""
        while True:
            await self._due.wait()
            self._due.clear()
            for document in DOCUMENT_FILES:
                change = await self._in_thread(partial(self._files.check, document, self._monotonic()))
                if change is not None:
                    await self._append(change)

    async def _append(self, change: DocumentWritten) -> None:
        while True:
            try:
                await self._in_thread(lambda: self._log.append([change], self._clock()))
                self._retry.reset()
                return
            except LogUnwritableError as error:
                logger.warning("document_pending", document=change.document.value, reason=str(error))
            await asyncio.sleep(self._retry.next_ms() / 1000)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
