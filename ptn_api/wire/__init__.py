"""Frames, and both sides of a WebSocket connection as pure state machines; sockets are elsewhere.

Other packages import from the modules themselves, each what its `__all__` lists:

- everyone: `frames` (the frame types), `codec` (bytes), `close_codes`, `about` (`/health` and `/me`);
- a server: `server_session`, `client_frames` (subscriptions);
- a client: `client_session`, `server_frames` (messages), `clock_offset`;
- the API descriptions: `examples`.

This package imports none of them: a client loads no server code.
"""
