"""Options of commands: the server's settings, in sections, and switches without a type in the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ptn_api.cli.completion import complete_choices
from ptn_api.process.settings import SETTINGS, Setting, load_settings

__all__ = ["EPILOG", "Command", "CommandGroup", "takes_settings"]

EPILOG = "Every option can also be set by an environment variable: --api-host by PTN_API_HOST."


class Command(TyperCommand):
    """A command whose help shows no type for switches; Typer's own shows `<bool>`."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """A group of commands, with the same help."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


def _without_types(parameters: Any) -> Any:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def takes_settings(command: Callable[..., None], **switches: Any) -> Callable[..., None]:
    """A command with an option for every setting, which passes the settings to `command`.

    `switches` are options of this command alone, by name; it gets them as keywords.

    Typer derives options from a function's signature, so this one is made from the table. An omitted option
    stays None, and the environment or the default applies (`load_settings`).
    """

    def run(*, serve: bool, **values: Any) -> None:
        others = {name: values.pop(name) for name in switches}
        command(load_settings(values), **others)

    # api_manager.py needs `--serve` to start; other commands accept and ignore it.
    options = {"serve": Annotated[bool, typer.Option("--serve", hidden=True)]}
    options |= {name: Annotated[bool, option] for name, option in switches.items()}
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
    default = f" (default: {setting.default_text})" if setting.default_text else ""
    option = typer.Option(
        setting.flag,
        metavar=setting.unit,
        help=f"{setting.description}{default}.",
        show_default=False,
        rich_help_panel=setting.section,
        autocompletion=complete_choices(setting.choices) if setting.choices else None,
    )
    return Annotated[(bool if setting.is_switch else str) | None, option]
