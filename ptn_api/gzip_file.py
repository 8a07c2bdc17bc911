"""Files that may be gzipped."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from ptn_api.errors import InvalidInputError

__all__ = ["read_maybe_gzipped"]

_MAGIC = b"\x1f\x8b"


def read_maybe_gzipped(path: str | os.PathLike[str], name: str) -> bytes:
    """Returns the file's content, decompressed if it is gzipped; errors call the file `name`.

    Raises InvalidInputError with code `unreadable`, or `damaged` if it cannot be decompressed.
    """
    try:
        content = Path(path).read_bytes()
        return gzip.decompress(content) if content.startswith(_MAGIC) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(f"{name} is damaged: {error}", code="damaged") from None
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror}", code="unreadable") from None
