"""The liveness of processes."""

from __future__ import annotations

import psutil

__all__ = ["lives"]


def lives(process: psutil.Process | int) -> bool:
    """Whether the process runs; a zombie, as left by a container's first process, does not."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
