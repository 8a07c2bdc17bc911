"""`ptn top`, `ptn positions`, `ptn miner` and `ptn orders`: miners, what they hold, and their orders."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live

from ptn_api.cli.client import fetch, newest_orders, open_client
from ptn_api.cli.output import (
    OrderOutput,
    format_age,
    format_leverage,
    format_return,
    format_time,
    print_csv,
    print_document,
    print_rows,
    table_of,
)
from ptn_api.client import calls
from ptn_api.client.rest import PTNClient
from ptn_api.errors import APIStatusError, ServerUnreachableError, SettingsError
from ptn_api.model.miner import Leaderboard, LeaderboardEntry
from ptn_api.model.order import Order
from ptn_api.model.position import Position
from ptn_api.model.tiers import TIERS, data_tier
from ptn_api.model.trade_pair import pair_id, split_names

__all__ = ["TOP_ORDERS", "run", "run_miner", "run_orders", "run_top"]

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
    at: int | None = None,
) -> None:
    """Prints all miners' positions, the best miner first; with `at` (epoch ms) as they were, by hotkey."""
    with open_client(url, api_key_file) as client:
        body, entries = _fetch_positions(client, tier, miners, trade_pairs, status, at)
    if as_json:
        print_document(body)
    else:
        positions = ((hotkey, position) for hotkey, entry in entries.items() for position in entry.positions)
        order = "best first" if at is None else f"as of {format_time(at)}"
        title = f"{len(entries)} miners, {order}; {status} positions"
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
    start, end = span
    newest: Sequence[tuple[Any, Order]] | None
    with open_client(url, api_key_file) as client:
        newest = newest_orders(client, tier, miners, trade_pairs, span, limit)
        entries = {} if newest is not None else _fetch_positions(client, tier, miners, trade_pairs)[1]
    if newest is None:
        in_span = sorted(
            (
                (position, order)
                for entry in entries.values()
                for position in entry.positions
                for order in position.orders
                if (start is None or start <= order.processed_ms)
                and (end is None or order.processed_ms < end)
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
    at: int | None = None,
) -> tuple[bytes, calls.MinerPositions]:
    """All miners' positions, at the given tier or the key's own. Prints a warning for unknown miners."""
    wanted = data_tier(client.me().tier) if tier is None else tier
    known_tier = next((known for known in TIERS if known == wanted), None)
    if known_tier is None:
        raise SettingsError(f"--tier: expected 0, 30, 50 or 100, not {wanted}")
    only: Any = None if status == "all" else status
    call = calls.miner_positions(
        tier=known_tier, miner=list(miners) or None, trade_pair=list(trade_pairs) or None, status=only, at=at
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


# --- the leaderboard --------------------------------------------------------------------------------------


def _net(row: LeaderboardEntry) -> float:
    """The sum of the miner's signed leverages."""
    return sum(row.net_leverage.values())


TOP_ORDERS: dict[str, Callable[[LeaderboardEntry], float]] = {
    "rank": lambda row: row.rank,
    "all-time": lambda row: -row.all_time_returns,
    "won": lambda row: -row.percentage_profitable,
    "lost": lambda row: 2.0 if row.drawdown is None else row.drawdown,
    "open": lambda row: -row.open_positions,
    "net": lambda row: -_net(row),
    "last": lambda row: 0 if row.last_order is None else -row.last_order.processed_ms,
}
"""The orders of `ptn top`; ties by rank."""
_CELLS: dict[str, Callable[[LeaderboardEntry], object]] = {
    "rank": lambda row: row.rank,
    "miner_hotkey": lambda row: row.hotkey,
    "thirty_day_returns": lambda row: row.thirty_day_returns,
    "all_time_returns": lambda row: row.all_time_returns,
    "n_positions": lambda row: row.n_positions,
    "percentage_profitable": lambda row: row.percentage_profitable,
    "drawdown": lambda row: row.drawdown,
    "open_positions": lambda row: row.open_positions,
    "net_leverage": _net,
    "last_order_ms": lambda row: row.last_order and row.last_order.processed_ms,
    "last_order_trade_pair": lambda row: row.last_order and row.last_order.trade_pair,
    "phase": lambda row: row.phase,
    "elimination": lambda row: row.elimination and row.elimination.reason,
}
"""The columns of `ptn top --output csv`."""


def run_top(
    url: str | None,
    api_key_file: Path | None,
    *,
    sort: str,
    limit: int,
    output: OrderOutput,
    live: bool,
    interval_s: float,
) -> None:
    """Prints the leaderboard's first rows; with `live` until interrupted, each time it has changed."""
    console, shown = Console(), None
    with open_client(url, api_key_file) as client, contextlib.ExitStack() as stack:
        screen: Live | None = None
        if live and output == "table" and sys.stdout.isatty():
            screen = stack.enter_context(Live(console=console, auto_refresh=False))
        while True:
            note = ""
            try:
                found = client.leaderboard()  # the client asks with the ETag
            except (ServerUnreachableError, APIStatusError) as error:
                status = error.status if isinstance(error, APIStatusError) else 503
                if shown is None or (status < 500 and status != 429):
                    raise
                found, note = shown, "; the server does not answer at present"  # or a proxy in front of it
            rows = sorted(found.miners, key=lambda row: (TOP_ORDERS[sort](row), row.rank))
            chosen = msgspec.structs.replace(found, miners=rows[: limit or None])
            if screen is not None:
                columns, cells, title = _top_table(chosen, len(found.miners))
                screen.update(table_of(console, columns, cells, title=title + note), refresh=True)
            elif found is not shown:
                _print_top(chosen, len(found.miners), output)
            shown = found
            if not live:
                return
            time.sleep(interval_s)


def _print_top(chosen: Leaderboard, count: int, output: OrderOutput) -> None:
    match output:
        case "table":
            columns, cells, title = _top_table(chosen, count)
            print_rows(columns, cells, title=title)
        case "csv":
            print_csv([[*_CELLS], *([cell(row) for cell in _CELLS.values()] for row in chosen.miners)])
        case "json":
            print_document(msgspec.json.encode(chosen))
        case "ndjson":
            for row in chosen.miners:
                print_document(msgspec.json.encode(row))
    sys.stdout.flush()


def _top_table(chosen: Leaderboard, count: int) -> tuple[Sequence[str], Sequence[Sequence[str]], str]:
    """Returns columns, rows and title."""
    days = f"{chosen.lookback_days:g}d return"
    columns = ("rank", "miner", days, "all time", "won", "lost", "open", "net", "last", "phase")
    now_ms = time.time() * 1000
    rows = [
        (
            str(row.rank),
            row.hotkey,
            format_return(row.thirty_day_returns),
            format_return(row.all_time_returns),
            f"{row.percentage_profitable:.0%}" if row.n_positions else "",
            "" if row.drawdown is None else f"{row.drawdown:.1%}",
            str(row.open_positions),
            f"{_net(row):+.2f}" if row.open_positions else "",
            "" if row.last_order is None else format_age(now_ms - row.last_order.processed_ms),
            "ELIMINATED" if row.elimination else row.phase or "",
        )
        for row in chosen.miners
    ]
    delay = f", {chosen.delay_ms // 3_600_000} h late" if chosen.delay_ms else ""
    return columns, rows, f"{len(rows)} of {count} miners, tier {chosen.tier}{delay}"
