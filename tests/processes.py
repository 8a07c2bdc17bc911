"""Which processes live."""

from __future__ import annotations

import psutil

__all__ = ["lives"]


def lives(process: psutil.Process | int) -> bool:
    """Not gone, nor dead and kept by a parent that does not ask (as a container's first process may not)."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
