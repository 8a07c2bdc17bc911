"""What consumers' type checkers say about the client."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ptn_api.client

FILE = Path(__file__).parent / "client" / "uses_everything.py"


@pytest.mark.timeout(600)
def test_mypy_strict_is_silent_on_a_program_that_uses_everything() -> None:
    """As in a project of one's own, without this one's settings."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unreachable", "--config-file=", str(FILE)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=FILE.parents[2], check=False)
    assert result.stdout.startswith("Success"), result.stdout + result.stderr


def test_it_does_use_everything() -> None:
    """Every name that `ptn_api.client` offers."""
    names = {node.id for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Name)}
    assert set(ptn_api.client.__all__) - names == set()
