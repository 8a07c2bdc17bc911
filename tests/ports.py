"""Ports for programs that cannot choose a free one by themselves and report it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["reserved_ports"]


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that nobody gets by chance until the block ends.

    They are bound, so the system chooses others for sockets that ask for any port. A program that is told of
    a port can still listen on it, repeatedly: both sockets have SO_REUSEADDR, and only one listens.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
        yield [sock.getsockname()[1] for sock in sockets]
