"""The bots' instructions, and their reports."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ptn_api.clock import wall_ms

__all__ = ["BotConfig", "BotReport", "End", "Kind", "Received", "Record", "TraderConfig", "kind_of"]

Kind = Literal["library", "library delta", "mirror", "plain", "plain delta", "version 1", "trader"]
"""`library`, `mirror` and `trader` are our Stream, PositionMirror and `follow`; the others speak the protocol
themselves."""

_KINDS: tuple[Kind, ...] = (
    *("library", "library delta", "library"),
    *("plain", "plain delta", "version 1", "plain", "plain delta", "version 1"),
    "mirror",
)


def kind_of(number: int) -> Kind:
    """The kind of the bot with this number: of ten, three are our client and one is our mirror."""
    return _KINDS[number % len(_KINDS)]


class BotConfig(msgspec.Struct):
    """The instructions of a process."""

    stream_url: str
    rest_url: str
    api_keys: dict[int, str]
    """By the numbers of its bots."""
    folder: str
    """The folder for cursors and received messages."""
    report: str
    ready: str
    """A file that the process makes when every bot has been live once."""
    end: str
    """A file with what every bot has to reach before the process ends (`End`)."""


class TraderConfig(msgspec.Struct):
    """The instructions of a trader's program."""

    stream_url: str
    rest_url: str
    alias: str
    """The user whose key it has."""
    key: str
    """The file with its key."""
    folder: str
    """The folder for its cursor."""


class End(msgspec.Struct):
    """`head`: the last sequence; `checksum`: of all positions, as in heartbeats."""

    head: int
    checksum: str


class BotReport(msgspec.Struct):
    """The report of one bot. `last` is its last sequence."""

    number: int
    kind: Kind
    file: str
    """Its messages (`Record`)."""
    last: int = -1
    deliveries: int = 0
    gaps: list[str] = []
    connections: int = 0
    broken_off: int = 0
    """How often a plain bot disconnected after a malformed frame or a wrong sequence."""
    positions: dict[str, int] = {}
    """Of a mirror: position uuid -> checksum of its text."""


class Received(NamedTuple):
    """One received message; times in epoch ms. `order` stands for the order's uuid.

    `connected` is when the connection began that brought it; 0 if that is unknown.
    """

    sequence: int
    order: int
    timestamp: int
    received: int
    processed_ms: int
    late: bool
    replay: bool
    connected: int = 0


class Record:
    """A bot's messages in a file, so that neither bots nor checker hold them in memory."""

    _one = struct.Struct("<qQqqq??q")

    def __init__(self, report: BotReport) -> None:
        self._report = report
        self._file = open(report.file, "wb", buffering=1 << 16)  # noqa: SIM115 - closed by `close`

    def add(
        self,
        sequence: int,
        order_uuid: str,
        timestamp: int,
        processed_ms: int,
        late: bool,
        replay: bool,
        connected: int,
    ) -> None:
        number = self.number_of(order_uuid)
        self.put(Received(sequence, number, timestamp, wall_ms(), processed_ms, late, replay, connected))

    def put(self, message: Received) -> None:
        self._file.write(self.packed(message))
        self._report.deliveries += 1
        self._report.last = message.sequence

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def number_of(order_uuid: str) -> int:
        """64 bits of a uuid's hash, since a soak records tens of millions of deliveries."""
        return int.from_bytes(hashlib.blake2b(order_uuid.encode(), digest_size=8).digest(), "big")

    @classmethod
    def packed(cls, message: Received) -> bytes:
        return cls._one.pack(*message)

    @classmethod
    def read(cls, report: BotReport) -> Iterator[Received]:
        with Path(report.file).open("rb") as file:
            while chunk := file.read(cls._one.size * 4096):
                yield from map(Received._make, cls._one.iter_unpack(chunk))
