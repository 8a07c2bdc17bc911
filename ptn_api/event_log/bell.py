"""Rings across processes: the writer sends a datagram to every reader's Unix socket after each commit.

A ring may be lost (a full buffer, a folder cleaned by others): readers look once a second anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import stat
import tempfile
from pathlib import Path

from ptn_api.errors import LogError
from ptn_api.tasks import wait_for_event

__all__ = ["Ringer", "SocketBell", "bell_folder"]

_PATH_LIMIT = 107
"""Longest path of a Unix socket in bytes; the kernel's field has 108 with the final NUL."""
_NAME_LENGTH = 17


def bell_folder(data_dir: Path) -> Path:
    """Where the readers of the log in this directory bind their sockets; writer and readers agree on it.

    It is `bells` in the data directory, or where that path is too long for a socket a folder of this user's
    under the system's temporary directory, named by a hash of the data directory.
    """
    data_dir = data_dir.resolve()
    folder = data_dir / "bells"
    if len(os.fsencode(folder)) + 1 + _NAME_LENGTH <= _PATH_LIMIT:
        return folder
    name = hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"ptn-bells-{os.getuid()}-{name}"


class SocketBell:
    """A reader's bell, bound to the asyncio loop it is made in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._socket, self._path = _bound_socket(folder)
        self._loop.add_reader(self._socket, self._on_ring)

    async def wait(self, timeout_ms: int = 1_000) -> None:
        """Returns after the next ring (at once if one is pending), or after the timeout."""
        if not await wait_for_event(self._rung, timeout_ms):
            self._bind_again_if_gone()
        self._rung.clear()

    def close(self) -> None:
        if self._socket.fileno() == -1:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _on_ring(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while True:
                self._socket.recv(64)
                self._rung.set()

    def _bind_again_if_gone(self) -> None:
        """Somebody may have cleaned the folder; without its name the socket would never hear a ring."""
        if self._socket.fileno() != -1 and not self._path.exists():
            self.close()
            self._socket, self._path = _bound_socket(self._folder)
            self._loop.add_reader(self._socket, self._on_ring)


class Ringer:
    """The writer's side: rings every bell in the folder, never waits, and removes those of dead readers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ring(self, head: int) -> None:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return  # nobody has bound a bell yet
        for name in names:
            if not name.startswith("."):
                self._ring_one(self._folder / name, b"%d" % head)

    def close(self) -> None:
        self._socket.close()

    def _ring_one(self, path: Path, message: bytes) -> None:
        try:
            self._socket.sendto(message, str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()  # its reader is dead
        except OSError:
            pass  # a full buffer holds rings enough; anything else costs the reader a second


def _bound_socket(folder: Path) -> tuple[socket.socket, Path]:
    """A socket with a name of its own in the folder. Raises LogError where that cannot be had."""
    name = f"{os.getpid() % 10_000_000:07d}-{secrets.token_hex(4)}"
    hidden, path = folder / f".{name}", folder / name
    _make_private(folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.setblocking(False)
        # Under a name that the writer overlooks: for a moment the file exists but refuses, as a dead one's.
        listener.bind(str(hidden))
        hidden.rename(path)
    except OSError as error:
        listener.close()
        raise LogError(f"no bell can be bound in {folder}: {error}", code="no_bell") from error
    return listener, path


def _make_private(folder: Path) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise LogError(f"{folder} cannot be made: {error}", code="no_bell") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LogError(f"{folder} is not a private folder of this user", code="no_bell")
