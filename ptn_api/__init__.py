"""A validator's positions and orders over REST and WebSocket, and a client that follows them.

Orders come in through `intake`, the only writer of `event_log`, where each gets its sequence number.
`rest` and `stream` read the log and serve it to the clients that `access` admits, in the frames of `wire`.
`process` runs them as supervised processes: `ptn serve`, `python api_manager.py --serve`, or `APIManager` in
`ptn_api.api_manager` for a validator that embeds the API.
`client` is the library that users install; `ptn_api.websocket_client` is its documented entry point.
`model` defines positions and what each tier shows of them, without files, sockets or a clock.
"""

__version__ = "0.2.0"
