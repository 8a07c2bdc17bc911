"""How intake is to run."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["IntakeOptions"]


class IntakeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms, sizes in bytes; the names and defaults of `ptn_api.process.settings` where it has them.

    Without `validator_dir` and `checkpoint` (None or an empty string) intake lives by the queue alone. A
    checkpoint is read into a new log only; with a directory, which is the truth, it is not read at all.
    """

    data_dir: str | Path
    validator_dir: str | Path | None = None
    checkpoint: str | Path | None = None

    sweep_ms: int = 5_000
    full_sweep_ms: int = 60_000
    blind_sweep_ms: int = 1_000
    """The sweep's period while inotify watches are short."""
    removal_confirm_ms: int = 10_000
    mass_removal_window_ms: int = 600_000
    mass_removal_share: float = 0.05
    mass_removal_count: int = 20
    queue_hold_ms: int = 10_000
    prune_ms: int = 60_000
    clock_jump_ms: int = 60_000
    clock_settle_ms: int = 600_000
    retry_ms: int = 100
    """First pause after the log could not be written; doubles up to `retry_max_ms`."""
    retry_max_ms: int = 5_000

    position_limit_bytes: int = 64 << 20
    document_limit_bytes: int = 512 << 20
    queue_line_limit_bytes: int = 16 << 20
