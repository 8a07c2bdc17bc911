"""A validator's directory, written by tests the way a validator writes it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


class ValidatorDir:
    """A directory in which every file is written to `validation/tmp` first and then moved into place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.miners = path / "validation/miners"
        (path / "validation/tmp").mkdir(parents=True)
        (path / "runnable").mkdir()
        self.miners.mkdir()

    def file(self, body: dict[str, Any], *, folder: str = "", pair: str = "") -> Path:
        """Returns the position's path."""
        folder = folder or ("closed" if body["is_closed_position"] else "open")
        pair = pair or body["trade_pair"][0]
        return self.miners / body["miner_hotkey"] / "positions" / pair / folder / body["position_uuid"]

    def write(self, body: dict[str, Any], *, folder: str = "", pair: str = "") -> Path:
        return self.put(self.file(body, folder=folder, pair=pair), json.dumps(body).encode())

    def put(self, target: Path, content: bytes) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path / "validation/tmp" / target.name
        temporary.write_bytes(content)
        os.replace(temporary, target)
        return target

    def delete(self, body: dict[str, Any], *, folder: str = "") -> None:
        self.file(body, folder=folder).unlink()

    def delete_miner(self, hotkey: str) -> None:
        shutil.rmtree(self.miners / hotkey)

    def document(self, name: str, content: bytes) -> Path:
        """Writes a document; `name` is a path such as `validation/eliminations.json`."""
        return self.put(self.path / name, content)
