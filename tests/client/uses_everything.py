"""Every public name of the client, as a user's program that passes mypy --strict.

It never runs: `test_typing.py` checks it, and checks that no name is missing.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from ptn_api.client import (
    AccountDocument,
    AccountSnapshots,
    AsyncPTNClient,
    Book,
    ChallengePeriod,
    Checkpoint,
    Collateral,
    CollateralDocument,
    Cursor,
    CursorStore,
    DebtLedgers,
    DebtLedgerSummary,
    Difference,
    Elimination,
    EliminationList,
    EntityEndpoint,
    Following,
    Gap,
    Health,
    Leaderboard,
    LeaderboardDocument,
    LeaderboardEntry,
    LedgerDocument,
    Ledgers,
    ListedOrder,
    Me,
    MessageOrder,
    MessagePage,
    MessagePosition,
    Miner,
    MinerLedger,
    MinerOrders,
    MinerPositions,
    MinerStatistics,
    NewOrder,
    NoCursorFile,
    OpenBook,
    OpenMirror,
    Order,
    OrderPage,
    OrderRow,
    OrderType,
    Pace,
    PeriodDocument,
    Position,
    PositionChanges,
    PositionMirror,
    PTNClient,
    Recording,
    Replay,
    ReplayClock,
    ReplayServer,
    Retries,
    Selections,
    ServerGap,
    State,
    StatisticsDocument,
    Stream,
    StreamItem,
    StreamProblem,
    StreamState,
    Timing,
    TradePairId,
    TradePairs,
    connect,
    follow,
    open_book,
    open_mirror,
    read_recording,
    replay,
    tables,
    testing,
)
from ptn_api.errors import APIStatusError, AuthenticationError, ClientError, ServerUnreachableError
from ptn_api.websocket_client import PTNWebSocketClient, PTNWebSocketMessage

if TYPE_CHECKING:
    import polars

WS = "ws://localhost:8765"
REST = "http://localhost:48888"


def on_gap(gap: Gap) -> None:
    missing: tuple[int, int, str] = gap.after, gap.next, gap.reason
    assert missing


async def on_state(state: State) -> None:
    assert state in ("live", "stale")


def on_stale(message: PTNWebSocketMessage) -> None:
    age: int = message.age_ms
    assert age


def handler(messages: list[PTNWebSocketMessage]) -> None:
    for message in messages:
        order: NewOrder = message.new_order
        position: MessagePosition = message.position
        earlier: list[MessageOrder] = list(position.orders)
        print(earlier, position.trade_pair_id.lower())
        pair: TradePairId = order.trade_pair
        direction: OrderType = order.order_type
        text: str = f"{pair}: {direction} {order.leverage:+.2f} @ {order.price}"
        marks: tuple[bool, bool] = message.late, message.replay
        lags: int = message.timelag_from_order + message.timelag_from_queue
        numbers: int = message.sequence + message.timestamp
        net: float = message.position.net_leverage
        print(text, marks, lags, numbers, net, message.data)


def bot() -> None:
    client = PTNWebSocketClient(
        api_key="k",
        host="localhost",
        port=8765,
        secure=True,
        name="second",
        state_dir=Path("state"),
        miners=["5A"],
        trade_pairs="BTCUSD",
        cursor_store=NoCursorFile(),
        format="delta",
        on_gap=on_gap,
        on_state=on_state,
        on_stale=on_stale,
        max_age_ms=5_000,
        on_error="skip",
        retries=3,
        stop_on_auth_error=True,
        timing=Timing(backoff=0.5),
    )

    @client.add_handler
    async def second(messages: list[PTNWebSocketMessage]) -> None:
        assert messages

    client.subscribe()
    client.unsubscribe()
    client.run(handler)
    client.stop()
    state: State = client.state
    assert state


def loop() -> None:
    with follow(WS, "k", resume=False, on_gap=on_gap) as orders:
        following: Following = orders
        signal.signal(signal.SIGTERM, lambda *_: orders.stop())
        for message in following:
            handler([message])
            orders.commit()


async def stream() -> AsyncIterator[int]:
    store: CursorStore = NoCursorFile(Cursor(7, "epoch"))
    async with connect(WS, "k", cursor_store=store, timing=testing.quick_timing()) as orders:
        core: Stream = orders
        async for message in core:
            yield message.sequence
        async for batch in core.batches(limit=100):
            core.commit(batch[-1])
        async for item in core.items():
            received: StreamItem = item
            print(received.value, received.cursor)
        core.stop()


def rest(target: Path) -> polars.DataFrame:
    with PTNClient(REST, "k", timeout=5.0, retries=Retries(times=1), cache=2) as api:
        entries: MinerPositions = api.miner_positions(
            tier=100, miner="5A", trade_pair=["BTCUSD"], status="open"
        )
        entry: Miner = api.miner("5A")
        hotkeys: list[str] = api.hotkeys()
        document: LeaderboardDocument = api.leaderboard()
        leaderboard: Leaderboard = document
        best: LeaderboardEntry = leaderboard.miners[0]
        print(best.rank, best.curve, best.net_leverage, best.elimination and best.elimination.reason)
        if entries.cursor is not None:
            changes: PositionChanges = api.miner_positions(since=entries.cursor)
            assert changes.removed
        statistics: StatisticsDocument = api.statistics(checkpoints=False)
        element: MinerStatistics = api.miner_statistics("5A")
        ledgers: Ledgers = api.perf_ledger("5A")
        checkpoint: Checkpoint = api.validator_checkpoint()
        file: Path = api.validator_checkpoint(target, lambda done, total: print(done, total))
        page: MessagePage = api.messages(-1, limit=10, miner="5A", trade_pair=(), format="delta")
        newest: OrderPage = api.order_page(limit=10, miner="5A")
        row: OrderRow = next(api.all_orders(before=newest.next))
        history = api.history("5A", every="1d", rows="orders")
        print(row.sequence)
        excluded: EliminationList = api.eliminations()
        eliminations: list[Elimination] = excluded
        excluded.to_polars()
        reasons = [elimination.reason for elimination in eliminations]
        me: Me = api.me()
        health: Health = api.health()
        orders: MinerOrders = api.orders("5A", status=("filled", "cancelled"))
        waiting: list[ListedOrder] = api.limit_orders("5A").unfilled
        period: ChallengePeriod = api.challenge_period("5A", history=True)
        summaries: dict[str, DebtLedgerSummary] = api.debt_ledgers()
        made: list[DebtLedgers | LedgerDocument | AccountDocument] = [
            api.debt_ledgers(),
            api.debt_ledger("5A"),
            api.account_snapshots("5A"),
        ]
        more: list[CollateralDocument | PeriodDocument | Selections] = [
            api.collateral(),
            api.challenge_period("5A"),
            api.miner_selections(),
        ]
        print([table.to_polars() for table in made], [table.to_pandas() for table in more])
        spans: list[MinerLedger] = [
            api.debt_ledger("5A"),
            api.emissions_ledger("5A"),
            api.penalty_ledger("5A"),
        ]
        snapshots: AccountSnapshots = api.account_snapshots("5A", limit=24)
        sizes: Collateral = api.collateral(hotkey="5A", most_recent=True)
        classes: dict[str, str] = api.miner_selections()
        endpoint: EntityEndpoint = api.entity_endpoint(subaccount="5A_0")
        pairs: TradePairs = api.trade_pairs("forex")
        print(orders.to_polars(), waiting, period.challenge_period.bucket, summaries, spans, snapshots)
        print(sizes.data, classes, api.entities(), api.entity("5A"), endpoint.endpoint_url, pairs.allowed)
        print(hotkeys, element.weight, file, reasons, me.limits.requests_per_minute, health.problems)
        frames = [
            entries.to_polars(),
            entries.to_polars("orders"),
            entry.to_polars(),
            statistics.to_polars(),
            ledgers.to_polars(),
            checkpoint.to_polars("orders"),
            checkpoint.ledgers_to_polars(),
            page.to_polars(),
            newest.to_polars(),
            history,
            tables.messages(page.messages),
            tables.orders(entries.positions()),
        ]
        return frames[0].filter(frames[0]["is_closed_position"])


def states() -> None:
    def on_state(state: StreamState) -> None:
        problems: tuple[StreamProblem, ...] = state.problems
        for code, sentence, remedy in problems:
            print(state == "live", state.connection, code, sentence, remedy)

    for _ in follow(WS, "k", on_state=on_state):
        pass


def several() -> None:
    def on_gap(gap: Gap) -> None:
        server = gap.server if isinstance(gap, ServerGap) else ""
        print(server, gap.after)

    def on_difference(other: Difference) -> None:
        print(other.server, other.price - other.delivered_price)

    def on_state(state: StreamState) -> None:
        print({url: known.problems for url, known in state.servers.items()})

    urls = [WS, "ws://localhost:8766"]
    options = Timing(apart=5, fill=30, behind=10)
    for message in follow(
        urls, ["k", "l"], timing=options, on_gap=on_gap, on_difference=on_difference, on_state=on_state
    ):
        print(message.server)
    PTNWebSocketClient(["k", "l"], urls, on_difference=on_difference).run(print)


async def mirror() -> None:
    async with (
        AsyncPTNClient(REST, "k") as api,
        PositionMirror(WS, REST, "k", on_change=lambda hotkey, position_uuid: None) as mirror,
    ):
        await mirror.until_verified()
        cursor: Cursor = mirror.cursor
        positions_now: list[Position] = list(mirror.positions("5A", status="open"))
        orders: list[Order] = [order for position in positions_now for order in position.orders]
        positions = [p.net_leverage for p in positions_now] + [order.leverage for order in orders]
        print(cursor, positions, len(mirror), await api.miner_positions(tier=0))


def blocking_mirror() -> None:
    with open_mirror(WS, REST, "k", mend_within=5.0) as opened:
        mirror: OpenMirror = opened
        mirror.until_verified()
        print(len(mirror), mirror.verified, tables.positions(mirror.positions(status="closed")))


def former_names() -> None:
    book: Book = PositionMirror(WS, REST, "k", pace=Pace(backoff=0.5))
    opened: OpenBook = open_book(WS, REST, "k", pace=testing.quick_pace())
    print(book.verified, opened.verified)


def past(file: Path) -> None:
    replay(file, handler, speed=10.0)
    recorded: list[object] = list(read_recording(file))
    with ReplayServer(Replay(file)) as server:
        print(recorded, Recording, ReplayClock, server)


def errors() -> str:
    try:
        bot()
    except AuthenticationError as error:
        return f"{error.status} {error.code}"
    except APIStatusError as error:
        return f"{error.status} {error}"
    except (ServerUnreachableError, ClientError) as error:
        return error.code
    return ""


def own_tests() -> None:
    def script(server: testing.FakeServer) -> None:
        server.order("BTCUSD", leverage=0.1, price=100.0)
        server.publish(testing.fake_position("EURUSD", [testing.fake_order(-0.2)]))
        server.skip(1)
        server.slow = 0.1
        server.cut()
        server.wait_until_live()

    with testing.FakeServer(script=script) as server:
        server.keys.clear()
        assert server.url
