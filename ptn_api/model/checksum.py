"""A number by which two holders of the same positions can tell that they agree (docs/protocol.md, 4).

The checksum of a state is the sum of its positions' checksums modulo `CHECKSUM_MODULUS`, so that it can be
kept up while positions come, change and go.
"""

from __future__ import annotations

import hashlib
import json

import msgspec

from ptn_api.model.position import PositionText

__all__ = ["CHECKSUM_MODULUS", "position_checksum"]

CHECKSUM_MODULUS = 1 << 64

_decode = msgspec.json.Decoder(dict).decode
# Floats must be written as Python writes them, which faster encoders do not.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def position_checksum(body: bytes | PositionText) -> int:
    """The first 8 bytes of the SHA-256 of the position in its canonical JSON, as a big-endian integer.

    Left out are the orders' price_sources, which age out; close_ms is null while the position is open,
    also where REST shows 0. `body` is a position that was read before (`parse_position`).
    """
    position = _decode(body.json() if isinstance(body, PositionText) else body)
    if not position.get("is_closed_position"):
        position["close_ms"] = None
    for order in position["orders"]:
        order.pop("price_sources", None)
    return int.from_bytes(hashlib.sha256(_encode(position).encode()).digest()[:8], "big")
