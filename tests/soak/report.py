"""What bots are told, and what they have to say afterwards."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

__all__ = ["BotOrders", "BotReport", "End", "Kind", "Received", "Record", "kind_of"]

Kind = Literal["library", "library delta", "mirror", "plain", "plain delta", "version 1"]
"""`library`, `mirror`: our client's Stream and Book; the others speak the protocol by themselves."""

_KINDS: tuple[Kind, ...] = (
    *("library", "library delta", "library"),
    *("plain", "plain delta", "version 1", "plain", "plain delta", "version 1"),
    "mirror",
)


def kind_of(number: int) -> Kind:
    """What the bot of this number is: three of ten are our client, one is our mirror."""
    return _KINDS[number % len(_KINDS)]


class BotOrders(msgspec.Struct):
    """What a process is told."""

    stream_url: str
    rest_url: str
    api_keys: dict[int, str]
    """By the numbers of its bots."""
    folder: str
    """Where cursors and what was received are kept."""
    report: str
    ready: str
    """A file that is made when every bot has been live once."""
    end: str
    """A file that says, when the process is told to end, what every bot has to reach first (`End`)."""


class End(msgspec.Struct):
    """`head`: the last sequence; `checksum`: of all positions, as heartbeats say it."""

    head: int
    checksum: str


class BotReport(msgspec.Struct):
    """What one bot has to say. `last` is the last sequence it stands at."""

    number: int
    kind: Kind
    file: str
    """Its messages (`Record`)."""
    last: int = -1
    deliveries: int = 0
    gaps: list[str] = []
    connected: list[int] = []
    """When connections were made, in epoch ms."""
    broken_off: int = 0
    """How often a plain bot left because what came was no frame, or not the next message."""
    positions: dict[str, int] = {}
    """Of a mirror: position uuid -> checksum of its text."""

    def note_connection(self) -> None:
        self.connected.append(time.time_ns() // 1_000_000)


class Received(NamedTuple):
    """One message as a bot got it; times in epoch ms. `order` stands for the order's uuid."""

    sequence: int
    order: int
    timestamp: int
    received: int
    processed_ms: int
    late: bool
    replay: bool


class Record:
    """A bot's messages, one after the other in a file: neither bots nor checker hold them in memory."""

    _one = struct.Struct("<qQqqq??")

    def __init__(self, report: BotReport) -> None:
        self._report = report
        self._file = open(report.file, "wb", buffering=1 << 16)  # noqa: SIM115 - closed by `close`

    def add(
        self, sequence: int, order_uuid: str, timestamp: int, processed_ms: int, late: bool, replay: bool
    ) -> None:
        now_ms = time.time_ns() // 1_000_000
        number = self.number_of(order_uuid)
        self._file.write(self._one.pack(sequence, number, timestamp, now_ms, processed_ms, late, replay))
        self._report.deliveries += 1
        self._report.last = sequence

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def number_of(order_uuid: str) -> int:
        """64 bits of a uuid's hash: a soak has tens of millions of deliveries to remember."""
        return int.from_bytes(hashlib.blake2b(order_uuid.encode(), digest_size=8).digest(), "big")

    @classmethod
    def packed(cls, message: Received) -> bytes:
        return cls._one.pack(*message)

    @classmethod
    def read(cls, report: BotReport) -> Iterator[Received]:
        with Path(report.file).open("rb") as file:
            while chunk := file.read(cls._one.size * 4096):
                yield from map(Received._make, cls._one.iter_unpack(chunk))
