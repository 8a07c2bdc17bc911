"""A miner's orders by status: all of them, or its limit orders; and the orders of all miners, by time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ptn_api.event_log.contract import Document, OrderKey
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.model.limit_order import OrderStatus, order_answer
from ptn_api.model.rendering import render_order
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers, unknown_miners
from ptn_api.tasks import TimeSlice
from ptn_api.views.filters import chosen_pairs
from ptn_api.views.limit_orders import ListedText, listed_text
from ptn_api.views.miner_view import TAILS

__all__ = ["AllOrdersQuery", "OrdersQuery", "all_orders", "limit_orders", "orders"]

_READ_ORDERS = 200
"""Orders read from the log at a time: a few milliseconds' work."""
_STATUSES: tuple[OrderStatus, ...] = ("unfilled", "filled", "cancelled")


class OrdersQuery(msgspec.Struct, kw_only=True):
    status: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"enum": [*_STATUSES]})]],
        Meta(description="only orders of these statuses: unfilled, filled, cancelled"),
    ] = []


class AllOrdersQuery(msgspec.Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1_000, description="at most this many orders")] = 100
    before: Annotated[str, Meta(description="orders before this cursor: the `next` of another page")] = ""
    miner: Annotated[list[str], Meta(description="only these hotkeys")] = []
    trade_pair: Annotated[
        list[str], Meta(description="only these trade pairs, such as BTCUSD or btc/usd")
    ] = []


class _Row(msgspec.Struct):
    """An `OrderRow` whose order is text."""

    miner_hotkey: str
    position_uuid: str
    trade_pair: str
    sequence: int | None
    order: msgspec.Raw


class _Position(msgspec.Struct):
    trade_pair: Any
    orders: list[msgspec.Raw] = []


class _Entry(msgspec.Struct):
    positions: list[_Position]


_entry = msgspec.json.Decoder(_Entry)
_key = msgspec.msgpack.Decoder(OrderKey)


def orders(app: AppContext, request: RequestContext) -> Heavy:
    """Returns filled orders from the miner's positions, the others from its limit orders."""
    return Heavy(partial(_orders, app, request, _statuses(request.query) or _STATUSES))


async def _orders(
    app: AppContext, request: RequestContext, statuses: tuple[OrderStatus, ...], time_slice: TimeSlice
) -> Response:
    headers = freshness_headers(app, request.tier)
    hotkey, view = request.hotkey, app.views.view(request.hotkey)
    limit_revision = app.documents.revisions_by_miner(Document.LIMIT_ORDERS).get(hotkey)
    key, version = ("orders", hotkey, statuses), (limit_revision, view and view.entries[100].digest)
    body = app.answers.get(key, version)
    if body is None:
        listed = [order for order in app.limit_orders.of(hotkey) if order.status != "filled"]
        if view is not None and "filled" in statuses:
            text = b"".join(block.identity for block in (*view.entries[100].blocks, TAILS[100]))
            for position in _entry.decode(text).positions:
                for order in position.orders:
                    answer = listed_text(order_answer(order, "", position.trade_pair))
                    listed.append(answer._replace(status="filled"))
                await time_slice.yield_if_due()
            listed.sort(key=lambda order: order.processed_ms)
        if not any(order.status in statuses for order in listed):
            raise HTTPError("not_found", f"No orders found for miner {hotkey}")
        body = app.answers.keep(key, version, _grouped(listed, statuses))
    return Response(body, headers)


def limit_orders(app: AppContext, request: RequestContext) -> Response:
    """Returns orders by status; without `status`, the unfilled ones as a list."""
    headers = freshness_headers(app, request.tier)
    statuses = _statuses(request.query)
    listed = [order for order in app.limit_orders.of(request.hotkey) if order.status != "filled"]
    if not statuses:
        listed = [order for order in listed if order.status == "unfilled"]
    if not listed:
        raise HTTPError("not_found", f"No limit orders found for miner {request.hotkey}")
    if not statuses:
        return Response(body_of(b"[" + b",".join(order.text for order in listed) + b"]"), headers)
    return Response(_grouped(listed, statuses), headers)


def _statuses(query: OrdersQuery) -> tuple[OrderStatus, ...]:
    """Returns the requested statuses, none for all. Raises HTTPError `bad_parameter`."""
    names = [name.lower() for name in query.status]
    unknown = ", ".join(sorted({repr(name) for name in names if name not in _STATUSES}))
    if unknown:
        sentence = f"Invalid status values: {{{unknown}}}. Valid values are: {', '.join(_STATUSES)}"
        raise HTTPError("bad_parameter", sentence, parameter="status")
    return tuple(dict.fromkeys(names))  # type: ignore[arg-type]  # checked above


def _grouped(listed: Sequence[ListedText], statuses: Sequence[OrderStatus]) -> Body:
    groups = [
        b'"%b":[%b]' % (status.encode(), b",".join(order.text for order in listed if order.status == status))
        for status in statuses
    ]
    return body_of(b"{" + b",".join(groups) + b"}")


# --- all miners' orders -----------------------------------------------------------------------------------


def all_orders(app: AppContext, request: RequestContext) -> Response | Heavy:
    """Returns a page of the orders of all positions, newest first."""
    query: AllOrdersQuery = request.query
    before = _read_cursor(query.before) if query.before else None
    if request.head:
        return Response(None, freshness_headers(app, 100) + unknown_miners(app, 100, query.miner))
    return Heavy(partial(_all_orders, app, query, before))


async def _all_orders(
    app: AppContext, query: AllOrdersQuery, before: OrderKey | None, time_slice: TimeSlice
) -> Response:
    headers = freshness_headers(app, 100) + unknown_miners(app, 100, query.miner)
    pairs = await chosen_pairs(app.views, 100, query.trade_pair, time_slice)
    miners, now_ms, more = frozenset(query.miner), app.clock(), True
    rows: list[bytes] = []
    while more and len(rows) < query.limit:
        limit = min(query.limit - len(rows), _READ_ORDERS)
        # The log, not the views: it has an order earlier, and the orders of all miners by time.
        listed, before = app.log.orders_before(before, limit, miners=miners, trade_pairs=pairs)
        rows += (
            msgspec.json.encode(
                _Row(
                    order.miner_hotkey,
                    order.position_uuid,
                    order.trade_pair,
                    order.sequence,
                    msgspec.Raw(render_order(order.text, order.processed_ms, now_ms)),
                )
            )
            for order in listed
        )
        more = before is not None
        await time_slice.yield_if_due()
    cursor = None
    if before is not None:
        cursor = base64.urlsafe_b64encode(msgspec.msgpack.encode(before)).rstrip(b"=").decode()
    end = b'],"next":' + msgspec.json.encode(cursor) + b"}"
    return Response(body_of(b'{"orders":[' + b",".join(rows) + end), headers)


def _read_cursor(text: str) -> OrderKey:
    """Raises HTTPError `bad_parameter`."""
    try:
        padded = text + "=" * (-len(text) % 4)
        key = _key.decode(base64.b64decode(padded, b"-_", validate=True))
        if max(abs(key.processed_ms), abs(key.id)) < 1 << 63:
            return key
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        pass
    raise HTTPError("bad_parameter", "before is not the `next` of a page of orders", parameter="before")
