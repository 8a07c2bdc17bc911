"""A timeout that restarts with every progress, since the total depends on the machine."""

from __future__ import annotations

import time

__all__ = ["Patience"]


class Patience:
    """Lasts until `still_s` after the last change of the reported progress, at most `most_s` in all."""

    def __init__(self, still_s: float = 60.0, most_s: float = 1_200.0) -> None:
        self._still_s = still_s
        self._end = time.monotonic() + most_s
        self._progress: object = None
        self._moved = time.monotonic()

    def lasts(self, progress: object) -> bool:
        now = time.monotonic()
        if progress != self._progress:
            self._progress, self._moved = progress, now
        return now < self._end and now - self._moved < self._still_s
