"""One pass over the validator's directory, in slices, so that an order need not wait for its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ptn_api.event_log.contract import PositionWritten
from ptn_api.intake.directory import Directory
from ptn_api.intake.files import Key
from ptn_api.intake.pending import key_of
from ptn_api.intake.position_files import PositionFiles, Touched

__all__ = ["Sweep"]


class Sweep:
    """Looks through folders, then reads what was touched. `found` is what is to be handed on together.

    `put_off` takes from the touched ones what others are to read, and returns it; they take out of `awaited`
    what they have read. `full` compares every file, otherwise only folders whose times say that something
    changed; `rewatch` watches every folder anew.
    """

    def __init__(
        self,
        directory: Directory,
        files: PositionFiles,
        put_off: Callable[[Touched], set[Key]],
        *,
        full: bool,
        rewatch: bool = False,
    ) -> None:
        self.found: dict[Key, PositionWritten] = {}
        self.awaited: set[Key] = set()
        self.ended = False
        self._steps = self._pass(directory, files, put_off, full=full, rewatch=rewatch)

    def advance(self, slice_ms: float) -> None:
        """Works for about that long; `ended` when the pass is at its end."""
        end = time.monotonic() + slice_ms / 1000
        self.ended = all(time.monotonic() < end for _ in self._steps)

    def _pass(
        self,
        directory: Directory,
        files: PositionFiles,
        put_off: Callable[[Touched], set[Key]],
        *,
        full: bool,
        rewatch: bool,
    ) -> Iterator[None]:
        touched: Touched = {}
        yield from directory.sweep(touched, full=full, rewatch=rewatch)
        self.awaited = put_off(touched)
        for change in files.settle(touched):
            if change is not None:
                self.found[key_of(change)] = change
            yield
