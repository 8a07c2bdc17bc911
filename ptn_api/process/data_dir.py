"""The server's data directory: made for its user alone, and checked before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

from ptn_api.errors import SettingsError

__all__ = ["DEMO_VALIDATOR", "foreign_files", "make_data_dir", "other_log"]

DEMO_VALIDATOR = "demo-validator"
"""Where a demo's simulated validator keeps its files; its being there says whose log it is."""

_LOG = "log.sqlite3*"
_OURS = (_LOG, "usage.db*", "bells")


def make_data_dir(path: Path, *, demo: bool) -> None:
    """Raises SettingsError if this user cannot write it, or if what a server left in it is another's."""
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
    if other := other_log(path, demo=demo):
        raise SettingsError(f"--data-dir {other}", code="data_dir")
    if demo:
        (path / DEMO_VALIDATOR).mkdir(mode=0o700, exist_ok=True)


def foreign_files(path: Path) -> list[str]:
    """What a server has left there that this user cannot read and write."""
    left = (file for pattern in _OURS for file in path.glob(pattern))
    return sorted(file.name for file in left if not os.access(file, os.R_OK | os.W_OK))


def other_log(path: Path, *, demo: bool) -> str:
    """What is wrong with a log that a demo left to a real validator, or the other way round; empty: nothing.

    In one log, all that one of them holds would be news to whoever follows the other.
    """
    is_demos = (path / DEMO_VALIDATOR).exists()
    if is_demos and not demo:
        return "holds a demo's log: give another one, or delete it"
    if demo and not is_demos and any(path.glob(_LOG)):
        return "holds a real validator's log: give the demo another one"
    return ""
