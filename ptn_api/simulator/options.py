"""What a simulation does, and how often."""

from __future__ import annotations

import msgspec

__all__ = ["SimulatorOptions"]

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


class SimulatorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes at the start, periods (ms; 0 = never) and mean rates (0 = never) in simulated time."""

    seed: int = 1
    miners: int = 25
    positions: int = 20
    """Per miner, at the start."""
    history_ms: int = 120 * _DAY_MS
    sources_ms: int = 8 * _DAY_MS
    """How old an order of the history may be and still have its price sources."""

    orders_per_minute: float = 60.0
    refresh_ms: int = _MINUTE_MS
    """How often every open position is rewritten with new returns."""
    corrections_per_minute: float = 6.0
    bursts_per_hour: float = 6.0
    burst_orders: int = 5
    close_gap_ms: int = 20
    """From the deletion of the open file to the closed one."""
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
    ledger_checkpoints: int = 180
