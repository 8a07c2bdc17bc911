"""What the system tells of a file: its version, to see whether it has changed, its owner and its mount."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import pwd

__all__ = ["is_settled", "mount_of", "owner_of", "user_name", "version_of"]

_SETTLE_NS = 50_000_000


def version_of(status: os.stat_result) -> str:
    """Returns a name for this version of a file: inode, ctime (ns) and size."""
    return f"{status.st_ino}-{status.st_ctime_ns}-{status.st_size}"


def is_settled(changed_ns: int) -> bool:
    """Returns whether a second change would by now have a different time.

    The kernel's file times advance in ticks of a few ms, and inodes are reused at once: a version read
    within the tick of its last change may look the same as the next version.
    """
    return abs(time.time_ns() - changed_ns) > _SETTLE_NS


def owner_of(path: str | Path) -> str:
    """Returns the user to whom the file belongs, as `validator (uid 1000)`.

    If the file itself is out of reach, returns the owner of the nearest folder above it, which is locked.
    """
    at = Path(path).absolute()
    while True:
        try:
            uid = at.stat().st_uid
            break
        except OSError:
            if at == at.parent:
                raise
            at = at.parent
    return user_name(uid)


def user_name(uid: int) -> str:
    """Returns the user, as `validator (uid 1000)`."""
    if sys.platform == "win32":
        return "another user"
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # as in a container, which has other users
        return f"uid {uid}"


def mount_of(path: str | Path) -> tuple[str, str]:
    """Returns where the file's file system is mounted, and its kind; empty if that is unknown."""
    place, kind = "", ""
    real = os.path.realpath(path)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, source = line.partition(" - ")
            at = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount.split(" ")[4])
            is_above = real == at or real.startswith(at.rstrip("/") + "/")
            if is_above and len(at) >= len(place):  # of several at one place, the last one is on top
                place, kind = at, source.split(" ")[0]
    return place, kind
