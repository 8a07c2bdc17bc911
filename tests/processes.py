"""Processes: whether they live, and how they are suspended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.waiting import until

__all__ = ["lives", "suspend", "suspended"]


def lives(process: psutil.Process | int) -> bool:
    """Whether the process runs; a zombie, as left by a container's first process, does not."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def suspend(pid: int) -> None:
    """Stops the process, which does nothing any more when this returns. SIGCONT lets it continue."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    until(lambda: process.status() == psutil.STATUS_STOPPED, what=f"process {pid} is stopped")


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Stops the process during the block."""
    suspend(pid)
    yield
    psutil.Process(pid).send_signal(signal.SIGCONT)
