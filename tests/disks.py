"""Disks that lose power: file systems in files, shut down without writing what is pending."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["Disk", "disks", "missing_disks"]

_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)


class Disk:
    """An ext4 file system, mounted at `path` during the `with` block."""

    def __init__(self, folder: Path, name: str, *, megabytes: int = 256) -> None:
        self.path = folder / name
        self._image = folder / f"{name}.img"
        self.path.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def __enter__(self) -> Disk:
        # Metadata, too, reach the disk by fsync alone, instead of every five seconds.
        _run("mount", "-o", "loop,commit=600", str(self._image), str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "--lazy", str(self.path))

    def lose_power(self) -> None:
        """What was not synced is lost; every access fails until `restore`."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """Mounts it again, as a machine does that starts; no process may use it."""
        _run("umount", str(self.path))
        self.__enter__()


@cache
def missing_disks() -> str:
    """Why there can be no such disks here; empty if there can."""
    if os.geteuid():
        return "mounting needs root"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(Disk(Path(folder), "probe", megabytes=8))
            disk.lose_power()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no loop device with ext4 can be mounted: {error}"
    return ""


@contextlib.contextmanager
def disks(folder: Path, names: list[str]) -> Iterator[list[Disk]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Disk(folder, name)) for name in names]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
