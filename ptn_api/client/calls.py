"""The REST routes, as calls: what is asked, and what is made of the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import quote

import msgspec

from ptn_api.client import tables
from ptn_api.client.choice import Choice, several, trade_pairs_of
from ptn_api.client.documents import (
    Checkpoint,
    Ledgers,
    Miner,
    MinerPositions,
    PositionChanges,
    StatisticsDocument,
)
from ptn_api.client.download import Download, Progress
from ptn_api.client.exchange import Call
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.errors import InvalidInputError
from ptn_api.model.statistics import Elimination, Eliminations, MinerStatistics
from ptn_api.model.tiers import Tier
from ptn_api.wire.about import Health, Me
from ptn_api.wire.frames import Format
from ptn_api.wire.server_frames import OrderMessage

if TYPE_CHECKING:
    import polars

__all__ = ["Changes", "MessagePage", "Snapshot", "Status"]

T = TypeVar("T")

Status = Literal["open", "closed"]


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages after a cursor; ask again with `after=next`, until `next` is `head`."""

    messages: list[PTNWebSocketMessage]
    next: int
    head: int
    epoch: str

    def to_polars(self) -> polars.DataFrame:
        """One row per order."""
        return tables.messages(self.messages)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Every position's JSON text, with where the stream goes on. Everything up to there is in it."""

    epoch: str
    sequence: int
    revision: int
    positions: list[msgspec.Raw]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What changed since a cursor: first `removed` (hotkey, uuid), then `positions` (JSON texts) apply."""

    epoch: str
    sequence: int
    revision: int
    removed: list[tuple[str, str]]
    positions: list[msgspec.Raw]


def miner_positions(
    tier: Tier | None, miner: Choice, trade_pair: Choice, status: Status | None
) -> Call[MinerPositions]:
    return Call(
        "/miner-positions",
        MinerPositions.read,
        tier=tier,
        miner=several(miner),
        trade_pair=trade_pairs_of(trade_pair),
        status=status,
    )


def position_changes(since: str) -> Call[PositionChanges]:
    return Call("/miner-positions", _typed(PositionChanges), kept=False, since=since)


def miner(hotkey: str) -> Call[Miner]:
    return Call(_of("/miner-positions", hotkey), _typed(Miner))


def hotkeys() -> Call[list[str]]:
    return Call("/miner-hotkeys", _typed(list[str]))


def statistics(checkpoints: bool) -> Call[StatisticsDocument]:
    return Call("/statistics", _typed(StatisticsDocument), checkpoints=None if checkpoints else "false")


def miner_statistics(hotkey: str, checkpoints: bool) -> Call[MinerStatistics]:
    path = _of("/statistics", hotkey)
    return Call(path, _typed(MinerStatistics), checkpoints=None if checkpoints else "false")


def eliminations() -> Call[list[Elimination]]:
    return Call("/eliminations", _eliminations)


def checkpoint() -> Call[Checkpoint]:
    return Call("/validator-checkpoint", Checkpoint.read)


def checkpoint_file(to_file: str | os.PathLike[str], progress: Progress | None) -> Download:
    return Download("/validator-checkpoint", to_file, progress)


def perf_ledger(hotkey: str) -> Call[Ledgers]:
    return Call(_of("/perf-ledger", hotkey), _ledgers(hotkey))


def me() -> Call[Me]:
    return Call("/me", _typed(Me))


def health() -> Call[Health]:
    """Also what a server says of itself that is starting or not well, which comes with 503."""
    return Call("/health", _typed(Health), accept=(200, 503))


def messages(
    after: int,
    epoch: str | None,
    limit: int,
    miner: Choice,
    trade_pair: Choice,
    format: Format,  # noqa: A002 - the protocol's word
) -> Call[MessagePage]:
    return Call(
        "/messages",
        _message_page,
        kept=False,
        after=after,
        epoch=epoch,
        limit=limit,
        miner=several(miner),
        trade_pair=trade_pairs_of(trade_pair),
        format=format,
    )


def snapshot() -> Call[Snapshot]:
    return Call("/miner-positions", _snapshot, kept=False)


def changes(epoch: str, revision: int) -> Call[Changes]:
    return Call("/miner-positions", _changes, kept=False, since=f"{epoch}:{revision}")


# --- reading answers --------------------------------------------------------------------------------------


def _of(route: str, hotkey: str) -> str:
    """A miner's path; without a hotkey it would be another document's. Raises InvalidInputError."""
    if not hotkey:
        raise InvalidInputError("no hotkey given", code="no_hotkey")
    return f"{route}/{quote(hotkey, safe='')}"


@cache  # the same function each time, by which the same question is known
def _typed(kind: type[T]) -> Callable[[bytes, Mapping[str, str]], T]:
    decoder = msgspec.json.Decoder(kind)
    return lambda body, _: decoder.decode(body)


@cache
def _ledgers(hotkey: str) -> Callable[[bytes, Mapping[str, str]], Ledgers]:
    return lambda body, _: Ledgers.read(hotkey, body)


def _eliminations(body: bytes, headers: Mapping[str, str]) -> list[Elimination]:
    return msgspec.json.decode(body, type=Eliminations).eliminations


class _Page(msgspec.Struct):
    messages: list[OrderMessage]
    next: int
    head: int
    epoch: str


def _message_page(body: bytes, headers: Mapping[str, str]) -> MessagePage:
    page = msgspec.json.decode(body, type=_Page)
    return MessagePage(
        messages=[PTNWebSocketMessage(message) for message in page.messages],
        next=page.next,
        head=page.head,
        epoch=page.epoch,
    )


class _Entry(msgspec.Struct):
    positions: list[msgspec.Raw]


def _snapshot(body: bytes, headers: Mapping[str, str]) -> Snapshot:
    entries = msgspec.json.decode(body, type=dict[str, _Entry])
    return Snapshot(
        epoch=headers["x-ptn-epoch"],
        sequence=int(headers["x-ptn-sequence"]),
        revision=int(headers["x-ptn-revision"]),
        positions=[position for entry in entries.values() for position in entry.positions],
    )


class _Changed(msgspec.Struct):
    cursor: str
    sequence: int
    removed: list[tuple[str, str]]
    positions: dict[str, list[msgspec.Raw]]


def _changes(body: bytes, headers: Mapping[str, str]) -> Changes:
    changed = msgspec.json.decode(body, type=_Changed)
    epoch, _, revision = changed.cursor.rpartition(":")
    return Changes(
        epoch=epoch,
        sequence=changed.sequence,
        revision=int(revision),
        removed=changed.removed,
        positions=[position for positions in changed.positions.values() for position in positions],
    )
