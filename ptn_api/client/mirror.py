"""A live mirror of every position, verified by the server's checksum.

    async with PositionMirror("ws://localhost:8765", "http://localhost:48888", api_key=...) as mirror:
        await mirror.loaded()
        for position in mirror.positions(status="open"):
            ...

It loads a snapshot by REST, follows the stream from there, and compares checksums with every heartbeat. Where
they differ it repairs itself: it first loads what changed since they last agreed, and if that does not help,
a new snapshot. `open_mirror` is the same for blocking code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Literal

import msgspec

from ptn_api.client.arguments import ReconnectBackoff, Timing, api_key_from, check_literal, with_parameters_of
from ptn_api.client.calls import Status
from ptn_api.client.connection import OnState, StreamState
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.mirror_state import Key, MirrorState, changes, snapshot
from ptn_api.client.rest import AsyncPTNClient, Retries
from ptn_api.client.stream import Stream, call_listener
from ptn_api.errors import APIStatusError, AuthenticationError, ClientError
from ptn_api.loop_thread import LoopThread
from ptn_api.model.position import Position
from ptn_api.summary import ROWS, Summary, summarised, time_text
from ptn_api.tasks import TimeSlice
from ptn_api.wire.client_session import Cursor, Gap, StreamItem
from ptn_api.wire.frames import Heartbeat, PositionsRemoved
from ptn_api.wire.server_frames import ChangedPosition, OrderMessage

__all__ = ["OpenMirror", "PositionMirror", "open_mirror"]

logger = logging.getLogger("ptn_api.client")

_MALFORMED = (msgspec.MsgspecError, KeyError)
"""Raised for a malformed position or frame."""

_position = msgspec.json.Decoder(Position)


@summarised
class PositionMirror:
    """Every position of a server (tier 100), kept up to date. For one `async with`.

    Other tasks may read at any time. `on_change(hotkey, position_uuid)` is called for each position that was
    added, changed or removed; `on_state` as by `Stream`. A mirror whose checksum differs waits a random time
    of up to `mend_within` s before it repairs itself, so that many mirrors do not send requests at once. A
    refused key is retried slowly; with `stop_on_auth_error=True` `loaded()` and `until_verified()` raise
    AuthenticationError. `timing` (formerly `pace`) and `ssl` are for the stream, as in `Stream`; `timeout`,
    `retries` and other options for REST, as in `AsyncPTNClient`.
    """

    def __init__(
        self,
        url: str,
        rest_url: str,
        api_key: str | None = None,
        *,
        on_change: Callable[[str, str], Any] | None = None,
        on_state: OnState | None = None,
        stop_on_auth_error: bool = False,
        mend_within: float = 30.0,
        timing: Timing | None = None,
        pace: Timing | None = None,
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
        self._timing = timing or pace or Timing()
        self._backoff = ReconnectBackoff(self._timing)
        self._ssl = ssl
        self._state = MirrorState()
        self._epoch = ""
        self._sequence = -1
        self._revision = -1
        self._verified = asyncio.Event()
        self._loaded = asyncio.Event()
        self._repair_at: float | None = None
        self._changes_tried = False
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None

    # --- reading ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._state.positions)

    @property
    def verified(self) -> bool:
        """Whether the last heartbeat's checksum matched; False since a gap, or without a connection."""
        return self._verified.is_set()

    @property
    def cursor(self) -> Cursor:
        """The last message of the stream that was applied."""
        return Cursor(self._sequence, self._epoch)

    @property
    def checksum(self) -> str:
        """The checksum of the current state, as in a heartbeat."""
        return self._state.checksum

    def position(self, miner_hotkey: str, position_uuid: str) -> Position | None:
        """Returns one position; an open one has `close_ms` None."""
        text = self.text(miner_hotkey, position_uuid)
        if text is None:
            return None
        position = _position.decode(text)
        if not position.is_closed_position:
            position.close_ms = None  # 0 in a REST snapshot
        return position

    def text(self, miner_hotkey: str, position_uuid: str) -> bytes | None:
        """Returns the position's JSON, unknown keys included."""
        return self._state.positions.get((miner_hotkey, position_uuid))

    def positions(
        self, miner_hotkey: str | None = None, *, status: Literal["open", "closed"] | None = None
    ) -> Iterator[Position]:
        """Yields the positions, each in its current state; leaves out those added during the iteration.

        Open positions have `close_ms` None, as on the stream (0 in REST).
        """
        if status is not None:
            check_literal(Status, status, "status")
        for hotkey, uuid in list(self._state.positions):
            if miner_hotkey is not None and hotkey != miner_hotkey:
                continue
            position = self.position(hotkey, uuid)
            if position is not None and status in (None, "closed" if position.is_closed_position else "open"):
                yield position

    def _summary(self) -> Summary:
        shown = (self.position(*key) for key in islice(self._state.positions, ROWS))
        rows = (
            (
                p.miner_hotkey,
                p.trade_pair_id,
                p.position_type,
                f"{p.net_leverage:+g}",
                time_text(p.open_ms),
            )
            for p in shown
            if p is not None
        )
        state = "verified" if self.verified else "not verified"
        title = f"mirror of {len(self):,} positions, {state}, at sequence {self.cursor.sequence}"
        return Summary(title, ("miner", "pair", "type", "leverage", "opened"), rows, len(self))

    async def loaded(self) -> None:
        """Waits for the first snapshot."""
        await self._wait(self._loaded)

    async def until_verified(self) -> None:
        """Waits until a heartbeat has confirmed the state."""
        await self._wait(self._verified)

    async def _wait(self, event: asyncio.Event) -> None:
        """Waits for the event or the end of the task; raises the task's exception."""
        assert self._task is not None, "use `async with`"
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()

    # --- following ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> PositionMirror:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops following, as leaving `async with` does. Raises the error that ended the mirror, if any."""
        try:
            if self._task is not None:
                self._task.cancel()
                # Awaiting the task itself could not tell its cancellation from the caller's own.
                await asyncio.wait([self._task])
        finally:
            await self._rest.close()
        if self._task is not None and not self._task.cancelled():
            self._task.result()

    async def _follow(self) -> None:
        try:
            await self._load_snapshot()
            stream = self._stream = Stream(
                self._url,
                self._key,
                cursor_store=NoCursorFile(self.cursor),
                format="delta",
                updates=True,
                revision=self._revision,
                on_state=self._report_state,
                stop_on_auth_error=self._stop_on_auth_error,
                timing=self._timing,
                ssl=self._ssl,
            )
            async with stream:
                async for item in stream.items():
                    self._sequence, epoch = item.cursor
                    self._epoch = epoch or self._epoch
                    try:
                        await self._apply(item)
                    except _MALFORMED as error:
                        await self._schedule_repair(f"malformed frame: {error}")
                    if self._repair_at is not None and asyncio.get_running_loop().time() >= self._repair_at:
                        await self._repair()
        except AuthenticationError:
            raise
        except Exception:  # a bug of this library; `_wait` and `close` raise it
            logger.exception("the mirror failed")
            raise
        finally:
            self._verified.clear()

    async def _report_state(self, state: StreamState) -> None:
        if state == "connecting":
            self._verified.clear()
        await call_listener(self._on_state, state)

    async def _apply(self, item: StreamItem) -> None:
        match item.value:
            case OrderMessage(data=data):
                await self._report_changed([self._state.apply_order(data)])
            case ChangedPosition() as change:
                await self._report_changed([self._state.apply_change(change)])
            case PositionsRemoved(positions=keys):
                await self._report_changed(self._state.remove(keys))
            case Heartbeat() as beat:
                await self._compare(beat)
            case Gap(reason=reason):
                # A revision means nothing in a log of another epoch.
                self._changes_tried |= reason == "epoch"
                await self._schedule_repair(f"gap in the stream: {reason}")
            case None:
                pass

    async def _compare(self, beat: Heartbeat) -> None:
        # A checksum belongs to its revision; one of an older revision cannot be compared.
        if beat.checksum is None or beat.revision < self._revision:
            return
        time_slice = TimeSlice()
        for _ in self._state.sum_up():
            await time_slice.yield_if_due()
        if beat.checksum != self._state.checksum:
            await self._schedule_repair(f"the checksum differs from the server's at revision {beat.revision}")
            return
        self._repair_at = None
        self._changes_tried = False
        self._set_revision(beat.revision)
        # A heartbeat may have waited here while its connection was lost.
        if not self.verified and self._stream is not None and self._stream.state != "connecting":
            self._verified.set()
            await call_listener(self._on_state, "live")

    # --- repair -------------------------------------------------------------------------------------------

    async def _schedule_repair(self, reason: str) -> None:
        self._verified.clear()
        if self._repair_at is None:
            delay = random.uniform(0, self._mend_within)  # noqa: S311 - spreads load, guards nothing
            self._repair_at = asyncio.get_running_loop().time() + delay
            logger.warning("repairing the mirror in %.1f s: %s", delay, reason)
            await call_listener(self._on_state, "resync")

    async def _repair(self) -> None:
        # The stream waits during a repair: its items are newer than the response and are applied after it.
        self._repair_at = None
        # Alternates: if the checksum still differs after the changes, only a snapshot helps.
        if self._changes_tried or not await self._load_changes():
            await self._load_snapshot()
        self._changes_tried = not self._changes_tried

    async def _load_changes(self) -> bool:
        """Loads the changes since the last verified revision; False if only a snapshot helps."""
        while True:
            try:
                changed = await self._rest.call(changes(self._epoch, self._revision))
                break
            except ClientError as error:
                level = logging.INFO if isinstance(error, APIStatusError) else logging.WARNING
                logger.log(level, "no changes since %s:%d: %s", self._epoch, self._revision, error)
                if error.code != "behind":  # its snapshot would be older than this state
                    return False
            await asyncio.sleep(self._backoff.lost())
        # Removals first: a position may have been removed and added again.
        await self._report_changed(self._state.remove(changed.removed))
        try:
            keys = await _load_in_slices(self._state, changed.positions)
        except _MALFORMED as error:
            logger.warning("malformed changes: %s", error)
            return False
        self._set_revision(changed.revision)
        await self._report_changed(keys)
        return True

    async def _load_snapshot(self) -> None:
        """Loads a snapshot, with retries until one arrives."""
        while True:
            try:
                loaded, state = await self._rest.call(snapshot()), MirrorState()
                await _load_in_slices(state, loaded.positions)
                break
            except (ClientError, *_MALFORMED) as error:
                refused = isinstance(error, AuthenticationError)
                if refused and self._stop_on_auth_error:
                    raise
                delay = self._backoff.refused() if refused else self._backoff.lost()
                logger.warning("no snapshot: %s; retrying in %.1f s", error, delay)
                await asyncio.sleep(delay)
        # Replaced at once, so that readers never see a partial state.
        previous, self._state = self._state, state
        self._epoch, self._sequence = loaded.epoch, loaded.sequence
        self._set_revision(loaded.revision)
        self._loaded.set()
        changed, time_slice = [], TimeSlice()
        for key in {**previous.positions, **state.positions}:
            if state.differs(previous, key):
                changed.append(key)
            await time_slice.yield_if_due()
        await self._report_changed(changed)

    def _set_revision(self, revision: int) -> None:
        """The state includes everything up to this revision; a reconnection requests what comes after it."""
        self._revision = revision
        if self._stream is not None:
            self._stream.resume_from(revision)

    async def _report_changed(self, keys: Iterable[Key]) -> None:
        if self._on_change is None:
            return
        time_slice = TimeSlice()
        for key in keys:
            await call_listener(self._on_change, *key)
            await time_slice.yield_if_due()


async def _load_in_slices(state: MirrorState, positions: Iterable[msgspec.Raw | bytes]) -> list[Key]:
    """Loads positions and lets other tasks run in between."""
    keys, time_slice = [], TimeSlice()
    for key in state.load(positions):
        keys.append(key)
        await time_slice.yield_if_due()
    return keys


@summarised
class OpenMirror:
    """A mirror for blocking code, made by `open_mirror()`; works in a notebook.

    Entering `with` waits for the first snapshot. Reads run in the mirror's own thread, so no position is seen
    half changed; `on_change` and `on_state` are called in that thread and may read too.
    """

    def __init__(self, make: Callable[[], PositionMirror]) -> None:
        self._thread = LoopThread("ptn-client")
        try:
            self._mirror = self._thread.call(make)
        except BaseException:  # Ctrl-C as well: the thread would go on
            self._thread.close()
            raise

    def __enter__(self) -> OpenMirror:
        async def load() -> None:
            await self._mirror.__aenter__()
            await self._mirror.loaded()

        try:
            self._thread.run(load)
        except BaseException:  # also Ctrl-C: without a completed __enter__, __exit__ does not run
            with contextlib.suppress(Exception):  # the one that is raised here
                self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:  # an error of the block takes precedence over any that ended the mirror
            if error is None:
                raise

    def close(self) -> None:
        """Stops following; the mirror cannot be read afterwards. Raises the error that ended it, if any."""
        self._thread.close(self._mirror.close)
        self._thread.join()

    def __len__(self) -> int:
        return self._thread.call(self._mirror.__len__)

    @property
    def verified(self) -> bool:
        """Whether the last heartbeat's checksum matched; False since a gap, or without a connection."""
        return self._mirror.verified

    @property
    def cursor(self) -> Cursor:
        """The last message of the stream that was applied."""
        return self._thread.call(lambda: self._mirror.cursor)

    def position(self, miner_hotkey: str, position_uuid: str) -> Position | None:
        """Returns one position; an open one has `close_ms` None."""
        return self._thread.call(lambda: self._mirror.position(miner_hotkey, position_uuid))

    def positions(
        self, miner_hotkey: str | None = None, *, status: Literal["open", "closed"] | None = None
    ) -> list[Position]:
        """Returns all positions, as of one moment."""
        return self._thread.call(lambda: list(self._mirror.positions(miner_hotkey, status=status)))

    def _summary(self) -> Summary:
        try:
            return self._thread.call(self._mirror._summary)
        except (ClientError, RuntimeError, asyncio.CancelledError):
            return Summary("closed mirror")

    def until_verified(self) -> None:
        """Waits until a heartbeat has confirmed the state."""
        self._thread.run(self._mirror.until_verified)


@with_parameters_of(PositionMirror)
def open_mirror(*args: Any, **options: Any) -> OpenMirror:
    """Mirrors every position, for blocking code. Parameters as for `PositionMirror`; see `OpenMirror`."""
    return OpenMirror(lambda: PositionMirror(*args, **options))
