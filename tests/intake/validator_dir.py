"""A validator's directory, written by tests the way a validator writes it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests import newest


class ValidatorDir:
    """A directory in which every file is written to `validation/tmp` first and then moved into place.

    `mode` is that of the files; today's validators keep theirs to themselves.
    """

    mode = 0o644

    def __init__(self, path: Path) -> None:
        self.path = path
        self.miners = path / "validation/miners"
        for folder in (path / "validation/tmp", path / "runnable", self.miners):
            folder.mkdir(parents=True, exist_ok=True)

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
        temporary.chmod(self.mode)
        os.replace(temporary, target)
        return target

    def delete(self, body: dict[str, Any], *, folder: str = "") -> None:
        self.file(body, folder=folder).unlink()

    def delete_miner(self, hotkey: str) -> None:
        shutil.rmtree(self.miners / hotkey)

    def document(self, name: str, content: bytes) -> Path:
        """Writes a document; `name` is a path such as `validation/eliminations.json`."""
        return self.put(self.path / name, content)

    def zipped(self, name: str, content: Any) -> Path:
        """Writes a document as gzipped JSON."""
        return self.document(name, gzip.compress(json.dumps(content).encode(), 1))

    # --- what validators of today have ----------------------------------------------------------------------

    @classmethod
    def newest(cls, path: Path) -> ValidatorDir:
        """Unpacks the synthetic directory of tests/data, in which every file has mode 0600."""
        validator = cls(path)
        validator.mode = 0o600
        with tarfile.open(newest.DATA / "newest_directory.tar.gz") as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    validator.put(path / member.name.removeprefix("./directory/"), file.read())
        return validator

    def archived(self, body: dict[str, Any], *, folder: str = "") -> Path:
        """Returns the position's path after it was moved to the archive."""
        path = self.file(body, folder=folder)
        return self.miners / body["miner_hotkey"] / "archived_positions" / path.relative_to(path.parents[2])

    def archive(self, body: dict[str, Any], *, folder: str = "") -> Path:
        """Moves the position's file to the archive."""
        target = self.archived(body, folder=folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        return self.file(body, folder=folder).rename(target)

    def limit_order(
        self, body: dict[str, Any], *, miner: str, pair: str = "BTCUSD", folder: str = "unfilled"
    ) -> Path:
        target = self.miners / miner / "limit_orders" / pair / folder / body["order_uuid"]
        return self.put(target, json.dumps(body).encode())
