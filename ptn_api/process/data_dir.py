"""A server's directories, checked before any process starts: its own, and the validator's."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from ptn_api.errors import SettingsError
from ptn_api.file_lock import take_lock
from ptn_api.file_version import owner_of

__all__ = [
    "DEMO_KEYS",
    "DEMO_VALIDATOR",
    "check_apart",
    "check_validator_dir",
    "foreign_files",
    "make_data_dir",
    "nearby_validator",
    "other_log",
]

DEMO_VALIDATOR = "demo-validator"
"""The folder of a demo's simulated validator; it marks the log as a demo's."""
DEMO_KEYS = "demo_api_keys.json"
"""The file of a demo's keys. The places of a real server's key file do not apply to a demo."""

_LOG = "log.sqlite3*"
_MINERS = "validation/miners"
_WRITTEN_BY_VALIDATORS = ("validation", "runnable")
_MOST_TRIED = 100
"""Folders in which a validator is looked for, to suggest it."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS = (_LOG, "usage.db*", "cluster_keys.*", "bells")


def make_data_dir(path: Path, *, demo: bool) -> None:
    """Makes the directory.

    Raises SettingsError if this user cannot write it or another server's files, or if another server uses it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch(0o600)
        probe.unlink()
    except OSError as error:
        if error.errno in _FULL and path.is_dir():
            return  # the server waits for space, and /health says so
        sentence = f"--data-dir {path} cannot be written: {error.strerror}"
        if isinstance(error, FileExistsError):
            sentence = f"--data-dir {path} is not a directory"
        remedy = "choose a directory that this user may write"
        raise SettingsError(f"{sentence}; {remedy}", code="data_dir") from None
    if foreign := foreign_files(path):
        sentence = "cannot be written by this user (did another user start a server there?)"
        raise SettingsError(f"--data-dir: {', '.join(foreign)} {sentence}", code="data_dir")
    if other := other_log(path, demo=demo):
        raise SettingsError(f"--data-dir {other}", code="data_dir")
    if pid := server_on(path):
        sentence = f"--data-dir {path}: another server uses it (process {pid})"
        raise SettingsError(f"{sentence}; stop that one, or choose another directory", code="log_locked")
    if demo:
        (path / DEMO_VALIDATOR).mkdir(mode=0o700, exist_ok=True)


def check_apart(path: Path, validator_dir: Path) -> None:
    """Raises SettingsError if this data directory is the validator's own, or in a folder that it writes.

    Any other folder in its checkout will do: there is the default one if the server is started there.
    """
    place, checkout = path.expanduser().resolve(), validator_dir.expanduser().resolve()
    above = (place, *place.parents)
    if place == checkout or any(checkout / folder in above for folder in _WRITTEN_BY_VALIDATORS):
        sentence = f"--data-dir {path} belongs to the validator, and the server writes nothing there"
        raise SettingsError(f"{sentence}; choose another, such as {checkout / '.ptn'}", code="data_dir")


def check_validator_dir(path: Path) -> None:
    """Raises SettingsError, with what is wrong, if this is no directory of a validator or cannot be read."""
    try:
        os.scandir(path / _MINERS).close()
        return
    except PermissionError:
        remedy = f"run the server as its owner, {owner_of(path / _MINERS)}"
        found = f"this user cannot read {_MINERS} in it; {remedy}"
    except OSError:
        found = "no such directory"
        if os.path.isdir(path):
            found = f"no {_MINERS} in it" if os.listdir(path) else "an empty directory"
        elif os.path.exists(path):
            found = "a file, not a directory"
        found += f"; expected the validator's checkout, with a folder for each miner in {_MINERS}"
        found += nearby_validator(path)
    raise SettingsError(
        f"--validator-dir {path}: {found} (if it comes later: --wait-for-validator)", code="validator_dir"
    )


def nearby_validator(path: Path) -> str:
    """Words about a validator's directory above, in or next to this one; empty if there is none."""

    def folders(of: Path) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(of.iterdir())[:_MOST_TRIED]
        return []

    places = {
        "this is a folder in it": path.parents,
        "it is in this one": folders(path),
        "it is next to this one": folders(path.parent) if not os.path.exists(path) else (),
    }
    for where, candidates in places.items():
        for candidate in candidates:
            if os.path.isdir(candidate / _MINERS):
                return f"; did you mean {candidate}? {where}"
    return ""


def server_on(path: Path) -> int | None:
    """Returns the process of the server that has locked this data directory, if the system shows it."""
    try:
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    holder = re.search(rf"FLOCK +ADVISORY +WRITE +(\d+) [0-9a-f]+:[0-9a-f]+:{inode} ", locks)
    if holder is None:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        take_lock(descriptor)  # the inode may be another file system's
    except BlockingIOError:
        pid = int(holder[1])
        with contextlib.suppress(OSError, IndexError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if re.search(rb"ptn-api[- ](?!supervisor)", command):  # a child of the server
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return pid
    finally:
        os.close(descriptor)
    return None


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
