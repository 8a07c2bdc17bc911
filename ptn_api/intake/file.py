"""One file of the validator: read whole, and what tells its versions apart."""

from __future__ import annotations

import os
import stat
import time

from ptn_api.errors import InvalidInputError

__all__ = ["check_utf8", "read_whole", "settled", "stamp"]

_SETTLE_NS = 50_000_000


def stamp(status: os.stat_result) -> str:
    """Names a version of a file: inode, ctime (ns) and size."""
    return f"{status.st_ino}-{status.st_ctime_ns}-{status.st_size}"


def settled(changed_ns: int) -> bool:
    """Whether a change would show by now if another had followed.

    The kernel's file times tick every few ms and inodes are reused at once, so that a version read within
    that tick may look the same as the next one.
    """
    return abs(time.time_ns() - changed_ns) > _SETTLE_NS


def read_whole(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """The content, and the status from before the reading, so that a write meanwhile makes a difference.

    Raises FileNotFoundError, and InvalidInputError with code `unreadable`, `not_a_file`, `too_large`, `empty`
    or `not_utf8`.
    """
    try:
        # O_NONBLOCK: a FIFO put among the files must not hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            _check(status, limit)
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                body = file.readall() or b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidInputError(f"cannot be read: {error.strerror}", code="unreadable") from None
    if not body:
        raise InvalidInputError("an empty file", code="empty")
    check_utf8(body)
    return body, status


def check_utf8(body: bytes) -> None:
    """For text that the JSON decoder only cuts out, unlooked at. Raises InvalidInputError, `not_utf8`."""
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError:
        raise InvalidInputError("no UTF-8", code="not_utf8") from None


def _check(status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInputError("no regular file", code="not_a_file")
    if status.st_size > limit:
        raise InvalidInputError(f"larger than {limit} bytes", code="too_large")
