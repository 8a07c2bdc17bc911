"""Writes the descriptions into the package: `python -m descriptions`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

import ptn_api.rest
from descriptions.asyncapi import asyncapi_document
from descriptions.html import asyncapi_page, openapi_page
from descriptions.openapi import openapi_document
from descriptions.typescript import typescript_types
from ptn_api.rest.routes import ROUTES

__all__ = ["FOLDER", "TYPESCRIPT", "descriptions", "typescript"]

FOLDER = Path(ptn_api.rest.__file__).parent / "static"
TYPESCRIPT = Path(__file__).parents[1] / "web" / "client" / "src" / "types.ts"


def descriptions() -> dict[str, bytes]:
    """Returns the content of every file in static/, by name."""
    openapi, asyncapi = openapi_document(ROUTES), asyncapi_document()
    return {
        "openapi.json": _json(openapi),
        "asyncapi.json": _json(asyncapi),
        "docs.html": openapi_page(openapi).encode(),
        "stream_docs.html": asyncapi_page(asyncapi).encode(),
    }


def typescript() -> str:
    """Returns the content of the TypeScript client's module of types."""
    return typescript_types(openapi_document(ROUTES), asyncapi_document())


def _json(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in descriptions().items():
        (FOLDER / name).write_bytes(content)
    TYPESCRIPT.write_text(typescript())
