"""Files that may be gzipped."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from ptn_api.errors import InvalidInputError

__all__ = ["GZIP_MAGIC", "inflate", "read_maybe_gzipped"]

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_maybe_gzipped(path: str | os.PathLike[str], name: str) -> bytes:
    """Returns the file's content, decompressed if it is gzipped; errors call the file `name`.

    Raises InvalidInputError with code `unreadable`, or `damaged` if it cannot be decompressed.
    """
    try:
        content = Path(path).read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(f"{name} is damaged: {error}", code="damaged") from None
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror}", code="unreadable") from None


def inflate(body: bytes, limit: int, *, begins: bytes = b"") -> bytes:
    """Returns gzipped content that is not trusted to be of a reasonable size.

    Stops at more than `limit` bytes, and at once if the first byte that is not blank is not in `begins`.
    Raises InvalidInputError with code `too_large`, `not_json` (because of `begins`) or `damaged`.
    """
    content = bytearray()
    checked = not begins
    try:
        while body:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                chunk = member.decompress(body, _CHUNK)
                body = member.unconsumed_tail
                content += chunk
                if not chunk and not body and not member.eof:
                    raise InvalidInputError("the file ends early", code="damaged")
                if len(content) > limit:
                    raise InvalidInputError(f"larger than {limit} bytes", code="too_large")
                if not checked and (start := content[:_CHUNK].lstrip()):
                    checked = True
                    if start[:1] not in begins:
                        raise InvalidInputError("not a JSON object", code="not_json")
            body = member.unused_data.lstrip(b"\0")  # padding, as gzip allows it
    except zlib.error as error:
        raise InvalidInputError(f"cannot be decompressed: {error}", code="damaged") from None
    return bytes(content)
