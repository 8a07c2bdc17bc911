"""Versions of a file, to see from one stat whether it has changed."""

from __future__ import annotations

import os
import time

__all__ = ["is_settled", "version_of"]

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
