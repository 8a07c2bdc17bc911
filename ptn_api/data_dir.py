"""The server's data directory: made for its user alone, and checked before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

from ptn_api.errors import SettingsError

__all__ = ["foreign_files", "make_data_dir"]

_OURS = ("log.sqlite3*", "usage.db*", "bells")


def make_data_dir(path: Path) -> None:
    """Raises SettingsError if this user cannot write it, or what a server left in it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch(0o600)
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"--data-dir cannot be written: {error.strerror}", code="data_dir") from None
    if foreign := foreign_files(path):
        sentence = "cannot be written by this user (did another one start a server there?)"
        raise SettingsError(f"--data-dir: {', '.join(foreign)} {sentence}", code="data_dir")


def foreign_files(path: Path) -> list[str]:
    """What a server has left there that this user cannot read and write."""
    left = (file for pattern in _OURS for file in path.glob(pattern))
    return sorted(file.name for file in left if not os.access(file, os.R_OK | os.W_OK))
