"""`ptn positions`, `ptn miner` and `ptn orders`: the positions of miners, and the orders in them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.cli.client import fetch, open_client
from ptn_api.cli.output import format_leverage, format_return, format_time, print_document, print_rows
from ptn_api.client import calls
from ptn_api.client.rest import PTNClient
from ptn_api.errors import SettingsError
from ptn_api.model.position import Position
from ptn_api.model.tiers import TIERS, data_tier
from ptn_api.model.trade_pair import pair_id, split_names

__all__ = ["run", "run_miner", "run_orders"]

_POSITION_COLUMNS = (
    "miner",
    "pair",
    "type",
    "leverage",
    "entry price",
    "return",
    "orders",
    "opened",
    "closed",
)
_ORDER_COLUMNS = ("processed", "miner", "pair", "type", "leverage", "price", "order")


def run(
    url: str | None,
    api_key_file: Path | None,
    *,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    status: str,
    as_json: bool,
) -> None:
    """Prints all miners' positions, the best miner first."""
    with open_client(url, api_key_file) as client:
        body, entries = _fetch_positions(client, tier, miners, trade_pairs, status)
    if as_json:
        print_document(body)
    else:
        positions = ((hotkey, position) for hotkey, entry in entries.items() for position in entry.positions)
        title = f"{len(entries)} miners, best first; {status} positions"
        print_rows(_POSITION_COLUMNS, _position_rows(positions), title=title)


def run_miner(url: str | None, api_key_file: Path | None, hotkey: str, *, as_json: bool) -> None:
    """Prints a summary of one miner, as lines that begin with #, and all positions."""
    with open_client(url, api_key_file) as client:
        body, entry = fetch(client, calls.miner(hotkey))
    if as_json:
        print_document(body)
        return
    print(f"# miner: {hotkey}")
    print(f"# recent return: {format_return(entry.thirty_day_returns)}")
    print(f"# return over all time: {format_return(entry.all_time_returns)}")
    print(f"# counted positions: {entry.n_positions}")
    print(f"# profitable: {entry.percentage_profitable:.1%}")
    print(f"# tier: {entry.tier}")
    print_rows(_POSITION_COLUMNS, _position_rows((hotkey, position) for position in entry.positions))


def run_orders(
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
    """Prints the newest `limit` orders processed within the span (epoch ms, end excluded), newest last."""
    with open_client(url, api_key_file) as client:
        _, entries = _fetch_positions(client, tier, miners, trade_pairs)
    start, end = span
    in_span = sorted(
        (
            (position, order)
            for entry in entries.values()
            for position in entry.positions
            for order in position.orders
            if (start is None or start <= order.processed_ms) and (end is None or order.processed_ms < end)
        ),
        key=lambda pair: (pair[1].processed_ms, pair[1].order_uuid),
    )
    newest = in_span[-limit:] if limit else in_span
    if as_json:
        objects = [
            {
                "miner_hotkey": position.miner_hotkey,
                "position_uuid": position.position_uuid,
                "trade_pair": pair_id(position.trade_pair),
            }
            | msgspec.structs.asdict(order)
            for position, order in newest
        ]
        print_document(msgspec.json.encode(objects))
        return
    rows = [
        (
            format_time(order.processed_ms),
            position.miner_hotkey,
            pair_id(position.trade_pair),
            order.order_type,
            format_leverage(order.leverage),
            f"{order.price:g}",
            order.order_uuid,
        )
        for position, order in newest
    ]
    print_rows(_ORDER_COLUMNS, rows, title=f"{len(rows)} orders, newest last")


def _fetch_positions(
    client: PTNClient,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    status: str = "all",
) -> tuple[bytes, calls.MinerPositions]:
    """All miners' positions, at the given tier or the key's own. Prints a warning for unknown miners."""
    wanted = data_tier(client.me().tier) if tier is None else tier
    known_tier = next((known for known in TIERS if known == wanted), None)
    if known_tier is None:
        raise SettingsError(f"--tier: expected 0, 30, 50 or 100, not {wanted}")
    only: Any = None if status == "all" else status
    call = calls.miner_positions(
        tier=known_tier, miner=list(miners) or None, trade_pair=list(trade_pairs) or None, status=only
    )
    body, entries = fetch(client, call)
    # Without other filters, the client's log has the same.
    absent = set(split_names(miners)) - entries.keys() if trade_pairs or only else set()
    for hotkey in sorted(absent - set(client.hotkeys())) if absent else ():
        print(f"ptn: no positions of miner {hotkey!r}: is the hotkey right?", file=sys.stderr)
    return body, entries


def _position_rows(positions: Iterable[tuple[str, Position]]) -> Iterator[tuple[str, ...]]:
    for hotkey, position in positions:
        yield (
            hotkey,
            pair_id(position.trade_pair),
            position.position_type or "",
            f"{position.net_leverage:+.4f}",
            f"{position.average_entry_price:g}",
            format_return(position.current_return),
            str(len(position.orders)),
            format_time(position.open_ms),
            format_time(position.close_ms),
        )
