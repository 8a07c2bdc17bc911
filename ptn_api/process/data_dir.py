"""A server's directories, checked before any process starts: its own, and the validator's."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from ptn_api.errors import SettingsError

__all__ = ["DEMO_VALIDATOR", "check_validator_dir", "foreign_files", "make_data_dir", "other_log"]

DEMO_VALIDATOR = "demo-validator"
"""The folder of a demo's simulated validator; it marks the log as a demo's."""

_LOG = "log.sqlite3*"
_MINERS = "validation/miners"
_MOST_TRIED = 100
"""Folders in which a validator is looked for, to suggest it."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS = (_LOG, "usage.db*", "cluster_keys.*", "bells")


def make_data_dir(path: Path, *, demo: bool) -> None:
    """Makes the directory. Raises SettingsError if this user cannot write it or another server's files."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch(0o600)
        probe.unlink()
    except OSError as error:
        if error.errno in _FULL and path.is_dir():
            return  # the server waits for space, and /health says so
        raise SettingsError(f"--data-dir cannot be written: {error.strerror}", code="data_dir") from None
    if foreign := foreign_files(path):
        sentence = "cannot be written by this user (did another user start a server there?)"
        raise SettingsError(f"--data-dir: {', '.join(foreign)} {sentence}", code="data_dir")
    if other := other_log(path, demo=demo):
        raise SettingsError(f"--data-dir {other}", code="data_dir")
    if demo:
        (path / DEMO_VALIDATOR).mkdir(mode=0o700, exist_ok=True)


def check_validator_dir(path: Path) -> None:
    """Raises SettingsError if the directory is not a validator's; one that this user cannot enter may be."""
    if _is_validators(path):
        return
    near = [path.parent, path.parent.parent]
    with contextlib.suppress(OSError):
        near += sorted(path.iterdir())[:_MOST_TRIED]
    meant = next((f"; did you mean {other}?" for other in near if (other / _MINERS).is_dir()), "")
    found = f"no {_MINERS} in it" if path.is_dir() else "no such directory"
    raise SettingsError(
        f"--validator-dir {path}: {found}; expected the validator's checkout, with a folder for each miner "
        f"in {_MINERS}{meant} (if it comes later: --wait-for-validator)",
        code="validator_dir",
    )


def _is_validators(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path / _MINERS).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # out of reach
        return True


def foreign_files(path: Path) -> list[str]:
    """The files of an earlier server that this user cannot read and write."""
    left = (file for pattern in _OURS for file in path.glob(pattern))
    return sorted(file.name for file in left if not os.access(file, os.R_OK | os.W_OK))


def other_log(path: Path, *, demo: bool) -> str:
    """Why the log cannot be used: it is a demo's and this server is not one, or the reverse. Empty if it can.

    In a shared log, clients that followed one validator would get all orders of the other as news.
    """
    is_demos = (path / DEMO_VALIDATOR).exists()
    if is_demos and not demo:
        return "holds a demo's log: choose another directory, or delete it"
    if demo and not is_demos and any(path.glob(_LOG)):
        return "holds a real validator's log: choose another directory for the demo"
    return ""
