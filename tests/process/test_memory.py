"""Memory against the limits of the system, read from a copy of its files."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from ptn_api.process.memory import MemoryUse, MemoryWatch, memory_uses

MIB = 1 << 20
VERSION_2 = "0::/system.slice/ptn-api.service\n"
VERSION_1 = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n"


def system(root: Path, cgroup: str) -> Path:
    """The folder of the cgroups' memory in a file system that has this /proc/self/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    mount = root / "sys/fs/cgroup"
    mount.mkdir(parents=True)
    return mount


def group(folder: Path, used: int, cached: int, **limits: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    old = (folder / "x").parts[-2:] == ("abc", "x") or folder.name == "memory"
    prefix = "total_" if old else ""
    stat = f"anon {used - cached}\n{prefix}active_file {cached // 2}\n{prefix}inactive_file {cached // 2}\n"
    (folder / "memory.stat").write_text(stat)
    (folder / ("memory.usage_in_bytes" if old else "memory.current")).write_text(f"{used}\n")
    for name, value in limits.items():
        (folder / name.replace("memory_", "memory.")).write_text(value + "\n")


def process(root: Path, pid: int, *, pages: int, resident: int) -> None:
    (root / f"proc/{pid}").mkdir(parents=True)
    (root / f"proc/{pid}/statm").write_text(f"{pages} {resident} 1 1 0 1 0\n")


def test_the_cgroup_that_is_nearest_to_its_limit_counts(tmp_path: Path) -> None:
    """Of version 2: the service's own MemoryMax= or MemoryHigh=, or those of a slice above it."""
    mount = system(tmp_path, VERSION_2)
    slice_ = mount / "system.slice"
    group(slice_, 800 * MIB, 0, memory_max="1073741824", memory_high="max")
    service = slice_ / "ptn-api.service"
    group(service, 300 * MIB, 100 * MIB, memory_max="1073741824", memory_high="max")
    assert memory_uses({}, root=tmp_path) == [MemoryUse("cgroup", 800 * MIB, 1 << 30)]
    group(service, 300 * MIB, 100 * MIB, memory_max="1073741824", memory_high=str(210 * MIB))
    assert memory_uses({}, root=tmp_path) == [MemoryUse("cgroup", 200 * MIB, 210 * MIB)]


@pytest.mark.parametrize("folder", ["memory/docker/abc", "memory"])
def test_a_cgroup_of_version_1(tmp_path: Path, folder: str) -> None:
    """In a container, only the mount itself exists."""
    mount = system(tmp_path, VERSION_1)
    group(mount / folder, 500 * MIB, 400 * MIB, memory_limit_in_bytes=str(512 * MIB))
    assert memory_uses({}, root=tmp_path) == [MemoryUse("cgroup", 100 * MIB, 512 * MIB)]


def test_without_a_limit_nothing_counts(tmp_path: Path) -> None:
    """As without cgroups, or on another system."""
    assert memory_uses({"rest": os.getpid()}, root=tmp_path) == []
    mount = system(tmp_path, VERSION_2 + VERSION_1 + "nonsense\n")
    group(mount / "system.slice/ptn-api.service", 500 * MIB, 0, memory_max="max", memory_high="max")
    group(mount / "memory", 500 * MIB, 0, memory_limit_in_bytes=str((1 << 63) - 4096))
    assert memory_uses({}, root=tmp_path) == []


def test_the_setting_counts_all_processes_and_the_address_space_each(tmp_path: Path) -> None:
    """A process that has ended is left out."""
    page, own = resource.getpagesize(), os.getpid()
    process(tmp_path, own, pages=300, resident=100)
    parent = os.getppid()
    process(tmp_path, parent, pages=500, resident=50)
    pids = {"rest": own, "stream": parent, "intake": 1 << 22}
    before = resource.getrlimit(resource.RLIMIT_AS)
    enough = 1 << 44
    resource.setrlimit(resource.RLIMIT_AS, (enough, before[1]))
    try:
        uses = memory_uses(pids, 1_000 * page, root=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert MemoryUse("address_space", 300 * page, enough, "rest") in uses
    assert MemoryUse("setting", 150 * page, 1_000 * page) in uses


def test_the_problem_begins_at_nine_tenths_and_ends_below_85_hundredths(tmp_path: Path) -> None:
    """So that it does not come and go with every request. It is looked for once a second."""
    now = 0
    watch = MemoryWatch(
        lambda: {"rest": os.getpid()}, 1_000 * resource.getpagesize(), root=tmp_path, monotonic=lambda: now
    )
    process(tmp_path, os.getpid(), pages=5_000, resident=0)
    seen = []
    for resident in (899, 900, 899, 850, 849, 899, 900):
        (tmp_path / f"proc/{os.getpid()}/statm").write_text(f"5000 {resident} 1 1 0 1 0\n")
        now += 1_000
        seen.append(watch.find_problems()["memory_near_limit"])
    assert seen == [False, True, True, True, False, False, True]
    (tmp_path / f"proc/{os.getpid()}/statm").write_text("5000 1 1 1 0 1 0\n")
    now += 999
    assert watch.find_problems() == {"memory_near_limit": True}
    samples = watch.samples()
    assert samples["ptn_memory_used_bytes"] == [(["", "setting"], float(resource.getpagesize()))]
    assert samples["ptn_memory_limit_bytes"] == [(["", "setting"], 1_000.0 * resource.getpagesize())]
