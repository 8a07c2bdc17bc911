"""Orders as short plain text.

Hotkeys and trade pairs come from the validator's files, and chats interpret text: links, mentions, Markdown
and HTML. So only letters, digits and underscores of them are shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone

from ptn_api.client.message import PTNWebSocketMessage

__all__ = ["digest_text", "order_text"]

_LISTED = 8
"""Miners and trade pairs that a digest names."""


def order_text(message: PTNWebSocketMessage) -> tuple[str, str]:
    """Returns the title and the body for one order."""
    order, position = message.new_order, message.position
    leverage = "" if order.leverage is None else f" {order.leverage:+.4g}"
    title = f"{_plain(order.trade_pair)} {order.order_type}{leverage} by {_short(position.miner_hotkey)}"
    state = "closed" if position.is_closed_position else f"net leverage {position.net_leverage:+.4g}"
    marks = (", seen late" if message.late else "") + (", missed before" if message.replay else "")
    lines = (
        f"Miner {_plain(position.miner_hotkey)}",
        f"Price {order.price:.10g}",
        f"Position {state}, return {100 * (position.current_return - 1):+.2f} %",
        f"{_time(order.processed_ms, '%Y-%m-%d %H:%M:%S')} UTC{marks}",
    )
    return title, "\n".join(lines)


def digest_text(messages: Sequence[PTNWebSocketMessage]) -> tuple[str, str]:
    """Returns the title and the body that sum up several orders."""
    miners = Counter(message.position.miner_hotkey for message in messages)
    pairs = Counter(str(message.new_order.trade_pair) for message in messages)
    times = [message.new_order.processed_ms for message in messages]
    title = f"{len(messages)} orders by {_counted(miners, 'miner')} in {_counted(pairs, 'pair')}"
    lines = (
        f"Miners: {_most(Counter({_short(name): miners[name] for name in miners}))}",
        f"Pairs: {_most(Counter({_plain(name): pairs[name] for name in pairs}))}",
        f"From {_time(min(times), '%Y-%m-%d %H:%M:%S')} to {_time(max(times), '%H:%M:%S')} UTC",
    )
    return title, "\n".join(lines)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "?", name[:64])


def _short(hotkey: str) -> str:
    """The hotkey's beginning, and the number of a subaccount."""
    name, separator, subaccount = _plain(hotkey).partition("_")
    return f"{name[:8]}{separator}{subaccount}"


def _time(ms: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "unknown time"


def _counted(names: Counter[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _most(names: Counter[str]) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in names.most_common(_LISTED))
    return f"{listed} and {len(names) - _LISTED} more" if len(names) > _LISTED else listed
