"""What changed in tier 100 since a cursor, for mirrors that were away for a while."""

from __future__ import annotations

import msgspec

from ptn_api.errors import LogPrunedError
from ptn_api.event_log.contract import LoggedPosition
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.model.miner import Aggregates
from ptn_api.model.position import Position
from ptn_api.model.rendering import AS_IS, render_position
from ptn_api.rest.room import Room
from ptn_api.tasks import TimeSlice

__all__ = ["Changes", "changes_since"]


class Changes(msgspec.Struct, kw_only=True):
    """What changed since a cursor, to be applied in this order: everything up to `cursor`, maybe more.

    `removed` are [hotkey, position uuid], `positions` by hotkey, `miners` all miners' aggregates, since they
    change with time.
    """

    cursor: str
    sequence: int
    removed: list[tuple[str, str]]
    positions: dict[str, list[Position]]
    miners: dict[str, Aggregates]


async def changes_since(room: Room, cursor: str, head_only: bool) -> Body | None:
    """A document of type `Changes`. Nothing is built for a HEAD.

    Raises HTTPError `bad_parameter`, or `gone` with `oldest_cursor` where only a whole snapshot helps.
    """
    since = _revision(room, cursor)
    if head_only:
        return None
    head = room.log.head()
    try:
        removed = room.log.removed(since)
    except LogPrunedError:
        raise _gone(room, "That cursor is too old") from None
    positions = await _positions(room, since)
    changes = Changes(
        cursor=f"{room.log.epoch}:{head.revision}",
        sequence=head.sequence,
        removed=[(gone.miner_hotkey, gone.position_uuid) for gone in removed],
        positions=positions,  # type: ignore[arg-type]  # texts, that need not be decoded to be sent
        miners={view.hotkey: view.tiers[100].aggregates for view in room.views.ranked(100)},
    )
    return body_of(msgspec.json.encode(changes))


async def _positions(room: Room, since: int) -> dict[str, list[msgspec.Raw]]:
    now = room.clock()
    time_slice = TimeSlice()
    positions: dict[str, list[msgspec.Raw]] = {}
    for logged in room.log.positions(since_revision=since):
        positions.setdefault(logged.miner_hotkey, []).append(msgspec.Raw(_shown(logged, now)))
        await time_slice.yield_if_due()
    return positions


def _revision(room: Room, cursor: str) -> int:
    epoch, colon, number = cursor.rpartition(":")
    if not (colon and number.isascii() and number.isdigit() and len(number) < 19):
        raise HTTPError("bad_parameter", "A cursor is <epoch>:<revision>", parameter="since")
    if epoch != room.log.epoch:
        raise _gone(room, "That cursor is of another log")
    if int(number) > room.log.head().revision:
        raise _gone(room, "That cursor lies beyond the head")
    if int(number) < room.log.oldest_revision():
        raise _gone(room, "That cursor is too old")
    return int(number)


def _gone(room: Room, sentence: str) -> HTTPError:
    oldest = f"{room.log.epoch}:{room.log.oldest_revision()}"
    return HTTPError("gone", sentence, oldest_cursor=oldest)


def _shown(logged: LoggedPosition, now_ms: int) -> bytes:
    return render_position(logged.text, logged.text.position(), AS_IS, now_ms)
