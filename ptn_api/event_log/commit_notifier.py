"""Commit notifications across processes: after each commit the writer sends every reader an empty datagram.

A notification may be lost (a full buffer, a cleaned folder): readers also look once a second.
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

import structlog

from ptn_api.errors import LogError
from ptn_api.tasks import wait_for_event

__all__ = ["CommitNotifier", "SocketCommitListener", "listener_folder"]

logger = structlog.get_logger()

_PATH_LIMIT = 107
"""Longest path of a Unix socket in bytes; the kernel's field has 108 with the final NUL."""
_NAME_LENGTH = 17
_FOLDER = "bells"  # the name in data directories of earlier versions


def listener_folder(data_dir: Path) -> Path:
    """The folder of the readers' sockets, in the data directory.

    If its path is too long for a socket, it is a folder of this user under the system's temporary directory,
    named by a hash of the data directory, so that writer and readers agree on it.
    """
    data_dir = data_dir.resolve()
    folder = data_dir / _FOLDER
    if len(os.fsencode(folder)) + 1 + _NAME_LENGTH <= _PATH_LIMIT:
        return folder
    name = hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"ptn-{_FOLDER}-{os.getuid()}-{name}"


class CommitNotifier:
    """The writer's side: notifies every socket in the folder without waiting, and removes dead readers'."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def notify(self) -> None:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return  # no reader has bound a socket yet
        for name in names:
            if name.startswith("."):
                continue
            path = self._folder / name
            try:
                self._socket.sendto(b"", str(path))
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    path.unlink()  # the reader that bound it is dead
            except OSError:
                pass  # a full buffer already holds a notification; other errors cost the reader a second

    def close(self) -> None:
        self._socket.close()


class SocketCommitListener:
    """The reader's side, bound to the asyncio loop that it is created in.

    Where no socket can be bound, as on a full disk, only the timeouts end its waits; it tries again at each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._committed = asyncio.Event()
        self._socket: socket.socket | None = None
        self._path = folder
        self._reason = ""
        """Why no socket could be bound."""
        self._closed = False
        self._bind()

    async def wait_for_commit(self, timeout_ms: int = 1_000) -> None:
        """Returns after the next commit (at once after one since the last wait), or after the timeout."""
        notified = await wait_for_event(self._committed, timeout_ms)
        if not notified and not self._closed:
            self._bind()
        self._committed.clear()

    def close(self) -> None:
        self._closed = True
        self._unbind()

    def _bind(self) -> None:
        """Binds a socket, unless one is bound whose file exists: without it, nothing is received."""
        if self._socket is not None and os.path.exists(self._path):
            return
        self._unbind()
        try:
            self._socket, self._path = _bound_socket(self._folder)
        except LogError as error:
            if str(error) != self._reason:
                self._reason = str(error)
                logger.warning("commits_not_notified", reason=self._reason)
            return
        self._reason = ""
        self._loop.add_reader(self._socket, self._on_datagram, self._socket)

    def _unbind(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _on_datagram(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while True:
                listener.recv(1)
                self._committed.set()


def _bound_socket(folder: Path) -> tuple[socket.socket, Path]:
    """A socket under a unique name in the folder. Raises LogError if it cannot be bound."""
    name = f"{os.getpid() % 10_000_000:07d}-{secrets.token_hex(4)}"
    hidden, path = folder / f".{name}", folder / name
    _make_private(folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.setblocking(False)
        # Between the creation of the file and the end of bind() a socket refuses like a dead reader's, and
        # the notifier would remove it. It skips dotfiles, and the rename is atomic.
        listener.bind(str(hidden))
        hidden.rename(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise LogError(f"cannot bind a socket in {folder}: {error}", code="no_listener") from error
    return listener, path


def _make_private(folder: Path) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise LogError(f"cannot create {folder}: {error}", code="no_listener") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LogError(f"not a private folder of this user: {folder}", code="no_listener")
