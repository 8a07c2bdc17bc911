"""What a server's session asks to be done, in the order in which it is to be done."""

from __future__ import annotations

import msgspec

from ptn_api.wire.close_codes import CloseCode

__all__ = ["CatchUp", "CheckKey", "Close", "Effect", "Resubscribed", "Send", "Stop"]


class Send(msgspec.Struct, frozen=True):
    frame: msgspec.Struct


class CheckKey(msgspec.Struct, frozen=True):
    """Find out who this is, then call `verdict`."""

    api_key: str


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """Send every order after `after` that matches, those up to `replay_until` marked as replayed.

    Then, unless `revision` is None, one frame per position changed or removed after it. Then `caught_up`.
    """

    after: int
    replay_until: int
    revision: int | None = None


class Resubscribed(msgspec.Struct, frozen=True):
    """The subscription was replaced; it holds from the next order on."""


class Stop(msgspec.Struct, frozen=True):
    """Send no orders any more."""


class Close(msgspec.Struct, frozen=True):
    reason: CloseCode


Effect = Send | CheckKey | CatchUp | Resubscribed | Stop | Close
