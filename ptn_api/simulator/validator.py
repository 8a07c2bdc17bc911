"""A simulated validator's files, written as a real one writes them.

See docs/architecture.md, "What a validator does to its files".
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

__all__ = ["Backup", "PositionFile", "ValidatorFiles"]


class PositionFile(NamedTuple):
    """The location of a position's file, which is named by the uuid, below its miner, pair and status."""

    miner_hotkey: str
    pair: str
    closed: bool
    position_uuid: str


class ValidatorFiles:
    """A validator's directory. Each file is written to `validation/tmp/<uuid>` and renamed, without fsync."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.miners = root / "validation" / "miners"
        self._tmp = root / "validation" / "tmp"

    def clear(self) -> None:
        """Removes all miners and creates the folders of an empty validator."""
        shutil.rmtree(self.miners, ignore_errors=True)
        for folder in (self.miners, self._tmp, self.root / "runnable"):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, file: PositionFile) -> str:
        status = "closed" if file.closed else "open"
        return f"{self.miners}/{file.miner_hotkey}/positions/{file.pair}/{status}/{file.position_uuid}"

    def write(self, path: str | Path, body: bytes) -> None:
        """Replaces a file atomically; creates its folder if missing."""
        scratch = self._scratch()
        with open(scratch, "wb") as file:
            file.write(body)
        try:
            os.replace(scratch, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(scratch, path)

    def write_document(self, name: str, body: bytes) -> None:
        """Replaces a document, named relative to the root (`validation/eliminations.json`)."""
        self.write(self.root / name, body)

    def read(self, file: PositionFile) -> bytes | None:
        try:
            return Path(self.path(file)).read_bytes()
        except FileNotFoundError:
            return None

    def read_document(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, file: PositionFile) -> bool:
        """Deletes a position's file. Returns False if it did not exist."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(file))
            return True
        return False

    def add_miner_at_once(self, hotkey: str, bodies: dict[PositionFile, bytes]) -> None:
        """Creates a miner's directory with all its files in one rename, as a restore or a copy does."""
        scratch = self._scratch()
        os.makedirs(f"{scratch}/positions")
        for file, body in bodies.items():
            path = self.path(file).replace(f"{self.miners}/{hotkey}", scratch, 1)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).write_bytes(body)
        os.rename(scratch, self.miners / hotkey)

    def add_miner(self, hotkey: str) -> None:
        (self.miners / hotkey / "positions").mkdir(parents=True, exist_ok=True)

    def remove_miner(self, hotkey: str) -> None:
        shutil.rmtree(self.miners / hotkey, ignore_errors=True)

    def is_empty(self) -> bool:
        return not self.miners.exists() or not any(self.miners.iterdir())

    def hotkeys(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.miners) if entry.is_dir())

    def positions(self, hotkey: str) -> Iterator[PositionFile]:
        """Yields a miner's position files, sorted by pair, status and uuid."""
        for path in sorted((self.miners / hotkey / "positions").glob("*/*/*")):
            yield PositionFile(hotkey, path.parts[-3], path.parts[-2] == "closed", path.name)

    def _scratch(self) -> str:
        return f"{self._tmp}/{uuid4()}"


class Backup:
    """A backup of all position files at `taken_ms`, copy-on-write: a body is read before its file changes."""

    def __init__(self, taken_ms: int, files: ValidatorFiles, held: Iterable[PositionFile]) -> None:
        self.taken_ms = taken_ms
        self._files = files
        self._bodies: dict[PositionFile, bytes | None] = dict.fromkeys(held)
        self._uuids = {(file.miner_hotkey, file.position_uuid) for file in self._bodies}

    def __contains__(self, file: PositionFile) -> bool:
        return file in self._bodies

    def knows(self, hotkey: str, position_uuid: str) -> bool:
        """Whether the position had a file, open or closed."""
        return (hotkey, position_uuid) in self._uuids

    def preserve(self, file: PositionFile) -> None:
        """Keeps the body of a file that is about to be replaced or deleted."""
        if file in self._bodies and self._bodies[file] is None:
            self._bodies[file] = self._files.read(file)

    def changed(self) -> dict[PositionFile, bytes]:
        """Returns the original bodies of all files that have changed since."""
        return {file: body for file, body in self._bodies.items() if body is not None}
