"""The WebSocket stream: every order to every subscriber, each once, in order, from the event log.

`server` is the only home of the WebSocket library; `run_stream` runs the room.
"""
