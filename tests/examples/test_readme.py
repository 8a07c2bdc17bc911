"""The Python programs in the README, with only key and address replaced."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from tests.examples.running import run, running
from tests.live import ROOT, Live
from tests.waiting import until


def snippet(live: Live, home: Path, word: str) -> Path:
    """Writes the block that contains this word to a file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (text,) = [block for block in blocks if word in block]
    for old, new in {
        "your key": live.key,
        "port=8765": f"port={urlsplit(live.stream).port}",
        "http://localhost:48888": live.rest,
    }.items():
        text = text.replace(old, new)
    path = home / "snippet.py"
    path.write_text(text)
    return path


def test_following_orders(live: Live, tmp_path: Path) -> None:
    """It prints the orders."""
    with running(
        snippet(live, tmp_path, "PTNWebSocketClient"), live, tmp_path, PYTHONUNBUFFERED="1"
    ) as script:
        until(lambda: "BTCUSDC: (" in script.output, what="an order in BTCUSDC")
        assert script.interrupt() == 0, script.output


def test_polling(live: Live, tmp_path: Path) -> None:
    """A line per miner; one may disappear at any time."""
    assert len(run(snippet(live, tmp_path, "requests.get"), live, tmp_path).splitlines()) >= 4
