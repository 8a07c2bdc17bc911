"""The client against the real stream and REST servers, over one log in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.mirror import PositionMirror
from ptn_api.client.rest import AsyncPTNClient, PTNClient, Retries
from ptn_api.client.stream import connect
from ptn_api.clock import wall_ms
from ptn_api.errors import APIStatusError, AuthenticationError, SettingsError
from ptn_api.event_log.contract import PositionRemoved
from ptn_api.model.checksum import position_checksum
from ptn_api.wire.client_session import Gap
from tests import newest
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.rest.serving import DAY, FakeClock, filled_log, serving
from tests.stream.live import KEY, LiveStream, running
from tests.waiting import PATIENCE_S, until_async

REST_KEY = "k100"


@pytest.fixture
async def live() -> AsyncIterator[LiveStream]:
    async with running() as live:
        yield live


def url(live: LiveStream) -> str:
    return f"ws://127.0.0.1:{live.port}"


# --- the stream -------------------------------------------------------------------------------------------


async def test_orders_arrive_and_a_restart_repeats_none(
    live: LiveStream, timing: Timing, tmp_path: Path
) -> None:
    """Orders missed while the client was away are replayed."""
    options: Any = {"timing": timing, "state_dir": tmp_path}
    first = live.log.head().sequence + 1
    async with connect(url(live), KEY, **options) as stream:
        await until_async(lambda: stream.state == "live")
        live.trade(3)
        assert [(await anext(stream)).sequence for _ in range(3)] == [first, first + 1, first + 2]
        stream.commit()
    live.trade(2)
    async with connect(url(live), KEY, **options) as stream:
        replayed = [await anext(stream) for _ in range(2)]
    assert [(m.sequence, m.replay) for m in replayed] == [(first + 3, True), (first + 4, True)]


async def test_a_stopped_client_closes_with_1000(live: LiveStream, timing: Timing, tmp_path: Path) -> None:
    """A normal closure, which the server does not count as an error."""
    async with connect(url(live), KEY, timing=timing, state_dir=tmp_path) as stream:
        await until_async(lambda: stream.state == "live")
    await until_async(lambda: live.counters.closed)
    assert live.counters.closed == {1000: 1}


async def test_broken_connections_lose_nothing(timing: Timing, tmp_path: Path) -> None:
    """Every order comes once, in order, without a gap."""
    gaps: list[Gap] = []
    async with running() as live:
        options: Any = {"timing": timing, "state_dir": tmp_path, "on_gap": gaps.append}
        async with connect(url(live), KEY, **options) as stream:
            await until_async(lambda: stream.state == "live")
            first = live.log.head().sequence + 1
            received = []
            for round_ in range(5):
                live.trade(4)
                if round_ % 2:
                    live.keys.replace([])
                    await until_async(lambda: live.counters.clients == 0)
                live.trade(4)
                live.keys.replace([("alice", KEY, 100)])
                received += [(await anext(stream)).sequence for _ in range(8)]
    assert received == list(range(first, first + 40))
    assert gaps == []


async def test_a_filtered_delta_stream(live: LiveStream, timing: Timing, tmp_path: Path) -> None:
    """As the real server implements it."""
    options: Any = {"timing": timing, "state_dir": tmp_path, "miners": [OTHER_MINER], "format": "delta"}
    async with connect(url(live), KEY, **options) as stream:
        await until_async(lambda: stream.state == "live")
        live.trade()
        live.trade(miner=OTHER_MINER)
        message = await anext(stream)
    assert message.position.miner_hotkey == OTHER_MINER
    assert message.position.orders == []
    assert message.new_order.trade_pair == "BTCUSD"


async def test_a_cursor_of_another_epoch_is_a_gap(live: LiveStream, timing: Timing, tmp_path: Path) -> None:
    """Its sequence means nothing to this server."""
    from ptn_api.client.cursor_file import NoCursorFile
    from ptn_api.wire.client_session import Cursor

    gaps: list[Gap] = []
    head = live.log.head().sequence
    store = NoCursorFile(Cursor(7, "another"))
    async with connect(url(live), KEY, cursor_store=store, timing=timing, on_gap=gaps.append) as stream:
        await until_async(lambda: stream.state == "live")
        live.trade()
        assert (await anext(stream)).sequence == head + 1
    assert gaps == [Gap(7, head + 1, "epoch")]


async def test_an_unknown_key_and_a_low_tier_are_refused(
    live: LiveStream, timing: Timing, tmp_path: Path
) -> None:
    """The real server's close codes say so."""
    for key in ("nobody", "key-of-carl"):
        options: Any = {"timing": timing, "state_dir": tmp_path, "stop_on_auth_error": True}
        async with connect(url(live), key, **options) as stream:
            with pytest.raises(AuthenticationError):
                await anext(stream)


# --- REST -------------------------------------------------------------------------------------------------


async def test_every_route_is_decoded() -> None:
    """With a method for each."""
    async with serving() as served, AsyncPTNClient(served.url, REST_KEY) as api:
        entries = await api.miner_positions(tier=100, status="open")
        assert set(entries) == {MINER, OTHER_MINER}
        assert entries[OTHER_MINER].positions[0].orders[0].order_type == "LONG"
        assert (await api.miner(MINER)).n_positions == 2  # one of them archived
        assert MINER in await api.hotkeys()
        assert [m.checkpoints for m in (await api.statistics(checkpoints=False)).data] == [None, None]
        assert (await api.miner_statistics(MINER, checkpoints=False)).weight == 1.0
        assert [(e.hotkey, e.dd) for e in await api.eliminations()] == [(OTHER_MINER, 0.9)]
        assert set((await api.validator_checkpoint()).positions) >= {MINER, OTHER_MINER}
        assert set(await api.perf_ledger(MINER)) == {"portfolio"}
        assert (await api.perf_ledger("older"))["portfolio"].initialization_time_ms == 1
        assert (await api.me()).tier == 100
        assert (await api.health()).log.ready
        with pytest.raises(APIStatusError, match="Miner ID not found: 'nobody'"):
            await api.miner("nobody")


async def test_the_documents_of_a_present_validator_are_decoded() -> None:
    """By hotkey, or for all miners; subaccounts are miners like any."""
    log = filled_log(newest.changes(), now_ms=newest.expected()["now_ms"])
    checkpoint = newest.expected()["checkpoint"]
    (pair, by_miner), *_ = checkpoint["limit_orders"].items()
    (hotkey, listed), *_ = by_miner.items()
    selections = checkpoint["asset_selections"]
    clock = FakeClock(newest.expected()["now_ms"])
    async with serving(log, clock=clock) as served, AsyncPTNClient(served.url, "k200") as api:
        orders = await api.orders(hotkey)
        positions = (await api.miner_positions()).get(hotkey)
        assert len(orders.filled) == sum(len(p.orders) for p in positions.positions) if positions else 0
        waiting = (await api.limit_orders(hotkey)).unfilled
        assert [o.order_uuid for o in waiting if o.trade_pair_id == pair] == [o["order_uuid"] for o in listed]
        assert (await api.orders(hotkey, status="unfilled")).unfilled == waiting
        assert orders.to_polars()["status"].value_counts().height >= 1
        assert await api.miner_selections() == selections
        sizes = await api.collateral()
        assert set(sizes.data) <= set(checkpoint["miner_account_sizes"])
        one = next(iter(sizes.data))
        assert set((await api.collateral(hotkey=one, most_recent=True)).data) == {one}
        ledgers = await api.debt_ledgers()
        owner = next(iter(ledgers))
        for ledger in (api.debt_ledger, api.emissions_ledger, api.penalty_ledger):
            assert (await ledger(owner)).hotkey == owner
        assert (await api.perf_ledger(next(iter(checkpoint["perf_ledgers"]))))["portfolio"].cps
        entities = await api.entities()
        assert set(entities) == set(checkpoint["entities"])
        entity = next(iter(entities))
        assert await api.entity(entity) == entities[entity]
        subaccount = entities[entity]["subaccounts"]["0"]["synthetic_hotkey"]
        assert (await api.entity_endpoint(subaccount=subaccount)).entity_hotkey == entity
        some = next(iter(checkpoint["challengeperiod"]))
        period = await api.challenge_period(some, history=True)
        assert period.history
        assert period.history[-1] == period.challenge_period
        pairs = await api.trade_pairs("FOREX")
        assert {p.trade_pair_category for p in pairs.allowed} == {"forex"}
        assert len((await api.trade_pairs()).allowed) > len(pairs.allowed)
        restored = await api.validator_checkpoint()
        assert set(restored.archived_positions) == set(checkpoint["archived_positions"])
        assert set(restored.limit_orders) == set(checkpoint["limit_orders"])
        assert len((await api.account_snapshots(await _with_snapshots(), limit=3)).snapshots) == 3


async def _with_snapshots() -> str:
    paths = (path.split("/") for path in newest.files())
    return next(parts[2] for parts in paths if parts[-1] == "snapshots.jsonl")


async def test_an_unchanged_document_is_not_sent_again() -> None:
    """In any content coding; a change is noticed at once."""
    async with serving() as served, AsyncPTNClient(served.url, REST_KEY) as api:
        before = await api.miner_positions()
        assert await api.miner_positions() is before
        served.log.append([written(position(9, [order(9)]))], served.clock.now_ms)
        await served.until(lambda: _holds(api, uuid(9)))
        assert before.epoch == served.log.epoch


async def _holds(api: AsyncPTNClient, position_uuid: str) -> bool:
    return any(p.position_uuid == position_uuid for p in (await api.miner_positions()).positions())


async def test_changes_can_be_requested() -> None:
    """From one result's cursor to the next; lower tiers have none."""
    log = filled_log([written(position(1, [order(1)])), written(position(2, [order(2)]))])
    async with serving(log) as served, AsyncPTNClient(served.url, REST_KEY) as api:
        complete = await api.miner_positions()
        log.append(
            [written(position(3, [order(3)])), PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(1))], T0
        )
        assert complete.cursor is not None
        changes = await api.miner_positions(since=complete.cursor)
        assert [p.position_uuid for p in changes.positions[MINER]] == [uuid(3)]
        assert changes.removed == [(MINER, uuid(1))]
        assert (await api.miner_positions(since=changes.cursor)).positions == {}
        lower = await api.miner_positions(tier=50)
        assert (lower.cursor, lower.as_of_ms) == (None, served.clock.now_ms - 86_400_000)
        with pytest.raises(APIStatusError) as caught:
            await api.miner_positions(since="another:1")
        assert caught.value.status == 410


async def test_the_checkpoint_can_be_downloaded(tmp_path: Path) -> None:
    """As a file that a validator can restore from."""
    progress: list[tuple[int, int | None]] = []
    async with serving() as served, AsyncPTNClient(served.url, REST_KEY) as api:
        file = await api.validator_checkpoint(tmp_path / "checkpoint.json", lambda *now: progress.append(now))
        complete = await api.validator_checkpoint()
    written_out = msgspec.json.decode(file.read_bytes(), type=type(complete))
    assert written_out.positions == complete.positions
    assert (complete.epoch, complete.sequence) == (served.log.epoch, served.log.head().sequence)
    assert progress[-1][0] == progress[-1][1]


async def test_messages_can_be_fetched_by_rest() -> None:
    """Page by page; status 410 for pruned ones."""
    log = filled_log(now_ms=T0)
    start = log.head().sequence
    log.append([written(position(n, [order(n, at=T0 + n)])) for n in range(1, 6)], T0 + 10)
    async with serving(log) as served, AsyncPTNClient(served.url, REST_KEY) as api:
        page = await api.messages(start, epoch=log.epoch, limit=3)
        assert [m.sequence for m in page.messages] == [start + 1, start + 2, start + 3]
        rest = await api.messages(page.next, epoch=page.epoch, format="delta")
        assert [m.sequence for m in rest.messages] == [start + 4, start + 5]
        assert rest.next == rest.head
        with pytest.raises(APIStatusError) as caught:
            await api.messages(start, epoch="another")
        assert caught.value.status == 410


async def test_the_blocking_client_speaks_to_the_real_server() -> None:
    """From a thread, because it blocks."""
    async with serving() as served:

        def ask() -> int:
            with PTNClient(served.url, REST_KEY) as api:
                return len(api.miner_positions(miner=MINER))

        assert await asyncio.to_thread(ask) == 1
        with PTNClient(served.url, "k0") as api, pytest.raises(AuthenticationError, match="tier 100"):
            await asyncio.to_thread(api.validator_checkpoint)


# --- the mirror -------------------------------------------------------------------------------------------


class Both:
    """The stream and REST servers over one log, and a mirror of them."""

    def __init__(
        self, log: MemoryLog, live: LiveStream, clock: FakeClock, mirror: PositionMirror, states: list[str]
    ) -> None:
        self.log = log
        self.live = live
        self.clock = clock
        self.mirror = mirror
        self.states = states
        self.changed: set[tuple[str, str]] = set()

    def append(self, *changes: Any) -> None:
        self.clock.now_ms += 1
        self.log.append(list(changes), self.clock.now_ms)

    def true_sum(self) -> str:
        total = sum(position_checksum(p.text) for p in self.log.positions())
        return f"{total % (1 << 64):016x}"

    async def cut_off(self) -> None:
        self.live.keys.replace([])
        await until_async(lambda: self.live.counters.clients == 0)

    def let_in(self) -> None:
        self.live.keys.replace([("alice", REST_KEY, 100)])

    async def agreed(self) -> None:
        """Waits until the mirror equals the log."""
        await until_async(
            lambda: self.mirror.verified and self.mirror.checksum == self.true_sum(),
            what=f"{self.mirror.checksum} {self.true_sum()} {self.mirror.verified}",
        )


@contextlib.asynccontextmanager
async def mirrored(
    timing: Timing, *changes: Any, mend_within: float = 0.0, heartbeat_ms: int = 100
) -> AsyncIterator[Both]:
    """A busy machine may be silent for two heartbeats of the default: then the mirror reconnects."""
    clock = FakeClock(T0)
    newest_ms = max((o.processed_ms for change in changes for o in change.position.orders), default=T0)
    log = filled_log(changes, now_ms=T0, created_ms=newest_ms)
    live = LiveStream(log=log, ready=False)
    live.keys.replace([("alice", REST_KEY, 100)])
    states: list[str] = []
    options: Any = {"timing": timing, "mend_within": mend_within, "on_state": states.append}
    async with (
        running(live, heartbeat_ms=heartbeat_ms, clock=clock) as live,
        serving(log, clock=clock) as served,
        PositionMirror(url(live), served.url, REST_KEY, **options) as mirror,
    ):
        both = Both(log, live, clock, mirror, states)
        mirror._on_change = lambda *key: both.changed.add(key)
        await mirror.loaded()
        await mirror.until_verified()
        yield both


def some(n: int, *orders: int, **fields: Any) -> Any:
    return written(position(n, [order(o, at=T0 - 1_000_000 + o) for o in orders], **fields))


async def test_a_mirror_has_the_validators_positions(timing: Timing) -> None:
    """From the snapshot on, verified by the heartbeat; as objects or as text."""
    async with mirrored(timing, some(1, 1, 2), some(2, 3, miner=OTHER_MINER, odd=1.0)) as both:
        mirror = both.mirror
        assert len(mirror) == 2
        positions = mirror.position(MINER, uuid(1))
        assert positions is not None
        assert [o.price for o in positions.orders] == [101.0, 102.0]
        assert positions.close_ms is None
        assert b'"odd":1.0' in (mirror.text(OTHER_MINER, uuid(2)) or b"")
        assert [p.position_uuid for p in mirror.positions(OTHER_MINER, status="open")] == [uuid(2)]
        assert list(mirror.positions(status="closed")) == []
        assert mirror.position(MINER, "none") is None


async def test_a_mirror_follows_every_kind_of_change(timing: Timing) -> None:
    """New orders, refreshes, corrections, orders inserted and dropped, closing, removal."""
    async with mirrored(timing, some(1, 1, 2), some(2, 3)) as both:
        for step in (
            some(1, 1, 2, 4),
            some(2, 3, current_return=1.07),
            written(position(2, [order(3, price=9.5, at=T0 - 1)])),
            some(1, 1, 9, 2, 4),
            some(1, 2, 4),
            some(1, 2, 4, closed=True),
            some(5, 11, 12, 13),
            PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(2)),
        ):
            both.append(step)
            await both.agreed()
        assert both.mirror.position(MINER, uuid(2)) is None
        assert "resync" not in both.states
        assert both.changed >= {(MINER, uuid(1)), (MINER, uuid(2)), (MINER, uuid(5))}


async def test_a_mirror_catches_up_after_a_disconnection(timing: Timing) -> None:
    """With orders, changes and removals from meanwhile."""
    async with mirrored(timing, some(1, 1), some(2, 2), some(3, 3)) as both:
        await both.cut_off()
        both.append(some(1, 1, 7), some(2, 2, current_return=2.0))
        both.append(PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(3)))
        both.let_in()
        await both.agreed()
        assert "resync" not in both.states


async def test_random_histories_are_mirrored(timing: Timing) -> None:
    """Any changes in any order, with broken connections in between."""
    dice = random.Random(7)
    async with mirrored(timing, *(some(n, n) for n in range(1, 6))) as both:
        lists = {n: [n] for n in range(1, 6)}
        for step in range(80):
            n = dice.choice(list(lists))
            match dice.randrange(6):
                case 0 | 1:
                    lists[n].append(100 + step)
                case 2:
                    lists[n].insert(0, 100 + step)
                case 3 if len(lists[n]) > 1:
                    lists[n].pop(dice.randrange(len(lists[n])))
                case 4:
                    both.append(PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(n)))
                case 5 if step % 4 == 0:
                    await both.cut_off()
            both.append(some(n, *lists[n], current_return=dice.random()))
            both.let_in()
            if step % 20 == 0:
                await both.agreed()
        await both.agreed()
        assert "resync" not in both.states
        assert both.states.count("connecting") > 2


@pytest.mark.parametrize("fault", ["changed", "missing", "extra"])
async def test_a_wrong_mirror_repairs_itself(timing: Timing, fault: str) -> None:
    """The checksum shows it; a snapshot helps at the latest."""
    async with mirrored(timing, some(1, 1), some(2, 2)) as both:
        state = both.mirror._state
        if fault == "changed":
            state.apply_order(
                msgspec.json.encode(
                    {
                        "order": order(1, price=1.0),
                        "position": {"miner_hotkey": MINER, "position_uuid": uuid(1)},
                        "n_orders": 1,
                    }
                )
            )
        elif fault == "missing":
            state.remove([(MINER, uuid(1))])
        else:
            list(state.load([msgspec.json.encode(position(9, [order(9)]))]))
        await until_async(lambda: not both.mirror.verified)
        await both.agreed()
        assert len(both.mirror) == 2


async def test_a_missed_change_is_repaired_without_a_snapshot(
    timing: Timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is the last resort."""
    async with mirrored(timing, some(1, 1), some(2, 2), heartbeat_ms=1_500) as both:
        requested: list[dict[str, Any]] = []
        real = both.mirror._rest.call

        async def call(call: Any) -> Any:
            requested.append(call.parameters)
            return await real(call)

        monkeypatch.setattr(both.mirror._rest, "call", call)
        monkeypatch.setattr(both.mirror._state, "apply_change", lambda frame: (MINER, uuid(2)))
        both.append(some(2, 2, current_return=3.0))
        await until_async(lambda: not both.mirror.verified)
        monkeypatch.undo()
        monkeypatch.setattr(both.mirror._rest, "call", call)
        await both.agreed()
        assert [set(parameters) for parameters in requested] == [{"since"}]


async def test_a_mirror_waits_before_it_repairs_itself(timing: Timing) -> None:
    """A random time, so that many mirrors do not send requests at once."""
    async with mirrored(timing, some(1, 1), mend_within=1_000, heartbeat_ms=1_500) as both:
        both.mirror._state.remove([(MINER, uuid(1))])
        await until_async(lambda: not both.mirror.verified)
        assert both.mirror._repair_at is not None
        assert both.mirror._repair_at > asyncio.get_running_loop().time()
        assert len(both.mirror) == 0


async def test_a_mirror_waits_for_a_starting_server(timing: Timing, caplog: pytest.LogCaptureFixture) -> None:
    """It loads as soon as the server is ready."""
    log = MemoryLog(created_ms=T0, epoch="e" * 32)
    options: Any = {"timing": timing, "retries": Retries(times=0)}
    async with (
        serving(log, clock=FakeClock(T0)) as served,
        PositionMirror("ws://127.0.0.1:1", served.url, REST_KEY, **options) as mirror,
    ):
        await until_async(lambda: caplog.text.count("no snapshot") >= 3)
        assert len(mirror) == 0
        log.baseline([some(1, 1)], T0)
        await asyncio.wait_for(mirror.loaded(), PATIENCE_S)
        assert len(mirror) == 1


async def test_a_failed_mirror_is_not_verified(
    timing: Timing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of the library is logged, raised to waiting callers, and ends the verified state."""
    with pytest.raises(ZeroDivisionError):
        async with mirrored(timing, some(1, 1)) as both:
            monkeypatch.setattr(both.mirror._state, "apply_order", lambda _: 1 // 0)
            both.append(some(2, 2))
            await until_async(lambda: not both.mirror.verified)
            with pytest.raises(ZeroDivisionError):
                await both.mirror.until_verified()
    assert "the mirror failed" in caplog.text


async def test_the_past_as_documents_and_as_a_table() -> None:
    """`at` of a miner and of all, in any form of a time; a history has a row per time and position."""
    now = wall_ms() // DAY * DAY
    old = [order(1, at=now - 5 * DAY), order(2, at=now - 3 * DAY - 1), order(3, at=now - 2 * DAY)]
    log = filled_log([written(position(1, old))], now_ms=now)
    async with serving(log, clock=wall_ms) as served, AsyncPTNClient(served.url, REST_KEY) as api:
        at = datetime.fromtimestamp(now / 1000, timezone.utc) - timedelta(days=3)
        then = await api.miner_positions(at=at)
        assert (len(then[MINER].positions[0].orders), then.as_of_ms) == (2, now - 3 * DAY)
        for time in (now - 3 * DAY, at.isoformat(), str(now - 3 * DAY)):
            entry = await api.miner(MINER, at=time)
            assert [one.return_as_of for one in entry.positions] == ["last_order"]
        frame = await api.history(MINER, end=now - DAY)
        assert frame["at"].to_list() == [at + timedelta(days=day) for day in (-1, 0, 1, 2)]
        assert frame["n_orders"].to_list() == [1, 2, 2, 3]
        orders = await api.history(MINER, every=timedelta(days=2), start=at, end=now - DAY, rows="orders")
        assert orders.group_by("at").len().sort("at")["len"].to_list() == [2, 3]
        with pytest.raises(SettingsError, match="start lies in the future"):
            await api.history(MINER, start=now + 2 * DAY)
        with pytest.raises(SettingsError, match="in seconds: give epoch milliseconds"):
            await api.miner(MINER, at=now // 1000)
        with pytest.raises(SettingsError, match="at most 10000"):
            await api.history(MINER, every="1s")
        for wrong in ("1x", "0d", timedelta(0)):
            with pytest.raises(SettingsError, match="interval"):
                await api.history(MINER, every=wrong)
        for time in ("NaN", datetime(2026, 1, 1)):  # noqa: DTZ001 - refused for that
            with pytest.raises(SettingsError, match="time"):
                await api.miner(MINER, at=time)
    async with serving(log, clock=wall_ms) as served:

        def count() -> int:
            with PTNClient(served.url, "k0") as api:
                return len(api.history(MINER, start=now - 20 * DAY))

        assert await asyncio.to_thread(count) in (3, 4, 5)  # by the time of day
