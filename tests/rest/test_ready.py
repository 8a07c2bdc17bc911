"""`/ready`: whether a load balancer should send clients to this machine."""

from __future__ import annotations

import json

import pytest

from ptn_api.problems import Code, SingleProcess, Trouble, Troubles
from ptn_api.rest.app import App
from ptn_api.rest.context import AppContext
from ptn_api.rest.options import RestOptions
from ptn_api.rest.routes import ROUTES
from tests.memory_log import MemoryLog
from tests.rest.serving import NOW, FakeClock, filled_log, key_ring, respond


class Others(SingleProcess):
    """What the other processes report."""

    def __init__(self) -> None:
        self.found: Troubles = {}
        self.up: dict[str, bool] = {}
        self.ends = False

    def problems(self) -> Troubles:
        return self.found

    def processes(self) -> dict[str, bool]:
        return self.up

    def stopping(self) -> bool:
        return self.ends


def over(log: MemoryLog, others: Others) -> tuple[AppContext, App]:
    context = AppContext.over(log, FakeClock(), RestOptions(), others=others)
    return context, App(context, key_ring(), ROUTES)


async def answer(app: App) -> tuple[int, str]:
    response = await respond(app, "/ready")
    content = json.loads(response.body)
    assert content["ready"] == (response.status == 200)
    assert content.keys() <= {"ready", "reason"}
    assert response.headers["cache-control"] == "no-store"
    return response.status, content.get("reason", "")


@pytest.mark.parametrize(
    ("problems", "reason"),
    [
        ([], ""),
        (["cluster_behind"], "cluster_behind"),
        (["cluster_behind", "cluster_unreachable"], "cluster_behind"),
        (["cluster_behind", "cluster_leaderless"], ""),
        (["cluster_leaderless"], ""),
        (["cluster_behind", "cluster_leaderless", "cluster_forked"], "cluster_forked"),
        (["log_unreadable"], "log_unreadable"),
        (["source_stale", "root_missing"], ""),
        (["source_silent"], ""),
        (["log_unwritable"], ""),
        (["mass_removal"], ""),
        (["memory_near_limit"], ""),
    ],
)
async def test_what_counts(problems: list[Code], reason: str) -> None:
    """Not what concerns all machines alike, nor what does not keep this one from serving."""
    others = Others()
    context, app = over(filled_log(), others)
    await context.follower.catch_up()
    others.found = {code: Trouble(NOW) for code in problems}
    assert await answer(app) == ((503, reason) if reason else (200, ""))


async def test_processes_and_stop() -> None:
    """Clients of the stream come here as well. When the server stops, they go elsewhere at once."""
    others = Others()
    context, app = over(filled_log(), others)
    await context.follower.catch_up()
    others.up = {"intake": False, "rest": True, "stream-1": True, "stream-2": True}
    assert await answer(app) == (200, "")
    others.up["stream-2"] = False
    assert await answer(app) == (503, "process_down")
    others.up["stream-2"] = True
    others.ends = True
    assert await answer(app) == (503, "stopping")


async def test_a_start() -> None:
    """Not ready before the baseline is complete and the documents are built."""
    log = MemoryLog(created_ms=NOW)
    context, app = over(log, Others())
    assert await answer(app) == (503, "starting")
    log.baseline([], NOW)
    assert await answer(app) == (503, "starting")
    await context.follower.catch_up()
    assert await answer(app) == (200, "")
