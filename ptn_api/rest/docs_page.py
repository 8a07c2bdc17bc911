"""One self-contained HTML page that shows the OpenAPI document: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
code { font: .9em ui-monospace, monospace; background: #8882; padding: .1em .3em; border-radius: .2em; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem; }
table { border-collapse: collapse; } td { padding: .2rem 1rem .2rem 0; vertical-align: top; }
"""


def page(description: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    info = description["info"]
    title = escape(f"{info['title']} {info['version']}")
    sections = "".join(_section(path, item["get"]) for path, item in description["paths"].items())
    key = description["components"]["securitySchemes"]["apiKey"]["description"]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{escape(info['description'])}</p>"
        f"<p><code>Authorization: Bearer &lt;key&gt;</code> {_text(key)}</p>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a></p>{sections}</body></html>'
    )


def _section(path: str, operation: dict[str, Any]) -> str:
    key = "" if operation["security"] else " (no key needed)"
    anchor: str = operation["operationId"]
    text = _text(operation.get("description", ""))
    return (
        f'<h2 id="{anchor}"><code>GET {escape(path)}</code></h2>'
        f"<p>{_text(operation['summary'])}{key}. {text}</p>"
        + _table([(p["name"], _parameter(p)) for p in operation["parameters"]])
        + _table([(status, answer["description"]) for status, answer in operation["responses"].items()])
    )


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    default = f" (default: `{str(schema['default']).lower()}`)" if schema.get("default") else ""
    text: str = parameter.get("description", "the miner's hotkey")
    return text + default


def _table(rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_text(text)}</td></tr>" for name, text in rows
    )
    return f"<table>{cells}</table>"


def _text(text: str) -> str:
    """Escaped; what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
