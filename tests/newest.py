"""A synthetic directory of a validator of 2026, and what it should answer (tests/data).

`changes()` reads the directory into changes of the log without the product's intake, so that REST is tested
against the files alone.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from ptn_api.event_log import Change, Document, DocumentWritten, PositionWritten
from ptn_api.model.position import parse_position

DATA = Path(__file__).parent / "data"
_DOCUMENTS = {
    "validation/asset_selections.json": Document.ASSET_SELECTIONS,
    "validation/challengeperiod.json": Document.CHALLENGEPERIOD,
    "validation/debt_ledger.json.gz": Document.DEBT_LEDGERS,
    "validation/eliminations.json": Document.ELIMINATIONS,
    "validation/emissions_ledger.json.gz": Document.EMISSIONS_LEDGERS,
    "validation/entities.json": Document.ENTITIES,
    "validation/miner_account_sizes.json": Document.ACCOUNT_SIZES,
    "validation/penalty_ledger.json.gz": Document.PENALTY_LEDGERS,
    "validation/perf_ledgers.json.gz": Document.PERF_LEDGERS,
    "runnable/minerstatistics.json": Document.STATISTICS,
}


def unpack(folder: Path) -> Path:
    """Unpacks the directory into the folder and returns its path."""
    with tarfile.open(DATA / "newest_directory.tar.gz") as archive:
        # The argument `filter` is unknown before Python 3.10.12 and 3.11.4, which ignore this attribute.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    return folder / "directory"


@lru_cache
def files() -> dict[str, bytes]:
    """Returns the directory's files by relative path, uncompressed."""
    packed = gzip.decompress((DATA / "newest_directory.tar.gz").read_bytes())
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                content = file.read()
                path = member.name.removeprefix("./directory/")
                found[path] = gzip.decompress(content) if path.endswith(".gz") else content
    return found


@lru_cache
def expected() -> dict[str, Any]:
    """Returns what the directory should answer."""
    found: dict[str, Any] = json.loads(gzip.decompress((DATA / "newest_checkpoint.json.gz").read_bytes()))
    return found


def changes() -> list[Change]:
    """Returns the directory as changes of a log."""
    found: list[Change] = []
    orders: dict[str, list[Any]] = {}
    archived: dict[str, list[Any]] = {}
    miners = set()
    for path, content in sorted(files().items()):
        if path in _DOCUMENTS:
            found.append(DocumentWritten(document=_DOCUMENTS[path], content=content))
        if not path.startswith("validation/miners/"):
            continue
        _, _, miner, kind, *rest = path.split("/")
        miners.add(miner)
        match kind, rest:
            case "positions", [_, _, _]:
                position, text = parse_position(content)
                found.append(PositionWritten(position=position, text=text))
            case "archived_positions", [_, _, _]:
                archived.setdefault(miner, []).append(json.loads(content))
            case "limit_orders", [pair, folder, _]:
                file = {"trade_pair_id": pair, "folder": folder, "order": json.loads(content)}
                orders.setdefault(miner, []).append(file)
            case "snapshots.jsonl", []:
                lines = [json.loads(line) for line in content.splitlines()]
                found.append(_document(Document.SNAPSHOTS, lines, miner))
    found += [_document(Document.LIMIT_ORDERS, listed, miner) for miner, listed in orders.items()]
    found += [_document(Document.ARCHIVED_POSITIONS, listed, miner) for miner, listed in archived.items()]
    return [*found, _document(Document.MINERS, sorted(miners))]


def _document(document: Document, value: Any, miner: str = "") -> DocumentWritten:
    return DocumentWritten(document=document, content=json.dumps(value).encode(), miner_hotkey=miner)
