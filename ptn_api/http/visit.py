"""What a connection is remembered by."""

from __future__ import annotations

from ptn_api.access.address import ClientAddress
from ptn_api.access.key_ring import KeyHolder

__all__ = ["Visit"]


class Visit:
    """`peer` is who is connected, `client` whom it last asked for, `holder` who last showed a key."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.client: ClientAddress | None = None
        self.holder: KeyHolder | None = None
        self.requests = 0

    @property
    def address(self) -> str:
        return self.peer if self.client is None else self.client.text
