"""A client's frames put together into messages, within bounds."""

from __future__ import annotations

from ptn_api.errors import InvalidInputError
from ptn_api.stream.deflate import inflate

__all__ = ["MessageReader"]

CONTINUATION = 0x0


class MessageReader:
    """Joins fragments and inflates; text and binary are the same to it.

    A message of more than `limit` bytes, all its fragments, inflated, is refused before it is held whole.
    """

    def __init__(self, *, limit: int, deflate: bool) -> None:
        self._limit = limit
        self._deflate = deflate
        self._parts: list[bytes] | None = None
        self._size = 0
        self._compressed = False

    def feed(self, opcode: int, payload: bytes, *, fin: bool, compressed: bool) -> bytes | None:
        """The message that this data frame ends; None if more of it is to come.

        Raises InvalidInputError, code `too_big`, `bad_fragment` or `not_deflated`: the connection is lost.
        """
        parts = self._begin(compressed) if opcode != CONTINUATION else self._continue(compressed)
        self._size += len(payload)
        if self._size > self._limit:
            raise InvalidInputError("message too big", code="too_big")
        parts.append(payload)
        return self._end(parts) if fin else None

    def _begin(self, compressed: bool) -> list[bytes]:
        if self._parts is not None:
            raise InvalidInputError("a message inside another", code="bad_fragment")
        if compressed and not self._deflate:
            raise InvalidInputError("compression was not agreed", code="bad_fragment")
        self._parts, self._size, self._compressed = [], 0, compressed
        return self._parts

    def _continue(self, compressed: bool) -> list[bytes]:
        if self._parts is None or compressed:
            raise InvalidInputError("a continuation of nothing", code="bad_fragment")
        return self._parts

    def _end(self, parts: list[bytes]) -> bytes:
        self._parts = None
        message = b"".join(parts)
        return inflate(message, self._limit) if self._compressed else message
