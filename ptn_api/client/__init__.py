"""What a consumer uses: follow the orders as they happen, ask for documents, keep a mirror of all positions.

- `connect` (`Stream`): every order, asynchronously; `ptn_api.websocket_client` is its blocking door.
- `PTNClient`, `AsyncPTNClient`: the REST routes.
- `Book`: every position as of now.
- `FakeServer`: a server to test a bot against, which also misbehaves on command.

Light: no server is installed or imported with it. It logs to `ptn_api.client` and configures nothing.
"""

from ptn_api.client.message import NewOrder, PTNWebSocketMessage, TradePairId
from ptn_api.client.pace import Pace
from ptn_api.client.stream import Stream, connect
from ptn_api.wire.client_session import Cursor, Gap, State

__all__ = [
    "Cursor",
    "Gap",
    "NewOrder",
    "PTNWebSocketMessage",
    "Pace",
    "State",
    "Stream",
    "TradePairId",
    "connect",
]
