"""A miner's orders by status: all of them, or its limit orders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.model.limit_order import OrderStatus, order_answer
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers
from ptn_api.tasks import TimeSlice
from ptn_api.views.limit_orders import ListedText, listed_text
from ptn_api.views.miner_view import TAILS

__all__ = ["OrdersQuery", "limit_orders", "orders"]

_STATUSES: tuple[OrderStatus, ...] = ("unfilled", "filled", "cancelled")


class OrdersQuery(msgspec.Struct, kw_only=True):
    status: Annotated[
        list[str], Meta(description="only orders of these statuses: unfilled, filled, cancelled")
    ] = []


class _Position(msgspec.Struct):
    trade_pair: Any
    orders: list[msgspec.Raw] = []


class _Entry(msgspec.Struct):
    positions: list[_Position]


_entry = msgspec.json.Decoder(_Entry)


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
