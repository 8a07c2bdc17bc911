"""Makes log_0_1_0.zip with the code and the test helpers of version 0.1.0 (see README.md).

The archive contains a validator's directory, the data directory that 0.1.0 made of it, and `expected.json`:
what 0.1.0 read from its log at the end.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ptn_api.event_log import open_reader, open_writer
from ptn_api.event_log.contract import Document, EventLog, EventLogWriter
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.run import run_intake
from tests.factories import EURUSD, MINER, OTHER_MINER, T0, order, position, uuid
from tests.intake.running import PERIODS
from tests.intake.validator_dir import ValidatorDir
from tests.waiting import until_async

THIRD_MINER = "5ThirdMinerHotkeyForTestsOnly1111111111111111111"
DAY = 86_400_000
QUOTE = {"source": "Tiingo_ws", "open": 100.0, "close": 100.0, "websocket": True, "lag_ms": 999}
_STARTED_MS = time.monotonic_ns() // 1_000_000


def now_ms() -> int:
    """The clock of the log: it begins at T0."""
    return T0 + time.monotonic_ns() // 1_000_000 - _STARTED_MS


def old(n: int, leverage: float = 0.1, **fields: Any) -> dict[str, Any]:
    """Order number n, five days before the log is created."""
    return order(n, leverage, at=now_ms() - 5 * DAY + n * 1_000) | fields


def new(n: int, leverage: float = 0.1, **fields: Any) -> dict[str, Any]:
    """Order number n, placed now."""
    return order(n, leverage, at=now_ms()) | fields


def refused_files() -> dict[str, dict[str, Any]]:
    """Positions of the third miner that 0.1.0 refuses, all of whose orders are old."""
    null_leverage = [old(110), old(111) | {"leverage": None, "value": 1_000.0, "quantity": 10.0}]
    whole_floats = old(140) | {"processed_ms": float(now_ms() - 5 * DAY)}
    bodies = {
        "null leverage": position(11, [old(110)]) | {"orders": null_leverage, "account_size": 10_000.0},
        "float in a price source": position(
            12, [old(120), old(121, price_sources=[QUOTE | {"start_ms": float(now_ms()), "lag_ms": 999.0}])]
        ),
        "null in price sources": position(13, [old(130, price_sources=[None, QUOTE])]),
        "whole floats": position(14, [whole_floats], open_ms=whole_floats["processed_ms"]),
        "cut short": position(15, [old(150), old(151)]),
    }
    return {name: body | {"miner_hotkey": THIRD_MINER} for name, body in bodies.items()}


async def main(folder: Path) -> None:
    """Runs 0.1.0's intake while the validator writes its files."""
    validator = ValidatorDir(folder / "validator")
    refused = refused_files()
    for body in refused.values():
        validator.write(body)
    cut_short = validator.file(refused["cut short"])
    cut_short.write_bytes(cut_short.read_bytes()[:200])
    lasting = [old(3)]
    validator.write(position(1, [old(1), old(2)]))
    validator.write(position(2, [old(4), old(5, 0.0)], miner=OTHER_MINER, closed=True))
    validator.write(position(3, lasting, trade_pair=EURUSD))
    validator.write(position(4, [old(6)]))
    validator.document("validation/eliminations.json", b'{"eliminations": []}')
    validator.document("validation/challengeperiod.json", b'{"testing": {}, "success": {}}')
    validator.document("validation/perf_ledgers.json", json.dumps({MINER: {"cps": [1] * 999}}).encode())
    validator.document("runnable/minerstatistics.json", b'{"data": []}')

    log = open_writer(folder / "data", clock=now_ms)
    stop = asyncio.Event()
    options = IntakeOptions(**PERIODS, data_dir=folder / "data", validator_dir=validator.path)
    intake = asyncio.create_task(
        run_intake(log=log, options=options, queue_fd=None, stop=stop, ready=lambda: None, clock=now_ms)
    )
    await until_async(lambda: log.source().invalid == len(refused))
    lasting += [new(31), new(32, -0.05)]
    validator.write(position(3, lasting, trade_pair=EURUSD))
    await announced(log, 2)
    validator.write(position(5, [new(51), new(52), new(53)], miner=OTHER_MINER))
    await announced(log, 5)
    # A synchronisation drops an order and inserts a late one.
    lasting[1] = lasting[1] | {"order_uuid": uuid(1033)}
    validator.write(position(3, lasting, trade_pair=EURUSD))
    await announced(log, 6)
    validator.delete(position(4, [old(6)]))
    await until_async(lambda: log.removed(0))
    (validator.path / "validation/challengeperiod.json").unlink()
    await until_async(lambda: log.document(Document.CHALLENGEPERIOD) is None)
    # Refused as well, but with orders placed since.
    body, quote = refused["float in a price source"], QUOTE | {"start_ms": float(now_ms())}
    closing = position(12, [*body["orders"], new(122, 0.0, price_sources=[quote])], closed=True)
    validator.delete(body)
    validator.write(closing | {"miner_hotkey": THIRD_MINER})
    validator.write(position(16, [new(160, price_sources=[quote]), new(161)], miner=THIRD_MINER))
    await until_async(lambda: log.source().invalid == len(refused) + 1)
    stop.set()
    await intake
    log.close()
    validator.write(refused["cut short"])


async def announced(log: EventLogWriter, n: int) -> None:
    await until_async(lambda: len(log.read(log.floor() - 1, 1_000)) == n)


def dump(log: EventLog) -> dict[str, Any]:
    """What the log says, in types of JSON."""
    return {
        "epoch": log.epoch,
        "created_ms": log.created_ms,
        "head": [log.head().sequence, log.head().revision],
        "floor": log.floor(),
        "oldest_revision": log.oldest_revision(),
        "counters": log.counters(),
        "events": [
            {
                "sequence": event.sequence,
                "revision": event.revision,
                "timestamp_ms": event.timestamp_ms,
                "miner_hotkey": event.miner_hotkey,
                "trade_pair": event.trade_pair,
                "order_uuid": event.order_uuid,
                "processed_ms": event.processed_ms,
                "n_orders": event.n_orders,
                "late": event.late,
                "position": event.text.json().decode(),
            }
            for event in log.read(log.floor() - 1, 1_000)
        ],
        "positions": [
            {
                "revision": logged.revision,
                "close_ms": logged.close_ms,
                "position": logged.text.json().decode(),
                "order_revisions": list(logged.order_revisions),
                "layout_revision": logged.layout_revision,
            }
            for logged in log.positions()
        ],
        "removed": [[it.miner_hotkey, it.position_uuid, it.revision] for it in log.removed(0)],
        "documents": {
            name: [log.document_revision(document), content.decode() if content is not None else None]
            for name, document in Document.__members__.items()
            if log.document_revision(document)
            for content in [log.document(document)]
        },
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(main(folder))
        reader = open_reader(folder / "data")
        (folder / "expected.json").write_text(json.dumps(dump(reader), indent=1))
        reader.close()
        shutil.make_archive(sys.argv[1].removesuffix(".zip"), "zip", folder)
