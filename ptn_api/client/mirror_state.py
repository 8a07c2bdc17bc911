"""The state of a mirror: every position, its checksum, and the REST calls that load it. No I/O.

Positions are kept as the JSON text that was received. Numbers and unknown keys stay unchanged, and a state of
50,000 positions takes a fraction of the memory of decoded objects.

A checksum takes ten times as long as the rest of loading a position. It is computed when that of the state is
compared: a position that changes several times between two heartbeats is summed up once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ptn_api.client.calls import Call
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.wire.server_frames import ChangedPosition

__all__ = ["Changes", "Key", "MirrorState", "PositionText", "Snapshot", "SnapshotBody", "changes", "snapshot"]

Key = tuple[str, str]
"""(miner_hotkey, position_uuid)"""


class _OrderId(msgspec.Struct):
    order_uuid: str


class _PositionId(msgspec.Struct):
    miner_hotkey: str
    position_uuid: str


class _Complete(_PositionId):
    """A position with orders that can be told apart."""

    orders: list[_OrderId]


class _Delta(msgspec.Struct):
    """A message's data in format "delta"."""

    order: msgspec.Raw
    position: msgspec.Raw
    n_orders: int


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_order_id = msgspec.json.Decoder(_OrderId)
_position_id = msgspec.json.Decoder(_PositionId)
_complete = msgspec.json.Decoder(_Complete)
_delta = msgspec.json.Decoder(_Delta)


class PositionText:
    """One position: its JSON without the orders, and each order's JSON by uuid, in list order."""

    __slots__ = ("orders", "summary")

    def __init__(self, summary: bytes, orders: list[tuple[str, bytes]]) -> None:
        self.summary = summary
        self.orders = orders

    @classmethod
    def parse(cls, text: bytes) -> PositionText:
        """Splits a complete position. Raises msgspec.MsgspecError or KeyError for a malformed one."""
        keys = _raw_object.decode(text)
        orders = [(_order_uuid(order), bytes(order)) for order in _raw_list.decode(keys.pop("orders"))]
        return cls(msgspec.json.encode(keys), orders)

    def json(self) -> bytes:
        """Returns the complete position, with `orders` as its last key."""
        orders = b",".join(text for _, text in self.orders)
        comma = b"," if len(self.summary) > 2 else b""
        return self.summary[:-1] + comma + b'"orders":[' + orders + b"]}"

    def put(self, order: bytes, index: int | None = None) -> None:
        """Replaces the order with the same uuid, or inserts it at `index`; None appends it."""
        uuid = _order_uuid(order)
        same = [i for i, (other, _) in enumerate(self.orders) if other == uuid]
        for i in same:
            self.orders[i] = (uuid, order)
        if not same:
            self.orders.insert(len(self.orders) if index is None else index, (uuid, order))

    def arrange(self, uuids: Iterable[str]) -> None:
        """Reduces the list to these orders, in this order; unknown ones are left out."""
        texts = dict(self.orders)
        self.orders = [(uuid, texts[uuid]) for uuid in uuids if uuid in texts]


class MirrorState:
    """The positions' complete JSON, and the checksum of all of them."""

    def __init__(self) -> None:
        self.positions: dict[Key, bytes] = {}
        self._checksums: dict[Key, int] = {}
        self._sum = 0
        self._changed: set[Key] = set()
        """Positions whose change or removal `_sum` does not contain."""

    @property
    def checksum(self) -> str:
        """16 hex digits, as in a heartbeat."""
        for _ in self.sum_up():
            pass
        return f"{self._sum % CHECKSUM_MODULUS:016x}"

    def sum_up(self) -> Iterator[None]:
        """Adds the changed positions to the checksum, one per step, so that other work can run in between."""
        for key in list(self._changed):
            self._checksum_of(key)
            yield

    def differs(self, other: MirrorState, key: Key) -> bool:
        """Returns whether the position differs in the two, or is missing from one of them."""
        one, two = self.positions.get(key), other.positions.get(key)
        if one is None or two is None or one == two:
            return one != two
        return self._checksum_of(key) != other._checksum_of(key)

    def load(self, texts: Iterable[msgspec.Raw | bytes]) -> Iterator[Key]:
        """Adds complete positions, one per step, so that a caller can run other work in between.

        Raises msgspec.MsgspecError for a malformed one.
        """
        for text in texts:
            body = bytes(text)
            position = _complete.decode(body)
            yield self._store((position.miner_hotkey, position.position_uuid), body)

    def remove(self, keys: Iterable[Key]) -> list[Key]:
        """Removes positions; returns those that existed."""
        existing = [key for key in keys if key in self.positions]
        for key in existing:
            del self.positions[key]
        self._changed.update(existing)
        return existing

    def apply_order(self, data: msgspec.Raw | bytes) -> Key:
        """Applies an order's message in format "delta"."""
        delta = _delta.decode(data)
        key, position = self._updated(delta.position)
        # `n_orders` includes the new order. The mirror may have fewer, after a gap.
        position.put(bytes(delta.order), min(delta.n_orders - 1, len(position.orders)))
        return self._store(key, position.json())

    def apply_change(self, frame: ChangedPosition) -> Key:
        """Applies a refresh or a correction."""
        key, position = self._updated(frame.position)
        for order in frame.orders:
            position.put(bytes(order))
        if frame.order_uuids is not None:
            position.arrange(frame.order_uuids)
        return self._store(key, position.json())

    def _updated(self, summary: msgspec.Raw) -> tuple[Key, PositionText]:
        body = bytes(summary)
        position = _position_id.decode(body)
        key = (position.miner_hotkey, position.position_uuid)
        stored = self.positions.get(key)
        return key, PositionText(body, [] if stored is None else PositionText.parse(stored).orders)

    def _store(self, key: Key, text: bytes) -> Key:
        self.positions[key] = text
        self._changed.add(key)
        return key

    def _checksum_of(self, key: Key) -> int | None:
        if key in self._changed:
            text = self.positions.get(key)
            checksum = None if text is None else position_checksum(text)
            self._sum -= self._checksums.pop(key, 0)
            if checksum is not None:
                self._checksums[key] = checksum
                self._sum += checksum
            self._changed.remove(key)
        return self._checksums.get(key)


def _order_uuid(order: msgspec.Raw | bytes) -> str:
    return _order_id.decode(order).order_uuid


# --- REST calls -------------------------------------------------------------------------------------------


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON text of every position, and the sequence and revision that it includes."""

    epoch: str
    sequence: int
    revision: int
    positions: list[bytes]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes since a revision: apply `removed` (hotkey, uuid) first, then `positions` (JSON texts)."""

    epoch: str
    sequence: int
    revision: int
    removed: list[tuple[str, str]]
    positions: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    positions: list[msgspec.Raw]


class _ChangesBody(msgspec.Struct):
    cursor: str
    sequence: int
    removed: list[tuple[str, str]]
    positions: dict[str, list[msgspec.Raw]]


_entries = msgspec.json.Decoder(dict[str, _Entry])
_ENTRY = b'":{"positions":['
"""How a miner's entry begins, after its hotkey."""


class SnapshotBody:
    """The positions in a document of all miners, decoded as it arrives.

    A large one, decoded at once, would block the event loop. It is cut before a miner's entry. JSON that
    cannot be cut, because a proxy has formatted it, is decoded at the end.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._positions: list[bytes] = []
        self._rest = bytearray()
        self._search_from = 0

    def add(self, data: bytes) -> None:
        rest = self._rest
        rest += data
        entry = rest.rfind(_ENTRY, self._search_from)
        self._search_from = max(self._search_from, len(rest) - len(_ENTRY))
        if entry < 0 or (end := rest.rfind(b',"', 0, entry)) < 0:
            return
        try:
            self._decode(bytes(rest[:end]) + b"}")
        except (msgspec.MsgspecError, RecursionError):  # something in a miner's entry, if not malformed
            self._search_from = 2 * len(rest)  # doubles, or the same part would be decoded again and again
        else:
            rest[: end + 1] = b"{"
            self._search_from = 0

    def positions(self) -> list[bytes]:
        """Returns all of them. Raises msgspec.MsgspecError for a malformed or incomplete document."""
        self._decode(bytes(self._rest))
        return self._positions

    def _decode(self, entries: bytes) -> None:
        # Copied: a part of the original would keep all of it in memory.
        self._positions += [
            bytes(text) for entry in _entries.decode(entries).values() for text in entry.positions
        ]


def snapshot() -> Call[Snapshot]:
    """Every position, undecoded."""
    document = SnapshotBody()

    def read(body: bytes, headers: Mapping[str, str]) -> Snapshot:
        return Snapshot(
            epoch=headers["x-ptn-epoch"],
            sequence=int(headers["x-ptn-sequence"]),
            revision=int(headers["x-ptn-revision"]),
            positions=document.positions(),
        )

    return Call("/miner-positions", read, cached=False, collector=document)


def changes(epoch: str, revision: int) -> Call[Changes]:
    """The positions changed since a revision, undecoded."""

    def read(body: bytes, headers: Mapping[str, str]) -> Changes:
        decoded = msgspec.json.decode(body, type=_ChangesBody)
        epoch, _, revision = decoded.cursor.rpartition(":")
        return Changes(
            epoch=epoch,
            sequence=decoded.sequence,
            revision=int(revision),
            removed=decoded.removed,
            positions=[position for positions in decoded.positions.values() for position in positions],
        )

    return Call("/miner-positions", read, cached=False, since=f"{epoch}:{revision}")
