"""Self-contained HTML pages of the API's descriptions: no scripts, no external resources."""

from __future__ import annotations

import json
from html import escape
from typing import Any

__all__ = ["asyncapi_page", "openapi_page"]

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
code { font: .9em ui-monospace, monospace; background: #8882; padding: .1em .3em; border-radius: .2em; }
pre { font: .8em/1.3 ui-monospace, monospace; background: #8882; padding: .6rem; overflow-x: auto; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem; }
table { border-collapse: collapse; } td { padding: .2rem 1rem .2rem 0; vertical-align: top; }
"""


def openapi_page(description: dict[str, Any]) -> str:
    """Returns the page of an OpenAPI document."""
    key = description["components"]["securitySchemes"]["apiKey"]["description"]
    sections = (_section(path, item["get"]) for path, item in description["paths"].items())
    return _page(
        description["info"],
        f"<p><code>Authorization: Bearer &lt;key&gt;</code> {_text(key)}</p>"
        '<p>Machine-readable: <a href="/openapi.json">openapi.json</a>. '
        'The WebSocket: <a href="/docs/stream">docs/stream</a></p>' + "".join(sections),
    )


def asyncapi_page(description: dict[str, Any]) -> str:
    """Returns the page of an AsyncAPI document."""
    channels = description["channels"]
    codes = next(iter(channels.values()))["x-close-codes"]
    senders = {_name(o["messages"][0]): o["action"] for o in description["operations"].values()}
    return _page(
        description["info"],
        '<p>Machine-readable: <a href="/asyncapi.json">asyncapi.json</a>. REST: <a href="/docs">docs</a></p>'
        + "".join(f"<p>{_text(channel['description'])}</p>" for channel in channels.values())
        + "".join(
            _frame(
                name,
                message,
                description,
                senders[name],
                [c for c in channels.values() if name in c["messages"]],
            )
            for name, message in description["components"]["messages"].items()
        )
        + "<h2>Close codes</h2>"
        + _table(
            [
                (str(c["code"]), f"{c['reason']}: {'reconnect' if c['comeBack'] else 'do not reconnect'}")
                for c in codes
            ]
        ),
    )


def _page(info: dict[str, Any], body: str) -> str:
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1>{_paragraphs(info['description'])}{body}</body></html>"
    )


def _section(path: str, operation: dict[str, Any]) -> str:
    key = "" if operation["security"] else " (no key needed)"
    anchor: str = operation["operationId"]
    text = _text(operation.get("description", ""))
    own = [parameter for parameter in operation["parameters"] if "$ref" not in parameter]
    return (
        f'<h2 id="{anchor}"><code>GET {escape(path)}</code></h2>'
        f"<p>{_text(operation['summary'])}{key}. {text}</p>"
        + _table([(p["name"], _parameter(p)) for p in own])
        + _table([(status, answer["description"]) for status, answer in operation["responses"].items()])
    )


def _frame(
    name: str,
    message: dict[str, Any],
    description: dict[str, Any],
    action: str,
    channels: list[dict[str, Any]],
) -> str:
    schema = description["components"]["schemas"][message["title"]]
    sender = "the client" if action == "receive" else "the server"
    versions = " and ".join(channel["title"].lower() for channel in channels)
    examples = "".join(
        f"<p>{escape(example['name'])}:</p><pre>{escape(json.dumps(example['payload'], indent=1))}</pre>"
        for example in message["examples"]
    )
    return (
        f'<h2 id="{name}">{escape(message["title"])}</h2><p>From {sender}, {versions}. '
        f"{_text(message['summary'])} {_text(schema.get('description', ''))}</p>{examples}"
    )


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    default = f" (default: `{str(schema['default']).lower()}`)" if schema.get("default") else ""
    text: str = parameter["description"]
    return text + default


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n"))


def _table(rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_text(text)}</td></tr>" for name, text in rows
    )
    return f"<table>{cells}</table>"


def _text(text: str) -> str:
    """Returns the text escaped, with `backticks` as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
