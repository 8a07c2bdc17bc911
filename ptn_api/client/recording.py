"""Recorded orders in files: recordings, read and written, and validator checkpoints, read as if recorded.

A recording has one JSON object a line, and is compressed if its name ends in .zst:

    {"type": "recording", "epoch": "...", "after": 41}      the log, and the sequence before the next line
    {"sequence": 42, "timestamp": ..., "data": {...}}       a message, as the stream sent it
    {"type": "gap", "after": 42, "next": 45, "reason": "too_old"}

The output of `ptn stream --json` is a recording too, and so is `/messages` as NDJSON. Unknown types of lines
are ignored.

A process killed while writing leaves at most one incomplete line (compressed: one incomplete frame) at the
end. Readers ignore it; opening the file for appending truncates it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, get_args

import msgspec

from ptn_api.errors import ClientError, InvalidInputError
from ptn_api.file_lock import FileLock
from ptn_api.gzip_file import read_maybe_gzipped
from ptn_api.loop_thread import forked
from ptn_api.model.position import Position, PositionText, parse_position
from ptn_api.model.rendering import headers_after
from ptn_api.model.repair import sound_json
from ptn_api.wire.client_session import Cursor, Gap, GapReason, StreamItem
from ptn_api.wire.codec import encode_message
from ptn_api.wire.server_frames import OrderMessage

__all__ = ["Recording", "is_recording", "read_checkpoint", "read_recording"]

logger = logging.getLogger("ptn_api.client")

_CHUNK = 1 << 20
_FRAME = 64 << 10
"""Bytes of lines compressed together; fewer when flushed."""
_MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a zstd frame."""
_STARTS = b'{"sequence":', b'{"type":'


class _Line(msgspec.Struct):
    """The keys that determine a line's kind and the cursor after it."""

    type: str = ""
    sequence: int | None = None
    epoch: str | None = None
    after: int = -1
    next: int = -1
    reason: str = "hole"

    def moved(self, cursor: Cursor) -> Cursor:
        """Returns the cursor after this line."""
        if self.type == "recording":
            return Cursor(self.after, self.epoch)
        if self.type == "gap":
            return Cursor(self.next - 1, cursor.epoch)
        return cursor if self.sequence is None else Cursor(self.sequence, cursor.epoch)


_line = msgspec.json.Decoder(_Line)
_message = msgspec.json.Decoder(OrderMessage)
_encode = msgspec.json.Encoder().encode


# --- reading a recording ----------------------------------------------------------------------------------


def read_recording(path: str | os.PathLike[str]) -> Iterator[OrderMessage | Gap]:
    """Yields the messages and gaps of a file in order.

    Raises InvalidInputError (code `unreadable`, or `not_a_recording` with the line number).
    """
    for line, text, _, where in _parsed_lines(Path(path)):
        if line.type == "gap":
            reason: Any = line.reason if line.reason in get_args(GapReason) else "hole"
            yield Gap(line.after, line.next, reason)
        elif not line.type and line.sequence is not None:
            try:
                yield _message.decode(text)
            except msgspec.ValidationError as error:
                raise InvalidInputError(f"{where}: {error}", code="not_a_recording") from None


def is_recording(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like a recording, or is empty. Raises InvalidInputError, code `unreadable`."""
    with _open_for_reading(Path(path)) as file:
        start = next(_decompressed(file), (b"", 0))[0] if _is_compressed(Path(path), file) else file.read(64)
    text = bytes(start[:64]).replace(b" ", b"")
    return any(text.startswith(known) or known.startswith(text) for known in _STARTS)


def _parsed_lines(path: Path) -> Iterator[tuple[_Line, bytes, int, str]]:
    """Yields (line, its text, the end of the intact part of the file after it, its place for errors)."""
    for number, (text, end) in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            line = _line.decode(text) if text.strip() else _Line()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"{where}: {error}", code="not_a_recording") from None
        yield line, text, end, where


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yields complete lines, each with the end of the intact part of the file after it."""
    with _open_for_reading(path) as file:
        if not _is_compressed(path, file):
            end = 0
            for line in file:
                end += len(line)
                if line.endswith(b"\n"):
                    yield line, end
            return
        incomplete = b""
        for chunk, end in _decompressed(file):
            *lines, incomplete = (incomplete + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n", end


def _open_for_reading(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", code="unreadable") from None


def _decompressed(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields the decompressed content in chunks, each with the end of the last complete frame."""
    zstandard = _import_zstandard()
    end, data = 0, file.read(_CHUNK)
    try:
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj()
            # A decompressor handles one frame; the next one starts in its unused data.
            while data and not frame.eof:
                chunk = frame.decompress(data)
                rest = frame.unused_data if frame.eof else b""
                end = file.tell() - len(rest) if frame.eof else end
                yield chunk, end
                data = rest or file.read(_CHUNK)
    except zstandard.ZstdError as error:
        raise InvalidInputError(f"{file.name} is damaged: {error}", code="unreadable") from None


def _is_compressed(path: Path, file: BinaryIO) -> bool:
    """Decides by the content, or by the name of an empty file."""
    start = file.read(len(_MAGIC))
    file.seek(0)
    return start == _MAGIC if start else path.suffix == ".zst"


def _import_zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        problem = "recordings that end in .zst need another package: pip install zstandard"
        raise ClientError(problem, code="no_zstandard") from None
    return zstandard


# --- writing a recording ----------------------------------------------------------------------------------


class Recording:
    """A recording opened for appending; the target of a stream's items and its `cursor_store`.

        recording = Recording("orders.ndjson.zst")
        async with Stream(url, key, cursor_store=recording) as stream:
            async for item in stream.items():
                recording.take(item)

    The cursor is read from the file itself, so after any interruption the next message follows the last
    recorded one. Uncompressed lines are written at once; compressed ones in frames, or by `flush`. Raises
    ClientError (`unwritable`, `in_use` by another process, `no_zstandard`), and InvalidInputError for an
    existing file that is not a recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.written = 0
        """The number of messages written by this object."""
        self._cursor = Cursor()
        self._recorded = Cursor()
        self._buffer: list[bytes] = []
        self._pid = os.getpid()
        self._compress = self._open()

    def load(self) -> Cursor:
        """Returns the cursor of the last recorded message."""
        return self._recorded

    def save(self, cursor: Cursor) -> None:
        """Keeps the cursor of an item that wrote nothing; `close` records it."""
        self._cursor = cursor

    def take(self, step: StreamItem) -> None:
        """Writes an item of a stream, if it is a message or a gap."""
        self._cursor = step.cursor
        # In one write: without its gap, a header would hide that messages are missing.
        header = _header(step.cursor) if step.cursor.epoch != self._recorded.epoch else b""
        match step.value:
            case OrderMessage() as message:
                late = b',"late":true' if message.late else b""
                replay = b',"replay":true' if message.replay else b""
                fields = message.sequence, message.timestamp, bytes(message.data), late, replay
                line = b'{"sequence":%d,"timestamp":%d,"data":%b%b%b}\n' % fields
                self._write(header + line, step.cursor)
                self.written += 1
            case Gap(after, then, reason):
                gap = {"type": "gap", "after": after, "next": then, "reason": reason}
                self._write(header + _encode(gap) + b"\n", step.cursor)
            case _ if header:
                self._write(header, step.cursor)

    def flush(self) -> None:
        """Passes all lines to the operating system; if that fails, the next flush tries again."""
        if not self._buffer:
            return
        data = memoryview(self._compress(b"".join(self._buffer)))
        size = os.fstat(self._file.fileno()).st_size  # to undo a partial write
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:  # a full disk
            self._file.truncate(size)
            raise ClientError(f"cannot write {self.path}: {error.strerror}", code="unwritable") from None
        self._buffer.clear()

    def close(self) -> None:
        """Completes the file and releases it for other processes."""
        if self._file.closed:
            return
        try:
            if self._pid != os.getpid():
                self._buffer.clear()  # the parent's
                return
            # Heartbeats moved the cursor beyond the last line; a header records it.
            if self._cursor.epoch is not None and self._cursor != self._recorded:
                self._write(_header(self._cursor), self._cursor)
            self.flush()
        finally:
            self._close_file()

    def _open(self) -> Any:
        """Opens and locks the file, finds its cursor, and returns the compression function."""
        self._created = not self.path.exists()
        self._lock: FileLock | None = None
        try:
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 - held until `close`
        except OSError as error:
            raise ClientError(f"cannot write {self.path}: {error.strerror}", code="unwritable") from None
        try:
            try:
                self._lock = FileLock(os.open(self.path, os.O_RDWR))
            except BlockingIOError:
                problem = f"another process records to {self.path}"
                raise ClientError(problem, code="in_use") from None
            if (failed := self._lock.unsupported) is not None:
                logger.warning("no file locks at %s (%s): record to it once only", self.path, failed.strerror)
            # Checked before the file is truncated: a file of another kind may be one long incomplete line.
            if not is_recording(self.path):
                raise InvalidInputError(f"not a recording: {self.path}", code="not_a_recording")
            intact = 0
            for line, _, end, _ in _parsed_lines(self.path):
                self._recorded = line.moved(self._recorded)
                intact = end
            self._file.truncate(intact)
            compressed = _is_compressed(self.path, self._file)
            return _import_zstandard().ZstdCompressor(level=6).compress if compressed else bytes
        except BaseException:  # Ctrl-C as well: the file and its lock would stay
            self._close_file()
            raise

    def _close_file(self) -> None:
        # A recording that was created for nothing is removed.
        if self._created and os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()
        if self._lock is not None:
            self._lock.close()

    def _write(self, line: bytes, cursor: Cursor) -> None:
        if self._pid != os.getpid():
            raise forked()
        self._buffer.append(line)
        self._recorded = cursor
        if self._compress is bytes or sum(map(len, self._buffer)) >= _FRAME:
            self.flush()


def _header(cursor: Cursor) -> bytes:
    return _encode({"type": "recording", "epoch": cursor.epoch, "after": cursor.sequence}) + b"\n"


# --- reading a checkpoint ---------------------------------------------------------------------------------


class _Entry(msgspec.Struct):
    positions: list[msgspec.Raw]


class _Checkpoint(msgspec.Struct):
    positions: dict[str, _Entry]


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_checkpoint(path: str | os.PathLike[str]) -> Iterator[OrderMessage]:
    """Yields a message per order by time, numbered from 1; `timestamp` is the order's time.

    Each message has the position as of that order, recomputed (docs/accounting.md, 2). With the last order,
    and where recomputing is impossible, it has the position as in the checkpoint, which may be gzipped.
    A malformed position, or order, is logged and left out. Raises InvalidInputError, code `unreadable`,
    `damaged` or `not_a_checkpoint`.
    """
    content = sound_json(read_maybe_gzipped(path, str(path)))
    try:
        entries = msgspec.json.decode(content, type=_Checkpoint).positions.values()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = f"{path} is neither a recording nor a checkpoint: {error}"
        raise InvalidInputError(problem, code="not_a_checkpoint") from None
    positions: list[tuple[Position, PositionText]] = []
    for body in (body for entry in entries for body in entry.positions):
        problems: list[str] = []
        try:
            positions.append(_read_position(bytes(body), problems))
        except InvalidInputError as error:
            problems = [f"it was left out: {error}"]
        if problems:
            logger.warning("%s: a malformed position: %s", path, problems[0])
    orders = sorted(
        (order.processed_ms, order.order_uuid, which, index)
        for which, (position, _) in enumerate(positions)
        for index, order in enumerate(position.orders)
    )
    headers = [_headers(*pair) for pair in positions]
    for sequence, (processed_ms, _, which, index) in enumerate(orders, 1):
        header, orders_at = headers[which][index]
        text = PositionText(
            header=header, orders_at=orders_at, orders=positions[which][1].orders[: index + 1]
        )
        yield _message.decode(
            encode_message(
                sequence=sequence,
                timestamp_ms=processed_ms,
                text=text,
                order=text.orders[-1],
                n_orders=len(text.orders),
            )
        )


def _read_position(body: bytes, problems: list[str]) -> tuple[Position, PositionText]:
    """Reads a position as the checkpoint has it; close_ms becomes null while it is open, as in messages."""
    position, text = parse_position(body, problems)
    keys = _raw_object.decode(text.json())
    if position.is_closed_position or "close_ms" not in keys:
        return position, text
    return parse_position(msgspec.json.encode(keys | {"close_ms": msgspec.Raw(b"null")}))


def _headers(position: Position, text: PositionText) -> list[tuple[bytes, int]]:
    """Returns the header as of each order, with its `orders_at`."""
    earlier = headers_after(text, position, range(1, len(position.orders)))
    return [*earlier, (text.header, text.orders_at)]
