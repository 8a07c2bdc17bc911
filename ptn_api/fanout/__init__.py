"""From the event log to every client that follows it live, over whichever transport.

Orders flow from `log_tail` through `groups` to the live connections; `catch_up` serves those that missed
something; `hub` connects these parts. Each transport has a `Framing` (encoding.py) and a `Socket`
(connection.py): the WebSocket in `ptn_api/stream`, Server-Sent Events in `event_stream`.
"""
