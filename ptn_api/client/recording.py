"""What a stream said, in a file: one JSON object a line, compressed where the name ends in .zst.

    {"type": "recording", "epoch": "...", "after": 41}      from here on: that log, after that sequence
    {"sequence": 42, "timestamp": ..., "data": {...}}       a message, as the stream sent it
    {"type": "gap", "after": 42, "next": 45, "reason": "too_old"}

So what `ptn stream --json` prints is a recording too, and so is what `/messages` answers as NDJSON. Kinds of
lines that this version does not know are passed over.

A process that is killed while it writes leaves half a line (compressed: half a frame) at the end, and nothing
worse: it is left out by whoever reads, and cut off by whoever appends.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, get_args

import msgspec

from ptn_api.errors import ClientError, InvalidInputError
from ptn_api.wire.client_session import Cursor, Gap, GapReason, StreamItem
from ptn_api.wire.server_frames import OrderMessage

if sys.platform != "win32":
    import fcntl

__all__ = ["Recording", "is_recording", "read_recording"]

_CHUNK = 1 << 20
_STARTS = b'{"sequence":', b'{"type":'
_FRAME = 64 << 10
"""As many bytes of lines are compressed together; fewer when it is flushed."""


class _Line(msgspec.Struct):
    """What every kind of line is told apart by, and where it leaves the reader."""

    type: str = ""
    sequence: int | None = None
    epoch: str | None = None
    after: int = -1
    next: int = -1
    reason: str = "hole"


_line = msgspec.json.Decoder(_Line)
_message = msgspec.json.Decoder(OrderMessage)
_encode = msgspec.json.Encoder().encode


# --- reading ----------------------------------------------------------------------------------------------


def read_recording(path: str | os.PathLike[str]) -> Iterator[OrderMessage | Gap]:
    """Everything in the file, in its order.

    Raises InvalidInputError (code `unreadable` or `not_a_recording`, naming the line).
    """
    for number, (text, _) in enumerate(_lines(Path(path)), 1):
        what = _read(text, f"{path}, line {number}")
        if what is not None:
            yield what


def is_recording(path: str | os.PathLike[str]) -> bool:
    """By how it begins; an empty file is one. Raises InvalidInputError, code `unreadable`."""
    with _opened(Path(path)) as file:
        start = next(_pieces(file), (b"", 0))[0] if is_compressed(Path(path), file) else file.read(64)
    text = bytes(start[:64]).replace(b" ", b"")
    return any(text.startswith(known) or known.startswith(text) for known in _STARTS)


def _read(text: bytes, where: str) -> OrderMessage | Gap | None:
    line = _checked(text, where)
    if line is None:
        return None
    if line.type == "gap":
        reason: Any = line.reason if line.reason in get_args(GapReason) else "hole"
        return Gap(line.after, line.next, reason)
    if line.type or line.sequence is None:
        return None
    try:
        return _message.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{where}: {error}", code="not_a_recording") from None


def _checked(text: bytes, where: str) -> _Line | None:
    """None for an empty line."""
    if not text.strip():
        return None
    try:
        return _line.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{where}: {error}", code="not_a_recording") from None


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines, and up to where in the file all is whole once this line is taken."""
    with _opened(path) as file:
        yield from (_compressed_lines if is_compressed(path, file) else _plain_lines)(file)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}", code="unreadable") from None


def _plain_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    end = 0
    for line in file:
        end += len(line)
        if line.endswith(b"\n"):
            yield line, end


def _compressed_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """`end` is that of the last whole frame; a frame that we wrote holds whole lines."""
    half = b""
    for piece, end in _pieces(file):
        *lines, half = (half + piece).split(b"\n")
        for line in lines:
            yield line + b"\n", end


def _pieces(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """What the frames hold, in pieces, each with where the last whole frame ends once it is taken."""
    zstandard = zstandard_or_explain()
    end, data = 0, file.read(_CHUNK)
    try:
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj()
            while data and not frame.eof:
                piece = frame.decompress(data)
                rest = frame.unused_data if frame.eof else b""
                end = file.tell() - len(rest) if frame.eof else end
                yield piece, end
                data = rest or file.read(_CHUNK)
    except zstandard.ZstdError as error:
        raise InvalidInputError(f"{file.name} is damaged: {error}", code="unreadable") from None


def is_compressed(path: Path, file: BinaryIO) -> bool:
    """By what is in it, or, while nothing is, by its name."""
    magic = file.read(4)
    file.seek(0)
    return magic == b"\x28\xb5\x2f\xfd" if magic else path.suffix == ".zst"


def zstandard_or_explain() -> Any:
    """The module. Raises ClientError, code `no_zstandard`, where it is not installed."""
    try:
        import zstandard
    except ModuleNotFoundError:
        problem = "a recording that ends in .zst needs one more package: pip install zstandard"
        raise ClientError(problem, code="no_zstandard") from None
    return zstandard


# --- writing ----------------------------------------------------------------------------------------------


class Recording:
    """A file that is appended to; give it a stream's steps, and the stream this as its `cursor_store`.

        recording = Recording("orders.ndjson.zst")
        async with Stream(url, key, cursor_store=recording) as stream:
            async for step in stream.steps():
                recording.take(step)

    Where to go on is read off the file itself, so whatever happens to the process, what is recorded next
    follows what was recorded last. Uncompressed, each line is written at once; compressed, when enough have
    come or with `flush`. Raises ClientError (`unwritable`, `in_use` by another process, `no_zstandard`) and
    InvalidInputError for a file that is no recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.written = 0
        """Messages since it was opened."""
        self._cursor = Cursor()
        self._recorded = Cursor()
        self._waiting: list[bytes] = []
        self._compress = self._open()

    def load(self) -> Cursor:
        """After which message to go on."""
        return self._recorded

    def save(self, cursor: Cursor) -> None:
        """Steps that write nothing move the cursor as well; `close` keeps it."""
        self._cursor = cursor

    def take(self, step: StreamItem) -> None:
        """Writes what a step has to say; most heartbeats and the like say nothing."""
        self._begin_log(step.cursor)
        match step.value:
            case OrderMessage() as message:
                self._write(_text(message), step.cursor)
                self.written += 1
            case Gap(after, then, reason):
                gap = {"type": "gap", "after": after, "next": then, "reason": reason}
                self._write(_encode(gap) + b"\n", step.cursor)
        self._cursor = step.cursor

    def flush(self) -> None:
        """Hands everything to the operating system."""
        if not self._waiting:
            return
        text = memoryview(self._compress(b"".join(self._waiting)))
        self._waiting.clear()
        whole = os.fstat(self._file.fileno()).st_size
        try:
            while text:
                text = text[self._file.write(text) :]
        except OSError as error:  # a full disk
            self._file.truncate(whole)
            raise ClientError(f"{self.path} cannot be written: {error.strerror}", code="unwritable") from None

    def close(self) -> None:
        """The file is complete, and free for another process."""
        if self._file.closed:
            return
        try:
            if self._cursor.epoch is not None and self._cursor != self._recorded:
                self._write(_header(self._cursor), self._cursor)
            self.flush()
        finally:
            self._close()

    # --- inside -------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        """Returns what compresses."""
        self._made = not self.path.exists()
        try:
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 - held until `close`
        except OSError as error:
            raise ClientError(f"{self.path} cannot be written: {error.strerror}", code="unwritable") from None
        try:
            self._lock()
            if not is_recording(self.path):  # to be left alone: it may well be one long line
                raise InvalidInputError(f"{self.path} is no recording", code="not_a_recording")
            self._file.truncate(self._scan())
            compressed = is_compressed(self.path, self._file)
            return zstandard_or_explain().ZstdCompressor(level=6).compress if compressed else bytes
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        """Nothing is left behind where nothing came."""
        if self._made and os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClientError(f"another process records to {self.path}", code="in_use") from None

    def _scan(self) -> int:
        """Finds the cursor; returns up to where the file is whole."""
        whole = 0
        for number, (text, end) in zip(itertools.count(1), _lines(self.path), strict=False):
            line = _checked(text, f"{self.path}, line {number}")
            if line is not None:
                self._recorded = _after(line, self._recorded)
            whole = end
        return whole

    def _begin_log(self, cursor: Cursor) -> None:
        if cursor.epoch != self._recorded.epoch:
            self._write(_header(cursor), cursor)

    def _write(self, line: bytes, cursor: Cursor) -> None:
        self._waiting.append(line)
        self._recorded = cursor
        if self._compress is bytes or sum(map(len, self._waiting)) >= _FRAME:
            self.flush()


def _text(message: OrderMessage) -> bytes:
    marks = b',"late":true' * message.late + b',"replay":true' * message.replay
    fields = message.sequence, message.timestamp, bytes(message.data), marks
    return b'{"sequence":%d,"timestamp":%d,"data":%b%b}\n' % fields


def _header(cursor: Cursor) -> bytes:
    return _encode({"type": "recording", "epoch": cursor.epoch, "after": cursor.sequence}) + b"\n"


def _after(line: _Line, cursor: Cursor) -> Cursor:
    """The cursor once this line is taken."""
    if line.type == "recording":
        return Cursor(line.after, line.epoch)
    if line.type == "gap":
        return Cursor(line.next - 1, cursor.epoch)
    return Cursor(line.sequence, cursor.epoch) if line.sequence is not None else cursor
