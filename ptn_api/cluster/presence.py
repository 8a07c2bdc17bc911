"""Presence between machines: what the processes of the stream on one machine tell those on the others.

Messages go over the broker without being stored (fanout/presence.py explains them). If one is lost,
or there is no connection, the sender's next table corrects it. They contain aliases and client addresses, but
no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from ptn_api.errors import LogError

__all__ = ["PresenceBroker", "PresenceRelay"]

logger = structlog.get_logger()

MOST_UNSENT = 1_000
"""Messages that wait to be sent; further ones are dropped."""


class PresenceBroker(Protocol):
    """Messages to all machines that listen now; they may be lost."""

    def send_presence(self, message: bytes) -> None:
        """Sends the message, also to this machine; drops it without a connection. Raises BrokerError."""
        ...

    def hear_presence(self, heard: Callable[[bytes], None]) -> None:
        """Has the function called with each message from now on, in a thread that it must not block."""
        ...


_GONE = b"null"


class _Message(msgspec.Struct, frozen=True):
    """`peer` is `MACHINE/PROCESS`; if the update is null, it has ended."""

    peer: str
    update: msgspec.Raw


class PresenceRelay:
    """Sends the messages of this machine's processes to the others, and passes theirs on."""

    def __init__(
        self, broker: PresenceBroker, machine: str, pass_on: Callable[[str, bytes | None], None]
    ) -> None:
        """`pass_on` gets the name and message of a process elsewhere; None: it has ended."""
        self._broker = broker
        self._machine = machine
        self._pass_on = pass_on
        self._peers: set[str] = set()
        """This machine's processes that the others know."""
        self._left = False
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue(MOST_UNSENT)
        self._decoder = msgspec.json.Decoder(_Message)

    def send(self, peer: str, update: bytes | None) -> None:
        """Sends what a process of this machine tells, soon; None: it has ended."""
        if update is None:
            self._peers.discard(peer)
        else:
            self._peers.add(peer)
        with contextlib.suppress(asyncio.QueueFull):
            self._unsent.put_nowait(_encoded(peer, update))

    def leave(self) -> None:
        """Tells the others at once that this machine stops, so that its connections no longer count."""
        self._left = True
        with contextlib.suppress(LogError):
            for peer in self._peers:
                self._broker.send_presence(_encoded(peer, None))

    async def run(self) -> None:
        """Passes messages on in both directions, each process's in their order, until cancelled."""
        loop = asyncio.get_running_loop()

        def heard(message: bytes) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._receive, message)

        self._broker.hear_presence(heard)
        while True:
            message = await self._unsent.get()
            if self._left:
                continue
            with contextlib.suppress(LogError):
                await asyncio.to_thread(self._broker.send_presence, message)

    def _receive(self, content: bytes) -> None:
        try:
            message = self._decoder.decode(content)
            # In one line, as messages between processes are (process/control.py).
            update = bytes(msgspec.json.format(message.update, indent=-1))
        except (msgspec.MsgspecError, RecursionError) as error:
            logger.error("presence_malformed", reason=str(error))
            return
        if message.peer.partition("/")[0] == self._machine:
            return
        self._pass_on(message.peer, None if update == _GONE else update)


def _encoded(peer: str, update: bytes | None) -> bytes:
    return msgspec.json.encode(_Message(peer, msgspec.Raw(_GONE if update is None else update)))
