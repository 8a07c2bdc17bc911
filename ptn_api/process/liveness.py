"""Which process is alive, and whether the log can be written: a page of memory that all processes share.

No file, so it works on a full disk; no connection, so nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
from collections.abc import Callable

from ptn_api.clock import monotonic_ms

__all__ = ["PROCESSES", "Board"]

PROCESSES = ("intake", "rest", "stream")

_SLOT = struct.Struct("=qq")
"""When the process last said that it lives (monotonic ms, one clock for all processes), and its trouble."""
_LOG_UNWRITABLE = 1


class Board:
    """`silent_ms`: a process that has said nothing for so long is down."""

    def __init__(self, descriptor: int, *, silent_ms: int) -> None:
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._silent_ms = silent_ms
        self._since_ms = monotonic_ms()

    @staticmethod
    def make() -> int:
        """A descriptor of a new one, to be handed to every process."""
        descriptor = os.memfd_create("ptn-board", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        return descriptor

    async def keep_beating(self, process: str, log_unwritable: Callable[[], bool] = lambda: False) -> None:
        """Says again and again that this process lives, and whether it cannot write the log."""
        while True:
            self.beat(process, log_unwritable=log_unwritable())
            await asyncio.sleep(self._silent_ms / 5_000)

    def beat(self, process: str, *, log_unwritable: bool = False) -> None:
        slot = PROCESSES.index(process) * _SLOT.size
        _SLOT.pack_into(self._page, slot, monotonic_ms(), _LOG_UNWRITABLE if log_unwritable else 0)

    def processes(self) -> dict[str, bool]:
        """Process -> whether it lives. Whoever asks gives the others time since its own start."""
        oldest = monotonic_ms() - self._silent_ms
        return {name: max(self._slot(name)[0], self._since_ms) >= oldest for name in PROCESSES}

    def log_writable(self) -> bool:
        """What the writer said last."""
        return self._slot("intake")[1] != _LOG_UNWRITABLE

    def close(self) -> None:
        self._page.close()

    def _slot(self, process: str) -> tuple[int, int]:
        beaten_ms, trouble = _SLOT.unpack_from(self._page, PROCESSES.index(process) * _SLOT.size)
        return beaten_ms, trouble
