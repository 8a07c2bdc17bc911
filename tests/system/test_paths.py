"""How many files a newcomer opens to follow one order through the system."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ptn_api.client.stream import connect
from ptn_api.event_log import open_reader
from tests.factories import order, position
from tests.intake.running import WATCH_ALONE
from tests.intake.running import running as running_intake
from tests.intake.validator_dir import ValidatorDir
from tests.stream.live import KEY, LiveStream
from tests.stream.live import running as running_stream
from tests.tracing import files_executed
from tests.waiting import until_async

MOST_FILES = 32


async def test_an_order_passes_few_files_on_its_way_to_the_handler(tmp_path: Path) -> None:
    """From the changed file to the client's loop, with intake, stream and client in one process.

    The package's leaves (`clock.py` and the like) do not count.
    """
    validator = ValidatorDir(tmp_path / "validator")
    with files_executed() as files:
        async with running_intake(tmp_path / "data", validator, **WATCH_ALONE) as intake:
            with closing(open_reader(tmp_path / "data")) as reader:
                live = LiveStream(log=intake.log, reader=reader, ready=False)
                async with (
                    running_stream(live, heartbeat_ms=60_000),
                    connect(f"ws://127.0.0.1:{live.port}", KEY, state_dir=tmp_path) as stream,
                ):
                    await until_async(lambda: stream.state == "live")  # a first login begins at the head
                    orders = [order(1)]
                    validator.write(position(1, orders))
                    await anext(stream)
                    paths = []
                    for number in range(2, 7):
                        files.clear()
                        orders.append(order(number))
                        validator.write(position(1, orders))
                        message = await anext(stream)
                        assert message.new_order.order_uuid == orders[-1]["order_uuid"]
                        paths.append(sorted(file for file in files if "/" in file))
    passed = min(paths, key=len)  # periodic work may run meanwhile
    assert len(passed) <= MOST_FILES, passed
