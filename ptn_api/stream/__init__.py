"""The WebSocket stream: every order in the event log, to every subscriber, exactly once and in order.

`server.run_stream` starts it. Orders flow from `log_tail` through `fanout` to the live connections;
`catch_up` serves the connections that missed something. `server` alone knows the WebSocket library.
"""
