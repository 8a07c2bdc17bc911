"""When positions without a file count as removed, and the operator's consent to a mass removal.

The guard is pure: it takes keys and times. The consent (`ptn resync --accept-removals`) reaches the intake
process as an empty file in the data directory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from pathlib import Path

from ptn_api.errors import SettingsError
from ptn_api.intake.files import Key

__all__ = ["RemovalGuard", "request_resync", "resync_done", "resync_requested"]

_CONSENT_FILE = "accept-removals"


class RemovalGuard:
    """Confirmation of removals, sweep by sweep.

    A position is removed when two sweeps at least `confirm_ms` apart found no file of it. If more than
    `share` of all positions (a fraction), and at least `count`, would go within `window_ms`, none of the
    pending ones is removed; `holding` is True until they are back or the operator accepts.
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
    def pending(self) -> int:
        """Number of positions that are absent and not removed."""
        return len(self._absent_since)

    def after_sweep(
        self, absent: AbstractSet[Key], known: int, now_ms: int, *, accept: bool = False
    ) -> list[Key]:
        """Returns the positions to remove, given those without a file at the end of this sweep.

        `known` is the number of positions, the absent ones included. `accept` lifts the guard.
        """
        since = {key: self._absent_since.get(key, now_ms) for key in absent}
        self._absent_since = since
        confirmed = [key for key, first_ms in since.items() if now_ms - first_ms >= self._confirm_ms]
        while self._removed and now_ms - self._removed[0][0] >= self._window_ms:
            self._removed.popleft()
        recent = sum(count for _, count in self._removed)
        total = known + recent
        self.holding = not accept and self._is_mass(recent + len(confirmed), total) and bool(confirmed)
        # Absent positions that are not confirmed yet belong to the same event, so they count against the
        # confirmed ones. They raise no alarm: a synchronisation may have deleted them a moment ago.
        if not confirmed or (not accept and self._is_mass(recent + len(since), total)):
            return []
        for key in confirmed:
            del since[key]
        if not accept:
            self._removed.append((now_ms, len(confirmed)))
        return confirmed

    def reset(self) -> None:
        """Forgets the absent positions, after they were removed without this guard."""
        self._absent_since.clear()
        self.holding = False

    def _is_mass(self, removals: int, total: int) -> bool:
        return removals >= self._count and removals > self._share * total


def request_resync(data_dir: str | Path) -> None:
    """Asks the running intake to apply the removals that it holds back, at its next sweep.

    The request is used up once something is removed, and void after a restart. Raises SettingsError if the
    data directory does not exist or is not writable.
    """
    try:
        (Path(data_dir) / _CONSENT_FILE).touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"data directory: {error.strerror}", code="bad_data_dir") from None


def resync_requested(data_dir: str | Path) -> bool:
    return (Path(data_dir) / _CONSENT_FILE).exists()


def resync_done(data_dir: str | Path) -> None:
    (Path(data_dir) / _CONSENT_FILE).unlink(missing_ok=True)
