"""What the REST room is told; the names are the settings'."""

from __future__ import annotations

import msgspec

__all__ = ["RestOptions"]


class RestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms, sizes in bytes; `ptn_api.process.settings` says what each means.

    Those that are no setting are here for tests: `rate_window_ms` is the time over which `minimum_rate` is
    measured, `silent_ms` the age at which the last sweep of the validator's files counts as a problem.
    """

    refresh_coalesce_ms: int = 1_000
    clock_jump_ms: int = 60_000
    clock_settle_ms: int = 600_000
    header_timeout_ms: int = 10_000
    minimum_rate: int = 1_024
    rate_window_ms: int = 10_000
    stop_timeout_ms: int = 10_000
    max_connections_per_key: int = 5
    requests_per_minute: int = 600
    failed_logins_per_minute: int = 30
    connects_per_minute: int = 600
    max_rest_connections: int = 4_096
    trusted_proxies: str = ""
    silent_ms: int = 300_000
