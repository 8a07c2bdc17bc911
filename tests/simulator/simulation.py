"""Small simulated validators for tests, and independent readers of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.simulator.simulator import Simulator, SimulatorOptions
from tests.factories import T0

HOUR_MS = 3_600_000

SMALL = SimulatorOptions(
    seed=3, miners=6, positions=15, ledger_checkpoints=4, snapshot_history_ms=2 * HOUR_MS
)
CALM = SimulatorOptions(
    seed=3,
    miners=5,
    positions=8,
    ledger_checkpoints=4,
    orders_per_minute=0.3,
    refresh_ms=3_600_000,
    corrections_per_minute=0.1,
    bursts_per_hour=1,
    documents_ms=6 * HOUR_MS,
    restores_per_day=2,
    limit_orders_per_minute=0.05,
    snapshots_ms=6 * HOUR_MS,
    snapshot_history_ms=2 * HOUR_MS,
)
"""All behaviours at low rates: a simulated day writes about a thousand files."""
QUIET = SimulatorOptions(
    seed=3,
    miners=5,
    positions=6,
    ledger_checkpoints=4,
    orders_per_minute=0,
    refresh_ms=0,
    corrections_per_minute=0,
    bursts_per_hour=0,
    close_gap_ms=0,
    liquidations_per_day=0,
    eliminations_per_day=0,
    new_miners_per_day=0,
    miners_removed_per_day=0,
    synchronise_ms=0,
    documents_ms=0,
    limit_orders_per_minute=0,
    flats_per_day=0,
    account_resets_per_day=0,
    snapshots_ms=0,
    snapshot_history_ms=2 * HOUR_MS,
)
"""No behaviour runs by itself."""


def of_2025(options: SimulatorOptions) -> SimulatorOptions:
    """Returns the same options for a validator of 2025."""
    return msgspec.structs.replace(options, network="2025")


def built(directory: Path, options: SimulatorOptions = QUIET, **more: Any) -> Simulator:
    simulator = Simulator(directory, options, **more)
    simulator.prepare(T0)
    return simulator


def files(directory: Path) -> dict[str, bytes]:
    """Returns path -> content of every file that a reader of the validator may see."""
    found = sorted(p for p in directory.rglob("*") if p.is_file() and "tmp" not in p.parts[-2:])
    return {str(p.relative_to(directory)): p.read_bytes() for p in found}


def position_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns path -> position of every position file."""
    found = sorted((directory / "validation/miners").glob("*/positions/*/*/*"))
    return {str(p.relative_to(directory / "validation/miners")): json.loads(p.read_bytes()) for p in found}


def order_uuids(directory: Path) -> set[tuple[str, str]]:
    """Returns (hotkey, order uuid) of every order in the files."""
    return {
        (position["miner_hotkey"], order["order_uuid"])
        for position in position_files(directory).values()
        for order in position["orders"]
    }
