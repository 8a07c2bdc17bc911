"""How a package declares its settings: unit, limits, description and section are part of a field's type.

    sweep_ms: Annotated[Period, setting("Intake", "Sweep the directories at this interval")] = 5_000

Such a field is a setting: operators set it with a flag or an environment variable (process/settings.py). The
options of a component (RestOptions, ...) are its settings, and plain fields that only tests change.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

__all__ = [
    "BEHIND_MS",
    "CLOCK_JUMP_MS",
    "CLOCK_SETTLE_MS",
    "LATE_MS",
    "RETENTION_BYTES",
    "RETENTION_MS",
    "SECTIONS",
    "STOP_TIMEOUT_MS",
    "Behind",
    "Bytes",
    "ClockJump",
    "ClockSettle",
    "Count",
    "Delay",
    "Limit",
    "NodeName",
    "Period",
    "Port",
    "Section",
    "StopTimeout",
    "setting",
]

Section = Literal[
    "Network", "TLS", "Data", "Demo", "Limits", "Intake", "REST", "Stream", "Cluster", "Processes"
]
SECTIONS: tuple[Section, ...] = get_args(Section)
"""The sections of the help and of the documentation, in their order."""

Port = Annotated[int, Meta(ge=0, le=65_535, extra={"unit": "PORT"})]
Period = Annotated[int, Meta(ge=1, extra={"unit": "MS"})]
Delay = Annotated[int, Meta(ge=0, extra={"unit": "MS"})]
Bytes = Annotated[int, Meta(ge=1, extra={"unit": "BYTES"})]
Count = Annotated[int, Meta(ge=1, extra={"unit": "N"})]
Limit = Annotated[int, Meta(ge=0, extra={"unit": "N"})]


def setting(section: Section, description: str, *, unit: str = "", default: str = "") -> Meta:
    """The metadata of a setting. The description is imperative and has no full stop.

    `unit` is the placeholder in the help, such as FILE, where the field's type has none. `default` describes
    the effect of a default that is empty.
    """
    texts = {"section": section, "unit": unit, "default": default}
    return Meta(description=description, extra={name: text for name, text in texts.items() if text})


# --- settings of more than one package --------------------------------------------------------------------

ClockJump = Annotated[
    Period, setting("Intake", "Distrust the system clock after a jump larger than this, or a longer downtime")
]
CLOCK_JUMP_MS = 60_000
ClockSettle = Annotated[
    Delay, setting("Intake", "Follow a forward jump of the clock once it has lasted this long")
]
CLOCK_SETTLE_MS = 600_000
Behind = Annotated[
    Period, setting("Cluster", "Report a copy as behind once it has not been complete for this long")
]
BEHIND_MS = 5_000
NodeName = Annotated[
    str,
    setting(
        "Cluster",
        "Show this machine by this name in logs, `/health` and `ptn cluster status`",
        unit="NAME",
        default="the host's name",
    ),
]
StopTimeout = Annotated[Period, setting("Processes", "Kill a process that has not stopped within this time")]
STOP_TIMEOUT_MS = 10_000
LATE_MS = 60_000
RETENTION_MS = 7 * 86_400_000
RETENTION_BYTES = 1 << 30
