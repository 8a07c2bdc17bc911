"""Processes: whether they live, and how they are suspended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    psutil.Process(pid).send_signal(signal.SIGSTOP)
    until(lambda: _states(pid) == {"T"}, what=f"process {pid} is stopped")


def _states(pid: int) -> set[str]:
    """The states of its threads: on a busy machine, one may go on while the first is stopped already."""
    stats = Path("/proc", str(pid), "task").glob("*/stat")
    try:
        return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}
    except OSError:  # one has just ended
        return set()


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Stops the process during the block."""
    suspend(pid)
    yield
    psutil.Process(pid).send_signal(signal.SIGCONT)
