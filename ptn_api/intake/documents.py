"""The validator's documents: read when they change, and appended to the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from ptn_api.backoff import Backoff
from ptn_api.clock import Clock, Monotonic
from ptn_api.errors import InvalidInputError, LogFencedError
from ptn_api.event_log.contract import Document, DocumentWritten, EventLogWriter
from ptn_api.event_log.outage import RETRIED_WRITE_ERRORS
from ptn_api.file_version import is_settled, version_of
from ptn_api.intake.files import Refusals, json_object, read_bytes
from ptn_api.intake.merge import ALONE, Turn
from ptn_api.intake.miner_files import MinerFiles
from ptn_api.intake.options import IntakeOptions

__all__ = ["DOCUMENT_FILES", "DocumentFiles", "DocumentFollower"]

logger = structlog.get_logger()

T = TypeVar("T")

DOCUMENT_FILES = {
    Document.ELIMINATIONS: ("validation/eliminations.json",),
    Document.CHALLENGEPERIOD: ("validation/challengeperiod.json",),
    Document.ASSET_SELECTIONS: ("validation/asset_selections.json",),
    Document.ENTITIES: ("validation/entities.json",),
    Document.ACCOUNT_SIZES: ("validation/miner_account_sizes.json",),
    Document.STATISTICS: ("runnable/minerstatistics.json.gz", "runnable/minerstatistics.json"),
    Document.PENALTY_LEDGERS: ("validation/penalty_ledger.json.gz",),
    Document.EMISSIONS_LEDGERS: ("validation/emissions_ledger.json.gz",),
    Document.DEBT_LEDGERS: ("validation/debt_ledger.json.gz",),
    Document.PERF_LEDGERS: (
        "validation/perf_ledgers.json.gz",
        "validation/perf_ledgers.pkl",
        "validation/perf_ledgers.json",
    ),
}
"""Paths in the validator's directory, small documents first.

Where several files exist, the newest counts; of equally old ones, the first. A `.pkl` is gzipped JSON under a
wrong name.
"""
_REST = 10
"""A pass over the miners' files is followed by at least this many times its duration."""
_LEAD_NS = {Document.STATISTICS: 60 * 10**9}
"""Files of these are written in turn, the first one last: a later one must be newer by this much to count."""


class DocumentFiles:
    """The documents' files, with the version of each that was delivered.

    `known` are the log's fingerprints. A document counts as removed when it is missing twice, `confirm_ms`
    apart, from a directory that exists. Not thread-safe.
    """

    def __init__(
        self, validator_dir: Path, known: Mapping[Document, str], *, limit: int, confirm_ms: int
    ) -> None:
        self._paths = {
            document: [str(validator_dir / name) for name in names]
            for document, names in DOCUMENT_FILES.items()
        }
        self._delivered = {document: known[document] for document in DOCUMENT_FILES if document in known}
        self._refused: Refusals[str] = Refusals()
        self._missing_since: dict[Document, int] = {}
        self._limit = limit
        self._confirm_ms = confirm_ms

    @property
    def refused(self) -> int:
        """Number of files that are skipped at present."""
        return len(self._refused)

    def check(self, document: Document, now_ms: int, *, force: bool = False) -> DocumentWritten | None:
        """Returns the document's change if it has a new and valid version; `force` reads any version.

        `now_ms` is a monotonic time.
        """
        files = self._files(document)
        if not files:
            since_ms = self._missing_since.setdefault(document, now_ms)
            if document not in self._delivered or now_ms - since_ms < self._confirm_ms:
                return None
            if not os.path.isdir(os.path.dirname(self._paths[document][0])):
                return None
            del self._delivered[document]
            logger.info("document_removed", document=document.value)
            return DocumentWritten(document=document, content=None)
        self._missing_since.pop(document, None)
        for place, (path, version) in enumerate(files):
            if not force and version and version == self._delivered.get(document):
                self._refused.discard(path)  # out of reach for a while
                return None
            if force or not self._refused.is_final(path, version):
                change = self._read(document, path, version)
                if change is not None:
                    for other, _ in files[place:]:
                        self._refused.discard(other)
                    return change
            # A damaged file may soon be complete, so an older one must not take its place.
            if self._refused.code(path) != "pickle":
                return None
        return None

    @property
    def delivered(self) -> set[Document]:
        return set(self._delivered)

    def forget(self, document: Document) -> None:
        """Has the document delivered again, or removed if there is no file of it."""
        if document in self._paths:
            self._delivered[document] = ""

    def _read(self, document: Document, path: str, version: str) -> DocumentWritten | None:
        try:
            body, status = read_bytes(path, self._limit)
            version = version_of(status)  # the file may have been replaced since it was examined
            content = json_object(body, self._limit)
        except FileNotFoundError:
            return None  # the next check sees that it is gone
        except InvalidInputError as error:
            self._refuse(document, path, version, error)
            return None
        except MemoryError:
            lack = InvalidInputError("not enough memory to read it", code="no_memory")
            self._refuse(document, path, version, lack)
            return None
        self._delivered[document] = version if is_settled(status.st_ctime_ns) else ""
        return DocumentWritten(document=document, content=content, fingerprint=version)

    def _refuse(self, document: Document, path: str, version: str, error: InvalidInputError) -> None:
        if self._refused.add(path, version, error.code):
            logger.warning(
                "document_skipped",
                document=document.value,
                name=os.path.basename(path),
                code=error.code,
                reason=str(error),
            )

    def _files(self, document: Document) -> list[tuple[str, str]]:
        """Returns the document's files by precedence, each with its version."""
        found: list[tuple[int, int, str, str]] = []
        for place, path in enumerate(self._paths[document]):
            try:
                status = os.stat(path)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not os.path.islink(path):
                    self._refused.discard(path)
                else:
                    found.append((0, place, path, ""))  # reading it tells why
                continue
            newest = status.st_mtime_ns - place * _LEAD_NS.get(document, 0)
            found.append((-newest, place, path, version_of(status)))
        return [(path, version) for _, _, path, version in sorted(found)]


class DocumentFollower:
    """Appends documents that changed, in `executor`: reading and writing 60 MB must not delay an order.

    The validator's whole documents in one thread, those of its miners in another; one document at a time, so
    that memory holds no more than one of each. Nothing is read while it is another machine's turn to write.
    `clock` gives epoch ms, `monotonic` ms that only grow.
    """

    def __init__(
        self,
        files: DocumentFiles,
        miner_files: MinerFiles,
        log: EventLogWriter,
        executor: Executor,
        options: IntakeOptions,
        *,
        clock: Clock,
        monotonic: Monotonic,
        turn: Turn = ALONE,
    ) -> None:
        self._turn = turn
        self._files = files
        self._miner_files = miner_files
        self._log = log
        self._executor = executor
        self._options = options
        self._clock = clock
        self._monotonic = monotonic
        self._due = asyncio.Event()
        self._next_account_sizes_ms = 0

    def due(self) -> None:
        """Has `run` look at the documents: one of them may have changed."""
        self._due.set()

    def restore(self, documents: Iterable[tuple[Document, str]]) -> None:
        """Delivers these documents again: the log has lost them."""
        for document, miner in documents:
            if miner:
                self._miner_files.forget(document, miner)
            else:
                self._files.forget(document)
        self.due()

    def compare(self, stored: Mapping[tuple[Document, str], str]) -> None:
        """Delivers again what the log lacks or has from another machine; `stored` are its fingerprints."""
        delivered = {*((document, "") for document in self._files.delivered), *self._miner_files.delivered}
        self.restore(key for key in delivered | stored.keys() if not stored.get(key))

    def refused(self) -> int:
        """Returns the number of files that are skipped at present."""
        return self._files.refused + self._miner_files.refused

    def baseline(self) -> Iterator[DocumentWritten]:
        """Yields every valid document, whether or not it was read before."""
        for document in DOCUMENT_FILES:
            change = self._files.check(document, self._monotonic(), force=True)
            if change is not None:
                yield change
        self._miner_files.start_over()
        yield from self._miner_files.changes(full=True)

    async def run(self) -> None:
        """Follows until cancelled. Raises LogError for anything but a log that is unwritable for now."""
        while True:
            await self._due.wait()
            self._due.clear()
            for document in DOCUMENT_FILES:
                await self._wait_for_turn()
                # Account sizes change with every order.
                early_ms = self._next_account_sizes_ms - self._monotonic()
                if document is Document.ACCOUNT_SIZES and early_ms > 0:
                    asyncio.get_running_loop().call_later(early_ms / 1000, self.due)
                    continue
                change = await self._in_thread(partial(self._files.check, document, self._monotonic()))
                if change is not None:
                    if document is Document.ACCOUNT_SIZES:
                        self._next_account_sizes_ms = self._monotonic() + self._options.account_sizes_ms
                    await self._append(change)

    async def run_miners(self) -> None:
        """Follows the documents of miners as `run` does."""
        next_full_ms = 0
        while True:
            await self._wait_for_turn()
            started_ms = self._monotonic()
            full = started_ms >= next_full_ms
            if full:
                next_full_ms = started_ms + self._options.full_sweep_ms
            changes = self._miner_files.changes(full=full)
            while (change := await self._in_thread(partial(next, changes, None))) is not None:
                await self._append(change)
            # Longer passes run less often.
            period_ms = self._options.miner_files_ms
            spent_ms = min(self._monotonic() - started_ms, period_ms)
            await asyncio.sleep(max(period_ms, _REST * spent_ms) / 1000)

    async def _append(self, change: DocumentWritten) -> None:
        retry = Backoff(first_ms=self._options.retry_ms, max_ms=self._options.retry_max_ms)
        while True:
            try:
                await self._in_thread(lambda: self._log.append([change], self._clock()))
                return
            except LogFencedError:  # it is read again when this machine's turn comes
                self.restore([(change.document, change.miner_hotkey)])
                return
            except (MemoryError, *RETRIED_WRITE_ERRORS) as error:
                reason = str(error) or "not enough memory"
                logger.warning("document_pending", document=change.document.value, reason=reason)
            await asyncio.sleep(retry.next_ms() / 1000)

    async def _wait_for_turn(self) -> None:
        while not self._turn.active:
            await self._turn.changed(self._options.retry_max_ms)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
