"""A backup of a simulated validator's positions that costs next to nothing until files change."""

from __future__ import annotations

from collections.abc import Iterable

from ptn_api.simulator.validator import PositionFile, ValidatorFiles

__all__ = ["Backup"]


class Backup:
    """Which position files there were at `taken_ms`; a body is read when its file is about to change."""

    def __init__(self, taken_ms: int, files: ValidatorFiles, held: Iterable[PositionFile]) -> None:
        self.taken_ms = taken_ms
        self._files = files
        self._bodies: dict[PositionFile, bytes | None] = dict.fromkeys(held)
        self._uuids = {(file.miner_hotkey, file.position_uuid) for file in self._bodies}

    def __contains__(self, file: PositionFile) -> bool:
        return file in self._bodies

    def knows(self, hotkey: str, position_uuid: str) -> bool:
        """Whether the position had a file, in whichever folder."""
        return (hotkey, position_uuid) in self._uuids

    def preserve(self, file: PositionFile) -> None:
        """Call before a file is replaced or deleted."""
        if file in self._bodies and self._bodies[file] is None:
            self._bodies[file] = self._files.read(file)

    def changed(self) -> dict[PositionFile, bytes]:
        """The bodies, as they were, of all files that changed since."""
        return {file: body for file, body in self._bodies.items() if body is not None}
