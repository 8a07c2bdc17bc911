"""Reading the service's own descriptions, OpenAPI and AsyncAPI, and holding values against them."""

from __future__ import annotations

from typing import Any

import jsonschema

__all__ = ["problems", "schema_of"]


def schema_of(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A part of a document as a JSON Schema (2020-12) that stands alone."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": {"schemas": document["components"]["schemas"]},
        "allOf": [schema],
    }


def problems(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """What of the value is not as described."""
    validator = jsonschema.Draft202012Validator(schema_of(document, schema))
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]
