"""Times, durations and speeds as people type them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from ptn_api.clock import seems_seconds
from ptn_api.errors import SettingsError

__all__ = ["duration_ms", "expiry_ms", "speed_of", "time_ms"]

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_LONGEST_MS = 36_525 * 86_400_000


def time_ms(text: str | None) -> int | None:
    """`2026-11-22`, `2026-11-22T18:30` (UTC unless it has an offset) or epoch milliseconds, as epoch ms."""
    if text is None:
        return None
    if text.isdigit():
        if seems_seconds(text):
            raise SettingsError(f"{text} seems to be in seconds: give epoch milliseconds, {text}000")
        return int(text)
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise SettingsError(
            f"not a time: {text!r} (give one like 2026-11-22T18:30, or epoch milliseconds)"
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return round(time.timestamp() * 1000)


def duration_ms(text: str, flag: str) -> int:
    """`90d`, `12h`, `30m`, `10s`, `2w` or 0, up to 100 years."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        if text == "0":
            return 0
        # Half a minute rather than half an hour is meant by a number alone.
        example = f"{text}s" if text.isdigit() else "90d, 12h, 30m or 30s"
        raise SettingsError(f"{flag}: not a duration: {text!r} (give one like {example})")
    duration = int(match[1]) * _UNITS_MS[match[2]]
    if duration > _LONGEST_MS:
        raise SettingsError(f"{flag}: {text} is longer than 100 years")
    return duration


def expiry_ms(text: str, now_ms: int, flag: str) -> int | None:
    """A duration from now, or a time in the future; None for an empty text, which means never."""
    if not text:
        return None
    if re.fullmatch(r"\d+[smhdw]", text):
        return now_ms + duration_ms(text, flag)
    try:
        expires_ms = time_ms(text)
    except SettingsError:
        expected = "give a duration like 90d or a time like 2027-01-01T00:00:00Z"
        raise SettingsError(f"{flag}: neither a duration nor a time: {text!r} ({expected})") from None
    if expires_ms is None or expires_ms <= now_ms:
        raise SettingsError(f"{flag}: {text} is in the past")
    return expires_ms


def speed_of(text: str | None) -> float | None:
    """`10x` or `0.5`; None, and `max`, mean as fast as possible."""
    if text is None or text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise SettingsError(f"not a speed: {text!r} (give one like 10x, or max)")
    return speed
