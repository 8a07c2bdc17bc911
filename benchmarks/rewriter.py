"""A validator's minute: open positions rewritten with new returns, one after the other, without pauses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["rewriting"]


@contextmanager
def rewriting(root: Path, count: int) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that does it. Yields the number of positions found, and the call that starts a minute."""
    command = [sys.executable, "-m", "benchmarks.rewriter", str(root), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin = process.stdin

    def rewrite() -> None:
        stdin.write("\n")
        stdin.flush()

    try:
        yield int(process.stdout.readline()), rewrite
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Rewrites all for each line of input."""
    root, count = Path(sys.argv[1]), int(sys.argv[2])
    paths = list(root.glob("validation/miners/*/positions/*/open/*"))[:count]
    positions = [json.loads(path.read_text()) for path in paths]
    print(len(paths), flush=True)
    for _ in sys.stdin:
        for path, position in zip(paths, positions, strict=True):
            position["current_return"] *= 1.0001
            temporary = root / "validation" / "tmp" / path.name
            temporary.write_text(json.dumps(position))
            os.replace(temporary, path)


if __name__ == "__main__":
    main()
