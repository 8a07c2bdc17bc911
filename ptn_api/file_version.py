"""What one stat tells of a file: its version, to see whether it has changed, and its owner."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import pwd

__all__ = ["is_settled", "owner_of", "version_of"]

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

    Where the file itself is out of reach, the nearest folder above it decides: it is the one that is locked.
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
    if sys.platform == "win32":
        return "another user"
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # as in a container, which has other users
        return f"uid {uid}"
