"""The server's settings as options of a command, in sections."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ptn_api.process.settings import SETTINGS, Setting, Settings, load_settings

__all__ = ["EPILOG", "takes_settings"]

EPILOG = "Every option is also an environment variable: --api-host is PTN_API_HOST."


def takes_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """A command with an option for every setting, which calls `command` with the settings they make.

    Typer derives options from a function's signature; this one is made from the table. An option that is not
    given stays None: then the environment and the table decide (`load_settings`).
    """

    def run(*, serve: bool, **values: Any) -> None:
        command(load_settings(values))

    # `--serve` is how `api_manager.py` is told to start; other commands accept and ignore it.
    options = {"serve": Annotated[bool, typer.Option("--serve", hidden=True)]}
    options |= {name: _option_for(setting) for name, setting in SETTINGS.items()}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if name in SETTINGS else False,
                annotation=kind,
            )
            for name, kind in options.items()
        ]
    )
    run.__annotations__ = options
    run.__doc__ = command.__doc__
    return run


def _option_for(setting: Setting) -> Any:
    default = f" (default {setting.default_text})" if setting.default_text else ""
    option = typer.Option(
        setting.flag,
        metavar=setting.unit or None,
        help=f"{setting.description}{default}.",
        show_default=False,
        rich_help_panel=setting.section,
    )
    return Annotated[(bool if setting.is_switch else str) | None, option]
