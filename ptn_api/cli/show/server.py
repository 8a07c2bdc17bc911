"""`ptn me` and `ptn health`: what a server knows about your key, and about itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.cli.client import fetch, open_client, rest_url
from ptn_api.cli.row_options import View
from ptn_api.cli.show.table import (
    COUNT,
    DAY_AND_TIME,
    Column,
    Table,
    format_time,
    print_document,
    print_table,
)
from ptn_api.client import calls
from ptn_api.problems import PROBLEMS
from ptn_api.summary import counted, wrapped
from ptn_api.wire.about import Health, Me

__all__ = ["run_health", "run_me"]


def run_me(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    """Prints what the server knows about the key, but never the key: in words, piped as field and value."""
    with open_client(url, api_key_file) as client:
        body, me = fetch(client, calls.me())
    if as_json:
        print_document(body)
    elif sys.stdout.isatty():
        for sentence in _sentences(me, rest_url(url)):
            print(wrapped(sentence, sys.stdout))
    else:
        fields = {"server": rest_url(url)} | dict(_flat(msgspec.to_builtins(me)))
        print("\n".join(f"{name}\t{'' if value is None else value}" for name, value in fields.items()))


_TIERS = {
    100: "everything, live",
    50: "half of the positions live, the others 24 hours late",
    30: "30 % of the positions live, the others 24 hours late",
    0: "everything, 24 hours late",
}


def _sentences(me: Me, server: str) -> Iterator[str]:
    seen = next(text for tier, text in _TIERS.items() if me.tier >= tier)
    yield f"You are {me.alias!r}, with tier {me.tier:g}: {seen}."
    if me.expires_ms is None:
        yield "Your key does not expire."
    else:
        days = (me.expires_ms / 1000 - time.time()) / 86_400
        yield f"Your key expires at {format_time(me.expires_ms)} UTC, in {days:.0f} days."
    connections, requests = me.limits.websocket_connections, me.limits.requests_per_minute
    stream = "any number of" if connections is None else connections or "no"
    yield (
        f"You may have {stream} connections to the stream, and make {requests or 'any number of'} requests "
        "per minute."
    )
    yield f"Server: {server}" + (f", version {me.version}." if me.version else "")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The fields of nested objects, with names like `limits.connections`."""
    fields: list[tuple[str, Any]] = []
    for name, value in values.items():
        fields += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return fields


# --- health -----------------------------------------------------------------------------------------------

_STATES = {
    "ok": "is well",
    "degraded": "works and serves what is right, but has a problem",
    "starting": "is starting",
    "failing": "cannot do its work",
}
_PROBLEM_COLUMNS = (
    Column("code", "problem"),
    Column("severity", "severity"),
    Column("since", "since (UTC)", DAY_AND_TIME),
    Column("count", "count", COUNT),
    Column("problem", "what"),
    Column("remedy", "remedy"),
)


def run_health(url: str | None, view: View) -> bool:
    """Prints the server's health in words, or its problems as rows. Returns whether all is well."""
    with open_client(url, None, key_required=False) as client:
        body, health = fetch(client, calls.health())
    if view.output == "table":
        for line in _description(health, rest_url(url)):
            indent = "  " if line.startswith(("- ", "  ")) else ""
            print(wrapped(line, sys.stdout, indent=indent))
    else:
        print_table(Table(_PROBLEM_COLUMNS, [*_problem_rows(health)], "problems"), view, body=body)
    return health.status == "ok"


def _problem_rows(health: Health) -> Iterator[Sequence[Any]]:
    for code in health.problems:
        trouble = health.details.get(code)
        known = PROBLEMS.get(code)  # type: ignore[call-overload]  # a newer server may have others
        since, count = (None, None) if trouble is None else (trouble.since_ms, trouble.count)
        sentences: tuple[str | None, ...] = (None, None, None)
        if known is not None:
            remedy = known.remedy_for(cluster=health.cluster is not None)
            sentences = (known.severity, known.sentence, remedy)
        yield (code, sentences[0], since, count, *sentences[1:])


def _description(health: Health, server: str) -> Iterator[str]:
    yield f"{server} {_STATES.get(health.status, health.status)}."
    for code, _, since, count, sentence, remedy in _problem_rows(health):
        things = getattr(PROBLEMS.get(code), "counted", "")
        facts = [
            counted(count, things) if count is not None else "",
            f"since {format_time(since)} UTC" * bool(since),
        ]
        told = sentence or "unknown to this version"
        yield f"- {code} ({', '.join(filter(None, facts))}): {told}.".replace("`", "")
        yield f"  Remedy: {remedy or 'see the documentation of the server'}.".replace("`", "")
    if health.processes:
        yield "Processes: " + ", ".join(f"{name} {state}" for name, state in health.processes.items()) + "."
    source = health.source
    if source.swept_ms is not None:
        seconds = max(0, time.time() - source.swept_ms / 1000)
        watched = "watched for changes" if source.watching else "not watched, so read every second"
        yield f"Validator's files: last read {seconds:.0f} s ago, {watched}."
    if source.stale:
        yield f"What is served may differ from the validator's files ({source.reason})."
    states = [
        (health.log.ready, "complete", "not complete"),
        (health.log.writable, "writable", "not writable"),
    ]
    yield f"Event log: {' and '.join(good if state else bad for state, good, bad in states)}."
    if health.key_file.left_out:
        entries = counted(health.key_file.left_out, "entries")
        yield f"Key file: {entries} cannot be used (ptn keys check)."
    if (cluster := health.cluster) is not None:
        behind = "unknown" if cluster.behind_ms is None else f"{cluster.behind_ms} ms"
        role = "it writes" if cluster.writes else "it follows"
        yield f"Cluster: machine {cluster.node or '-'}, {role}; term {cluster.term}, behind {behind}."
