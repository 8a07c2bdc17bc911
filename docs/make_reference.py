"""Generates docs/reference.md from the program's own tables: `make descriptions`.

A test fails if the file differs from this output.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import typer.main
from msgspec import UnsetType

from ptn_api.cli.app import app
from ptn_api.cli.exit_status import EXIT_STATUSES
from ptn_api.process.metrics import METRICS
from ptn_api.process.settings import SETTINGS
from ptn_api.rest.routes import ROUTES
from ptn_api.wire import frames
from ptn_api.wire.close_codes import CLOSE_CODES, STANDARD_CODES, should_return

__all__ = ["reference"]


def reference() -> str:
    """The whole page."""
    parts = (_head(), _settings(), _routes(), _frames(), _close_codes(), _metrics(), _commands())
    return "\n".join(line for part in parts for line in part) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield "\nGenerated from the program's own tables by `make descriptions`; do not edit.\n"


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "[settings.md](settings.md) lists every setting with its option, variable, default, unit and meaning.\n"


def _routes() -> Iterator[str]:
    yield "## Routes\n"
    yield '`GET` and `HEAD`. Errors are `{"error": "<sentence>", "code": "<word>"}`, some with more fields;'
    yield "`/openapi.json` has every detail.\n"
    for route in ROUTES:
        yield f"### {route.path}\n"
        yield f"{route.summary}. Access: {route.access}.\n"
        if route.description:
            yield f"{route.description}\n"
        for field in msgspec.structs.fields(route.query):
            yield f"- `{field.encode_name}`: {_described(field.type)}"
        if msgspec.structs.fields(route.query):
            yield ""


def _frames() -> Iterator[str]:
    yield "## Frames\n"
    yield "JSON text frames. [protocol.md](protocol.md) describes when each is sent.\n"
    for name in frames.__all__:
        kind = getattr(frames, name)
        if not isinstance(kind, type):
            continue
        yield f"### {name}\n"
        tag = kind.__struct_config__.tag
        if tag:
            yield f'`"type": "{tag}"`\n'
        if vars(kind).get("__doc__"):
            yield f"{inspect.cleandoc(str(kind.__doc__))}\n"
        for field in msgspec.structs.fields(kind):
            yield f"- `{field.encode_name}`: {_type(field.type)}"
        yield ""


def _close_codes() -> Iterator[str]:
    yield "## Close codes\n"
    yield "| code | reason | reconnect? |\n|---|---|---|"
    for code in (*STANDARD_CODES.values(), *CLOSE_CODES.values()):
        back = "yes, with backoff" if should_return(code.code) else "no"
        yield f"| {code.code} | {code.reason} | {back} |"
    yield "| any other, or none | | yes, with backoff |\n"


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "With `--metrics-port`; [operators.md](operators.md#metrics) suggests alerts. Each process also"
    yield "exports the usual `process_*` metrics (CPU, memory, open files), with the label `process`.\n"
    for metric in METRICS:
        yield f"### {metric.name}\n"
        labels = ", ".join(f"`{label}`" for label in metric.all_labels)
        yield f"{metric.kind.capitalize()}{f', by {labels}' if labels else ''}: {metric.meaning}.\n"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield from _commands_of(typer.main.get_command(app), "ptn")
    yield (
        "Exit status: " + "; ".join(f"{status} {meaning}" for status, meaning in EXIT_STATUSES.items()) + "."
    )


def _commands_of(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands_of(command, f"{prefix} {name}")
        else:
            yield from _command(command, f"{prefix} {name}")


def _command(command: Any, name: str) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{(command.help or '').strip()}\n"
    if SETTINGS.keys() <= {parameter.name for parameter in command.params}:
        yield "Options: all [settings](settings.md).\n"
        own = {"serve"} | SETTINGS.keys()
        if switches := [parameter for parameter in command.params if parameter.name not in own | {"help"}]:
            yield from (f"- `{switch.opts[0]}`: {switch.help}" for switch in switches)
            yield ""
        return
    for parameter in command.params:
        names = ", ".join(f"`{option}`" for option in parameter.opts)
        default = getattr(parameter.default, "value", parameter.default)
        shown = f" Default: {default}." if default not in (None, False, "") else ""
        yield f"- {names}: {parameter.help}{shown}"
    if command.params:
        yield ""


def _described(kind: Any) -> str:
    """A parameter's meaning, and its type."""
    meanings = [meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description]
    return f"{meanings[-1]} ({_type(get_args(kind)[0])})" if meanings else _type(kind)


def _type(kind: Any) -> str:
    """Returns a type's name in plain words."""
    if kind is Any:
        return "anything"
    if isinstance(kind, type):
        return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
            kind.__name__, kind.__name__
        )
    parts = [part for part in get_args(kind) if part is not UnsetType]
    origin = getattr(kind, "__origin__", None)
    if origin in (list, tuple):
        return f"list of {' and '.join(_type(part) for part in parts if part is not ...)}"
    if all(not isinstance(part, type) and not getattr(part, "__origin__", None) for part in parts):
        return " or ".join("null" if part is type(None) else f"`{part}`" for part in parts)
    return " or ".join("null" if part is type(None) else _type(part) for part in parts)


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference())
