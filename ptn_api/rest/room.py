"""What every handler has at hand, and what it is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from ptn_api.access.key_ring import KeyHolder
from ptn_api.clock import Clock
from ptn_api.event_log.contract import EventLog
from ptn_api.http.answer import Answer
from ptn_api.http.reply import lines
from ptn_api.model.tiers import Tier
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.views.checkpoint import Checkpoint
from ptn_api.views.documents import Documents
from ptn_api.views.follower import Follower
from ptn_api.views.positions import PositionViews

__all__ = ["Ask", "Handler", "NoQuery", "Room", "Surroundings", "standing"]


class NoQuery(msgspec.Struct):
    """A route without parameters."""


@dataclass(frozen=True)
class Room:
    log: EventLog
    clock: Clock
    options: RestOptions
    documents: Documents
    views: PositionViews
    follower: Follower
    checkpoint: Checkpoint
    surroundings: Surroundings

    @classmethod
    def over(
        cls,
        log: EventLog,
        clock: Clock,
        options: RestOptions,
        counters: RestCounters | None = None,
        surroundings: Surroundings | None = None,
    ) -> Room:
        views, documents = PositionViews(log, clock, counters.views if counters else None), Documents(log)
        follower = Follower(log, views, documents, clock, coalesce_ms=options.refresh_coalesce_ms)
        checkpoint = Checkpoint(views, documents)
        return cls(log, clock, options, documents, views, follower, checkpoint, surroundings or Alone())

    @property
    def ready(self) -> bool:
        """Whether there is something to serve: the baseline is complete and the views are built."""
        return self.views.built


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is understood: `query` is of the route's type, `hotkey` the path's last part.

    `head`: only the headers will be sent.
    """

    holder: KeyHolder | None
    query: Any
    hotkey: str = ""
    head: bool = False
    accept: str | None = None

    @property
    def tier(self) -> Tier:
        """The tier of the key that asks."""
        assert self.holder is not None
        return self.holder.tier


class Surroundings(Protocol):
    """What is known of the other processes."""

    def processes(self) -> dict[str, bool]:
        """Process -> whether it lives."""
        ...

    def log_writable(self) -> bool:
        """Whether intake can write the log."""
        ...


class Alone:
    """Nobody else is known of."""

    def processes(self) -> dict[str, bool]:
        return {}

    def log_writable(self) -> bool:
        return True


Handler = Callable[[Room, Ask], Awaitable[Answer]]


def standing(room: Room, tier: Tier) -> bytes:
    """Headers that say how current an answer is. To be taken before the answer: they are lower bounds.

    A lower tier learns the cutoff of what it is shown late, and nothing that moves with live orders.
    """
    if tier < 100:
        return lines({"x-ptn-as-of": str(room.views.as_of_ms())})
    head = room.views.head
    return _at(room.log.epoch, head.sequence, head.revision)


@lru_cache(maxsize=8)
def _at(epoch: str, sequence: int, revision: int) -> bytes:
    numbers = {"x-ptn-sequence": str(sequence), "x-ptn-revision": str(revision)}
    return lines({"x-ptn-epoch": epoch, **numbers})
