"""Expected values for tests of the model, and their comparison."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
SHARED = CHECKOUT.parent / "shared" / "data"
"""Published cases and real positions, next to the checkout; not part of the project."""


def own(name: str) -> list[dict[str, Any]]:
    """Returns the cases of data/<name>.json (see make_data)."""
    cases: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())["cases"]
    return cases


def shared(name: str) -> Any:
    """Returns a document of the shared data; skips the test if it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is missing (next to the checkout)")
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def golden(name: str) -> Any:
    """Returns a document of data/<name>.json.gz: expected values of the network's own code, see `about`."""
    return json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))


def same(value: Any, wanted: Any) -> bool:
    """Returns whether the values are equal: floats to 1e-9 relative, residues below 1e-9 equal 0."""
    if isinstance(wanted, dict):
        return (
            isinstance(value, dict)
            and value.keys() == wanted.keys()
            and all(same(value[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(wanted, float) and isinstance(value, int | float):
        return math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-9)
    return bool(value == wanted)
