"""A validator's hour of file changes, played fast: each order is announced once, and nothing else is."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from ptn_api.clock import wall_ms
from ptn_api.event_log import open_reader
from ptn_api.simulator.journal import Dropped, OpenFileDeleted, Placed, Removed, Written
from ptn_api.simulator.options import Network, SimulatorOptions
from ptn_api.simulator.simulator import Simulator
from tests.system.api import api
from tests.system.follower import Follower
from tests.waiting import until

OPTIONS = SimulatorOptions(
    seed=7,
    miners=12,
    positions=10,
    orders_per_minute=20,
    corrections_per_minute=6,
    bursts_per_hour=30,
    liquidations_per_day=100,
    eliminations_per_day=50,
    new_miners_per_day=100,
    synchronise_ms=600_000,
)


@pytest.mark.parametrize("network", get_args(Network))
def test_an_hour_announces_every_order_exactly_once(
    tmp_path: Path, keys: dict[int, str], network: Network
) -> None:
    """Refreshes, corrections, closes, synchronisations, splits and liquidations announce nothing."""
    simulator = Simulator(tmp_path / "validator", msgspec.structs.replace(OPTIONS, network=network))
    simulator.prepare(wall_ms())
    must: list[str] = []
    may: set[str] = set()
    # Orders of a position whose open file was deleted and whose closed file is not written yet.
    half_closed: dict[str, list[str]] = {}
    with (
        api(tmp_path / "data", validator_dir=tmp_path / "validator") as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        begun_ms = wall_ms()
        simulator.skip_to(begun_ms)
        with closing(open_reader(tmp_path / "data")) as log:
            created_ms = log.created_ms  # orders until then are no events, such as those of a synchronisation
        for minute in range(60):
            placed: dict[str, list[str]] = {}
            for action in simulator.step(begun_ms + (minute + 1) * 60_000):
                match action:
                    case Placed() if action.processed_ms > created_ms:
                        must.append(action.order_uuid)
                        placed.setdefault(action.position_uuid, []).append(action.order_uuid)
                    case Dropped():
                        may.add(action.order_uuid)
                    case OpenFileDeleted():
                        half_closed[action.position_uuid] = placed.get(action.position_uuid, [])
                    case Written():
                        half_closed.pop(action.position_uuid, None)
                    case Removed():  # placed and removed within one step: intake may not have read it
                        may.update(placed.get(action.position_uuid, ()))
            hidden = {uuid for uuids in half_closed.values() for uuid in uuids}
            until(lambda: set(must) - may - hidden <= set(follower.order_uuids))  # noqa: B023 - called at once
        may |= hidden
        simulator.close()
        assert len(must) > 1_000
        assert set(follower.order_uuids) - may == set(must) - may
        assert set(follower.order_uuids) <= set(must) | may
        assert len(follower.order_uuids) == len(set(follower.order_uuids))
        assert follower.sequences == list(
            range(follower.sequences[0], follower.sequences[0] + len(follower.sequences))
        )
