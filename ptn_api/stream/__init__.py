"""The WebSocket stream: every order to every subscriber, each once, in order, from the event log.

`server` is the only home of the WebSocket library; `run_stream` runs the room.
"""

from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.options import StreamOptions
from ptn_api.stream.run import run_stream

__all__ = ["StreamCounters", "StreamOptions", "run_stream"]
