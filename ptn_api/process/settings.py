"""The server's settings: those of each package, and those of the processes themselves.

A setting `api_rest_port` is the flag `--api-rest-port` and the environment variable `PTN_API_REST_PORT`. A
flag wins over the environment, the environment over the default. Each package declares its settings once
(ptn_api/options.py); flags, environment variables, help and documentation follow from SETTINGS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import SettingsError
from ptn_api.fanout.options import StreamOptions
from ptn_api.intake.options import IntakeSettings
from ptn_api.options import (
    SECTIONS,
    STOP_TIMEOUT_MS,
    Period,
    Port,
    Section,
    StopTimeout,
    setting,
)
from ptn_api.process.data_dir import check_apart
from ptn_api.rest.options import RestOptions
from ptn_api.simulator.options import SimulatorOptions

__all__ = ["PROCESSES", "SETTINGS", "Setting", "Settings", "load_settings", "unknown_variables"]

PROCESSES = ("intake", "rest", "stream")
"""The processes of a server alone."""
_OF_OTHERS = {
    "PTN_API_KEY",
    "PTN_REST_URL",
    "PTN_WS_URL",
    "PTN_ADMIN_NKEY",
    "PTN_INTAKE_NKEY",
    "PTN_NODE_NKEY",
}
"""Variables of clients, and of deploy/cluster/nats.conf."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting's value. Times are milliseconds, sizes bytes."""

    api_host: Annotated[
        str, setting("Network", "Listen on this address for REST and WebSocket", unit="HOST")
    ] = "127.0.0.1"
    api_rest_port: Annotated[Port, setting("Network", "Listen for REST on this port; 0 = any free port")] = (
        48888
    )
    api_ws_host: Annotated[
        str,
        setting("Network", "Listen for WebSocket on this address", unit="HOST", default="same as --api-host"),
    ] = ""
    api_ws_port: Annotated[
        Port, setting("Network", "Listen for WebSocket on this port; 0 = any free port")
    ] = 8765
    tls_cert: Annotated[
        str,
        setting("TLS", "Serve TLS with this certificate chain (PEM); reloaded when it changes", unit="FILE"),
    ] = ""
    tls_key: Annotated[
        str, setting("TLS", "Use this private key for the certificate (PEM, no passphrase)", unit="FILE")
    ] = ""
    validator_dir: Annotated[
        str,
        setting(
            "Data",
            "Read this validator checkout (validation/ and runnable/); nothing is written to it",
            unit="DIR",
            default="the current directory, if it contains validation/",
        ),
    ] = ""
    wait_for_validator: Annotated[
        bool,
        setting(
            "Data", "Wait for a validator's directory that is not there yet, instead of ending with an error"
        ),
    ] = False
    checkpoint: Annotated[
        str,
        setting("Data", "Serve this validator_checkpoint.json (or .gz) instead of a directory", unit="FILE"),
    ] = ""
    data_dir: Annotated[
        str, setting("Data", "Store the event log and the usage records here", unit="DIR")
    ] = ".ptn"
    api_keys_file: Annotated[
        str,
        setting(
            "Data",
            "Read API keys from this file; reloaded when it changes",
            unit="FILE",
            default="the first that exists of ptn_api/api_keys.json, and of vanta_api/api_keys.json "
            "and ptn_api/api_keys.json in the validator's directory",
        ),
    ] = ""
    netuid: Annotated[int, setting("Data", "Ignored; accepted for compatibility", unit="N")] = 8
    demo: Annotated[bool, setting("Demo", "Serve a simulated validator, stored in the data directory")] = (
        False
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        setting(
            "Processes", "Log messages of this level and above: debug, info, warning or error", unit="LEVEL"
        ),
    ] = "info"
    stream_processes: Annotated[
        int,
        msgspec.Meta(ge=1, le=64),
        setting(
            "Processes",
            "Serve the stream with this many processes, which share its port and the limits of users",
            unit="N",
        ),
    ] = 1
    metrics_port: Annotated[
        int,
        msgspec.Meta(ge=-1, le=65_535),
        setting(
            "Processes",
            "Serve Prometheus metrics on this port of 127.0.0.1; 0 = any free port, -1 = off",
            unit="PORT",
        ),
    ] = -1
    memory_limit_bytes: Annotated[
        int,
        msgspec.Meta(ge=0),
        setting(
            "Limits",
            "Report memory_near_limit once the resident memory of all processes is 90 % of this; 0 = only "
            "the system's limits count",
            unit="BYTES",
        ),
    ] = 0
    problem_log_ms: Annotated[
        Period, setting("Processes", "Log a problem that comes and goes at most once in this time")
    ] = 60_000
    usage_flush_ms: Annotated[Period, setting("Processes", "Write per-key usage at this interval")] = 5_000
    key_check_ms: Annotated[
        Period, setting("Processes", "Check the key file and the certificate for changes at this interval")
    ] = 450  # a file that was removed counts after two checks, within a second
    parent_check_ms: Annotated[
        Period, setting("Processes", "Embedded: check this often whether the validator is alive")
    ] = 1_000
    process_silent_ms: Annotated[
        Period,
        setting("Processes", "Report a process as down in /health once it has been silent for this long"),
    ] = 5_000
    restart_backoff_ms: Annotated[
        Period,
        setting("Processes", "Wait this long before restarting a crashed process; doubles with each crash"),
    ] = 100
    restart_backoff_max_ms: Annotated[
        Period, setting("Processes", "Wait at most this long before restarting a process")
    ] = 30_000
    stop_timeout_ms: StopTimeout = STOP_TIMEOUT_MS
    processes: Annotated[
        str,
        setting(
            "Cluster",
            "Run these processes on this machine (comma-separated); without --cluster, all",
            unit="NAMES",
        ),
    ] = "intake,rest,stream"

    intake: IntakeSettings = IntakeSettings()
    rest: RestOptions = RestOptions()
    stream: StreamOptions = StreamOptions()
    simulator: SimulatorOptions = SimulatorOptions()
    cluster_options: ClusterOptions = ClusterOptions()

    def check(self) -> None:
        """Raises SettingsError if two settings contradict each other."""
        if self.demo and (self.validator_dir or self.checkpoint):
            raise SettingsError("--demo simulates a validator: omit --validator-dir and --checkpoint")
        if self.validator_dir and self.checkpoint:
            raise SettingsError("--checkpoint is served instead of a directory: omit --validator-dir")
        hosts = {self.api_host, self.api_ws_host or self.api_host}
        overlap = len(hosts) == 1 or hosts & {"0.0.0.0", "::"}  # noqa: S104 - compared
        has_both = "rest" in self.processes and "stream" in self.processes
        if self.api_rest_port == self.api_ws_port > 0 and overlap and has_both:
            raise SettingsError(
                f"REST and the WebSocket cannot share port {self.api_rest_port}: give --api-rest-port and "
                "--api-ws-port different ones"
            )
        if self.validator_dir:
            check_apart(Path(self.data_dir), Path(self.validator_dir))

    def chosen_processes(self) -> tuple[str, ...]:
        """The processes of this machine, in the order of their start. Raises SettingsError.

        A machine of a cluster without intake has a process for its copy of the log; intake keeps it itself.
        """
        chosen = {name.strip() for name in self.processes.split(",")} - {""}
        if not chosen or chosen - set(PROCESSES):
            raise SettingsError(f"--processes {self.processes!r}: expected some of {', '.join(PROCESSES)}")
        if not self.cluster_options.servers:
            if len(chosen) < len(PROCESSES):
                raise SettingsError("--processes needs --cluster: a server alone runs all of them")
            return PROCESSES
        log = "intake" if "intake" in chosen else "copy"
        return (log, *(name for name in ("rest", "stream") if name in chosen))


_PREFIXES = {"simulator": "demo_"}
"""Packages whose settings have a prefix outside of the package."""


_MULTIPLES = {
    "MS": {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1_000},
    "BYTES": {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10},
}


class Setting(NamedTuple):
    """One setting, as operators meet it."""

    name: str
    type: Any
    default: Any
    section: Section
    description: str
    unit: str
    """MS, BYTES, FILE and so on; empty for a switch."""
    empty_default: str
    """The effect of an empty default."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "PTN_" + self.name.upper()

    @property
    def is_switch(self) -> bool:
        return self.default is False

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting that has only some."""
        plain = next(iter(get_args(self.type)), None)
        return get_args(plain) if get_origin(plain) is Literal else ()

    @property
    def default_text(self) -> str:
        """`5000 = 5 s`; empty for a switch, and where an empty default has no effect."""
        if self.is_switch or self.default == "":
            return self.empty_default
        number = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        readable = _readable(self.default, self.unit)
        return f"{number} = {readable}" if readable else number

    def convert(self, value: Any, source: str) -> Any:
        """The value in the setting's type. Raises SettingsError, which names the source."""
        try:
            return msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError:
            raise SettingsError(f"{source} {value!r}: expected {_expected(self.type)}") from None


def _readable(value: Any, unit: str) -> str:
    """A time or size in its largest whole unit: `7 d`, `8 MiB`."""
    units = _MULTIPLES.get(unit, {}) if value else {}
    whole = (f"{value // size} {name}" for name, size in units.items() if not value % size)
    return next(whole, "")


def _expected(kind: Any) -> str:
    """What a setting accepts: `a whole number of 1 or more`."""
    plain, *metas = get_args(kind)
    if plain is bool:
        return "true or false"
    if plain not in (int, float):
        return "text" if plain is str else f"one of {', '.join(get_args(plain))}"
    number = "a whole number" if plain is int else "a number"
    lowest, highest = (
        next((limit for meta in metas if (limit := getattr(meta, side)) is not None), None)
        for side in ("ge", "le")
    )
    if highest is not None:
        return f"{number} from {lowest} to {highest}"
    return number if lowest is None else f"{number} of {lowest} or more"


def _settings_of(options: type[msgspec.Struct], prefix: str = "") -> Iterator[Setting]:
    """The settings that a struct declares, and those of the structs in it."""
    for field in msgspec.structs.fields(options):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _settings_of(field.type, _PREFIXES.get(field.name, ""))
            continue
        metas = [meta for meta in getattr(field.type, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
        extra = {name: value for meta in metas for name, value in (meta.extra or {}).items()}
        if "section" in extra:
            description = next(meta.description for meta in reversed(metas) if meta.description)
            name = prefix + field.name
            unit, empty_default = extra.get("unit", ""), extra.get("default", "")
            yield Setting(name, field.type, field.default, extra["section"], description, unit, empty_default)


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in sorted(_settings_of(Settings), key=lambda setting: SECTIONS.index(setting.section))
}
"""Every setting by its name, in the order of the sections."""


def load_settings(values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from given values (None = not given), the environment and the defaults.

    Raises SettingsError with a sentence that names the flag or the variable.
    """
    environ = os.environ if environ is None else environ
    chosen: dict[str, Any] = {}
    for name, entry in SETTINGS.items():
        if (value := values.get(name)) is not None:
            chosen[name] = entry.convert(value, entry.flag)
        elif (value := environ.get(entry.variable)) is not None:
            chosen[name] = entry.convert(value, entry.variable)
    settings: Settings = _fill(Settings, chosen)
    return settings


def unknown_variables() -> list[str]:
    """Returns the PTN_ variables of the environment that nothing in this package or deploy/ knows."""
    known = {setting.variable for setting in SETTINGS.values()} | _OF_OTHERS
    return sorted(name for name in os.environ if name.startswith("PTN_") and name not in known)


def _fill(options: Any, chosen: Mapping[str, Any], prefix: str = "") -> Any:
    """The struct with the values of its settings, and so the structs in it."""
    values = {}
    for field in msgspec.structs.fields(options):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            values[field.name] = _fill(field.type, chosen, _PREFIXES.get(field.name, ""))
        elif prefix + field.name in chosen:
            values[field.name] = chosen[prefix + field.name]
    return options(**values)
