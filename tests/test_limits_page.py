"""The page of limits: complete, true to the code, and each bound tested."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import pytest

from ptn_api.http.errors import STATUS
from ptn_api.problems import PROBLEMS
from ptn_api.process.metrics import METRICS
from ptn_api.process.settings import SETTINGS
from ptn_api.wire.close_codes import CLOSE_CODES, STANDARD_CODES
from tests.test_docs import ROOT, generator

LIMITS = generator("make_limits")
BOUNDS = [bound for bounds in LIMITS.SECTIONS.values() for bound in bounds]
NOT_A_BOUND = {
    "netuid",
    "overload_ms",
    "demo_seed",
    "demo_miners",
    "demo_positions",
    "demo_orders_per_minute",
    "replicas",
    "snapshot_bytes",
    "stream_processes",
}


INTERNAL = {
    # Names of a bound, but nothing that a client, file or operator could meet.
    "ptn_api.http.connection:_MAX_CREDIT_BYTES",  # of the minimum rate
    "ptn_api.http.request:_MAX_REPEATED_BYTES",  # of a shortcut
    "ptn_api.intake.position_files:_LONGEST_REASON",  # of a log line
    "ptn_api.intake.position_files:_MAX_RETRIES",  # the next sweep tries the others
    "ptn_api.rest.accounts:_MOST_SNAPSHOTS",  # as many as are kept
    "ptn_api.fanout.catch_up:MAX_PART_EVENTS",  # the next part has the others
    "ptn_api.fanout.logins:MAX_DELAY_FACTOR",  # of the delay, whose text has it
    "ptn_api.stream.server:_LONGEST_HEADER",  # of the protocol, as the next
    "ptn_api.stream.server:_MAX_CLOSE_CODE",
    "ptn_api.stream.server:_MOST_IGNORED_FRAMES",  # of a connection that is closed anyway
}


@lru_cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_page_matches_the_code() -> None:
    """`make descriptions` regenerates it."""
    assert (ROOT / "docs" / "limits.md").read_text() == LIMITS.limits()


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.what)
def test_a_bound_is_tested_and_seen(bound: object) -> None:
    """By tests that exist, and in metrics, problems, codes and statuses that exist."""
    assert bound.tests  # type: ignore[attr-defined]
    for test in bound.tests:  # type: ignore[attr-defined]
        file, _, name = test.partition("::")
        assert name in names_in(file), test
    text = f"{bound.beyond} {bound.seen_in}"  # type: ignore[attr-defined]
    metrics = {metric.name: metric.all_labels for metric in METRICS}
    for name, label in re.findall(r"\b(ptn_\w+)(?:\{(\w+)=)?", text):
        assert name in metrics
        assert not label or label in metrics[name]
    assert set(re.findall(r"\bproblem (\w+)", text, re.IGNORECASE)) <= {*PROBLEMS}
    codes = {int(code) for code in re.findall(r"with (\d{4})\b", text)}
    assert codes <= {*CLOSE_CODES} | {code.code for code in STANDARD_CODES.values()}
    for status, code in re.findall(r"\b(\d{3}) `(\w+)`", text):
        assert STATUS[code] == int(status)


def test_every_setting_that_is_a_bound_is_on_the_page() -> None:
    """Those of the section Limits, sizes, numbers and timeouts."""
    listed = {bound.source for bound in BOUNDS}
    bounds = {name for name, s in SETTINGS.items() if s.section == "Limits" or s.unit in ("BYTES", "N")}
    assert bounds - NOT_A_BOUND <= listed
    assert {name for name in SETTINGS if name.endswith("timeout_ms")} <= listed


def test_every_constant_with_the_name_of_a_bound_is_on_the_page() -> None:
    """`_MAX_...`, `MOST_...`, `LONGEST_...` and `..._LIMIT` of the packages that take input from outside."""
    named = re.compile(r"^(_?(?:MAX|MOST|LONGEST)_\w+|_?\w+_LIMIT)(?:: \w+)? =", re.MULTILINE)
    found = {
        f"ptn_api.{package}.{path.stem}:{name}"
        for package in ("access", "fanout", "http", "intake", "rest", "stream", "wire")
        for path in (ROOT / "ptn_api" / package).glob("*.py")
        for name in named.findall(path.read_text())
    }
    listed = {bound.source for bound in BOUNDS}
    assert found - listed == INTERNAL
