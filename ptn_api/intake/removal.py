"""When a position whose files are gone counts as removed, and when so many would go that nobody believes it.

Pure: no files, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from pathlib import Path

from ptn_api.errors import SettingsError
from ptn_api.intake.files import Key

__all__ = ["RemovalGuard", "request_resync", "resync_done", "resync_requested"]

_NAME = "accept-removals"


class RemovalGuard:
    """Confirms removals, sweep by sweep.

    A position is removed when two sweeps at least `confirm_ms` apart found no file of it. If more than
    `share` of all positions (a fraction) and at least `count` would go within `window_ms`, none of those
    waiting goes; `holding` says so, until they are back or somebody accepts.
    """

    def __init__(self, *, confirm_ms: int, window_ms: int, share: float, count: int) -> None:
        self._confirm_ms = confirm_ms
        self._window_ms = window_ms
        self._share = share
        self._count = count
        self._absent_since: dict[Key, int] = {}
        self._removed: deque[tuple[int, int]] = deque()
        self.holding = False

    @property
    def waiting(self) -> int:
        """Number of positions that are missing and not removed."""
        return len(self._absent_since)

    def after_sweep(
        self, absent: AbstractSet[Key], known: int, now_ms: int, *, accept: bool = False
    ) -> list[Key]:
        """The positions to remove, given those without a file at the end of this sweep.

        `known` is the number of positions, the absent ones included. `accept` lifts the guard.
        """
        since = {key: self._absent_since.get(key, now_ms) for key in absent}
        self._absent_since = since
        confirmed = [key for key, first in since.items() if now_ms - first >= self._confirm_ms]
        recent = self._recently_removed(now_ms)
        total = known + recent
        self.holding = not accept and self._is_mass(recent + len(confirmed), total) and bool(confirmed)
        # Those missing but not yet confirmed are part of the same event: they hold the others back too,
        # but they may be the synchronisation's deletions of a moment ago, so they raise no alarm.
        if not confirmed or (not accept and self._is_mass(recent + len(since), total)):
            return []
        for key in confirmed:
            del since[key]
        if not accept:
            self._removed.append((now_ms, len(confirmed)))
        return confirmed

    def _is_mass(self, removals: int, total: int) -> bool:
        return removals >= self._count and removals > self._share * total

    def _recently_removed(self, now_ms: int) -> int:
        while self._removed and now_ms - self._removed[0][0] >= self._window_ms:
            self._removed.popleft()
        return sum(n for _, n in self._removed)


def request_resync(data_dir: str | Path) -> None:
    """Asks the running intake to apply what it holds back. It does so at its next sweep.

    Raises SettingsError where the data directory is missing or not writable.
    """
    try:
        (Path(data_dir) / _NAME).touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"data directory: {error.strerror}", code="bad_data_dir") from None


def resync_requested(data_dir: str | Path) -> bool:
    return (Path(data_dir) / _NAME).exists()


def resync_done(data_dir: str | Path) -> None:
    (Path(data_dir) / _NAME).unlink(missing_ok=True)
