"""The programs in docs/client.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptn_api.client.testing import FakeServer
from tests.waiting import PATIENCE_S

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_programs_use_existing_names(program: str) -> None:
    """Imports included."""
    imports = [line for line in program.splitlines() if re.match(r"(from|import) ", line)]
    exec(compile("\n".join(imports), "client.md", "exec"), {})
    compile(program, "client.md", "exec")


@pytest.mark.parametrize("place", [0, 2, 3])
def test_the_programs_follow_a_server(place: int, tmp_path: Path) -> None:
    """The first one, the one with handlers, and the async one, with only the address changed."""
    with FakeServer() as server:
        program = (
            PROGRAMS[place]
            .replace("ws://localhost:8765", server.url)
            .replace("port=8765", f"port={server.port}")
            .replace("your key", server.api_key)
        )
        bot = subprocess.Popen(
            [sys.executable, "-W", "error", "-u", "-c", program],
            env={"PTN_API_KEY": server.api_key, "XDG_STATE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            server.wait_until_live(seconds=PATIENCE_S)
            server.order("BTCUSD")
            assert bot.stdout is not None
            line = bot.stdout.readline()
        finally:
            bot.kill()
            bot.communicate()
    assert "BTCUSD" in line or "seq=1" in line


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    """The one for authors of bots."""
    [program] = [program for program in PROGRAMS if "def test_" in program]
    names: dict[str, object] = {}
    exec(compile(program, "client.md", "exec"), names)
    names["test_my_bot_survives_a_cut"](tmp_path)  # type: ignore[operator]
