"""Accepting connections without running out of files.

Event loops accept without a limit. Once the process may open no more files, they fail over and over, with a
traceback each time, and everything else that needs a file fails as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import structlog

__all__ = ["BACKLOG", "AcceptPauses", "Acceptor"]

logger = structlog.get_logger()

BACKLOG = 4_096
"""Pending connects: thousands of clients may reconnect at once. They also wait here during a pause."""
_UNSENT_BYTES = 131_072
"""How much the system takes of what it cannot send yet: what it holds tells nothing of the client's speed."""
_ACCEPTS_PER_TURN = 4
"""Each leads to a handshake or a request in the next turns of the loop, for which others have to wait."""
_RETRY_S = 0.2
_LASTING_S = 1.0
"""A pause of this length is a problem."""
_LOG_INTERVAL_S = 60.0
_FILES_IN_USE = 64
"""By everything else, where the system does not list them."""
_FILES_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class AcceptPauses:
    """The times in which no connection was accepted, because files or memory had run out."""

    def __init__(self) -> None:
        self._ended_s = 0.0
        self._end = self._since = -_LASTING_S
        self._begun: float | None = None
        self._logged: dict[str, float] = {}
        self.handshakes: Counter[str] = Counter()
        """TLS handshakes that failed or timed out ("failed"), or were ended to make room ("evicted")."""

    @property
    def total_s(self) -> float:
        """Seconds since the start of the process."""
        return self._ended_s + (0.0 if self._begun is None else monotonic() - self._begun)

    @property
    def lasting(self) -> bool:
        """Whether connections have had to wait for a second or longer; one may have got in meanwhile."""
        now = monotonic()
        return now - (self._end if self._begun is None else now) < _LASTING_S <= now - self._since

    def begin(self, reason: str, connections: int) -> None:
        """Begins a pause, or goes on with it. Logs each reason once a minute."""
        now = monotonic()
        if self._begun is None:
            self._begun = now
            if now - self._end >= _LASTING_S:
                self._since = now
        if now - self._logged.get(reason, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
            self._logged[reason] = now
            logger.warning("accept_paused", reason=reason, connections=connections)

    def end(self) -> None:
        if self._begun is not None:
            self._ended_s, self._end, self._begun = self.total_s, monotonic(), None


class Acceptor:
    """Accepts connections on a socket, up to the number of files that the process may open.

    All connections count, from the accept to the close of the file: also those that are still in their TLS
    handshake, or about to be rejected. At the limit, the oldest handshake is ended, or else `make_room` is
    called, which returns whether it closes a connection. Accepting goes on when a connection has closed.
    What cannot be accepted waits in the system's queue.
    """

    def __init__(
        self,
        sock: socket.socket,
        connect: Callable[[socket.socket], Coroutine[Any, Any, object]],
        *,
        make_room: Callable[[], bool],
        pauses: AcceptPauses,
        tls: bool,
    ) -> None:
        """`connect` turns an accepted socket into a connection; with `tls`, after a handshake."""
        self._sock = sock
        self._connect = connect
        self._make_room = make_room
        self._pauses = pauses
        self._tls = tls
        self._open = 0
        self._connecting: dict[socket.socket, asyncio.Task[None]] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = _files_for_connections()
        self._sock.setblocking(False)
        # Accepted sockets inherit both. asyncio sets NODELAY only if the listener was made with IPPROTO_TCP.
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self._sock.listen(BACKLOG)
        self._loop.add_reader(self._sock, self._accept)

    async def close(self) -> None:
        """Stops accepting, closes the listening socket and ends TLS handshakes; connections stay."""
        self._closed = True
        self._loop.remove_reader(self._sock)
        if self._retry is not None:
            self._retry.cancel()
        self._sock.close()
        # Not cancelled: uvloop would close a connection that is just made without telling its protocol.
        connecting = [*self._connecting.values()]
        while self._end_handshake():
            pass
        if connecting:
            await asyncio.wait(connecting)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if self._open >= self._most:
                # What has just been accepted can make room in the next turn of the loop.
                if not (self._end_handshake() or self._make_room() or self._connecting):
                    self._pauses.begin("the limit of open files allows no more connections", self._open)
                self._wait()
                return
            try:
                accepted, _address = self._sock.accept()
            except OSError as error:
                if error.errno in _FILES_EXHAUSTED:
                    self._pauses.begin(os.strerror(error.errno), self._open)
                    self._wait()
                    return
                if isinstance(error, BlockingIOError):
                    break
                continue  # the client has gone already (accept(2))
            sock = _Socket(accepted, self._one_closed)
            self._open += 1
            self._connecting[sock] = self._loop.create_task(self._establish(sock))
        self._pauses.end()

    async def _establish(self, sock: socket.socket) -> None:
        try:
            await self._connect(sock)
        except Exception as error:  # noqa: BLE001 - as after a failed handshake: the client's fault
            logger.debug("connection_failed", reason=str(error))
            if self._tls:
                self._pauses.handshakes["failed" if sock in self._connecting else "evicted"] += 1
            sock.close()
        finally:
            self._connecting.pop(sock, None)
            self._go_on()

    def _end_handshake(self) -> bool:
        """Ends the oldest handshake, if there is any; returns whether it did."""
        oldest = next(iter(self._connecting), None) if self._tls else None
        if oldest is None:
            return False
        del self._connecting[oldest]
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)
        return True

    def _one_closed(self) -> None:
        self._open -= 1
        self._go_on()

    def _wait(self) -> None:
        """Stops accepting until a connection has been established or closed, or else until the next try."""
        self._loop.remove_reader(self._sock)
        self._retry = self._loop.call_later(_RETRY_S, self._go_on)

    def _go_on(self) -> None:
        if self._retry is None or self._closed:
            return
        self._retry.cancel()
        self._retry = None
        queue = select.poll()
        queue.register(self._sock, select.POLLIN)
        if not queue.poll(0):
            self._pauses.end()  # no client waits any more
        self._loop.add_reader(self._sock, self._accept)


class _Socket(socket.socket):
    """An accepted socket that reports the end of its file."""

    def __init__(self, accepted: socket.socket, on_end: Callable[[], None]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.setblocking(False)
        self._on_end: Callable[[], None] | None = on_end

    def close(self) -> None:
        super().close()
        self._ended()

    def detach(self) -> int:
        """Called by uvloop, which then closes the file itself."""
        descriptor = super().detach()
        self._ended()
        return descriptor

    def _ended(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()


def _files_for_connections() -> int:
    """Returns how many files connections may take; some are left for the log, for keys and for metrics."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return sys.maxsize
    in_use = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else _FILES_IN_USE
    return max(1, files - in_use - min(max(files // 8, 16), 256))
