"""Options of intake, and of the event log that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from ptn_api.options import (
    CLOCK_JUMP_MS,
    CLOCK_SETTLE_MS,
    LATE_MS,
    RETENTION_BYTES,
    RETENTION_MS,
    Bytes,
    ClockJump,
    ClockSettle,
    Delay,
    Period,
    setting,
)

__all__ = ["IntakeOptions", "IntakeSettings"]


class IntakeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are milliseconds, sizes bytes."""

    retention_ms: Annotated[Period, setting("Data", "Keep events for this long")] = RETENTION_MS
    retention_bytes: Annotated[Bytes, setting("Data", "Keep at most this many bytes of events")] = (
        RETENTION_BYTES
    )
    prune_ms: Annotated[Period, setting("Data", "Prune old events at this interval")] = 60_000
    log_check_ms: Annotated[
        Period, setting("Data", "Check the whole event log for damage at this interval")
    ] = 600_000
    sweep_ms: Annotated[
        Period, setting("Intake", "Sweep the directories at this interval for changes that inotify missed")
    ] = 5_000
    full_sweep_ms: Annotated[Period, setting("Intake", "Check every file for changes at this interval")] = (
        60_000
    )
    removal_confirm_ms: Annotated[
        Delay, setting("Intake", "Remove a position once two sweeps this far apart have not found it")
    ] = 10_000
    mass_removal_window_ms: Annotated[
        Period, setting("Intake", "Detect a mass removal within this time window; it is held back")
    ] = 600_000
    miner_files_ms: Annotated[
        Period,
        setting("Intake", "Look at limit orders, archived positions and snapshots at this interval"),
    ] = 1_000
    account_sizes_ms: Annotated[
        Delay, setting("Intake", "Read the account sizes at most this often; they change with every order")
    ] = 1_000
    queue_hold_ms: Annotated[
        Delay,
        setting("Intake", "Serve a queued position for at most this long while waiting for its file"),
    ] = 10_000
    late_ms: Annotated[
        Delay, setting("Intake", "Mark an order as late if it is older than this when first seen")
    ] = LATE_MS
    clock_jump_ms: ClockJump = CLOCK_JUMP_MS
    clock_settle_ms: ClockSettle = CLOCK_SETTLE_MS

    blind_sweep_ms: int = 1_000
    """The sweep's period while inotify watches are short, or its events do not come."""
    mass_removal_share: float = 0.05
    mass_removal_count: int = 20
    retry_ms: int = 100
    """First pause after the log could not be written; doubles up to `retry_max_ms`."""
    retry_max_ms: int = 5_000
    position_limit_bytes: int = 64 << 20
    document_limit_bytes: int = 512 << 20
    queue_line_limit_bytes: int = 16 << 20


class IntakeOptions(IntakeSettings, frozen=True, kw_only=True):
    """The settings, and where to read and write.

    Without `validator_dir` and `checkpoint` (None or an empty string) intake reads the queue alone. A
    checkpoint is read into a new log only, and not at all where there is a directory, which is the truth.
    """

    data_dir: str | Path
    validator_dir: str | Path | None = None
    checkpoint: str | Path | None = None
