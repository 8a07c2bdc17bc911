"""The client library: orders as they happen, REST documents, and a mirror of all positions.

- `connect` (`Stream`): every order, for asyncio; `follow`: the same for a plain `for` loop;
  `ptn_api.websocket_client`: the same for handlers.
- `PTNClient`, `AsyncPTNClient`: the REST routes.
- `PositionMirror`: the current state of every position; `open_mirror`: the same for blocking code.
- `replay`, `Replay`: past orders for the same handlers; `Recording`: a file of them.
- `ptn_api.client.testing`: a server for tests, which also fails on command.

The server's packages are neither required nor imported, and each name is imported on first use: a bot that
only follows the stream does not load the HTTP library. The logger is `ptn_api.client`; nothing is configured.

`Book`, `OpenBook`, `open_book` and `Pace` are the former names of `PositionMirror`, `OpenMirror`,
`open_mirror` and `Timing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptn_api.client.arguments import Timing
    from ptn_api.client.arguments import Timing as Pace
    from ptn_api.client.calls import (
        Checkpoint,
        EliminationList,
        LeaderboardDocument,
        Ledgers,
        MessagePage,
        Miner,
        MinerOrders,
        MinerPositions,
        OrderPage,
        PositionChanges,
        StatisticsDocument,
        TradePairs,
    )
    from ptn_api.client.connection import StreamProblem, StreamState
    from ptn_api.client.cursor_file import CursorStore, NoCursorFile
    from ptn_api.client.delivery import Following, follow
    from ptn_api.client.message import (
        MessageOrder,
        MessagePosition,
        NewOrder,
        OrderType,
        PTNWebSocketMessage,
        TradePairId,
    )
    from ptn_api.client.mirror import OpenMirror, PositionMirror, open_mirror
    from ptn_api.client.mirror import OpenMirror as OpenBook
    from ptn_api.client.mirror import PositionMirror as Book
    from ptn_api.client.mirror import open_mirror as open_book
    from ptn_api.client.recording import Recording, read_recording
    from ptn_api.client.replaying import Replay, ReplayClock, ReplayServer, replay
    from ptn_api.client.rest import AsyncPTNClient, PTNClient, Retries
    from ptn_api.client.servers.merge import ServerGap
    from ptn_api.client.servers.several import Difference
    from ptn_api.client.stream import Stream, connect
    from ptn_api.client.tables.documents import (
        AccountDocument,
        CollateralDocument,
        DebtLedgers,
        LedgerDocument,
        PeriodDocument,
        Selections,
    )
    from ptn_api.model.documents import (
        AccountSnapshots,
        ChallengePeriod,
        Collateral,
        DebtLedgerSummary,
        EntityEndpoint,
        MinerLedger,
    )
    from ptn_api.model.limit_order import ListedOrder
    from ptn_api.model.miner import Leaderboard, LeaderboardEntry
    from ptn_api.model.order import Order, OrderRow
    from ptn_api.model.position import Position
    from ptn_api.model.statistics import Elimination, MinerStatistics
    from ptn_api.wire.about import Health, Me
    from ptn_api.wire.client_session import Cursor, Gap, State, StreamItem

__all__ = [
    "AccountDocument",
    "AccountSnapshots",
    "AsyncPTNClient",
    "Book",
    "ChallengePeriod",
    "Checkpoint",
    "Collateral",
    "CollateralDocument",
    "Cursor",
    "CursorStore",
    "DebtLedgerSummary",
    "DebtLedgers",
    "Difference",
    "Elimination",
    "EliminationList",
    "EntityEndpoint",
    "Following",
    "Gap",
    "Health",
    "Leaderboard",
    "LeaderboardDocument",
    "LeaderboardEntry",
    "LedgerDocument",
    "Ledgers",
    "ListedOrder",
    "Me",
    "MessageOrder",
    "MessagePage",
    "MessagePosition",
    "Miner",
    "MinerLedger",
    "MinerOrders",
    "MinerPositions",
    "MinerStatistics",
    "NewOrder",
    "NoCursorFile",
    "OpenBook",
    "OpenMirror",
    "Order",
    "OrderPage",
    "OrderRow",
    "OrderType",
    "PTNClient",
    "PTNWebSocketMessage",
    "Pace",
    "PeriodDocument",
    "Position",
    "PositionChanges",
    "PositionMirror",
    "Recording",
    "Replay",
    "ReplayClock",
    "ReplayServer",
    "Retries",
    "Selections",
    "ServerGap",
    "State",
    "StatisticsDocument",
    "Stream",
    "StreamItem",
    "StreamProblem",
    "StreamState",
    "Timing",
    "TradePairId",
    "TradePairs",
    "connect",
    "follow",
    "open_book",
    "open_mirror",
    "read_recording",
    "replay",
]

_HOMES = {
    "client.arguments": ("Timing",),
    "client.calls": (
        "Checkpoint",
        "EliminationList",
        "LeaderboardDocument",
        "Ledgers",
        "MessagePage",
        "Miner",
        "MinerOrders",
        "MinerPositions",
        "OrderPage",
        "PositionChanges",
        "StatisticsDocument",
        "TradePairs",
    ),
    "client.connection": ("StreamProblem", "StreamState"),
    "client.cursor_file": ("CursorStore", "NoCursorFile"),
    "client.delivery": ("Following", "follow"),
    "client.message": (
        "MessageOrder",
        "MessagePosition",
        "NewOrder",
        "OrderType",
        "PTNWebSocketMessage",
        "TradePairId",
    ),
    "client.mirror": ("OpenMirror", "PositionMirror", "open_mirror"),
    "client.recording": ("Recording", "read_recording"),
    "client.replaying": ("Replay", "ReplayClock", "ReplayServer", "replay"),
    "client.rest": ("AsyncPTNClient", "PTNClient", "Retries"),
    "client.servers.merge": ("ServerGap",),
    "client.servers.several": ("Difference",),
    "client.stream": ("Stream", "connect"),
    "client.tables.documents": (
        "AccountDocument",
        "CollateralDocument",
        "DebtLedgers",
        "LedgerDocument",
        "PeriodDocument",
        "Selections",
    ),
    "model.documents": (
        "AccountSnapshots",
        "ChallengePeriod",
        "Collateral",
        "DebtLedgerSummary",
        "EntityEndpoint",
        "MinerLedger",
    ),
    "model.limit_order": ("ListedOrder",),
    "model.miner": ("Leaderboard", "LeaderboardEntry"),
    "model.order": ("Order", "OrderRow"),
    "model.position": ("Position",),
    "model.statistics": ("Elimination", "MinerStatistics"),
    "wire.about": ("Health", "Me"),
    "wire.client_session": ("Cursor", "Gap", "State", "StreamItem"),
}
_FORMER_NAMES = {
    "Book": "PositionMirror",
    "OpenBook": "OpenMirror",
    "Pace": "Timing",
    "open_book": "open_mirror",
}


def __getattr__(name: str) -> Any:
    current = _FORMER_NAMES.get(name, name)
    for module, names in _HOMES.items():
        if current in names:
            return getattr(import_module(f"ptn_api.{module}"), current)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
