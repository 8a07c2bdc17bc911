"""`ptn positions` and `ptn miner`: positions, best miner first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ptn_api.cli.client import answer, asking
from ptn_api.cli.table import factor, print_document, print_rows, utc
from ptn_api.client import calls
from ptn_api.client.calls import Call
from ptn_api.client.rest import PTNClient
from ptn_api.errors import SettingsError
from ptn_api.model.miner import MinerEntry
from ptn_api.model.position import Position
from ptn_api.model.tiers import TIERS
from ptn_api.model.trade_pair import pair_id

__all__ = ["all_positions", "run", "run_miner"]

_COLUMNS = ("miner", "pair", "type", "leverage", "entry price", "return", "orders", "opened", "closed")


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
    """Without a tier: the key's own."""
    with asking(url, api_key_file) as client:
        body, entries = answer(client, all_positions(client, tier, miners, trade_pairs, status))
    if as_json:
        print_document(body)
    else:
        held = ((hotkey, position) for hotkey, entry in entries.items() for position in entry.positions)
        print_rows(_COLUMNS, _rows(held), title=f"{len(entries)} miners, best first; {status} positions")


def run_miner(url: str | None, api_key_file: Path | None, hotkey: str, *, as_json: bool) -> None:
    """One miner, with all positions; piped, the summary goes first, as lines that begin with #."""
    with asking(url, api_key_file) as client:
        body, entry = answer(client, calls.miner(hotkey))
    if as_json:
        print_document(body)
        return
    for name, value in _summary(hotkey, entry):
        print(f"# {name}: {value}")
    print_rows(_COLUMNS, _rows((hotkey, position) for position in entry.positions))


def all_positions(
    client: PTNClient,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    status: str = "all",
) -> Call[Any]:
    """The call for all miners' positions, at that tier or the key's own."""
    asked = client.me().tier if tier is None else tier
    shown = next((t for t in TIERS if t == asked), None)
    if shown is None:
        raise SettingsError("--tier must be 0, 30, 50 or 100")
    only: Any = None if status == "all" else status
    return calls.miner_positions(tier=shown, miner=list(miners), trade_pair=list(trade_pairs), status=only)


def _rows(held: Iterable[tuple[str, Position]]) -> Iterator[tuple[str, ...]]:
    for hotkey, position in held:
        yield (
            hotkey,
            pair_id(position.trade_pair),
            position.position_type or "",
            f"{position.net_leverage:+.4f}",
            f"{position.average_entry_price:g}",
            factor(position.current_return),
            str(len(position.orders)),
            utc(position.open_ms),
            utc(position.close_ms),
        )


def _summary(hotkey: str, entry: MinerEntry) -> Iterator[tuple[str, object]]:
    yield "miner", hotkey
    yield "return over 90 days", factor(entry.thirty_day_returns)
    yield "return over all time", factor(entry.all_time_returns)
    yield "counted positions", entry.n_positions
    yield "profitable", f"{entry.percentage_profitable:.1%}"
    yield "tier", entry.tier
