"""Memory in use, compared with the limits at which the system ends or slows down a process."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ptn_api.clock import Monotonic, monotonic_ms
from ptn_api.problems import Findings

if TYPE_CHECKING:  # `ptn doctor` works without the server's libraries
    from ptn_api.process.metrics import Samples

__all__ = ["MemoryUse", "MemoryWatch", "memory_uses"]

NEAR = 0.9
"""The share of a limit that is a problem; it ends below `WELL`, so that it does not come and go."""
WELL = 0.85
_LOOK_MS = 1_000
_UNLIMITED = 1 << 60
"""A version 1 cgroup without a limit has one near 2**63."""
_PAGE_BYTES = resource.getpagesize()


class MemoryUse(NamedTuple):
    """What counts towards a limit. `process` is empty where all processes together do."""

    limit: str
    used_bytes: int
    limit_bytes: int
    process: str = ""

    @property
    def share(self) -> float:
        return self.used_bytes / self.limit_bytes


class MemoryWatch:
    """The problem `memory_near_limit` and the metrics of memory, looked at once a second at most."""

    def __init__(
        self,
        pids: Callable[[], Mapping[str, int]],
        limit_bytes: int,
        *,
        root: Path = Path("/"),
        monotonic: Monotonic = monotonic_ms,
    ) -> None:
        """`limit_bytes`: the operator's own limit for all processes together; 0 = none."""
        self._pids = pids
        self._limit_bytes = limit_bytes
        self._root = root
        self._monotonic = monotonic
        self._looked_ms: int | None = None
        self._is_near = False

    def find_problems(self) -> Findings:
        now = self._monotonic()
        if self._looked_ms is None or now - self._looked_ms >= _LOOK_MS:
            self._looked_ms = now
            share = max((use.share for use in self._uses()), default=0.0)
            self._is_near = share >= (WELL if self._is_near else NEAR)
        return {"memory_near_limit": self._is_near}

    def samples(self) -> Samples:
        uses = self._uses()
        return {
            "ptn_memory_used_bytes": [([use.process, use.limit], float(use.used_bytes)) for use in uses],
            "ptn_memory_limit_bytes": [([use.process, use.limit], float(use.limit_bytes)) for use in uses],
        }

    def _uses(self) -> list[MemoryUse]:
        return memory_uses(self._pids(), self._limit_bytes, root=self._root)


def memory_uses(pids: Mapping[str, int], limit_bytes: int = 0, *, root: Path = Path("/")) -> list[MemoryUse]:
    """Returns the memory that each limit counts; without a limit, nothing.

    `cgroup`: of this process's cgroup and those above it, the one that is nearest to its limit, without what
    only caches files. `address_space`: of each process. `setting`: the resident memory of all processes.
    """
    mount = root / "sys/fs/cgroup"
    groups: list[MemoryUse] = []
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers:  # version 2
                groups += _cgroups(mount, name, "memory.current", ("memory.max", "memory.high"))
            elif "memory" in controllers.split(","):  # version 1
                limits = ("memory.limit_in_bytes",)
                groups += _cgroups(mount / "memory", name, "memory.usage_in_bytes", limits, prefix="total_")
    uses = [max(groups, key=lambda use: use.share)] if groups else []
    resident_bytes = 0
    for process, pid in pids.items():
        with contextlib.suppress(OSError, ValueError):  # ended
            pages = (root / f"proc/{pid}/statm").read_text().split()
            resident_bytes += int(pages[1]) * _PAGE_BYTES
            allowed, _ = resource.prlimit(pid, resource.RLIMIT_AS)
            if allowed != resource.RLIM_INFINITY:
                uses.append(MemoryUse("address_space", int(pages[0]) * _PAGE_BYTES, allowed, process))
    if limit_bytes:
        uses.append(MemoryUse("setting", resident_bytes, limit_bytes))
    return uses


def _cgroups(
    mount: Path, name: str, usage: str, limits: tuple[str, ...], prefix: str = ""
) -> Iterator[MemoryUse]:
    """Yields each cgroup with a limit, from this process's own upwards."""
    own = Path(os.path.normpath(f"{mount}/{name}"))
    # In a container, the name may be that of the host, and the mount the container's own group.
    folders = {folder for folder in (own, *own.parents, mount) if folder.is_relative_to(mount)}
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            used = int((folder / usage).read_text())
            kinds = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = sum(int(kinds.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
            for file in limits:
                with contextlib.suppress(OSError, ValueError):  # "max"
                    allowed = int((folder / file).read_text())
                    if 0 < allowed < _UNLIMITED:
                        yield MemoryUse("cgroup", max(0, used - cached), allowed)
