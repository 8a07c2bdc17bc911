"""Moments and speeds, as people type them."""

from __future__ import annotations

from datetime import datetime, timezone

from ptn_api.errors import SettingsError

__all__ = ["moment_ms", "speed_of"]


def moment_ms(text: str | None) -> int | None:
    """`2026-11-22`, `2026-11-22T18:30` (UTC unless it says otherwise) or epoch milliseconds, as epoch ms."""
    if text is None or text.isdigit():
        return None if text is None else int(text)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise SettingsError(f"{text!r} is no moment like 2026-11-22T18:30 or 1795374600000") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def speed_of(text: str | None) -> float | None:
    """`10x` or `0.5`; None: as fast as possible."""
    if text is None or text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise SettingsError(f"{text!r} is no speed like 10x, or max")
    return speed
