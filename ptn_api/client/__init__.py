"""What a consumer uses: follow the orders as they happen, ask for documents, keep a mirror of all positions.

- `connect` (`Stream`): every order, asynchronously; `follow`: the same for a plain `for`;
  `ptn_api.websocket_client`: the same for a handler.
- `PTNClient`, `AsyncPTNClient`: the REST routes.
- `replay`, `Replay`: the same handler on the past; `Recording` is where the stream is kept for it.
- `Book`: every position as of now; `open_book`: the same for programs that block.
- `ptn_api.client.testing`: a server to test a bot against, which also misbehaves on command.

Light: no server is installed or imported with it, and names are imported when they are first used (a bot
that only follows the stream does without the HTTP library). It logs to `ptn_api.client` and configures
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptn_api.client.blocking_book import OpenBook, open_book
    from ptn_api.client.book import Book
    from ptn_api.client.calls import MessagePage
    from ptn_api.client.cursor_file import CursorStore, NoCursorFile
    from ptn_api.client.documents import (
        Checkpoint,
        Ledgers,
        Miner,
        MinerPositions,
        PositionChanges,
        StatisticsDocument,
    )
    from ptn_api.client.exchange import Retries
    from ptn_api.client.following import Following, follow
    from ptn_api.client.message import NewOrder, PTNWebSocketMessage, TradePairId
    from ptn_api.client.pace import Pace
    from ptn_api.client.recording import Recording, read_recording
    from ptn_api.client.replay_server import ReplayServer
    from ptn_api.client.replaying import Replay, ReplayClock, replay
    from ptn_api.client.rest import AsyncPTNClient, PTNClient
    from ptn_api.client.stream import Stream, connect
    from ptn_api.model.order import Order
    from ptn_api.model.position import Position
    from ptn_api.model.statistics import Elimination, MinerStatistics
    from ptn_api.wire.about import Health, Me
    from ptn_api.wire.client_session import Cursor, Gap, State

__all__ = [
    "AsyncPTNClient",
    "Book",
    "Checkpoint",
    "Cursor",
    "CursorStore",
    "Elimination",
    "Following",
    "Gap",
    "Health",
    "Ledgers",
    "Me",
    "MessagePage",
    "Miner",
    "MinerPositions",
    "MinerStatistics",
    "NewOrder",
    "NoCursorFile",
    "OpenBook",
    "Order",
    "PTNClient",
    "PTNWebSocketMessage",
    "Pace",
    "Position",
    "PositionChanges",
    "Recording",
    "Replay",
    "ReplayClock",
    "ReplayServer",
    "Retries",
    "State",
    "StatisticsDocument",
    "Stream",
    "TradePairId",
    "connect",
    "follow",
    "open_book",
    "read_recording",
    "replay",
]

_HOMES = {
    "client.book": ("Book",),
    "client.calls": ("MessagePage",),
    "client.cursor_file": ("CursorStore", "NoCursorFile"),
    "client.exchange": ("Retries",),
    "client.documents": (
        "Checkpoint",
        "Ledgers",
        "Miner",
        "MinerPositions",
        "PositionChanges",
        "StatisticsDocument",
    ),
    "client.following": ("Following", "follow"),
    "client.message": ("NewOrder", "PTNWebSocketMessage", "TradePairId"),
    "client.blocking_book": ("OpenBook", "open_book"),
    "client.pace": ("Pace",),
    "client.recording": ("Recording", "read_recording"),
    "client.replay_server": ("ReplayServer",),
    "client.replaying": ("Replay", "ReplayClock", "replay"),
    "client.rest": ("AsyncPTNClient", "PTNClient"),
    "client.stream": ("Stream", "connect"),
    "model.order": ("Order",),
    "model.position": ("Position",),
    "model.statistics": ("Elimination", "MinerStatistics"),
    "wire.about": ("Health", "Me"),
    "wire.client_session": ("Cursor", "Gap", "State"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"ptn_api.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
