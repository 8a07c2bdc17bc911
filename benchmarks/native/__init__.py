"""Load generators in C, or in Python if a compiler is missing (slower; the output notes it)."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["command", "compiler"]

_HERE = Path(__file__).parent


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@cache
def command(name: str, *, native: bool = True) -> tuple[str, ...]:
    """The command that runs `sink` or `sendloop`."""
    found = compiler() if native else None
    if found is None:
        return (sys.executable, str(_HERE / f"{name}.py"))
    folder = Path(tempfile.mkdtemp(prefix="ptn-bench-native-"))
    atexit.register(shutil.rmtree, folder)
    program = folder / name
    subprocess.run([found, "-O2", "-o", str(program), str(_HERE / f"{name}.c")], check=True)
    return (str(program),)
