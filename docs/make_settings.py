"""Generates docs/settings.md from the settings' types: `make descriptions`.

A test fails if the file differs from this output.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from ptn_api.process.settings import SETTINGS, Setting

__all__ = ["settings_page"]

_UNITS = {"MS": "milliseconds", "BYTES": "bytes", "N": "number", "": "switch"}


def settings_page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Settings\n"
    yield "Generated from the program's own table by `make descriptions`; do not edit.\n"
    yield (
        "Each setting is an option of `ptn serve`, `ptn doctor` and `api_manager.py --serve`, an environment "
        "variable, and,\nby its name, a keyword of `APIManager`. The option takes precedence over the "
        "variable, the variable over the default.\nA switch needs no value as an option, and `true` or "
        "`false` as a variable. Times are in milliseconds, sizes in bytes.\n"
    )
    for section, settings in groupby(SETTINGS.values(), key=lambda setting: setting.section):
        yield f"## {section}\n"
        yield "| Name | Variable | Option | Default | Unit | Meaning |"
        yield "|---|---|---|---|---|---|"
        yield from map(_row, settings)
        yield ""


def _row(setting: Setting) -> str:
    unit = _UNITS.get(setting.unit, setting.unit.lower())
    cells = (
        f"`{setting.name}`",
        f"`{setting.variable}`",
        f"`{setting.flag}`",
        setting.default_text or ("off" if setting.is_switch else "none"),
        unit,
        setting.description,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(settings_page())
