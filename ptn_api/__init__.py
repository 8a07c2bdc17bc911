"""A validator's positions and orders over REST and WebSocket, and a client that follows them.

Orders come in through `intake`, which is the only writer of `event_log`; there each gets its sequence number.
`rest` and `stream` read the log and serve it, to whoever `access` lets in, in the words of `wire`.
`service` runs them as supervised processes: `ptn serve`, `python api_manager.py --serve`, or `APIManager` in
`ptn_api.api_manager` for a validator that embeds the API.
`client` is what others install to follow it; `ptn_api.websocket_client` is its documented entry point.
`model` says what a position is and what each tier sees of it: no file, no socket, no clock.
"""

__version__ = "0.1.0"
