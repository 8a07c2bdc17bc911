"""A validator's positions and orders over REST and WebSocket, and a client that follows them."""

__version__ = "0.1.0"
