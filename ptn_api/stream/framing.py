"""WebSocket frames as bytes, made once and written to many (RFC 6455, section 5.2).

A server masks nothing, so that one frame serves everybody.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

__all__ = ["PONG", "TEXT", "frame", "joined"]

TEXT = 0x1
PONG = 0xA
_FIN = 0x80
_RSV1 = 0x40
"""Set on a message that permessage-deflate compressed (RFC 7692, section 6)."""

_WRITE_BYTES = 64 * 1024
"""As much as one write may join: copying it costs less than the system calls that it saves."""


def frame(payload: bytes, *, opcode: int = TEXT, compressed: bool = False) -> bytes:
    """One whole message as one frame."""
    first = _FIN | opcode | (_RSV1 if compressed else 0)
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def joined(frames: Sequence[bytes]) -> Iterator[bytes]:
    """Frames as few writes: small ones together, large ones as they are."""
    small: list[bytes] = []
    size = 0
    for data in frames:
        if small and size + len(data) > _WRITE_BYTES:
            yield b"".join(small)
            small, size = [], 0
        small.append(data)
        size += len(data)
    if small:
        yield b"".join(small) if len(small) > 1 else small[0]
