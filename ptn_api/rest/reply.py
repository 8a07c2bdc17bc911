"""The way out of one answer: adds headers that every answer carries, and remembers what went out."""

from __future__ import annotations

from starlette.types import Message, Send

from ptn_api.access.key_ring import KeyHolder

__all__ = ["Reply"]


class Reply:
    """To be called as the `send` of the request. `sent_bytes` is the body's length as it was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.holder: KeyHolder | None = None
        """Who asked, once that is known and allowed."""
        self.route = "unknown"
        """The path without what stands in it, for counters and the log."""
        self.headers: dict[str, str] = {}
        self.status = 0
        self.coding = "identity"
        self.sent_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
        else:
            self.sent_bytes += len(message["body"])
        await self._send(message)

    def _begin(self, message: Message) -> None:
        self.status = message["status"]
        for name, value in message["headers"]:
            if name == b"content-encoding":
                self.coding = value.decode()
        message["headers"] += [(name.encode(), value.encode()) for name, value in self.headers.items()]
