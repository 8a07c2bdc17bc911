"""A limit order's file: one order that waits for its price, or that was cancelled."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["LimitOrderFile"]


class LimitOrderFile(msgspec.Struct, kw_only=True):
    """One file below `limit_orders`, as the log holds it.

    `trade_pair_id` and `folder` come from the file's path, `order` is the file's JSON object.
    """

    trade_pair_id: str
    folder: Literal["unfilled", "closed"]
    order: msgspec.Raw
