"""Letting other tasks run during long work."""

from __future__ import annotations

import asyncio
from time import monotonic

__all__ = ["Breather"]

SLICE_S = 0.005


class Breather:
    """`await breather()` between two steps lets other tasks run, if the loop was held for 5 ms since."""

    def __init__(self) -> None:
        self._since = monotonic()

    @property
    def due(self) -> bool:
        """Whether others should run now."""
        return monotonic() - self._since >= SLICE_S

    async def __call__(self) -> None:
        if self.due:
            await asyncio.sleep(0)
            self._since = monotonic()
