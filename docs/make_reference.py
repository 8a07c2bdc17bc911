"""Generates docs/reference.md from the program's own tables: `make descriptions`.

A test fails if the file differs from this output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import typer.main

from descriptions.fields import about, fields_of, structs, type_name
from ptn_api.cli.app import app
from ptn_api.cli.exit_status import EXIT_STATUSES
from ptn_api.http.response import JSON
from ptn_api.process.metrics import METRICS
from ptn_api.process.settings import SETTINGS
from ptn_api.rest.routes import ROUTES
from ptn_api.wire import frames
from ptn_api.wire.close_codes import CLOSE_CODES, STANDARD_CODES, should_return

__all__ = ["reference"]


def reference() -> str:
    """The whole page."""
    parts = (
        _head(),
        _settings(),
        _routes(),
        _fields(),
        _frames(),
        _close_codes(),
        _metrics(),
        _commands(),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield "\nGenerated from the program's own tables by `make descriptions`; do not edit.\n"


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "[settings.md](settings.md) lists every setting with its option, variable, default and meaning.\n"


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
        kinds = (route.response, route.variant)
        if route.media_type == JSON and route.response != dict[str, Any]:
            yield f"Response: {' or '.join(_linked(type_name(kind)) for kind in kinds if kind)}.\n"


def _fields() -> Iterator[str]:
    yield "## Fields\n"
    yield "The types of responses and of their parts. In names, `*` stands for any key, and a dot precedes a"
    yield "key within the value. Where the last column is empty, the field has always existed. 2024 to 2026"
    yield "stand for the validators of these years, 0.1.0 for a version of this server, and generations are"
    yield "those of [accounting.md](accounting.md#1-generations-pairs-and-when-rules-changed).\n"
    for name, kind in structs().items():
        if name not in frames.__all__:
            yield from _struct(kind)


def _frames() -> Iterator[str]:
    yield "## Frames\n"
    yield "JSON text frames. [protocol.md](protocol.md) describes when each is sent.\n"
    for name in frames.__all__:
        if name in structs():
            yield from _struct(structs()[name])


def _struct(kind: type[msgspec.Struct]) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    if tag := kind.__struct_config__.tag:
        yield f'`"type": "{tag}"`\n'
    # docs/ is the folder of the page itself.
    yield re.sub(r"docs/(\w+\.md)", r"[\1](\1)", about(kind)) + "\n"
    yield "| Field | Type | Unit | Meaning | Null or absent | Since |\n|---|---|---|---|---|---|"
    for row in fields_of(kind).values():
        null = f"{row.null_word.lower()}: {row.null}" if row.null else ""
        null = row.null if row.null.startswith("absent") else null
        meaning = re.sub(r"`(\w+)`", lambda m: _linked(m[1]) if m[1] in structs() else m[0], row.meaning)
        yield f"| `{row.name}` | {_linked(row.type)} | {row.unit} | {meaning} | {null} | {row.since} |"
    yield ""


def _linked(text: str) -> str:
    """Returns a type's name with the names of structs as links."""
    return re.sub(
        r"\b[A-Z]\w+\b", lambda m: f"[{m[0]}](#{m[0].lower()})" if m[0] in structs() else m[0], text
    )


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
    return f"{meanings[-1]} ({type_name(get_args(kind)[0])})" if meanings else type_name(kind)


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference())
