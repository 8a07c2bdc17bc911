"""The machine: cores for server and load, processes pinned to them, and installed peers."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

__all__ = ["LOAD", "SERVER", "cpu_seconds", "installed", "many_files", "on", "pinned", "start"]

_ALL = sorted(os.sched_getaffinity(0))
SERVER, LOAD = {_ALL[0]}, {_ALL[-1]}
"""The core of the measured process, and the core of the load generators."""

_ABOVE = 10_000


def many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def installed(*programs: str) -> bool:
    return all(shutil.which(program) or os.path.exists(f"/usr/sbin/{program}") for program in programs)


class on:  # noqa: N801 - reads as `with on(SERVER):`
    """A context in which started processes run on these cores."""

    def __init__(self, cores: set[int]) -> None:
        self._cores = cores

    def __enter__(self) -> None:
        self._before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores)

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._before)


def pinned(pids: Sequence[int], cores: set[int]) -> None:
    """Moves processes with all their threads to these cores."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)


def start(
    command: Sequence[str], cores: set[int], sockets: Sequence[socket.socket] = (), **options: Any
) -> subprocess.Popen[str]:
    """Starts a process on these cores; it inherits the sockets as descriptors 3 and up."""
    descriptors = [one.fileno() for one in sockets]

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, _ABOVE + place)
        os.closerange(3, _ABOVE)
        for place in range(len(descriptors)):
            os.dup2(_ABOVE + place, 3 + place)
            os.close(_ABOVE + place)

    # The sockets need fixed numbers, so the error pipe moves out of the way; close_fds must not follow.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(
        command,
        preexec_fn=prepare if descriptors else _pin(cores),
        **(pipes | {"close_fds": not descriptors}),
    )


def _pin(cores: set[int]) -> Any:
    return lambda: os.sched_setaffinity(0, cores)


def cpu_seconds(pid: int) -> float:
    """Returns user plus system time of a process, at the scheduler's resolution (10 ms elsewhere)."""
    with open(f"/proc/{pid}/schedstat") as file:
        total = int(file.read().split()[0])
    for thread in os.listdir(f"/proc/{pid}/task"):
        if int(thread) != pid:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9
