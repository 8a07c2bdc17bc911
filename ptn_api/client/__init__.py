"""What a consumer uses: follow the orders as they happen, ask for documents, keep a mirror of all positions.

- `connect` (`Stream`): every order, asynchronously; `ptn_api.websocket_client` is its blocking door.
- `PTNClient`, `AsyncPTNClient`: the REST routes.
- `Book`: every position as of now.
- `FakeServer`: a server to test a bot against, which also misbehaves on command.

Light: no server is installed or imported with it. It logs to `ptn_api.client` and configures nothing.
"""

from ptn_api.client.book import Book
from ptn_api.client.calls import MessagePage
from ptn_api.client.fake_server import FakeServer
from ptn_api.client.message import NewOrder, PTNWebSocketMessage, TradePairId
from ptn_api.client.pace import Pace
from ptn_api.client.rest import AsyncPTNClient, PTNClient, Retries
from ptn_api.client.stream import Stream, connect
from ptn_api.wire.client_session import Cursor, Gap, State

__all__ = [
    "AsyncPTNClient",
    "Book",
    "Cursor",
    "FakeServer",
    "Gap",
    "MessagePage",
    "NewOrder",
    "PTNClient",
    "PTNWebSocketMessage",
    "Pace",
    "Retries",
    "State",
    "Stream",
    "TradePairId",
    "connect",
]
