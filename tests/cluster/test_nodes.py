"""Two machines that serve one log: what clients see while one of them lags behind the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest

from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.mirror import PositionMirror
from ptn_api.client.rest import Retries
from ptn_api.client.stream import connect
from ptn_api.client.testing import quick_timing
from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.errors import BrokerError, LogUnusableError
from ptn_api.event_log import EventLog, open_reader
from ptn_api.process.metrics import METRICS, Samples, Sources
from tests.cluster.conftest import Cluster
from tests.event_log.reading import FIRST, NOW
from tests.factories import MINER, order, position, written
from tests.rest.serving import FakeClock, Served, filled_log, serving, some_changes
from tests.stream.live import KEY, LiveStream, running
from tests.waiting import until_async

LONG = 600_000
SHORT = 100
"""Waits for a copy that is behind: one that outlasts the test, and one that ends in it."""
REST_KEY = "k100"


class Reader:
    """A reader of a copy that counts how often it was asked whether it is behind."""

    def __init__(self, reader: EventLog) -> None:
        self._reader = reader
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def behind_ms(self) -> int | None:
        self.asked += 1
        return self._reader.behind_ms()


class Node(NamedTuple):
    """The second machine: a copy that follows when the test tells it to, and its stream."""

    cluster: Cluster
    reader: Reader
    live: LiveStream

    def append(self, *numbers: int) -> int:
        """Appends orders on the first machine; returns the head's sequence."""
        for n in numbers:
            head = self.cluster.writer.append([written(position(n, [order(n)]))], NOW)
        return head.sequence

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.live.port}"


@pytest.fixture
def reader(cluster: Cluster) -> Iterator[Reader]:
    cluster.copy.confirm()
    with contextlib.closing(open_reader(cluster.folder / "copy")) as reader:
        yield Reader(reader)


@contextlib.asynccontextmanager
async def node(cluster: Cluster, reader: Reader, wait_ms: int, **options: Any) -> AsyncIterator[Node]:
    log: Any = reader
    live = LiveStream(log=cluster.writer, reader=log)
    async with running(live, behind_wait_ms=wait_ms, **options):
        yield Node(cluster, reader, live)


# --- the stream -------------------------------------------------------------------------------------------


async def test_a_cursor_ahead_is_waited_for(cluster: Cluster, reader: Reader) -> None:
    """Of a client that was on the other machine before: once the copy has it, the client resumes."""
    async with node(cluster, reader, LONG) as there, there.live.client() as client:
        head = there.append(1, 2)
        login = asyncio.create_task(client.login(version=2, last_sequence=head, epoch=cluster.writer.epoch))
        await until_async(lambda: reader.asked > 1)
        assert not login.done()
        cluster.copy.confirm()
        assert (await login)["current_sequence"] == head
        await client.subscribe()
        assert (await client.next("resumed"))["after"] == head
        there.append(3)
        cluster.copy.confirm()
        assert [m["sequence"] for m in await client.messages(1)] == [head + 1]


@pytest.mark.parametrize("version", [1, 2])
async def test_a_copy_that_stays_behind(cluster: Cluster, reader: Reader, version: int) -> None:
    """Version 2 is sent away with 4007, version 1 continues at the head as on a single machine."""
    async with node(cluster, reader, SHORT) as there, there.live.client() as client:
        head = there.append(1)
        await client.send(api_key=KEY, version=version, last_sequence=head, epoch=cluster.writer.epoch)
        if version == 2:
            assert await client.close_code() == 4007
            assert there.live.counters.auth_failures == 0
        else:
            assert (await client.receive())["current_sequence"] == head - 1


@pytest.mark.parametrize("version", [1, 2])
async def test_a_number_from_elsewhere(cluster: Cluster, reader: Reader, version: int) -> None:
    """Is answered as on a single machine, once the copy was complete after the client came."""
    async with node(cluster, reader, LONG) as there, there.live.client() as client:
        head = there.append(1)
        login = asyncio.create_task(
            client.login(version=version, last_sequence=head + 5, epoch=cluster.writer.epoch)
        )
        await until_async(lambda: reader.asked > 0)
        while not login.done():
            cluster.copy.confirm()
            await asyncio.sleep(0.01)
        assert (await login)["current_sequence"] == head
        if version == 2:
            await client.subscribe()
            assert (await client.next("resume_failed"))["reason"] == "future"


async def test_other_cursors_do_not_wait(cluster: Cluster, reader: Reader) -> None:
    """Of another log, or at the head: the broker may be unreachable for long."""
    async with node(cluster, reader, LONG) as there:
        cluster.broker.down = True
        head = reader.head().sequence
        for epoch, wanted in (("other", head + 5), (cluster.writer.epoch, head), ("", -1)):
            async with there.live.client() as client:
                await client.login(version=2, last_sequence=wanted, epoch=epoch)
    assert reader.asked == 0


@pytest.mark.parametrize("wait_ms", [SHORT, LONG])
async def test_a_mirrors_revision_ahead(cluster: Cluster, reader: Reader, wait_ms: int) -> None:
    """Is waited for as a sequence is, at the subscribe; frames behind it are answered in order."""
    async with node(cluster, reader, wait_ms) as there, there.live.client() as client:
        sequence = reader.head().sequence
        await client.login(version=2, last_sequence=sequence, epoch=cluster.writer.epoch)
        there.append(1)
        revision = cluster.writer.head().revision
        await client.send(type="subscribe", all=True, updates=True, format="delta", revision=revision)
        await client.send(type="ping", timestamp=7)
        if wait_ms == SHORT:
            assert await client.close_code() == 4007
            return
        await until_async(lambda: reader.asked > 1)
        cluster.copy.confirm()
        assert (await client.next("subscription_status"))["status"] == "success"
        assert (await client.next("resumed"))["after"] == sequence
        await client.next("pong")


async def test_the_client_comes_back_until_the_copy_has_its_cursor(cluster: Cluster, reader: Reader) -> None:
    """It gets each order once, in order, and reports no gap."""
    store = NoCursorFile()
    options: Any = {"timing": quick_timing(), "cursor_store": store, "on_gap": pytest.fail}
    async with node(cluster, reader, SHORT) as there, running(LiveStream(log=cluster.writer)) as first:
        async with connect(f"ws://127.0.0.1:{first.port}", KEY, **options) as stream:
            await until_async(lambda: stream.state == "live")
            there.append(1, 2)
            seen = [(await anext(stream)).sequence for _ in range(2)]
            stream.commit()
        there.append(3)
        async with connect(there.url, KEY, **options) as stream:
            await until_async(lambda: there.live.counters.closed[4007] > 1)
            cluster.copy.confirm()
            seen.append((await anext(stream)).sequence)
            there.append(4)
            cluster.copy.confirm()
            seen.append((await anext(stream)).sequence)
    assert seen == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]


# --- REST -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def rest(log: Any, **options: Any) -> AsyncIterator[Served]:
    async with serving(log, clock=FakeClock(NOW), **options) as served:
        yield served


def targets(cluster: Cluster) -> list[str]:
    """Requests with a cursor at the first machine's head."""
    head, epoch = cluster.writer.head(), cluster.writer.epoch
    return [
        f"/miner-positions?since={epoch}:{head.revision}",
        f"/messages?after={head.sequence}&epoch={epoch}",
        f"/messages?after={head.sequence}",
        f"/messages?after={head.sequence}&trade_pair=BTCUSD",
    ]


def append(cluster: Cluster, *numbers: int) -> None:
    for n in numbers:
        cluster.writer.append([written(position(n, [order(n)]))], NOW)


@pytest.mark.parametrize("target", range(4))
async def test_a_request_with_a_cursor_ahead_is_waited_for(
    cluster: Cluster, reader: Reader, target: int
) -> None:
    """Then it is answered as on the machine that the cursor is from."""
    async with rest(reader, behind_wait_ms=LONG) as served:
        append(cluster, 1)
        waiting = asyncio.create_task(served.get(targets(cluster)[target]))
        await until_async(lambda: reader.asked > 1)
        assert not waiting.done()
        cluster.copy.confirm()
        assert (await waiting).status_code == 200


@pytest.mark.parametrize("target", range(4))
async def test_a_request_to_a_copy_that_stays_behind(cluster: Cluster, reader: Reader, target: int) -> None:
    """It is a 503 that may be repeated, never a 410; a number from elsewhere is one in the end."""
    async with rest(reader, behind_wait_ms=SHORT) as served:
        append(cluster, 1)
        ahead = targets(cluster)[target]
        response = await served.get(ahead)
        assert (response.status_code, response.json()["code"]) == (503, "behind")
        assert response.headers["retry-after"] == "2"
        assert (await served.ask("HEAD", ahead)).status_code == 503
        cluster.copy.confirm()
        assert (await served.get(ahead)).status_code == 200
    async with rest(reader, behind_wait_ms=LONG) as served:
        cluster.writer.append([written(position(1, [order(1), order(2)]))], NOW)
        ahead = targets(cluster)[target]
        cluster.broker.entries.pop()
        reader.asked = 0
        waiting = asyncio.create_task(served.get(ahead))
        await until_async(lambda: reader.asked > 0)
        while not waiting.done():
            cluster.copy.confirm()
            await asyncio.sleep(0.01)
        assert (await waiting).json()["code"] == "gone"


async def test_requests_that_wait_for_a_copy_take_no_place(cluster: Cluster, reader: Reader) -> None:
    """Expensive requests of the same user are answered meanwhile."""
    async with rest(reader, behind_wait_ms=LONG, heavy_requests=1, heavy_requests_per_user=1) as served:
        append(cluster, 1)
        waiting = [asyncio.create_task(served.get(target)) for target in targets(cluster)]
        await until_async(lambda: reader.asked > 3)
        assert (await served.get("/miner-positions?status=open")).status_code == 200
        assert not any(task.done() for task in waiting)
        cluster.copy.confirm()
        assert {(await task).status_code for task in waiting} == {200}


async def test_a_mirror_waits_for_a_copy_that_is_behind(cluster: Cluster, reader: Reader) -> None:
    """Repairing itself, it takes no older snapshot."""
    async with (
        node(cluster, reader, SHORT, heartbeat_ms=100) as there,
        rest(reader, behind_wait_ms=SHORT) as served,
    ):
        there.live.keys.replace([("alice", REST_KEY, 100)])
        append(cluster, 1)
        cluster.copy.confirm()
        options: Any = {"timing": quick_timing(), "mend_within": 0.0, "retries": Retries(times=0)}
        async with PositionMirror(there.url, served.url, REST_KEY, **options) as mirror:
            await mirror.until_verified()
            append(cluster, 2)
            mirror._set_revision(cluster.writer.head().revision)
            asked = reader.asked
            loading = asyncio.create_task(mirror._load_changes())
            await until_async(lambda: reader.asked > asked + 3)
            assert not loading.done()
            cluster.copy.confirm()
            assert await loading
            await until_async(lambda: len(mirror) == 2)


async def test_two_copies_serve_the_same(cluster: Cluster, reader: Reader) -> None:
    """ETags and freshness headers are equal; a 304 and a cursor hold across machines."""
    cluster.writer.append([*some_changes()], NOW)
    cluster.standby.follow()
    cluster.copy.confirm()
    with contextlib.closing(open_reader(cluster.folder / "standby")) as other:
        async with rest(reader) as here, rest(other) as there:
            for path in (
                "/miner-positions",
                "/miner-positions?tier=50",
                "/miner-positions?tier=0",
                f"/miner-positions/{MINER}",
                "/statistics",
                "/eliminations",
                "/miner-hotkeys",
                "/miner-positions?status=open",
            ):
                for coding in ("identity", "gzip"):
                    ours = await here.get(path, accept_encoding=coding)
                    theirs = await there.get(path, accept_encoding=coding)
                    assert ours.status_code == theirs.status_code == 200
                    assert ours.content == theirs.content
                    same = ("etag", "x-ptn-epoch", "x-ptn-sequence", "x-ptn-revision", "x-ptn-as-of")
                    assert [ours.headers.get(name) for name in same] == [
                        theirs.headers.get(name) for name in same
                    ]
                    again = await there.get(path, accept_encoding=coding, if_none_match=ours.headers["etag"])
                    assert again.status_code == 304
            cursor = (await here.get("/miner-positions")).headers
            since = f"/miner-positions?since={cursor['x-ptn-epoch']}:{cursor['x-ptn-revision']}"
            append(cluster, 77)
            cluster.standby.follow()
            cluster.copy.confirm()
            revision = str(cluster.writer.head().revision)
            for served in (here, there):

                async def is_current(served: Served = served) -> bool:
                    return (await served.get("/miner-positions")).headers["x-ptn-revision"] == revision

                await served.until(is_current)
            ours, theirs = await here.get(since), await there.get(since)
            assert ours.json()["positions"] == theirs.json()["positions"] != {}


# --- what a machine reports of itself ---------------------------------------------------------------------


async def test_a_copy_that_is_behind_is_reported(cluster: Cluster, reader: Reader) -> None:
    """`cluster_behind` makes /health a 503 until the copy was complete again, also right after a start."""
    cluster.broker.down = True
    async with rest(reader, behind_ms=SHORT) as served:

        async def problems() -> list[str]:
            response = await served.get("/health")
            found: list[str] = response.json()["problems"]
            assert response.status_code == (503 if "cluster_behind" in found else 200)
            return found

        async def is_behind() -> bool:
            return "cluster_behind" in await problems()

        await served.until(is_behind)
        cluster.broker.down = False
    async with rest(reader, behind_ms=LONG) as served:
        cluster.copy.confirm()
        assert "cluster_behind" not in await problems()
        cluster.copy.prepare()  # as at the start of the process that follows
        assert "cluster_behind" in await problems()


async def test_health_names_the_copys_place(cluster: Cluster, reader: Reader) -> None:
    """And whether this machine writes; a single machine has no such object."""
    cluster.standby.take_over()
    cluster.copy.confirm()
    cluster.writer.confirm()
    index = cluster.broker.last()
    with (
        contextlib.closing(open_reader(cluster.folder / "standby")) as active,
        contextlib.closing(open_reader(cluster.folder / "writer")) as former,
    ):
        for log, writes in ((reader, False), (active, True), (former, False)):
            async with rest(log, node_name="here") as served:
                health = (await served.get("/health")).json()["cluster"]
                behind_ms = health.pop("behind_ms")
                assert health == {"index": index, "term": 2, "writes": writes, "node": "here"}
                assert (behind_ms is None) == (log is active)
    async with serving() as served:
        assert (await served.get("/health")).json()["cluster"] is None


def test_metrics_of_a_copy(cluster: Cluster, reader: Reader) -> None:
    """In the processes that know them; a single machine has no samples."""

    def samples(sources: Sources, process: str) -> Samples:
        metrics = [metric for metric in METRICS if metric.name.startswith("ptn_cluster")]
        return {metric.name: metric.samples(sources) for metric in metrics if process in metric.processes}

    log: Any = reader
    found = samples(Sources(None, log), "rest")
    assert found["ptn_cluster_index"] == [([], cluster.broker.last())]
    assert found["ptn_cluster_term"] == [([], 1.0)]
    assert found["ptn_cluster_active"] == [([], 0.0)]
    assert len(found["ptn_cluster_behind_seconds"]) == 1
    cluster.copy.prepare()
    assert samples(Sources(None, log), "rest")["ptn_cluster_behind_seconds"] == []
    cluster.copy.snapshot_ms = 1
    found = samples(Sources(None, copy=cluster.copy), "copy")
    assert found["ptn_cluster_commits_total"] == [(["counts"], 2.0)]
    ((_, age_s),) = found["ptn_cluster_snapshot_age_seconds"]
    assert isinstance(age_s, float)
    assert age_s > 1e9
    assert not any(samples(Sources(None, filled_log()), "rest").values())
    assert not any(samples(Sources(None), "copy").values())


def test_an_unreachable_broker_is_reported(cluster: Cluster) -> None:
    """`cluster_unreachable`, from the first attempt that fails to the first that does not."""
    cluster.copy.confirm()
    assert not any(cluster.copy.findings.values())
    cluster.broker.down = True
    with pytest.raises(BrokerError):
        cluster.copy.confirm()
    assert cluster.copy.findings["cluster_unreachable"]
    cluster.broker.down = False
    cluster.copy.confirm()
    assert not any(cluster.copy.findings.values())


def test_a_wrong_clock_is_reported(cluster: Cluster) -> None:
    """`cluster_clock_skew`, of more than a second in either direction."""
    for skew_ms, reported in ((None, False), (1_000, False), (1_001, True), (-1_001, True)):
        cluster.copy.clock_skew_ms = skew_ms
        assert cluster.copy.findings["cluster_clock_skew"] == reported


def test_a_broker_with_other_commits_is_reported(cluster: Cluster) -> None:
    """`cluster_forked`: of another cluster, or restored from a backup and written since."""
    append(cluster, 1)
    cluster.copy.confirm()
    cluster.broker.entries.pop()
    cluster.standby.take_over()
    cluster.standby.append([written(position(2, [order(2)]))], NOW)
    for _ in range(2):
        with pytest.raises(LogUnusableError, match="backup"):
            cluster.copy.confirm()
        assert cluster.copy.findings["cluster_forked"]


def test_a_broker_that_lost_commits_is_reported(cluster: Cluster) -> None:
    """`cluster_forked` once it lasts: a server that lags has less than a copy for a while, too."""
    append(cluster, 1)
    now = FakeClock(1_000)
    copy = open_copy(cluster.folder / "late", cluster.broker, Copy, monotonic=now)
    copy.confirm()
    lost = cluster.broker.entries.pop()
    for seconds, forked in ((1, False), (30, False), (61, True)):
        now.now_ms = 1_000 * (1 + seconds)
        assert not copy.confirm()
        assert copy.findings["cluster_forked"] == forked
    cluster.broker.entries.append(lost)
    assert copy.confirm()
    assert not copy.findings["cluster_forked"]
    copy.close()
