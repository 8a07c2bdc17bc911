"""The client's types, as a user's type checker sees them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ptn_api.client

FILE = Path(__file__).parent / "client" / "uses_everything.py"
EXAMPLES = [str(path) for path in (Path(__file__).parents[1] / "examples").glob("[!m]*.py")]
"""All but mirror_database.py, which imports psycopg."""


@pytest.mark.timeout(600)
def test_a_program_that_uses_everything_and_the_examples_pass_mypy_strict() -> None:
    """As in a user's project, without this project's settings."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--warn-unreachable",
        "--config-file=",
        str(FILE),
        *EXAMPLES,
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=FILE.parents[2], check=False)
    assert result.stdout.startswith("Success"), result.stdout + result.stderr


def test_the_program_uses_every_name() -> None:
    """Every name of `ptn_api.client`."""
    names = {node.id for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Name)}
    assert set(ptn_api.client.__all__) - names == set()
