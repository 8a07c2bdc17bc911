"""Checksums by which two holders of the same positions can tell that they agree (docs/protocol.md, 4).

A state's checksum is the sum of its positions' checksums modulo `CHECKSUM_MODULUS`, so that it can be updated
as positions are added, changed and removed.
"""

from __future__ import annotations

import hashlib
import json

import msgspec

from ptn_api.model.position import PositionText

__all__ = ["CHECKSUM_MODULUS", "position_checksum"]

CHECKSUM_MODULUS = 1 << 64

_decode = msgspec.json.Decoder(dict).decode
# The standard library's: floats must be written as Python writes them, and faster encoders differ.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def position_checksum(body: bytes | PositionText) -> int:
    """Returns the first 8 bytes of the SHA-256 of the position's canonical JSON, as a big-endian integer.

    The orders' price_sources are left out, since they age out; close_ms is null while the position is open,
    where REST shows 0. `body` must be valid (`parse_position`).
    """
    position = _decode(body.json() if isinstance(body, PositionText) else body)
    if not position.get("is_closed_position"):
        position["close_ms"] = None
    for order in position["orders"]:
        order.pop("price_sources", None)
    return int.from_bytes(hashlib.sha256(_encode(position).encode()).digest()[:8], "big")
