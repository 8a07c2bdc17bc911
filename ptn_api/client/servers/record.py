"""The orders that a client of several servers has delivered, kept in a file across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from ptn_api.client.cursor_file import state_folder
from ptn_api.client.servers.merge import Coverage, SeenOrders
from ptn_api.file_lock import FileLock, is_at

__all__ = ["OrderRecord", "record_path"]

logger = logging.getLogger("ptn_api.client")

_block = struct.Struct("<IB3x16s24s")
_coverage = struct.Struct("<ddd")
_ORDER, _COVERAGE = 1, 2
_BINARY = getattr(os, "O_BINARY", 0)  # without it Windows would translate line ends
_SPARE = 1_000
_POLL_S = 0.05


def record_path(state_dir: str | os.PathLike[str] | None, keys: Iterable[str], name: str) -> Path:
    """Returns the file for these keys and this name; its name is a hash that reveals none."""
    hashes = sorted({hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() for key in keys})
    digest = hashlib.sha256("\n".join(("orders", *hashes, name)).encode()).hexdigest()
    return state_folder(state_dir) / f"orders-{digest[:24]}.bin"


class OrderRecord:
    """Orders and coverage in a file of 48-byte blocks with checksums, mode 0600.

    The first save of a run replaces the file, later ones append to it; it is replaced again when half of it
    is outdated. Appended blocks survive a crash of the process at once, and one of the machine once they are
    synced, every `sync_every` s. A block that was cut short or damaged is ignored. With 100,000 orders the
    file has at most 10 MB. Without a path nothing is kept.

    It must be saved before the servers' cursors: an order whose cursor is lost comes again and is known,
    while an order that is not known would come twice.
    """

    def __init__(
        self,
        path: Path | None,
        addresses: Sequence[str],
        seen: SeenOrders,
        *,
        sync_every: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.trouble = ""
        self._ids = [hashlib.sha256(address.encode()).digest()[:16] for address in addresses]
        self._seen = seen
        self._sync_every = sync_every
        self._monotonic = monotonic
        self._lock: FileLock | None = None
        self._ours = False
        self._file: int | None = None
        self._blocks = 0
        self._synced_at = -math.inf
        self._pid = os.getpid()

    async def open(self, seconds: float) -> list[tuple[float, float] | None]:
        """Takes the file, waiting so long for another client, and reads it.

        Returns (since, complete) of each server, None if it is not known.
        """
        self._pid = os.getpid()
        known: dict[bytes, tuple[float, float]] = {}
        if self.path is None:
            return [None for _ in self._ids]
        deadline = self._monotonic() + seconds
        while not self._take() and self._monotonic() < deadline:  # noqa: ASYNC110 - others set no event
            await asyncio.sleep(_POLL_S)
        if not self._ours:
            self._report(_IN_USE)
            return [None for _ in self._ids]
        with contextlib.suppress(OSError):
            content = self.path.read_bytes()
            for at in range(0, len(content) - _block.size + 1, _block.size):
                checksum, kind, identity, values = _block.unpack_from(content, at)
                if checksum != zlib.crc32(content[at + 4 : at + _block.size]):
                    continue
                if kind == _ORDER:
                    self._seen.add(identity, values)
                elif kind == _COVERAGE:
                    known[identity] = _coverage.unpack(values)[:2]
        return [known.get(identity) for identity in self._ids]

    def save(
        self,
        orders: Sequence[tuple[bytes, bytes]],
        coverages: Sequence[Coverage],
        uncommitted: Container[bytes] = (),
    ) -> None:
        """Appends orders, and what the servers cover by now; if that fails, the next save tries again.

        `uncommitted` orders are known, but not processed yet: after a crash they have to come again.
        """
        if self.path is None or not self._ours or self._pid != os.getpid():
            return
        due = self._monotonic() - self._synced_at >= self._sync_every
        try:
            if self._file is not None and due and not is_at(self._file, self.path):
                self._close_file()  # deleted, or moved with its folder
            if self._file is None or self._blocks > 2 * len(self._seen) + _SPARE:
                self._replace(coverages, uncommitted)
            else:
                blocks = [_packed(_ORDER, *order) for order in orders]
                if due:
                    blocks += self._coverage_blocks(coverages)
                data = b"".join(blocks)
                if os.write(self._file, data) != len(data):
                    raise OSError(28, "No space left on device")
                self._blocks += len(blocks)
                if due:
                    os.fsync(self._file)
                    self._synced_at = self._monotonic()
            if self.trouble:
                logger.warning("the delivered orders are saved again")
                self.trouble = ""
        except OSError as error:
            self._close_file()  # replaced as a whole next time
            self._report(f"cannot write the record of orders {self.path}: {error.strerror}")

    def close(self, coverages: Sequence[Coverage], uncommitted: Container[bytes] = ()) -> None:
        """Syncs the file and releases it for other clients."""
        if self._file is not None:
            self._synced_at = -math.inf
            self.save([], coverages, uncommitted)
        self._close_file()
        self._ours = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take(self) -> bool:
        assert self.path is not None
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FileLock(os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600))
        except BlockingIOError:
            return False
        except OSError as error:
            self._report(f"cannot write the record of orders {self.path}: {error.strerror}")
        self._ours = True
        return True

    def _replace(self, coverages: Sequence[Coverage], uncommitted: Container[bytes]) -> None:
        assert self.path is not None
        self._close_file()
        orders = [_packed(_ORDER, *order) for order in self._seen if order[0] not in uncommitted]
        blocks = [*self._coverage_blocks(coverages), *orders]
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()  # left by a crash, perhaps with other permissions
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _BINARY, 0o600)
        try:
            data = b"".join(blocks)
            if os.write(file, data) != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(file)
            os.replace(new, self.path)
        except BaseException:  # also when interrupted: the descriptor must be closed
            os.close(file)
            raise
        self._file, self._blocks, self._synced_at = file, len(blocks), self._monotonic()

    def _coverage_blocks(self, coverages: Sequence[Coverage]) -> list[bytes]:
        return [
            _packed(_COVERAGE, identity, _coverage.pack(c.unbroken_since or 0, c.complete, 0.0))
            for identity, c in zip(self._ids, coverages, strict=True)
            if c.since is not None
        ]

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _report(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            logger.warning("%s; after a restart now, orders may come twice", trouble)


def _packed(kind: int, identity: bytes, values: bytes) -> bytes:
    block = _block.pack(0, kind, identity, values)
    return struct.pack("<I", zlib.crc32(block[4:])) + block[4:]


_IN_USE = "another client of several servers with this name is running (pass a different name=)"
