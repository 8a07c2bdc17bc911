"""Options of both servers that clients connect to."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ptn_api.options import Count, Limit, Period, setting

__all__ = ["ClientLimits"]


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits per user and per address, and the proxies that report addresses."""

    trusted_proxies: Annotated[
        str,
        setting(
            "Network",
            "Trust X-Forwarded-For from these proxies (addresses or networks, comma-separated)",
            unit="LIST",
        ),
    ] = ""
    max_connections_per_key: Annotated[
        Count,
        setting(
            "Limits",
            "Allow each user (not each key) this many WebSocket connections and event streams together; one "
            "more disconnects the oldest",
        ),
    ] = 5
    failed_logins_per_minute: Annotated[
        Limit,
        setting(
            "Limits",
            "Allow each address this many failed authentications per minute to each server (REST and "
            "WebSocket); 0 = no limit",
        ),
    ] = 30
    connects_per_minute: Annotated[
        Limit,
        setting("Limits", "Allow each address this many connections per minute to each server; 0 = no limit"),
    ] = 600
    overload_ms: Annotated[
        Period,
        setting(
            "Limits",
            "Report refused work, evicted connections and slow clients in /health for this long after the "
            "last one",
        ),
    ] = 60_000
