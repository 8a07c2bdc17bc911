"""The embedded queue: positions that an embedding validator announces, one JSON object per line of a pipe.

With a directory the queue is a hint that makes an order visible sooner. Without one it is the only source:
items that were taken and not yet appended are lost if intake is killed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import PositionWritten
from ptn_api.intake.files import check_name, check_utf8
from ptn_api.model.position import check_unknown, parse_position

__all__ = ["Lines", "QueueReader", "parse_item"]

logger = structlog.get_logger()

_CHUNK = 1 << 18
_item = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Lines:
    """A stream of bytes, cut into lines. A line of more than `limit` bytes is dropped up to its newline."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False
        self.dropped = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yields the lines that this chunk completes, without their newlines."""
        self._buffer += chunk
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if self._skipping or len(line) > self._limit:
                self.dropped += 1
                self._skipping = False
            elif line.strip():
                yield line
        self._searched = len(self._buffer)
        if self._searched > self._limit:
            self._skipping = True
            self._buffer.clear()
            self._searched = 0


def parse_item(line: bytes) -> PositionWritten:
    """Returns the position of one queue item. Raises InvalidInputError if it has no valid position."""
    check_utf8(line)
    try:
        keys = _item.decode(line)
        body = bytes(keys.pop("position"))
    except (msgspec.DecodeError, RecursionError, KeyError):
        raise InvalidInputError("no position in the item", code="not_a_position", field="position") from None
    position, text = parse_position(body)
    check_name(position.miner_hotkey)
    check_name(position.position_uuid)
    extra = msgspec.json.encode(keys) if keys else b""
    check_unknown(extra or b"{}")
    return PositionWritten(position=position, text=text, extra=extra)


class QueueReader:
    """A reader of items from a pipe or socket, until its other end closes. Owns the descriptor.

    A restarted intake may begin in the middle of a line, which is refused like any other malformed item.
    `wait_for_capacity` returns when the log has caught up enough to take more, so that memory stays bounded.
    `on_refused` is called with the number of malformed items so far.
    """

    def __init__(
        self,
        descriptor: int,
        put: Callable[[PositionWritten], None],
        *,
        line_limit: int,
        wait_for_capacity: Callable[[], Awaitable[None]],
        on_refused: Callable[[int], None] | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._put = put
        self._lines = Lines(line_limit)
        self._wait_for_capacity = wait_for_capacity
        self._on_refused = on_refused
        self.refused = 0
        """Number of malformed items."""

    async def run(self) -> None:
        """Reads to the end of the queue; cancel it to stop earlier."""
        reader = asyncio.StreamReader(limit=_CHUNK)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._descriptor, "rb", buffering=0)
        )
        try:
            while chunk := await reader.read(_CHUNK):
                for line in self._lines.feed(chunk):
                    try:
                        change = parse_item(line)
                    except InvalidInputError as error:
                        self._refuse(error)
                    else:
                        self._put(change)
                if self._lines.dropped:
                    self._lines.dropped = 0
                    self._refuse(InvalidInputError("line is too long", code="too_large"))
                await self._wait_for_capacity()
        finally:
            transport.close()
        logger.info("queue_ended")

    def _refuse(self, error: InvalidInputError) -> None:
        self.refused += 1
        logger.warning("queue_item_skipped", code=error.code, reason=str(error), refused=self.refused)
        if self._on_refused is not None:
            self._on_refused(self.refused)
