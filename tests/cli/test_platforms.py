"""The client and its commands on systems that lack what Unix has, emulated in a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import Live
from tests.waiting import PATIENCE_S

WINDOWS = """
import asyncio, sys
missing = ("fcntl", "pwd", "grp", "resource", "pty", "asyncinotify", "uvloop", "picows", "aiofastnet")

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import json, os, platformdirs, rich.console, signal, socket, ssl, subprocess, tempfile, typer, zoneinfo
import httpx, websockets.asyncio.client
for name in missing:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())

def not_implemented(*_):
    raise NotImplementedError

asyncio.BaseEventLoop.add_signal_handler = not_implemented
asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = not_implemented
asyncio.unix_events._UnixSelectorEventLoop.remove_signal_handler = not_implemented
sys.platform = "win32"
for name in ("O_NONBLOCK", "O_CLOEXEC"):
    delattr(os, name)
for name in ("geteuid", "getuid", "chown", "fork", "setsid"):
    delattr(os, name)
"""


def on_windows(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WINDOWS + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)


def test_everything_of_the_client_can_be_imported(live: Live, tmp_path: Path) -> None:
    """Every module that needs no server package, and every public name."""
    code = """
import importlib, pkgutil, ptn_api.client, ptn_api.cli.app, ptn_api.websocket_client
for module in pkgutil.walk_packages(ptn_api.client.__path__, "ptn_api.client."):
    importlib.import_module(module.name)
for name in ptn_api.client.__all__:
    getattr(ptn_api.client, name)
for module in pkgutil.walk_packages(ptn_api.cli.__path__, "ptn_api.cli."):
    if module.name != "ptn_api.cli.doctor":
        importlib.import_module(module.name)
print("ptn_api.file_version" in sys.modules)
"""
    done = on_windows(code, live.environment(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_client_imports_nothing_of_the_system(live: Live, tmp_path: Path) -> None:
    """Neither the user database nor resource limits, on any system."""
    code = """
import pathlib, sys
before = set(sys.modules)  # from Python 3.13 on, pathlib imports grp if there is one
import ptn_api.client, ptn_api.websocket_client
for name in ptn_api.client.__all__:
    getattr(ptn_api.client, name)
print(sorted({"ptn_api.file_version", "resource", "grp"} & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["stream", "--count", "1", "--json"],
        ["stream", "--count", "1", "--json", "--resume"],
        ["record", "orders.ndjson", "--count", "1"],
        ["positions"],
        ["me"],
        ["keys", "add", "alice", "--tier=30", "--api-keys-file", "keys.json"],
    ],
)
def test_commands_run(live: Live, tmp_path: Path, words: list[str]) -> None:
    """Without signal handlers of the event loop and without file locks."""
    code = f"""
sys.argv = ["ptn", *{json.dumps(words)}]
os.chdir({str(tmp_path)!r})
from ptn_api.cli.app import main
main()
"""
    done = on_windows(code, live.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
