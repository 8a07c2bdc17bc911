"""Every setting, in one table: the field's name, its default, and what it means.

A field `api_rest_port` is the flag `--api-rest-port` and the environment variable `PTN_API_REST_PORT`.
A flag wins over the environment, the environment over the default. Settings are frozen after loading;
parts of the program receive plain values, not this table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from ptn_api.errors import SettingsError

__all__ = ["Settings", "add_arguments", "describe", "from_arguments"]


def _m(description: str, **limits: Any) -> Meta:
    return Meta(description=description, **limits)


Port = Annotated[int, Meta(ge=0, le=65_535)]
Count = Annotated[int, Meta(ge=0)]
Period = Annotated[int, Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The table. Times are milliseconds, sizes bytes."""

    api_host: Annotated[str, _m("address that both servers listen on")] = "127.0.0.1"
    api_rest_port: Annotated[Port, _m("REST port; 0 = any free one")] = 48888
    api_ws_port: Annotated[Port, _m("WebSocket port; 0 = any free one")] = 8765
    netuid: Annotated[int, _m("the validator's subnet; accepted for the validator's sake")] = 8
    validator_dir: Annotated[
        str, _m("the validator's checkout: holds validation/ and runnable/; read only")
    ] = ""
    checkpoint: Annotated[str, _m("a validator_checkpoint.json (or .gz) to serve instead of a directory")] = (
        ""
    )
    data_dir: Annotated[str, _m("where the event log is kept")] = ".ptn"
    api_keys_file: Annotated[str, _m("the API keys; re-read when it changes")] = "ptn_api/api_keys.json"
    demo: Annotated[bool, _m("serve a simulated validator, kept in the data directory")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _m("debug, info, warning or error")
    ] = "info"
    api_ws_host: Annotated[str, _m("address of the WebSocket server, if not that of --api-host")] = ""
    tls_cert: Annotated[
        str, _m("certificate chain (PEM): both servers speak TLS; read again when it changes")
    ] = ""
    tls_key: Annotated[str, _m("the certificate's private key (PEM, no passphrase)")] = ""

    sweep_ms: Annotated[Period, _m("how often directory times are compared, for what the watch missed")] = (
        5_000
    )
    full_sweep_ms: Annotated[Period, _m("how often every file is compared")] = 60_000
    removal_confirm_ms: Annotated[
        Count, _m("a position is removed when it is missing in two sweeps this far apart")
    ] = 10_000
    mass_removal_window_ms: Annotated[
        Period, _m("removals within this time count together towards a mass removal, which is held back")
    ] = 600_000
    queue_hold_ms: Annotated[
        Count, _m("how long a position from the embedded queue stands before its file holds it")
    ] = 10_000
    late_ms: Annotated[Count, _m("an order older than this when first seen is marked late")] = 60_000
    retention_ms: Annotated[Period, _m("how long events are kept")] = 7 * 86_400_000
    retention_bytes: Annotated[Period, _m("how much of events is kept")] = 1 << 30
    prune_ms: Annotated[Period, _m("how often old events are pruned")] = 60_000
    refresh_coalesce_ms: Annotated[
        Count, _m("REST: how long mere refreshes of returns are gathered; an order never waits")
    ] = 1_000
    clock_jump_ms: Annotated[Period, _m("a clock that jumps further than this is not followed at once")] = (
        60_000
    )
    clock_settle_ms: Annotated[Count, _m("how long a jump of the clock must last to be followed")] = 600_000

    auth_timeout_ms: Annotated[Period, _m("WebSocket: time to log in")] = 10_000
    heartbeat_ms: Annotated[Period, _m("WebSocket: between heartbeats, protocol version 2")] = 15_000
    replay_window_ms: Annotated[
        Count, _m("WebSocket: a version 1 client is replayed what it missed if that began within this time")
    ] = 86_400_000
    max_connections_per_key: Annotated[
        Period, _m("WebSocket: of a user, all keys together; the next one disconnects the oldest")
    ] = 5
    max_waiting_connections: Annotated[
        Period, _m("WebSocket: connections that have not logged in; the next one ends the oldest")
    ] = 4_096
    send_buffer_bytes: Annotated[Period, _m("WebSocket: a client further behind is told to come back")] = (
        8 << 20
    )
    unread_close_ms: Annotated[Period, _m("WebSocket: an unread close is aborted after this")] = 2_000
    eviction_delay_ms: Annotated[
        Count,
        _m("WebSocket: login delay of a user whose connections chase each other; doubles, at most 12-fold"),
    ] = 5_000
    accepts_per_second: Annotated[Period, _m("WebSocket: logins taken per second")] = 500
    message_limit_bytes: Annotated[Period, _m("WebSocket: largest message a client may send")] = 1 << 20
    max_rest_connections: Annotated[
        Period, _m("REST: connections at a time; the next one ends the one that has been idle longest")
    ] = 4_096
    header_timeout_ms: Annotated[Period, _m("REST: time for a request's headers")] = 10_000
    minimum_rate: Annotated[Count, _m("REST: bytes per second a download must keep up; 0 = none")] = 1_024
    requests_per_minute: Annotated[
        Count, _m("REST: requests of a key per minute, where the key file says nothing else; 0 = no limit")
    ] = 600
    failed_logins_per_minute: Annotated[
        Count, _m("failed authentications of an address per minute; 0 = no limit")
    ] = 30
    connects_per_minute: Annotated[
        Count, _m("connections of an address per minute, each server; 0 = no limit")
    ] = 600
    frames_per_minute: Annotated[
        Count, _m("WebSocket: frames that a client may send per minute; 0 = no limit")
    ] = 600
    trusted_proxies: Annotated[
        str, _m("addresses or networks of proxies whose X-Forwarded-For is believed, with commas between")
    ] = ""
    usage_flush_ms: Annotated[Period, _m("how often the use of each key is written down")] = 5_000
    metrics_port: Annotated[
        int, _m("Prometheus metrics on this port of 127.0.0.1; 0 = any free one, -1 = off", ge=-1, le=65_535)
    ] = -1
    key_check_ms: Annotated[Period, _m("how often the key file is looked at")] = 900
    parent_check_ms: Annotated[Period, _m("how often a child looks whether its supervisor lives")] = 1_000
    process_silent_ms: Annotated[
        Period, _m("/health: a process that has said nothing for so long is down")
    ] = 5_000
    restart_backoff_ms: Annotated[
        Period, _m("first pause before a crashed process is restarted; doubles")
    ] = 100
    restart_backoff_max_ms: Annotated[Period, _m("longest pause before a restart")] = 30_000
    stop_timeout_ms: Annotated[Period, _m("how long a process may take to stop in order")] = 10_000

    demo_seed: Annotated[int, _m("demo: the simulation's seed")] = 1
    demo_miners: Annotated[Period, _m("demo: number of miners")] = 25
    demo_positions: Annotated[Period, _m("demo: positions per miner at the start")] = 20
    demo_orders_per_minute: Annotated[Count, _m("demo: orders per minute")] = 60


_COMMON = {
    "api_host",
    "api_rest_port",
    "api_ws_port",
    "netuid",
    "validator_dir",
    "data_dir",
    "api_keys_file",
    "demo",
    "log_level",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every setting's flag: the common ones first, the rest in a group of their own."""
    rest = parser.add_argument_group("tuning (times in ms, sizes in bytes)")
    for field in msgspec.structs.fields(Settings):
        group = parser if field.name in _COMMON else rest
        flag = "--" + field.name.replace("_", "-")
        text = f"{_description(field.name)} (default: {field.default})".replace("%", "%%")
        if isinstance(field.default, bool):
            group.add_argument(flag, action="store_true", default=None, help=text)
        else:
            group.add_argument(flag, default=None, metavar=_metavar(field.name, field.default), help=text)


def _metavar(name: str, default: Any) -> str:
    """MS, BYTES, PORT, DIR, FILE, HOST; N for other numbers."""
    last = name.rpartition("_")[2].upper()
    return last if not isinstance(default, int) or last in {"MS", "BYTES", "PORT"} else "N"


def from_arguments(
    arguments: argparse.Namespace | Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings from parsed flags (None = not given), the environment and the defaults.

    Raises SettingsError with a sentence that names the flag.
    """
    given = dict(arguments) if isinstance(arguments, Mapping) else vars(arguments)
    environment = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        value = given.get(field.name)
        if value is None:
            value = environment.get("PTN_" + field.name.upper())
        if value is not None:
            values[field.name] = _convert(field.name, value)
    return Settings(**values)


def _convert(name: str, value: Any) -> Any:
    try:
        return msgspec.convert(value, _hints()[name], strict=False)
    except msgspec.ValidationError as error:
        flag = "--" + name.replace("_", "-")
        raise SettingsError(f"{flag} {value!r}: {str(error)[0].lower()}{str(error)[1:]}") from None


def _hints() -> dict[str, Any]:
    return get_type_hints(Settings, include_extras=True)


def _description(name: str) -> str:
    return next(
        meta.description
        for meta in reversed(_hints()[name].__metadata__)
        if isinstance(meta, Meta) and meta.description
    )


def describe() -> Sequence[tuple[str, str, str, Any, str]]:
    """(name, flag, environment variable, default, meaning) of every setting, for the documentation."""
    return [
        (f.name, "--" + f.name.replace("_", "-"), "PTN_" + f.name.upper(), f.default, _description(f.name))
        for f in msgspec.structs.fields(Settings)
    ]
