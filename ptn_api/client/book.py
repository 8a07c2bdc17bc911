"""A live mirror: every position as of now, verified by the server's own checksum.

    async with Book("ws://localhost:8765", "http://localhost:48888", api_key=...) as book:
        await book.loaded()
        for position in book.positions(status="open"):
            ...

It takes a snapshot by REST, follows the stream from there, compares checksums with every heartbeat, and
mends itself where they differ: what changed since they last agreed, or, if that did not help, a new snapshot.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Literal

import msgspec

from ptn_api.client import calls
from ptn_api.client.api_key import api_key_from
from ptn_api.client.choice import check_one_of
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.exchange import Retries
from ptn_api.client.listener import tell
from ptn_api.client.mirror import Key, Mirror
from ptn_api.client.pace import Backoff, Pace
from ptn_api.client.rest import AsyncPTNClient
from ptn_api.client.stream import Stream
from ptn_api.errors import APIStatusError, AuthenticationError, ClientError
from ptn_api.model.position import Position
from ptn_api.wire.client_session import Cursor, Gap, State, StreamItem
from ptn_api.wire.frames import Heartbeat, PositionsRemoved
from ptn_api.wire.server_frames import ChangedPosition, OrderMessage

__all__ = ["Book"]

logger = logging.getLogger("ptn_api.client")

_SLICE = 50
"""Positions taken in one go, about 2 ms of work, before others have a turn."""

_NONSENSE = (msgspec.MsgspecError, KeyError)
"""What comes of a position or frame that is none."""

_position = msgspec.json.Decoder(Position)


class Book:
    """Every position of a server (tier 100). To be used with `async with`, once.

    Other tasks may read at any time. `on_change(hotkey, position_uuid)` is called after each position that
    came, changed or went, `on_state` as `Stream`'s. `mend_within` (s): a mirror that disagrees waits a random
    time up to this, so that not all ask at once. A refused key is tried again slowly; with
    `stop_on_auth_error=True` `loaded()` and `until_verified()` raise AuthenticationError. `ssl` is for the
    stream, as in `Stream`; `timeout`, `retries` and the rest are for REST, as in `AsyncPTNClient`.
    """

    def __init__(
        self,
        url: str,
        rest_url: str,
        api_key: str | None = None,
        *,
        on_change: Callable[[str, str], Any] | None = None,
        on_state: Callable[[State], Any] | None = None,
        stop_on_auth_error: bool = False,
        mend_within: float = 30.0,
        pace: Pace | None = None,
        ssl: Any = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        **httpx_options: Any,
    ) -> None:
        self._url = url
        self._key = api_key_from(api_key)
        self._rest = AsyncPTNClient(rest_url, self._key, timeout=timeout, retries=retries, **httpx_options)
        self._on_change = on_change
        self._on_state = on_state
        self._stop_on_auth_error = stop_on_auth_error
        self._mend_within = mend_within
        self._pace = pace or Pace()
        self._backoff = Backoff(self._pace)
        self._ssl = ssl
        self._mirror = Mirror()
        self._epoch = ""
        self._sequence = -1
        self._revision = -1
        self._verified = asyncio.Event()
        self._loaded = asyncio.Event()
        self._mend_at: float | None = None
        self._changes_tried = False
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None

    # --- reading ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._mirror.positions)

    @property
    def verified(self) -> bool:
        """Whether the last heartbeat's checksum was ours, and nothing was missed since."""
        return self._verified.is_set()

    @property
    def cursor(self) -> Cursor:
        """How far the stream was followed."""
        return Cursor(self._sequence, self._epoch)

    @property
    def checksum(self) -> str:
        return self._mirror.checksum

    def position(self, miner_hotkey: str, position_uuid: str) -> Position | None:
        """As of now; `close_ms` is None while it is open."""
        held = self._mirror.positions.get((miner_hotkey, position_uuid))
        return None if held is None else _read(held.json())

    def text(self, miner_hotkey: str, position_uuid: str) -> bytes | None:
        """The position's JSON, with whatever keys the validator wrote."""
        held = self._mirror.positions.get((miner_hotkey, position_uuid))
        return None if held is None else held.json()

    def positions(
        self, miner_hotkey: str | None = None, *, status: Literal["open", "closed"] | None = None
    ) -> Iterator[Position]:
        """All positions as of the moment of each; those that come meanwhile are left out.

        `close_ms` of an open one is None, as on the stream; REST says 0.
        """
        if status is not None:
            check_one_of(calls.Status, status, "status")
        for hotkey, uuid in list(self._mirror.positions):
            if miner_hotkey is not None and hotkey != miner_hotkey:
                continue
            position = self.position(hotkey, uuid)
            if position is not None and status in (None, "closed" if position.is_closed_position else "open"):
                yield position

    async def loaded(self) -> None:
        """Waits for the first snapshot."""
        await self._wait(self._loaded)

    async def until_verified(self) -> None:
        """Waits until a heartbeat has confirmed the state."""
        await self._wait(self._verified)

    async def _wait(self, event: asyncio.Event) -> None:
        """Raises what the following died of, if it did."""
        assert self._task is not None, "to be used with `async with`"
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()

    # --- following ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Book:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """What leaving `async with` does. Raises what the following died of, if it did."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])  # not awaited itself: who is cancelled here is to hear of it
        finally:
            await self._rest.close()
        if self._task is not None and not self._task.cancelled():
            self._task.result()

    async def _follow(self) -> None:
        try:
            await self._keep_up()
        except AuthenticationError:
            raise
        except Exception:  # a fault of this library: to be raised where somebody waits
            logger.exception("the mirror broke off")
            raise
        finally:
            self._verified.clear()

    async def _keep_up(self) -> None:
        await self._take_snapshot()
        stream = Stream(
            self._url,
            self._key,
            cursor_store=NoCursorFile(self.cursor),
            format="delta",
            updates=True,
            revision=self._revision,
            on_state=self._on_state,
            stop_on_auth_error=self._stop_on_auth_error,
            pace=self._pace,
            ssl=self._ssl,
        )
        async with stream:
            self._stream = stream
            async for step in stream.steps():
                await self._take(step)
                if self._mend_at is not None and self._now() >= self._mend_at:
                    await self._mend()

    async def _take(self, step: StreamItem) -> None:
        self._sequence, epoch = step.cursor
        self._epoch = epoch or self._epoch
        try:
            await self._apply(step)
        except _NONSENSE as error:
            await self._disagree(f"a frame makes no sense: {error}")

    async def _apply(self, step: StreamItem) -> None:
        match step.value:
            case OrderMessage(data=data):
                await self._changed([self._mirror.order(data)])
            case ChangedPosition() as change:
                await self._changed([self._mirror.change(change)])
            case PositionsRemoved(positions=keys):
                await self._changed(self._mirror.remove(keys))
            case Heartbeat() as beat:
                await self._compare(beat)
            case Gap(reason=reason):
                self._changes_tried |= reason == "epoch"  # our revision means nothing there
                await self._disagree(f"the stream has a gap: {reason}")
            case None:
                pass

    async def _compare(self, beat: Heartbeat) -> None:
        """A heartbeat's checksum is that of its revision; of an older one than ours it says nothing."""
        if beat.checksum is None or beat.revision < self._revision:
            return
        if beat.checksum != self._mirror.checksum:
            await self._disagree(f"its checksum is not the server's at revision {beat.revision}")
            return
        self._mend_at = None
        self._changes_tried = False
        self._stands_at(beat.revision)
        if not self.verified:
            self._verified.set()
            await tell(self._on_state, "live")

    async def _disagree(self, why: str) -> None:
        self._verified.clear()
        if self._mend_at is None:
            pause = random.uniform(0, self._mend_within)  # noqa: S311 - no secret
            self._mend_at = self._now() + pause
            logger.warning("the mirror is to be mended in %.1f s: %s", pause, why)
            await tell(self._on_state, "resync")

    # --- mending ------------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        """While this runs the stream waits: what it has is newer, and has to be applied afterwards."""
        self._mend_at = None
        if self._changes_tried or not await self._take_changes():
            await self._take_snapshot()
        self._changes_tried = not self._changes_tried

    async def _take_changes(self) -> bool:
        """What changed since the state was last known to be sound; False where only a snapshot helps."""
        try:
            changes = await self._rest.call(calls.changes(self._epoch, self._revision))
        except APIStatusError as error:
            logger.info("no changes since %s:%d: %s", self._epoch, self._revision, error)
            return False
        except ClientError as error:
            logger.warning("no changes since %s:%d: %s", self._epoch, self._revision, error)
            return False
        await self._changed(self._mirror.remove(changes.removed))
        try:
            keys = await _load(self._mirror, changes.positions)
        except _NONSENSE as error:
            logger.warning("the changes make no sense: %s", error)
            return False
        self._stands_at(changes.revision)
        await self._changed(keys)
        return True

    async def _take_snapshot(self) -> None:
        """Tries until there is one."""
        snapshot, mirror = await self._fetch_snapshot()
        before, self._mirror = self._mirror, mirror
        self._epoch, self._sequence = snapshot.epoch, snapshot.sequence
        self._stands_at(snapshot.revision)
        self._loaded.set()
        await self._changed(mirror.differences(before))

    async def _fetch_snapshot(self) -> tuple[calls.Snapshot, Mirror]:
        while True:
            try:
                snapshot, mirror = await self._rest.call(calls.snapshot()), Mirror()
                await _load(mirror, snapshot.positions)
                return snapshot, mirror
            except (ClientError, *_NONSENSE) as error:
                refused = isinstance(error, AuthenticationError)
                if refused and self._stop_on_auth_error:
                    raise
                pause = self._backoff.refused() if refused else self._backoff.lost()
                logger.warning("no snapshot: %s; trying again in %.1f s", error, pause)
                await asyncio.sleep(pause)

    def _stands_at(self, revision: int) -> None:
        """Everything up to this revision is in; updates after it are what a reconnection has to bring."""
        self._revision = revision
        if self._stream is not None:
            self._stream.resume_from(revision)

    async def _changed(self, keys: Iterable[Key]) -> None:
        for key in keys:
            await tell(self._on_change, *key)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def _load(mirror: Mirror, positions: Iterable[msgspec.Raw]) -> list[Key]:
    """Gives others their turn now and then."""
    keys = []
    for key in mirror.load(positions):
        keys.append(key)
        if len(keys) % _SLICE == 0:
            await asyncio.sleep(0)
    return keys


def _read(text: bytes) -> Position:
    position = _position.decode(text)
    if not position.is_closed_position:
        position.close_ms = None  # 0 in REST's snapshot
    return position
