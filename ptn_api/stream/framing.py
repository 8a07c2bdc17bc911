"""WebSocket frames as bytes, made once and written to many (RFC 6455, section 5.2).

A server masks nothing, so that one frame serves everybody.
"""

from __future__ import annotations

import struct

__all__ = ["PONG", "TEXT", "frame"]

TEXT = 0x1
PONG = 0xA
_FIN = 0x80
_RSV1 = 0x40
"""Set on a message that permessage-deflate compressed (RFC 7692, section 6)."""


def frame(payload: bytes, *, opcode: int = TEXT, compressed: bool = False) -> bytes:
    """One whole message as one frame."""
    first = _FIN | opcode | (_RSV1 if compressed else 0)
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
