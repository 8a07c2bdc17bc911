"""A single file of any content: read with limits, its name and its JSON checked.

Folders are the subject of `directory`, positions that of `position_files`.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.file_version import owner_of
from ptn_api.gzip_file import GZIP_MAGIC, inflate
from ptn_api.model.repair import sound_json

__all__ = [
    "LONGEST_NAME",
    "Key",
    "Refusals",
    "check_name",
    "check_object",
    "check_utf8",
    "json_object",
    "read_bytes",
    "read_file",
]

T = TypeVar("T")

Key = tuple[str, str]
"""A position: (hotkey of its folder, position uuid)."""

LONGEST_NAME = 128
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FORBIDDEN = frozenset("'\"`\\/")

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRIES = 5
_LOGGED_TRY = 3
_PICKLE = b"\x80"
_INCOMPLETE = frozenset({"empty", "not_json", "not_utf8", "damaged"})
"""Reasons for refusing a file that is still being copied into place."""


class Refusals(Generic[T]):
    """Files that cannot be read at present, each with the version in which it was refused.

    A version is tried a few times: files that are copied into place are seen empty or half written, and the
    rest may come within one tick of the file's clock. A file without permission is tried each time.
    """

    def __init__(self) -> None:
        self._refused: dict[T, tuple[str, str, int]] = {}

    def __len__(self) -> int:
        return len(self._refused)

    def is_final(self, item: T, version: str) -> bool:
        """Returns whether this version need not be tried again."""
        refused, code, tries = self._refused.get(item, ("", "", 0))
        return refused == version and tries >= _TRIES and code != "unreadable"

    def is_young(self, item: T) -> bool:
        """Returns whether the version that was refused may just be incomplete."""
        return 0 < self._refused.get(item, ("", "", 0))[2] < _TRIES

    def code(self, item: T) -> str:
        """Returns why the item was refused; empty if it was not."""
        return self._refused.get(item, ("", "", 0))[1]

    def add(self, item: T, version: str, code: str) -> bool:
        """Notes a failed attempt. Returns whether to log it: once per version, if it seems to be complete."""
        before = self._refused.get(item, ("", "", 0))
        tries = before[2] + 1 if before[:2] == (version, code) else 1
        self._refused[item] = (version, code, tries)
        return tries == (_LOGGED_TRY if code in _INCOMPLETE else 1)

    def discard(self, item: T) -> None:
        self._refused.pop(item, None)

    def unreadable(self) -> Iterator[T]:
        """Yields the items that this user cannot read."""
        return (item for item, (_, code, _) in self._refused.items() if code == "unreadable")

    def to_retry(self) -> Iterator[T]:
        """Yields the items that are worth another attempt."""
        return (item for item, (version, _, _) in self._refused.items() if not self.is_final(item, version))


def read_file(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Returns the content, and the status from before it was read.

    A write during the read therefore shows as another version. Raises FileNotFoundError, and
    InvalidInputError with code `unreadable`, `not_a_file`, `too_large`, `empty` or `not_utf8`.
    """
    body, status = read_bytes(path, limit)
    check_utf8(body)
    return body, status


def read_bytes(path: str, limit: int, *, tail: int | None = None) -> tuple[bytes, os.stat_result]:
    """Returns the content, or with `tail` its last bytes; otherwise as `read_file`, but of any encoding."""
    try:
        # O_NONBLOCK: opening a FIFO among the files must not block the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInputError("not a regular file", code="not_a_file")
            if tail is None and status.st_size > limit:
                raise InvalidInputError(f"larger than {limit} bytes", code="too_large")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                if tail is not None and status.st_size > tail:
                    file.seek(status.st_size - tail)
                body = file.readall() or b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        if os.path.islink(path):  # the disk that it leads to may be mounted again
            raise InvalidInputError("a link to a missing file", code="unreadable") from None
        raise
    except PermissionError as error:
        reason = f"cannot be read: {error.strerror}; it belongs to {owner_of(path)}"
        raise InvalidInputError(reason, code="unreadable") from None
    except OSError as error:
        raise InvalidInputError(f"cannot be read: {error.strerror}", code="unreadable") from None
    if not body:
        raise InvalidInputError("empty file", code="empty")
    return body, status


def json_object(body: bytes, limit: int) -> bytes:
    """Returns the JSON object that a file contains, gzipped or not, as valid JSON (`sound_json`).

    A pickle is recognised by its first byte, and never loaded. Raises InvalidInputError with code `pickle`,
    `damaged`, `not_utf8`, `not_json`, `not_an_object`, or `too_large` if it inflates to more than `limit`.
    """
    if body.startswith(_PICKLE):
        raise InvalidInputError("a pickle, which is never loaded", code="pickle")
    if body.startswith(GZIP_MAGIC):
        body = inflate(body, limit, begins=b"{")
    check_utf8(body)
    body = sound_json(body)
    check_object(body)
    return body


def check_object(body: bytes | msgspec.Raw) -> None:
    """Raises InvalidInputError, code `not_json` or `not_an_object` (NaN is not JSON)."""
    try:
        _object.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="not_an_object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}", code="not_json") from None


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
