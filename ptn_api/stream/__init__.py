"""The WebSocket server: the orders of the event log, to every subscriber, exactly once and in order.

`server.run_stream` starts it. `server` alone knows the WebSocket library; what is sent to whom is decided in
`ptn_api/fanout`.
"""
