"""Intake with a log of version 0.1.0 and files that 0.1.0 refused (tests/data/README.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.data.make_log_0_1_0 import THIRD_MINER
from tests.factories import uuid
from tests.intake.running import running

ARCHIVE = Path(__file__).parents[1] / "data/log_0_1_0.zip"


async def test_files_that_0_1_0_refused_announce_no_old_order(tmp_path: Path) -> None:
    """Their orders from before the log's creation become state; those placed since are announced, late."""
    shutil.unpack_archive(ARCHIVE, tmp_path)
    known = json.loads((tmp_path / "expected.json").read_text())
    files = [path for path in (tmp_path / "validator/validation/miners").rglob("*") if path.is_file()]
    async with running(tmp_path / "data", validator_dir=tmp_path / "validator") as intake:
        await intake.swept()
        events = intake.events()
        assert intake.log.source().invalid == 0
        assert intake.log.epoch == known["epoch"]
        before, after = events[: len(known["events"])], events[len(known["events"]) :]
        assert [event.sequence for event in before] == [event["sequence"] for event in known["events"]]
        assert sorted(event.order_uuid for event in after) == [uuid(1122), uuid(1160), uuid(1161)]
        assert all(event.late and event.miner_hotkey == THIRD_MINER for event in after)
        bodies = [json.loads(path.read_bytes()) for path in files]
        state = intake.state()
        assert set(state) == {(body["miner_hotkey"], body["position_uuid"]) for body in bodies}
        unseen = [
            order["order_uuid"]
            for key, body in state.items()
            for order in body["orders"]
            if not intake.log.seen(key[0], [order["order_uuid"]])
        ]
        assert unseen == []
