"""Presence: what the other processes of the stream know of their users, so that all share one limit per user.

A process tells the others which users are connected to it, and what counts towards the limits: evictions,
delayed logins, attempts to log in, connects. The others apply that as if it had happened to them. A message
may be lost, so the whole table is repeated every few seconds. Keys are never part of it.

How messages reach the others is up to `Peers`: the control channel between processes of one machine
(process/control.py), and from there the broker between the machines of a cluster (cluster/presence.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import msgspec
import structlog

from ptn_api.clock import monotonic_ms
from ptn_api.tasks import wait_for_event

__all__ = ["Event", "Peers", "Presence", "Update", "UserPresence"]

logger = structlog.get_logger()

_COALESCE_S = 0.01
"""Changes within this time go into one message."""
_PART_USERS = 1_000
"""A table is sent in parts of this many users, since messages between machines have at most 1 MiB."""
_PART_PAUSE_S = 0.01
_MISSED_TABLES = 2
"""A process that has sent nothing while this process sent its table more often than this is gone."""

Event = Literal["evicted", "delayed", "attempt", "connect"]
"""`evicted` and `delayed` are about a user, `attempt` and `connect` about an address."""


class UserPresence(msgspec.Struct, frozen=True, array_like=True):
    """A user in one process: when each connection logged in, oldest first, and how many logins wait."""

    logins: list[int] = []
    waiting: int = 0


class Update(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message to the other processes: users by alias as they are now, and events since the last message.

    With `whole`, users that are not named have left; those of a large table follow in parts. The last part of
    an event is the fingerprint of the key of a successful attempt to log in, otherwise empty.
    """

    users: dict[str, UserPresence] = {}
    whole: bool = False
    events: list[tuple[Event, str, str]] = []


class Peers(Protocol):
    """The way to the other processes of the stream. Messages of one process arrive in their order."""

    @property
    def name(self) -> str:
        """This process, as the others know it."""
        ...

    def now_ms(self) -> int:
        """The time that decides which login is older; all processes must use the same clock."""
        ...

    def publish(self, update: bytes) -> None:
        """Sends the message to all others; never waits."""
        ...

    def listen(self, receive: Callable[[str, bytes], None], gone: Callable[[str], object]) -> None:
        """Calls `receive` with each sender and message, and `gone` with a process that has ended."""
        ...


class Presence:
    """The users of the other processes, and what those are told of this one. Idle without peers."""

    def __init__(self, peers: Peers | None = None) -> None:
        self.now_ms = monotonic_ms if peers is None else peers.now_ms
        self.name = "" if peers is None else peers.name
        self.is_shared = peers is not None
        self._peers = peers
        self._own: dict[str, UserPresence] = {}
        self._others: dict[str, dict[str, UserPresence]] = {}
        """Process -> alias -> the user there."""
        self._missed: Counter[str] = Counter()
        """Process -> how often this process has sent its table since that one's last message."""
        self._changed: set[str] = set()
        self._events: list[tuple[Event, str, str]] = []
        self._flush: asyncio.TimerHandle | None = None
        self._repeat = asyncio.Event()
        self._on_user: Callable[[str], object] = lambda _: None
        self._handlers: dict[Event, Callable[[str, str], object]] = {}
        self._decoder = msgspec.json.Decoder(Update)
        if peers is not None:
            peers.listen(self._receive, self._forget)

    async def repeat(self, every_ms: int) -> None:
        """Sends the whole table at this interval, and to each new process, until cancelled.

        Forgets processes that are silent: that another machine is gone is not always reported.
        """
        while self._peers is not None:
            self._repeat.clear()
            aliases = list(self._own)
            self._publish(Update(users=self._own_users(aliases[:_PART_USERS]), whole=True))
            for start in range(_PART_USERS, len(aliases), _PART_USERS):
                await asyncio.sleep(_PART_PAUSE_S)  # on the way, a message behind much unsent data is dropped
                self._publish(Update(users=self._own_users(aliases[start : start + _PART_USERS])))
            if not await wait_for_event(self._repeat, every_ms):
                for process in list(self._others):
                    self._missed[process] += 1
                    if self._missed[process] > _MISSED_TABLES:
                        self._forget(process)

    def on_user(self, call: Callable[[str], object]) -> None:
        """Calls back with the alias of each user that has changed elsewhere."""
        self._on_user = call

    def on_event(self, event: Event, call: Callable[[str, str], object]) -> None:
        """Calls back with the name and the detail of each such event elsewhere."""
        self._handlers[event] = call

    def logins(self, alias: str) -> list[tuple[int, str]]:
        """The time and the process of each of the user's connections elsewhere."""
        return [
            (time, process)
            for process, users in self._others.items()
            if alias in users
            for time in users[alias].logins
        ]

    def waiting(self, alias: str) -> int:
        """The number of the user's logins that wait elsewhere."""
        return sum(users[alias].waiting for users in self._others.values() if alias in users)

    def set_user(self, alias: str, user: UserPresence) -> None:
        """Notes the user as it is now in this process, for the others."""
        if user == self._own.get(alias, UserPresence()):
            return
        _store(self._own, alias, user)
        self._changed.add(alias)
        self._flush_soon()

    def tell(self, event: Event, name: str, detail: str = "") -> None:
        """Tells the others of an event in this process."""
        if self.is_shared:
            self._events.append((event, name, detail))
            self._flush_soon()

    def _forget(self, process: str) -> None:
        self._others.pop(process, None)
        self._missed.pop(process, None)

    def _flush_soon(self) -> None:
        def flush() -> None:
            self._flush = None
            update = Update(users=self._own_users(self._changed), events=self._events)
            self._changed, self._events = set(), []
            self._publish(update)

        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_COALESCE_S, flush)

    def _own_users(self, aliases: Iterable[str]) -> dict[str, UserPresence]:
        return {alias: self._own.get(alias, UserPresence()) for alias in aliases}

    def _publish(self, update: Update) -> None:
        if self._peers is not None:
            self._peers.publish(msgspec.json.encode(update))

    def _receive(self, process: str, message: bytes) -> None:
        try:
            update = self._decoder.decode(message)
        except (msgspec.MsgspecError, RecursionError) as error:
            logger.error("presence_malformed", peer=process, reason=str(error))
            return
        if process not in self._others:  # it has just started, and knows nothing of this one either
            self._repeat.set()
        self._missed.pop(process, None)
        before = self._others.setdefault(process, {})
        changed = [alias for alias, user in update.users.items() if before.get(alias) != user]
        if update.whole:
            self._others[process] = update.users
        else:
            for alias, user in update.users.items():
                _store(before, alias, user)
        for event, name, detail in update.events:
            if event in self._handlers:
                self._handlers[event](name, detail)
        for alias in changed:
            self._on_user(alias)


def _store(users: dict[str, UserPresence], alias: str, user: UserPresence) -> None:
    if user.logins or user.waiting:
        users[alias] = user
    else:
        users.pop(alias, None)
