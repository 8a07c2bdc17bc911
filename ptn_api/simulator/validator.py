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
    """A validator's directory. Each file is written to `validation/tmp/<uuid>` and renamed, without fsync.

    With `private`, only the validator's user may read the files. Of `copy_every` files one is copied into its
    place, as if it came from another file system: for a moment the place holds a part of it.
    """

    def __init__(self, root: Path, *, private: bool = False, copy_every: int = 0) -> None:
        self.root = root
        self.miners = root / "validation" / "miners"
        self._tmp = root / "validation" / "tmp"
        self._mode = 0o600 if private else 0o666
        self._copy_every = copy_every
        self._written = 0

    def clear(self) -> None:
        """Removes all miners and creates the folders of an empty validator."""
        shutil.rmtree(self.miners, ignore_errors=True)
        for folder in (self.miners, self._tmp, self.root / "runnable"):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, file: PositionFile) -> str:
        status = "closed" if file.closed else "open"
        return f"{self.miners}/{file.miner_hotkey}/positions/{file.pair}/{status}/{file.position_uuid}"

    def write(self, path: str | Path, body: bytes) -> None:
        """Replaces a file, atomically unless it is copied; creates its folder if missing."""
        self._written += 1
        if self._copy_every and self._written % self._copy_every == 0:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._fill(path, body[: len(body) // 2], body[len(body) // 2 :])
            return
        scratch = self._scratch()
        self._fill(scratch, body)
        try:
            os.replace(scratch, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(scratch, path)

    def _fill(self, path: str | Path, *parts: bytes) -> None:
        """Overwrites a file in as many steps as there are parts."""
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, self._mode)
        with open(number, "wb", buffering=0) as file:
            for part in parts:
                file.write(part)

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
            self._fill(path, body)
        os.rename(scratch, self.miners / hotkey)

    # --- files of validators of today -------------------------------------------------------------------

    def archive(self, file: PositionFile) -> None:
        """Moves a position's file to its miner's archive."""
        target = self._archived(file)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(file), target)

    def unarchive(self, file: PositionFile) -> None:
        """Deletes a position's file from the archive, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._archived(file))

    def _archived(self, file: PositionFile) -> str:
        return self.path(file).replace("/positions/", "/archived_positions/", 1)

    def limit_order(self, hotkey: str, pair: str, folder: str, order_uuid: str) -> Path:
        """Returns the path of a limit order's file; `folder` is unfilled or closed."""
        return self.miners / hotkey / "limit_orders" / pair / folder / order_uuid

    def limit_orders(self, folder: str) -> list[Path]:
        return sorted(self.miners.glob(f"*/limit_orders/*/{folder}/*"))

    def append(self, hotkey: str, name: str, lines: bytes) -> None:
        """Appends lines to one of a miner's files."""
        number = os.open(self.miners / hotkey / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, self._mode)
        with open(number, "ab", buffering=0) as file:
            file.write(lines)

    def add_miner(self, hotkey: str) -> None:
        (self.miners / hotkey / "positions").mkdir(parents=True, exist_ok=True)

    def remove_miner(self, hotkey: str) -> None:
        shutil.rmtree(self.miners / hotkey, ignore_errors=True)

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
