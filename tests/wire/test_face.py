"""The names that other packages import from wire."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ptn_api

PACKAGE = Path(ptn_api.__file__).parent
SERVER_MODULES = {"ptn_api.wire.server_session", "ptn_api.wire.client_frames"}
SERVERS_FOR_TESTS = {"client/testing.py"}


def _imports() -> Iterator[tuple[str, str, str]]:
    """(file, wire module, name) for every import from outside."""
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE).as_posix()
        if file.startswith("wire/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ptn_api.wire"):
                for alias in node.names:
                    module, name = str(node.module), alias.name
                    yield (file, f"{module}.{name}", "") if module == "ptn_api.wire" else (file, module, name)


def test_only_exported_names_are_imported() -> None:
    """Each module's `__all__` is what others may use."""
    private = [
        (file, module, name)
        for file, module, name in _imports()
        if name and name not in importlib.import_module(module).__all__
    ]
    assert private == []


def test_the_package_lists_every_module() -> None:
    """Its docstring lists them by user."""
    modules = {path.stem for path in (PACKAGE / "wire").glob("*.py")} - {"__init__"}
    documented = str(importlib.import_module("ptn_api.wire").__doc__)
    assert {module for module in modules if f"`{module}`" not in documented} == set()


def test_clients_import_no_server_modules() -> None:
    """Except the servers that users test against."""
    assert {
        (file, module)
        for file, module, _ in _imports()
        if file.startswith("client/") and module in SERVER_MODULES and file not in SERVERS_FOR_TESTS
    } == set()


def test_importing_the_client_loads_no_server_code() -> None:
    """Neither the server's session nor any package of the server."""
    code = "import sys, ptn_api.websocket_client; print(*(m for m in sys.modules if m.startswith('ptn_api')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {"access", "event_log", "intake", "http", "views", "rest", "stream", "simulator", "process"}
    assert {
        module
        for module in loaded.stdout.split()
        if module in SERVER_MODULES or (module.count(".") and module.split(".")[1] in packages)
    } == set()
