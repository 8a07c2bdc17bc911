"""The REST routes, as calls: what is asked, and what is made of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from ptn_api.client.exchange import Call
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.model.miner import MinerEntry
from ptn_api.wire.frames import Format
from ptn_api.wire.received import OrderMessage

__all__ = ["Changes", "MessagePage", "Snapshot", "Tier"]

T = TypeVar("T")

Tier = Literal[0, 30, 50, 100]


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages after a cursor; ask again with `after=next`, until `next` is `head`."""

    messages: list[PTNWebSocketMessage]
    next: int
    head: int
    epoch: str


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
    tier: Tier | None, miners: Sequence[str], trade_pairs: Sequence[str], status: str | None
) -> Call[dict[str, MinerEntry]]:
    return Call(
        "/miner-positions",
        _typed(dict[str, MinerEntry]),
        tier=tier,
        miner=list(miners),
        trade_pair=list(trade_pairs),
        status=status,
    )


def miner(hotkey: str) -> Call[MinerEntry]:
    return Call(f"/miner-positions/{quote(hotkey, safe='')}", _typed(MinerEntry))


def hotkeys() -> Call[list[str]]:
    return Call("/miner-hotkeys", _typed(list[str]))


def statistics(checkpoints: bool) -> Call[dict[str, Any]]:
    return Call("/statistics", _plain, checkpoints=None if checkpoints else "false")


def miner_statistics(hotkey: str, checkpoints: bool) -> Call[dict[str, Any]]:
    path = f"/statistics/{quote(hotkey, safe='')}"
    return Call(path, _plain, checkpoints=None if checkpoints else "false")


def eliminations() -> Call[list[dict[str, Any]]]:
    return Call("/eliminations", lambda body, _: list(msgspec.json.decode(body)["eliminations"]))


def document(path: str) -> Call[dict[str, Any]]:
    return Call(path, _plain)


def perf_ledger(hotkey: str) -> Call[dict[str, Any]]:
    return Call(f"/perf-ledger/{quote(hotkey, safe='')}", _plain)


def health() -> Call[dict[str, Any]]:
    """Also what a server says of itself that is starting or not well, which comes with 503."""
    return Call("/health", _plain, accept=(200, 503))


def messages(
    after: int,
    epoch: str | None,
    limit: int,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    format: Format,  # noqa: A002 - the protocol's word
) -> Call[MessagePage]:
    return Call(
        "/messages",
        _message_page,
        after=after,
        epoch=epoch,
        limit=limit,
        miner=list(miners),
        trade_pair=list(trade_pairs),
        format=format,
    )


def snapshot() -> Call[Snapshot]:
    return Call("/miner-positions", _snapshot)


def changes(epoch: str, revision: int) -> Call[Changes]:
    return Call("/miner-positions", _changes, since=f"{epoch}:{revision}")


# --- reading answers --------------------------------------------------------------------------------------


def _typed(kind: type[T]) -> Callable[[bytes, Mapping[str, str]], T]:
    return lambda body, _: msgspec.json.decode(body, type=kind)


def _plain(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any])


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
