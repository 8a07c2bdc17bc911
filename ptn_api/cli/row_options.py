"""Options of commands that print rows: the format, the number of rows, and whole hotkeys."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import typer

__all__ = ["Format", "JsonLines", "Output", "OutputOption", "View", "Wide", "prints_rows", "view_of"]

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
Format = Literal["table", "json", "ndjson", "csv"]


class Output(str, enum.Enum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


class View(NamedTuple):
    """What the options say about printing rows: `limit` 0 is all, `wide` shows cells and columns whole."""

    output: Format = "table"
    limit: int = 0
    wide: bool = False


OutputOption = Annotated[
    Output | None, typer.Option("--output", "-o", help="Print in this format (default: table).")
]
Wide = Annotated[
    bool, typer.Option("--wide", "-w", help="Show whole hotkeys and every column, however long the lines.")
]
JsonLines = Annotated[bool, typer.Option("--json", help="Same as --output ndjson.")]


def prints_rows(limit: int = 0, rows: str = "rows") -> Decorator:
    """Gives a command the options about printing; the command gets them as `view`."""
    options = {
        "limit": (
            Annotated[
                int, typer.Option(metavar="N", help=f"Print at most this many {rows}; 0 = all.", min=0)
            ],
            limit,
        ),
        "wide": (Wide, False),
        "output": (OutputOption, None),
        "json": (Annotated[bool, typer.Option("--json", help="Same as --output json.")], False),
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "view"
        ]

        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in options}
            command(**values, view=view_of(**chosen))

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def view_of(
    output: Output | None, json: bool, wide: bool, limit: int = 0, *, short: Output = Output.JSON
) -> View:
    """What the options choose; `short` is the format of `--json`."""
    return View((output or (short if json else Output.TABLE)).value, limit, wide)
