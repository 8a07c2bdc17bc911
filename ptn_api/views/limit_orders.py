"""Miners' limit orders: of one miner, and of all for the checkpoint. They are never events."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Segment
from ptn_api.model.limit_order import LimitOrderFile, OrderStatus, order_answer, status_of
from ptn_api.tasks import TimeSlice
from ptn_api.views.documents import Documents, Recent

__all__ = ["LimitOrders", "ListedText"]

_RECENT_MINERS = 64


class ListedText(NamedTuple):
    """An order as it is listed; sorts by time."""

    processed_ms: float
    status: OrderStatus
    trade_pair_id: str
    text: bytes


class _Traits(msgspec.Struct):
    """The fields by which listed orders are sorted and selected; a malformed one counts as 0."""

    trade_pair_id: str
    processed_ms: Any = None
    src: Any = None


_files = msgspec.json.Decoder(list[LimitOrderFile])
_traits = msgspec.json.Decoder(_Traits)


class LimitOrders:
    """The limit orders in the log, decoded on request."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._recent: Recent[list[ListedText]] = Recent(_RECENT_MINERS)
        self._unfilled: dict[str, tuple[int, dict[str, bytes]]] = {}
        """By miner: the revision, and for each trade pair the unfilled orders, joined."""
        self._by_pair: tuple[int, Segment] | None = None

    def of(self, hotkey: str) -> list[ListedText]:
        """Returns one miner's orders, oldest first."""
        revision = self._documents.revisions_by_miner(Document.LIMIT_ORDERS).get(hotkey)
        if revision is None:
            return []
        orders = self._recent.get(hotkey, revision)
        return self._recent.keep(hotkey, revision, self._read(hotkey)) if orders is None else orders

    async def unfilled_by_pair(self) -> Segment:
        """Returns {trade pair: {hotkey: [order]}}, as in the checkpoint."""
        revision = self._documents.revisions_of(Document.LIMIT_ORDERS)[0]
        if self._by_pair is not None and self._by_pair[0] == revision:
            return self._by_pair[1]
        revisions = self._documents.revisions_by_miner(Document.LIMIT_ORDERS)
        time_slice = TimeSlice()
        by_pair: dict[str, dict[str, msgspec.Raw]] = {}
        for hotkey, miner_revision in revisions.items():
            kept = self._unfilled.get(hotkey)
            if kept is None or kept[0] != miner_revision:
                texts: dict[str, list[bytes]] = {}
                for order in self._read(hotkey):
                    if order.status == "unfilled":
                        texts.setdefault(order.trade_pair_id, []).append(order.text)
                joined = {pair: b"[" + b",".join(orders) + b"]" for pair, orders in texts.items()}
                kept = self._unfilled[hotkey] = (miner_revision, joined)
                await time_slice.yield_if_due()
            for pair, text in kept[1].items():
                by_pair.setdefault(pair, {})[hotkey] = msgspec.Raw(text)
        for hotkey in self._unfilled.keys() - revisions.keys():
            del self._unfilled[hotkey]
        segment = Segment(msgspec.json.encode(by_pair))
        self._by_pair = (revision, segment)
        return segment

    def _read(self, hotkey: str) -> list[ListedText]:
        content = self._documents.of_miner(Document.LIMIT_ORDERS, hotkey)
        return sorted(
            (
                listed_text(order_answer(file.order, file.trade_pair_id))
                for file in _files.decode(content or b"[]")
            ),
            key=lambda order: (order.processed_ms, order.text),
        )


def listed_text(text: bytes) -> ListedText:
    """Returns an order from `order_answer` with the fields to sort and select it by."""
    traits = _traits.decode(text)
    processed_ms, src = (
        value if isinstance(value, (int, float)) else 0 for value in (traits.processed_ms, traits.src)
    )
    return ListedText(processed_ms, status_of(int(src)), traits.trade_pair_id, text)
