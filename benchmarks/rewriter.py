"""A validator's minute: rewrites open positions with new returns for each line of input, without pauses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
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
