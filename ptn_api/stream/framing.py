"""WebSocket frames and permessage-deflate, in both directions (RFC 6455 and RFC 7692).

A server does not mask, so one frame, made once, is written to any number of clients. Neither side keeps a
compression context: a message is compressed once for all its recipients, and a connection needs no memory for
its history.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from isal import isal_zlib
from isal.igzip_lib import IsalError

from ptn_api.errors import InvalidInputError
from ptn_api.fanout.encoding import Change, Message, Shared
from ptn_api.wire import codec

__all__ = [
    "PONG",
    "TEXT",
    "MessageReader",
    "SocketFraming",
    "compress",
    "frame",
    "inflate",
    "negotiate",
    "pack",
]

CONTINUATION = 0x0
TEXT = 0x1
PONG = 0xA
_FIN = 0x80
_RSV1 = 0x40
"""Set on a message that permessage-deflate compressed (RFC 7692, section 6)."""

BATCH_MESSAGES = 50
BATCH_BYTES = 512 * 1024
_ENVELOPE_BYTES = 64
"""More than a batch adds around its messages."""
COMPRESS_FROM_BYTES = 256
"""Below this size deflate costs more than it saves."""


class SocketFraming(NamedTuple):
    """The `Framing` of a WebSocket: orders alone, or in batches if several."""

    deflate: bool

    def orders(self, messages: Sequence[Message], revision: int, shared: Shared) -> list[bytes]:
        return [self._frame(payload, shared) for payload in pack(message for _, message in messages)]

    def variant(self, revision: int) -> Hashable:
        return self

    def changes(
        self, changes: Sequence[Change], sequence: int, revisions: tuple[int, int], shared: Shared
    ) -> list[bytes]:
        return [self._frame(payload, shared) for _, payload in changes]

    def single(self, frame_: msgspec.Struct, revision: int) -> bytes:
        return frame(codec.encode(frame_))

    def _frame(self, payload: bytes, shared: Shared) -> bytes:
        deflate = self.deflate and len(payload) >= COMPRESS_FROM_BYTES
        encoded = None if shared is None else shared.get((payload, deflate))
        if encoded is None:
            encoded = frame(compress(payload), compressed=True) if deflate else frame(payload)
            if shared is not None:
                shared[payload, deflate] = encoded
        return encoded


def pack(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the messages as payloads: alone, or in batches of bounded count and size."""
    batch: list[bytes] = []
    size = _ENVELOPE_BYTES
    for message in messages:
        if batch and (len(batch) == BATCH_MESSAGES or size + len(message) >= BATCH_BYTES):
            yield _payload(batch)
            batch, size = [], _ENVELOPE_BYTES
        batch.append(message)
        size += len(message) + 1
    if batch:
        yield _payload(batch)


def _payload(batch: list[bytes]) -> bytes:
    return batch[0] if len(batch) == 1 else codec.encode_batch(batch)


def frame(payload: bytes, *, opcode: int = TEXT, compressed: bool = False) -> bytes:
    """Returns the message as a single unmasked frame (RFC 6455, section 5.2)."""
    first = _FIN | opcode | (_RSV1 if compressed else 0)
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class MessageReader:
    """Messages assembled from a client's data frames; text and binary are treated alike.

    A message of more than `limit` bytes (all fragments, inflated) is refused before it is held in memory.
    """

    def __init__(self, *, limit: int, deflate: bool) -> None:
        self.limit = limit
        self._deflate = deflate
        self._message: bytearray | None = None
        self._compressed = False

    def feed(self, opcode: int, payload: bytes, *, fin: bool, compressed: bool) -> bytes | None:
        """Returns the message that this frame completes, or None while more fragments are due.

        Raises InvalidInputError, code `too_big`, `bad_fragment` or `not_deflated`: close the connection.
        """
        if opcode != CONTINUATION:
            if self._message is not None:
                raise InvalidInputError("a new message before the last fragment", code="bad_fragment")
            if compressed and not self._deflate:
                raise InvalidInputError("compression was not negotiated", code="bad_fragment")
            self._message, self._compressed = bytearray(), compressed
        elif self._message is None or compressed:  # only the first fragment may have the compression bit
            raise InvalidInputError("a continuation without a message", code="bad_fragment")
        if len(self._message) + len(payload) > self.limit:
            raise InvalidInputError("message too big", code="too_big")
        self._message += payload
        if not fin:
            return None
        message, self._message = bytes(self._message), None
        return inflate(message, self.limit) if self._compressed else message


# --- permessage-deflate -----------------------------------------------------------------------------------

_RAW_DEFLATE = -15
_LEVEL = 1
_TAIL = b"\x00\x00\xff\xff"
"""Ends every flushed block; left out on the wire (RFC 7692, section 7.2.1)."""

_ANY_WINDOW = ("", "8", "9", "10", "11", "12", "13", "14", "15")
_ALLOWED_VALUES = {
    "server_no_context_takeover": ("",),
    "client_no_context_takeover": ("",),
    "server_max_window_bits": ("15",),  # the compressor has a fixed window
    "client_max_window_bits": _ANY_WINDOW,
}


def negotiate(offers: str) -> str | None:
    """Returns the response to a `Sec-WebSocket-Extensions` header; None means no compression.

    The first acceptable offer is taken. One with a `server_max_window_bits` below 15 is declined.
    """
    for offer in offers.split(","):
        name, *parts = (part.strip() for part in offer.split(";"))
        parameters = _parse_parameters(parts) if name.lower() == "permessage-deflate" else None
        if parameters is not None:
            bits = ("server_max_window_bits=15",) if "server_max_window_bits" in parameters else ()
            no_context = ("server_no_context_takeover", "client_no_context_takeover")
            return "; ".join(("permessage-deflate", *no_context, *bits))
    return None


def _parse_parameters(parts: list[str]) -> dict[str, str] | None:
    """Returns None for an offer that must be declined: an unknown, repeated or unusable parameter."""
    parameters: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name in parameters or value not in _ALLOWED_VALUES.get(name, ()):
            return None
        parameters[name] = value
    return parameters


def compress(payload: bytes) -> bytes:
    """Deflates a message's payload (RFC 7692, section 7.2.1)."""
    compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _RAW_DEFLATE)
    deflated: bytes = compressor.compress(payload) + compressor.flush(isal_zlib.Z_FULL_FLUSH)
    return deflated.removesuffix(_TAIL)


def inflate(payload: bytes, limit: int) -> bytes:
    """Inflates a message's payload to at most `limit` bytes (RFC 7692, section 7.2.2).

    Raises InvalidInputError, code `too_big` or `not_deflated`, without ever holding much more than `limit`.
    """
    decompressor = isal_zlib.decompressobj(_RAW_DEFLATE)
    try:
        inflated: bytes = decompressor.decompress(payload + _TAIL, limit + 1)
    except IsalError as error:  # type: ignore[misc]  # a class, contrary to its stub
        raise InvalidInputError(f"not deflated: {error}", code="not_deflated") from None
    if len(inflated) > limit:
        raise InvalidInputError("inflated message too big", code="too_big")
    return inflated
