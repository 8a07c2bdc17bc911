"""The state of a mirror: every position, its checksum, and the REST calls that load it. No I/O.

Positions are kept as the JSON text that was received. Numbers and unknown keys stay unchanged, and a state of
50,000 positions takes a fraction of the memory of decoded objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ptn_api.client.calls import Call
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.wire.server_frames import ChangedPosition

__all__ = ["Changes", "Key", "MirrorState", "PositionText", "Snapshot", "changes", "snapshot"]

Key = tuple[str, str]
"""(miner_hotkey, position_uuid)"""


class _OrderId(msgspec.Struct):
    order_uuid: str


class _PositionId(msgspec.Struct):
    miner_hotkey: str
    position_uuid: str


class _Delta(msgspec.Struct):
    """A message's data in format "delta"."""

    order: msgspec.Raw
    position: msgspec.Raw
    n_orders: int


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_order_id = msgspec.json.Decoder(_OrderId)
_position_id = msgspec.json.Decoder(_PositionId)
_delta = msgspec.json.Decoder(_Delta)


class PositionText:
    """One position: its JSON without the orders, and each order's JSON by uuid, in list order."""

    __slots__ = ("checksum", "orders", "summary")

    def __init__(self, summary: bytes, orders: list[tuple[str, bytes]]) -> None:
        self.summary = summary
        self.orders = orders
        self.checksum = 0
        """The share of this position in the state's checksum, as of the last update."""

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
    """The positions, and the checksum of all of them."""

    def __init__(self) -> None:
        self.positions: dict[Key, PositionText] = {}
        self._sum = 0

    @property
    def checksum(self) -> str:
        """16 hex digits, as in a heartbeat."""
        return f"{self._sum % CHECKSUM_MODULUS:016x}"

    def differences(self, other: MirrorState) -> list[Key]:
        """Returns the positions that are missing from one of the two, or differ."""
        keys = {**other.positions, **self.positions}
        return [key for key in keys if self._checksum_of(key) != other._checksum_of(key)]

    def load(self, texts: Iterable[msgspec.Raw | bytes]) -> Iterator[Key]:
        """Adds complete positions, one per step, so that a caller can run other work in between."""
        for text in texts:
            body = bytes(text)
            yield self._store(_key(body), PositionText.parse(body))

    def remove(self, keys: Iterable[Key]) -> list[Key]:
        """Removes positions; returns those that existed."""
        existing = [key for key in keys if key in self.positions]
        for key in existing:
            self._sum -= self.positions.pop(key).checksum
        return existing

    def apply_order(self, data: msgspec.Raw | bytes) -> Key:
        """Applies an order's message in format "delta"."""
        delta = _delta.decode(data)
        key, position = self._updated(delta.position)
        # `n_orders` includes the new order. The mirror may have fewer, after a gap.
        position.put(bytes(delta.order), min(delta.n_orders - 1, len(position.orders)))
        return self._store(key, position)

    def apply_change(self, frame: ChangedPosition) -> Key:
        """Applies a refresh or a correction."""
        key, position = self._updated(frame.position)
        for order in frame.orders:
            position.put(bytes(order))
        if frame.order_uuids is not None:
            position.arrange(frame.order_uuids)
        return self._store(key, position)

    def _updated(self, summary: msgspec.Raw) -> tuple[Key, PositionText]:
        body = bytes(summary)
        key = _key(body)
        position = self.positions.get(key) or PositionText(body, [])
        position.summary = body
        return key, position

    def _store(self, key: Key, position: PositionText) -> Key:
        # An updated position is the stored object itself, still with its previous checksum.
        previous = self.positions.get(key)
        if previous is not None:
            self._sum -= previous.checksum
        position.checksum = position_checksum(position.json())
        self._sum += position.checksum
        self.positions[key] = position
        return key

    def _checksum_of(self, key: Key) -> int | None:
        position = self.positions.get(key)
        return None if position is None else position.checksum


def _order_uuid(order: msgspec.Raw | bytes) -> str:
    return _order_id.decode(order).order_uuid


def _key(body: bytes) -> Key:
    position = _position_id.decode(body)
    return position.miner_hotkey, position.position_uuid


# --- REST calls -------------------------------------------------------------------------------------------


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON text of every position, and the sequence and revision that it includes."""

    epoch: str
    sequence: int
    revision: int
    positions: list[msgspec.Raw]


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


def snapshot() -> Call[Snapshot]:
    """Every position, undecoded."""

    def read(body: bytes, headers: Mapping[str, str]) -> Snapshot:
        entries = msgspec.json.decode(body, type=dict[str, _Entry])
        return Snapshot(
            epoch=headers["x-ptn-epoch"],
            sequence=int(headers["x-ptn-sequence"]),
            revision=int(headers["x-ptn-revision"]),
            positions=[position for entry in entries.values() for position in entry.positions],
        )

    return Call("/miner-positions", read, cached=False)


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
