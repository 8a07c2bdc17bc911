"""A single file of any content: read with limits, its name checked.

Folders are the subject of `directory`, positions that of `position_files`.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata

from ptn_api.errors import InvalidInputError
from ptn_api.file_version import owner_of

__all__ = ["LONGEST_NAME", "Key", "check_name", "check_utf8", "read_file"]

Key = tuple[str, str]
"""A position: (hotkey of its folder, position uuid)."""

LONGEST_NAME = 128
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FORBIDDEN = frozenset("'\"`\\/")


def read_file(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Returns the content, and the status from before it was read.

    A write during the read therefore shows as another version. Raises FileNotFoundError, and
    InvalidInputError with code `unreadable`, `not_a_file`, `too_large`, `empty` or `not_utf8`.
    """
    try:
        # O_NONBLOCK: opening a FIFO among the files must not block the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInputError("not a regular file", code="not_a_file")
            if status.st_size > limit:
                raise InvalidInputError(f"larger than {limit} bytes", code="too_large")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                body = file.readall() or b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except PermissionError as error:
        reason = f"cannot be read: {error.strerror}; it belongs to {owner_of(path)}"
        raise InvalidInputError(reason, code="unreadable") from None
    except OSError as error:
        raise InvalidInputError(f"cannot be read: {error.strerror}", code="unreadable") from None
    if not body:
        raise InvalidInputError("empty file", code="empty")
    check_utf8(body)
    return body, status


def check_utf8(body: bytes) -> None:
    """Checks text that the JSON decoder cuts out without decoding. Raises InvalidInputError, `not_utf8`."""
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError:
        raise InvalidInputError("not UTF-8", code="not_utf8") from None


def check_name(name: str) -> None:
    """Checks a name that may become part of keys, URLs and log lines.

    Raises InvalidInputError with code `bad_name` if it is empty, hidden or longer than 128 characters, or
    contains a control character, quote or slash, or undecodable bytes.
    """
    if len(name) <= LONGEST_NAME and _PLAIN_NAME.fullmatch(name):
        return
    if not 0 < len(name) <= LONGEST_NAME or name.startswith("."):
        raise InvalidInputError("name is empty, hidden or too long", code="bad_name")
    # Categories C*: control and format characters, and the surrogates that stand for undecodable bytes.
    if any(c in _FORBIDDEN or unicodedata.category(c).startswith("C") for c in name):
        raise InvalidInputError("name contains a forbidden character", code="bad_name")
