"""Options of the simulator: how large a validator it plays, and how often something happens."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ptn_api.options import Count, Limit, setting

__all__ = ["Network", "SimulatorOptions"]

Network = Literal["today", "2025"]
"""The validators whose files the simulator writes: those of today, or those of 2025."""

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


class SimulatorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes at the start; periods (ms) and mean rates in simulated time, 0 = never.

    The settings among them begin with `demo_` on the command line of a server.
    """

    network: Annotated[
        Network, setting("Demo", "Write the files of validators of this time: today or 2025", unit="NETWORK")
    ] = "today"
    """Of a new directory; an existing one keeps its network."""

    seed: Annotated[int, setting("Demo", "Seed the simulation with this number", unit="N")] = 1
    miners: Annotated[Count, setting("Demo", "Simulate this many miners")] = 25
    positions: Annotated[Limit, setting("Demo", "Start with this many positions per miner")] = 20
    orders_per_minute: Annotated[
        float, Meta(ge=0), setting("Demo", "Place this many orders per minute on average", unit="N")
    ] = 60.0
    history_ms: int = 120 * _DAY_MS
    sources_ms: int = 8 * _DAY_MS
    """How old an order of the history may be and still have its price sources."""

    refresh_ms: int = _MINUTE_MS
    """How often every open position is rewritten with new returns."""
    corrections_per_minute: float = 6.0
    bursts_per_hour: float = 6.0
    burst_orders: int = 5
    close_gap_ms: int = 20
    """From the deletion of the open file to the closed one."""
    copy_every: int = 0
    """One file of this many is copied into its place, as from another file system, instead of renamed."""
    limit_orders_per_minute: float = 2.0
    """Of validators of today, as are the next two."""
    flats_per_day: float = 12.0
    """How often a miner closes all its positions at once."""
    account_resets_per_day: float = 1.0
    """How often a miner's positions are archived, by a promotion or another reset of the account."""
    liquidations_per_day: float = 4.0
    eliminations_per_day: float = 2.0
    new_miners_per_day: float = 3.0
    miners_removed_per_day: float = 1.0
    """Of those that were eliminated."""
    synchronise_ms: int = _DAY_MS
    synchronise_share: float = 0.005
    """Of all positions, per synchronisation."""
    backup_ms: int = 6 * _HOUR_MS
    restores_per_day: float = 0.0
    documents_ms: int = 5 * _MINUTE_MS
    """How often ledgers and statistics are rewritten."""
    ledger_checkpoints: int = 240
    """The most that a ledger holds; 240, of 12 hours each, cover the history."""
    snapshots_ms: int = _HOUR_MS
    """How often a line is added to each miner's account snapshots."""
    snapshot_history_ms: int = 14 * _DAY_MS
