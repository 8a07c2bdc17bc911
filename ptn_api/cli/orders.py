"""`ptn orders`: the latest orders of all miners, or of some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.cli.client import answer, asking
from ptn_api.cli.positions import all_positions
from ptn_api.cli.table import print_document, print_rows, utc
from ptn_api.model.order import Order
from ptn_api.model.position import Position
from ptn_api.model.trade_pair import pair_id

__all__ = ["run"]

_COLUMNS = ("processed", "miner", "pair", "type", "leverage", "price", "order")


def run(
    url: str | None,
    api_key_file: Path | None,
    *,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    span: tuple[int | None, int | None],
    limit: int,
    as_json: bool,
) -> None:
    """The newest `limit` of those processed within the span (epoch ms, the end excluded); newest last."""
    with asking(url, api_key_file) as client:
        _, entries = answer(client, all_positions(client, tier, miners, trade_pairs))
    start, end = span
    found = sorted(
        (
            (position, order)
            for entry in entries.values()
            for position in entry.positions
            for order in position.orders
            if (start is None or start <= order.processed_ms) and (end is None or order.processed_ms < end)
        ),
        key=lambda pair: (pair[1].processed_ms, pair[1].order_uuid),
    )
    chosen = found[-limit:] if limit else found
    if as_json:
        print_document(msgspec.json.encode([_flat(*pair) for pair in chosen]))
    else:
        print_rows(_COLUMNS, _rows(chosen), title=f"{len(chosen)} orders, newest last")


def _rows(found: list[tuple[Position, Order]]) -> Iterator[tuple[str, ...]]:
    for position, order in found:
        yield (
            utc(order.processed_ms),
            position.miner_hotkey,
            pair_id(position.trade_pair),
            order.order_type,
            f"{order.leverage:+.4f}",
            f"{order.price:g}",
            order.order_uuid,
        )


def _flat(position: Position, order: Order) -> dict[str, Any]:
    belongs = {
        "miner_hotkey": position.miner_hotkey,
        "position_uuid": position.position_uuid,
        "trade_pair": pair_id(position.trade_pair),
    }
    return belongs | msgspec.structs.asdict(order)
