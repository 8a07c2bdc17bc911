"""Self-contained HTML pages of the API's descriptions: no scripts, no external resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from descriptions.examples import request_example
from descriptions.fields import about, fields_of, structs, type_name
from descriptions.openapi import common_errors
from ptn_api.http.response import JSON
from ptn_api.rest.routes import ROUTES, Route
from ptn_api.wire import frames

__all__ = ["asyncapi_page", "openapi_page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: light-dark(#555, #aaa);
  --link: light-dark(#0550ae, #79b8ff); font: 16px/1.5 system-ui, sans-serif; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1rem 4rem; max-width: 82rem; overflow-wrap: break-word; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: .875em ui-monospace, monospace; } p code, dd code, td code {
  background: var(--soft); padding: .1em .3em; border-radius: .2em; }
pre { font: .8rem/1.4 ui-monospace, monospace; background: var(--soft); padding: .6rem .8rem; margin: .6rem 0;
  border-radius: .3rem; overflow-x: auto; }
pre.run { white-space: pre-wrap; }
h1 { font-size: 1.6rem; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; } h3 code { font-size: 1rem; }
h4 { font-size: .875rem; margin: 1rem 0 .25rem; color: var(--dim); }
article { border-top: 1px solid var(--line); margin-top: 1.5rem; padding-top: 1rem; }
p { margin: .5rem 0; max-width: 46rem; } .dim { color: var(--dim); }
nav { font-size: .875rem; } nav b { display: block; }
nav ul { list-style: none; margin: .1rem 0 .8rem; padding: 0; }
dl { margin: .25rem 0; } dt { margin-top: .5rem; } dd { margin: 0 0 0 1rem; }
dt span, dd span { color: var(--dim); font-size: .875rem; }
summary { cursor: pointer; font-size: .875rem; color: var(--dim); }
table { border-collapse: collapse; } td { padding: .2rem 1rem .2rem 0; vertical-align: top; }
:target { scroll-margin-top: 1rem; }
article:target > h3, dt:target { background: light-dark(#fff3bf, #5c4b00); }
@media (min-width: 60rem) {
  body { display: grid; grid-template-columns: 17rem minmax(0, 1fr); gap: 0 3rem; }
  header { grid-column: 2; }
  nav { grid-row: 1 / 3; position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.5rem 0; }
  dl { display: grid; grid-template-columns: 17rem minmax(0, 1fr); gap: .35rem 1.5rem; }
  dt { margin: 0; } dd { margin: 0; }
}
@media (max-width: 59.99rem) { nav ul { columns: 14rem; } }
"""


_SINCE = (
    "In names, `*` stands for any key, and a dot precedes a key within the value. Since: a year or a "
    "generation of validators (docs/accounting.md), or a version of this server."
)


def openapi_page(description: dict[str, Any]) -> str:
    """Returns the page of an OpenAPI document."""
    paths, schemas = description["paths"], description["components"]["schemas"]
    tags = {
        tag["name"]: (
            tag["description"],
            [route for route in ROUTES if paths[route.path]["get"]["tags"] == [tag["name"]]],
        )
        for tag in description["tags"]
    }
    types = [name for name in structs() if name in schemas]
    contents = [
        (text.rstrip("."), [(paths[route.path]["get"]["operationId"], route.path) for route in routes])
        for text, routes in tags.values()
    ]
    contents += [("Reference", [("errors", "Errors"), ("headers", "Headers")])]
    contents += [("Types", [(f"type-{name}", name) for name in types])]
    body = "".join(
        f"\n<h2>{_text(text.rstrip('.'))}</h2>"
        + "".join(_route(route, paths[route.path]["get"]) for route in routes)
        for text, routes in tags.values()
    )
    key = description["components"]["securitySchemes"]["apiKey"]["description"]
    intro = (
        f"<p>{_text(key)} In the examples, replace <code>YOUR_API_KEY</code> and the miner's hotkey.</p>"
        '<p>Machine-readable: <a href="/openapi.json">openapi.json</a>. '
        'The WebSocket: <a href="/docs/stream">docs/stream</a></p>'
    )
    body += _errors(description) + _headers(description)
    body += f"\n<h2>Types</h2><p>{_text(_SINCE)}</p>"
    return _page(description["info"], intro, contents, body + "".join(map(_type, types)))


def asyncapi_page(description: dict[str, Any]) -> str:
    """Returns the page of an AsyncAPI document."""
    channels, messages = description["channels"], description["components"]["messages"]
    codes = next(iter(channels.values()))["x-close-codes"]
    senders = {_name(o["messages"][0]): o["action"] for o in description["operations"].values()}
    groups = {
        "From the client": [name for name in messages if senders[name] == "receive"],
        "From the server": [name for name in messages if senders[name] == "send"],
    }
    contents = [
        (title, [(messages[name]["title"], messages[name]["title"]) for name in names])
        for title, names in groups.items()
    ]
    contents += [("Reference", [("MessageData", "MessageData"), ("close-codes", "Close codes")])]
    body = "".join(
        f"\n<h2>{title}</h2>" + "".join(_frame(name, messages[name], channels) for name in names)
        for title, names in groups.items()
    )
    body += (
        f'\n<h2>Parts</h2><article id="MessageData"><h3>MessageData</h3>{_fields("MessageData")}</article>'
    )
    rows = (
        (c["code"], f"{c['reason']}: {'reconnect' if c['comeBack'] else 'do not reconnect'}") for c in codes
    )
    body += '<h2 id="close-codes">Close codes</h2>' + _table(rows)
    intro = (
        '<p>Machine-readable: <a href="/asyncapi.json">asyncapi.json</a>. REST: <a href="/docs">docs</a></p>'
    )
    intro += "".join(f"<p>{_text(channel['description'])}</p>" for channel in channels.values())
    return _page(description["info"], intro, contents, body)


def _page(
    info: dict[str, Any], intro: str, contents: Iterable[tuple[str, list[tuple[str, str]]]], body: str
) -> str:
    title = escape(f"{info['title']} {info['version']}")
    nav = "".join(
        f"<b>{_text(group)}</b><ul>"
        + "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name in links)
        + "</ul>"
        for group, links in contents
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<header><h1>{title}</h1>{_blocks(info['description'])}{intro}</header>"
        f"\n<nav>{nav}</nav>\n<main>{body}</main></body></html>\n"
    )


# --- routes -----------------------------------------------------------------------------------------------


def _route(route: Route, operation: dict[str, Any]) -> str:
    access = {"anyone": "No key needed.", "key": "Any key."}.get(route.access, "")
    parameters = [parameter for parameter in operation["parameters"] if "$ref" not in parameter]
    own = "".join(map(_parameter, parameters))
    return (
        f'\n<article id="{operation["operationId"]}"><h3><code>GET {escape(route.path)}</code></h3>'
        f"<p>{_text(operation['summary'])}. {access} {_text(operation.get('description', ''))}</p>"
        + (f"<h4>Parameters</h4><dl>{own}</dl>" if own else "")
        + f'<h4>Example</h4><pre class="run">{escape(request_example(route))}</pre>'
        + "".join(_response(route, operation))
        + "</article>"
    )


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    of_list = schema.get("items", {}) if schema.get("type") == "array" else schema
    values = [json.dumps(value).strip('"') for value in of_list.get("enum", ())]
    values = ["true", "false"] if of_list.get("type") == "boolean" else values
    facts = [" or ".join(f"`{value}`" for value in values)] if values else [_kind(of_list)]
    facts += ["several, repeated or with commas"] if of_list is not schema else []
    facts += [
        f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema
    ]
    default = schema.get("default")
    facts += [] if default in (None, "", []) else [f"default `{json.dumps(default).strip(chr(34))}`"]
    facts += ["required"] if parameter["required"] else []
    return _entry(parameter["name"], ", ".join(facts), parameter["description"])


def _kind(schema: dict[str, Any]) -> str:
    kinds = [part.get("type") for part in schema.get("anyOf", [schema])]
    words = {"string": "text", "integer": "integer", "number": "number"}
    return " or ".join(words[kind] for kind in kinds if kind in words)


def _response(route: Route, operation: dict[str, Any]) -> Iterator[str]:
    kinds = [type_name(kind) for kind in (route.response, route.variant) if kind]
    if route.media_type == JSON and route.response != dict[str, Any]:
        yield f"<h4>Response</h4><p>{_linked(' or '.join(kinds))}</p>"
    content = operation["responses"]["200"]["content"][route.media_type.partition(";")[0]]
    for name, example in content.get("examples", {}).items():
        value = example["value"]
        text = value if isinstance(value, str) else json.dumps(value, indent=1)
        yield f"<details><summary>{_text(name)}</summary><pre>{escape(text)}</pre></details>"
    errors = [code for code in route.errors if code not in common_errors()]
    if errors:
        yield '<p class="dim">Errors besides <a href="#errors">those of every route</a>: '
        yield ", ".join(f"<code>{code}</code>" for code in errors) + "</p>"


def _errors(description: dict[str, Any]) -> str:
    rows: dict[str, tuple[str, str]] = {}
    for item in description["paths"].values():
        for status, response in item["get"]["responses"].items():
            for code, example in response.get("content", {}).get(JSON, {}).get("examples", {}).items():
                if status >= "400" and "error" in example["value"]:
                    rows.setdefault(code, (status, example["value"]["error"]))
    error = description["components"]["schemas"]["Error"]
    fields = "".join(
        _entry(name, _kind(field), field["description"]) for name, field in error["properties"].items()
    )
    listed = "".join(
        _entry(code, status, f"such as: {sentence}")
        for code, (status, sentence) in sorted(rows.items(), key=lambda row: (row[1][0], row[0]))
    )
    return (
        f'\n<h2 id="errors">Errors</h2><p>{_text(error["description"])}</p><dl>{fields}</dl>'
        f"<h4>Codes</h4><dl>{listed}</dl>"
    )


def _headers(description: dict[str, Any]) -> str:
    parts = description["components"]
    sent = "".join(_entry(p["name"], "", p["description"]) for p in parts["parameters"].values())
    received = "".join(_entry(name, "", header["description"]) for name, header in parts["headers"].items())
    return (
        f'\n<h2 id="headers">Headers</h2><h4>Of requests</h4><dl>{sent}</dl>'
        f"<h4>Of responses</h4><dl>{received}</dl>"
    )


# --- frames -----------------------------------------------------------------------------------------------


def _frame(name: str, message: dict[str, Any], channels: dict[str, Any]) -> str:
    kind = message["title"]
    versions = " and ".join(c["title"].lower() for c in channels.values() if name in c["messages"])
    examples = "".join(
        f"<details><summary>{escape(example['name'])}</summary>"
        f"<pre>{escape(json.dumps(example['payload'], indent=1))}</pre></details>"
        for example in message["examples"]
    )
    tag = structs()[kind].__struct_config__.tag
    tagged = f'<p><code>"type": "{escape(str(tag))}"</code></p>' if tag else ""
    return (
        f'\n<article id="{kind}"><h3>{kind}</h3><p>{versions.capitalize()}. {_text(message["summary"])} '
        f"{_text(about(structs()[kind]))}</p>{tagged}{_fields(kind)}{examples}</article>"
    )


# --- types ------------------------------------------------------------------------------------------------


def _type(name: str) -> str:
    text = _blocks(about(structs()[name]))
    return f'\n<article id="type-{name}"><h3>{name}</h3>{text}{_fields(name)}</article>'


def _fields(name: str) -> str:
    rows = "".join(
        _entry(
            row.name,
            ", ".join(filter(None, [row.type, row.unit])),
            row.meaning,
            " ".join(
                f"{word}: {fact}." for word, fact in ((row.null_word, row.null), ("Since", row.since)) if fact
            ),
            anchor=f"{name}.{row.name}",
        )
        for row in fields_of(structs()[name]).values()
    )
    return f"<dl>{rows}</dl>"


def _entry(name: str, facts: str, text: str, more: str = "", anchor: str = "") -> str:
    return (
        (f'\n<dt id="{anchor}">' if anchor else "\n<dt>")
        + f"<code>{escape(name)}</code> <span>{_linked(facts)}</span></dt><dd>{_linked(text)}"
        + (f" <span>{_text(more)}</span></dd>" if more else "</dd>")
    )


def _linked(text: str) -> str:
    """Returns the text with the names of types as links to them, which both pages share."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        if name not in structs():
            return match[0]
        own = name in frames.__all__
        return f'<a href="{"/docs/stream#" if own else "/docs#type-"}{name}">{name}</a>'

    return re.sub(r"(?:<code>)?\b([A-Z]\w+)\b(?:</code>)?", link, _text(text))


# --- text -------------------------------------------------------------------------------------------------


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _blocks(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part)


def _table(rows: Iterable[tuple[Any, str]]) -> str:
    cells = "".join(
        f"\n<tr><td><code>{escape(str(name))}</code></td><td>{_text(text)}</td></tr>" for name, text in rows
    )
    return f"<table>{cells}</table>"


def _text(text: str) -> str:
    """Returns the text escaped, with `backticks` as code."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
