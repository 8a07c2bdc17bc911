"""permessage-deflate (RFC 7692), without context takeover on either side.

No context means that a message is compressed once for all who take it compressed, and that a connection costs
no memory for its history.
"""

from __future__ import annotations

from isal import isal_zlib
from isal.igzip_lib import IsalError

from ptn_api.errors import InvalidInputError

__all__ = ["compress", "inflate", "negotiate"]

_RAW = -15
_LEVEL = 1
_TAIL = b"\x00\x00\xff\xff"
_NO_CONTEXT = ("server_no_context_takeover", "client_no_context_takeover")
_KNOWN = {*_NO_CONTEXT, "server_max_window_bits", "client_max_window_bits"}


def negotiate(offers: str) -> str | None:
    """The answer to a `Sec-WebSocket-Extensions` header; None: no compression.

    An offer with `server_max_window_bits` below 15 is declined: the compressor knows one window only.
    """
    for offer in offers.split(","):
        name, *parts = (part.strip() for part in offer.split(";"))
        if name.lower() != "permessage-deflate":
            continue
        parameters = _parameters(parts)
        if parameters is not None:
            bits = ("server_max_window_bits=15",) if "server_max_window_bits" in parameters else ()
            return "; ".join(("permessage-deflate", *_NO_CONTEXT, *bits))
    return None


def _parameters(parts: list[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        key, value = key.strip().lower(), value.strip().strip('"')
        if key in found or key not in _KNOWN or not _valid(key, value):
            return None
        found[key] = value
    return found


def _valid(key: str, value: str) -> bool:
    if key in _NO_CONTEXT:
        return not value
    if key == "server_max_window_bits":
        return value == "15"
    return value in ("", "8", "9", "10", "11", "12", "13", "14", "15")


def compress(payload: bytes) -> bytes:
    """A message's payload, deflated (RFC 7692, section 7.2.1)."""
    compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _RAW)
    deflated: bytes = compressor.compress(payload) + compressor.flush(isal_zlib.Z_FULL_FLUSH)
    return deflated.removesuffix(_TAIL)


def inflate(payload: bytes, limit: int) -> bytes:
    """A message's payload, inflated to at most `limit` bytes (RFC 7692, section 7.2.2).

    Raises InvalidInputError, code `too_big` or `not_deflated`; never holds much more than `limit`.
    """
    decompressor = isal_zlib.decompressobj(_RAW)
    try:
        inflated: bytes = decompressor.decompress(payload + _TAIL, limit + 1)
    except IsalError as error:  # type: ignore[misc]  # a class, whatever its stub says
        raise InvalidInputError(f"not deflated: {error}", code="not_deflated") from None
    if len(inflated) > limit:
        raise InvalidInputError("inflated message too big", code="too_big")
    return inflated
