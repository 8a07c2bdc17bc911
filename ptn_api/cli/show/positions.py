"""`ptn top`, `ptn positions`, `ptn miner` and `ptn orders`: miners, what they hold, and their orders."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live

from ptn_api.cli.client import fetch, newest_orders, open_client
from ptn_api.cli.row_options import View
from ptn_api.cli.show.choices import chosen_hotkey, chosen_hotkeys
from ptn_api.cli.show.table import (
    AGE,
    COUNT,
    DAY_AND_TIME,
    IDENTITY,
    LEVERAGE,
    LOST,
    NUMBER,
    RETURN,
    SHARE,
    SIDE,
    TIME,
    Column,
    Kind,
    Table,
    fitted,
    print_document,
    print_table,
)
from ptn_api.client import calls
from ptn_api.client.arguments import ALL, as_list
from ptn_api.client.rest import PTNClient
from ptn_api.errors import APIStatusError, ServerUnreachableError, SettingsError
from ptn_api.model.miner import Leaderboard, LeaderboardEntry
from ptn_api.model.order import Order
from ptn_api.model.tiers import TIERS, data_tier
from ptn_api.model.trade_pair import pair_id, split_names
from ptn_api.summary import counted

__all__ = ["TOP_ORDERS", "run", "run_miner", "run_orders", "run_top"]

_POSITION_COLUMNS = (
    Column("miner_hotkey", "miner", IDENTITY),
    Column("thirty_day_returns", "ranked by", RETURN),
    Column("trade_pair", "pair"),
    Column("position_type", "type", SIDE),
    Column("net_leverage", "leverage", LEVERAGE),
    Column("average_entry_price", "entry", NUMBER, spare=True),
    Column("current_return", "return", RETURN),
    Column("opened", "opened", TIME),
    Column("closed", "closed", TIME),
    Column("orders", "orders", COUNT, spare=True),
    Column("position_uuid", "position", IDENTITY, spare=True),
)
_ORDER_COLUMNS = (
    Column("time", "time (UTC)", DAY_AND_TIME),
    Column("miner_hotkey", "miner", IDENTITY),
    Column("trade_pair", "pair"),
    Column("order_type", "type", SIDE),
    Column("leverage", "leverage", LEVERAGE),
    Column("price", "price", NUMBER),
    Column("order_uuid", "order", IDENTITY),
    Column("position_uuid", "position", IDENTITY, spare=True),
)


def run(
    url: str | None,
    api_key_file: Path | None,
    view: View,
    *,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    status: str,
    at: int | None = None,
) -> None:
    """Prints all miners' positions, the best miner first; with `at` (epoch ms) as they were, by hotkey."""
    with open_client(url, api_key_file) as client:
        body, entries = _fetch_positions(client, tier, miners, trade_pairs, status, at)
    kind = "" if status == "all" else f"{status} "
    order = (
        "best miner first"
        if at is None
        else f"as of {datetime.fromtimestamp(at / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}"
    )
    table = Table(
        _POSITION_COLUMNS,
        [row for hotkey, entry in entries.items() for row in _position_rows(hotkey, entry)],
        f"{kind}positions of {counted(len(entries), 'miners')}, {order}",
        "ranked by: the miner's return over the validator's lookback (`ptn top` has its days). leverage: "
        "multiples of the account, - is short. entry: in the pair's quote currency. Times are UTC.",
    )
    print_table(table, view, body=body, lists=[("*", "positions")])


def run_miner(url: str | None, api_key_file: Path | None, view: View, hotkey: str) -> None:
    """Prints a summary of one miner, piped as lines that begin with #, and all positions."""
    with open_client(url, api_key_file) as client:
        hotkey = chosen_hotkey(client, hotkey)
        body, entry = fetch(client, calls.miner(hotkey))
    if view.output == "table":
        names = ("thirty_day_returns", "all_time_returns", "n_positions", "percentage_profitable", "tier")
        values = {"miner_hotkey": hotkey} | {name: getattr(entry, name) for name in names}
        if sys.stdout.isatty():
            gained = (f"{(factor - 1):+.2%}" for factor in (entry.thirty_day_returns, entry.all_time_returns))
            print(f"Miner {hotkey}, as tier {entry.tier} shows it")
            print("Return over the validator's lookback {}, over all time {}".format(*gained))
            positions = counted(entry.n_positions, "counted positions")
            print(f"{positions}, {entry.percentage_profitable:.0%} profitable\n")
        else:
            print("\n".join(f"# {name}: {value}" for name, value in values.items()))
    columns = [column for column in _POSITION_COLUMNS if column.name != "thirty_day_returns"]
    total = len(entry.positions)
    entry.positions.sort(key=lambda position: (position.open_ms, position.position_uuid))
    if view.limit and total > view.limit:
        del entry.positions[: -view.limit]
        document, kept = msgspec.json.decode(body), {p.position_uuid for p in entry.positions}
        document["positions"] = [p for p in document["positions"] if p["position_uuid"] in kept]
        body = msgspec.json.encode(document)
    some = f"newest of {total:,} " if len(entry.positions) < total else ""
    rows = [[*row[:1], *row[2:]] for row in _position_rows(hotkey, entry)]
    notes = (
        "leverage: multiples of the account, - is short. entry: in the pair's quote currency. Times are UTC."
    )
    table = Table(columns, rows, f"{some}positions, by opening, newest last", notes)
    print_table(table, view._replace(limit=0), body=body)


def _position_rows(hotkey: str, entry: calls.Miner) -> Iterable[Sequence[Any]]:
    for position in entry.positions:
        yield (
            hotkey,
            entry.thirty_day_returns,
            pair_id(position.trade_pair),
            position.position_type,
            position.net_leverage,
            position.average_entry_price,
            position.current_return,
            position.open_ms,
            position.close_ms,
            len(position.orders),
            position.position_uuid,
        )


def run_orders(
    url: str | None,
    api_key_file: Path | None,
    view: View,
    *,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    span: tuple[int | None, int | None],
) -> None:
    """Prints the newest orders processed within the span (epoch ms, end excluded), newest last."""
    start, end = span
    newest: Sequence[tuple[Any, Order]] | None
    with open_client(url, api_key_file) as client:
        if miners:
            as_list(miners)  # an empty choice is an error
            miners = chosen_hotkeys(client, miners)
        newest = newest_orders(client, tier, miners, trade_pairs, span, view.limit)
        entries = {} if newest is not None else _fetch_positions(client, tier, miners, trade_pairs)[1]
        others = client.order_page(miner=miners or ALL).orders if newest == [] and trade_pairs else []
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
        newest = in_span[-view.limit :] if view.limit else in_span
    if not newest and trade_pairs:
        asked = ", ".join(split_names(trade_pairs))
        near = sorted({row.trade_pair for row in others}, key=lambda pair: (-_likeness(asked, pair), pair))
        hint = f"; the newest orders are of {', '.join(near[:_NAMED_PAIRS])}" if near else ""
        print(f"ptn: no orders of {asked} pass the filters{hint}", file=sys.stderr)
    if view.output == "json":
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
            order.processed_ms,
            position.miner_hotkey,
            pair_id(position.trade_pair),
            order.order_type,
            order.leverage,
            order.price,
            order.order_uuid,
            position.position_uuid,
        )
        for position, order in newest
    ]
    some = "newest " if len(newest) == view.limit else ""
    notes = (
        "leverage: change of the position, in multiples of the account. price: in the pair's quote currency."
    )
    print_table(Table(_ORDER_COLUMNS, rows, f"{some}orders, newest last", notes), view._replace(limit=0))


_NAMED_PAIRS = 8


def _likeness(asked: str, pair: str) -> float:
    return SequenceMatcher(None, asked.upper(), pair.upper()).ratio()


def _fetch_positions(
    client: PTNClient,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    status: str = "all",
    at: int | None = None,
) -> tuple[bytes, calls.MinerPositions]:
    """All miners' positions, at the given tier or the key's own. Tells which miners have none."""
    wanted = data_tier(client.me().tier) if tier is None else tier
    known_tier = next((known for known in TIERS if known == wanted), None)
    if known_tier is None:
        raise SettingsError(f"--tier: expected 0, 30, 50 or 100, not {wanted}")
    only: Any = None if status == "all" else status
    if miners:
        as_list(miners)  # an empty choice is an error
        miners = chosen_hotkeys(client, miners)
    call = calls.miner_positions(
        tier=known_tier,
        miner=list(miners) or None,
        trade_pair=list(trade_pairs) or None,
        status=only,
        at=at,
    )
    call.read = calls.MinerPositions.read  # chosen_hotkeys has warned already
    body, entries = fetch(client, call)
    for hotkey in miners:
        if hotkey not in entries:
            print(f"ptn: {hotkey}: no position passes the filters at tier {known_tier}", file=sys.stderr)
    return body, entries


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


def run_top(
    url: str | None,
    api_key_file: Path | None,
    view: View,
    *,
    sort: str,
    live: bool,
    interval_s: float,
) -> None:
    """Prints the leaderboard's first rows; with `live` until interrupted, each time it has changed."""
    console, shown, size = Console(), None, None
    with open_client(url, api_key_file) as client, contextlib.ExitStack() as stack:
        screen: Live | None = None
        if live and view.output == "table" and sys.stdout.isatty():
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
            if screen is not None:
                if size not in (None, console.size):
                    console.clear()  # the terminal has broken the lines of the wider frame
                size = console.size
                screen.update(fitted(_top_table(found, rows), console, view, note=note), refresh=True)
            elif found is not shown:
                chosen = msgspec.structs.replace(found, miners=rows[: view.limit or None])
                table, body = _top_table(found, rows), msgspec.json.encode(chosen)
                print_table(table, view, body=body, lists=[("miners",)], objects=rows)
            shown = found
            if not live:
                return
            time.sleep(interval_s)


def _top_table(found: Leaderboard, ordered: Sequence[LeaderboardEntry]) -> Table:
    days = f"{found.lookback_days:g}d"
    columns = (
        Column("rank", "rank", COUNT),
        Column("miner_hotkey", "miner", IDENTITY),
        Column("thirty_day_returns", days, RETURN),
        Column("all_time_returns", "all time", RETURN),
        Column("percentage_profitable", "won", SHARE),
        Column("drawdown", "lost", LOST),
        Column("open_positions", "open", COUNT),
        Column("net_leverage", "net", LEVERAGE),
        Column("last_order", "last", AGE),
        Column("phase", "phase"),
        Column("elimination", "out", Kind(lambda reason: "yes")),
        Column("n_positions", "counted", COUNT, spare=True),
        Column("last_order_trade_pair", "pair", spare=True),
    )
    rows = [
        (
            row.rank,
            row.hotkey,
            row.thirty_day_returns,
            row.all_time_returns,
            row.percentage_profitable if row.n_positions else None,
            row.drawdown,
            row.open_positions,
            _net(row),
            row.last_order and row.last_order.processed_ms,
            row.phase,
            row.elimination and (row.elimination.reason or "eliminated"),
            row.n_positions,
            row.last_order and row.last_order.trade_pair,
        )
        for row in ordered
    ]
    delay = f", {found.delay_ms // 3_600_000} h late" if found.delay_ms else ""
    notes = (
        f"{days}: return over {found.lookback_days:g} days, which ranks. won: share of the counted (closed) "
        "positions with a profit. lost: largest loss from a high (drawdown). open: positions. net: sum of "
        "their leverages, in multiples of the account. last: age of the newest order. "
        "out: eliminated (`ptn eliminations`)."
    )
    return Table(columns, rows, f"miners, tier {found.tier}{delay}", notes)
