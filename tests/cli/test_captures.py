"""Every command on a terminal of 80 columns: no line is wider, so the terminal wraps none."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from typing import Any

import typer.main

from ptn_api.cli.app import app
from tests.answering import answering
from tests.cli.ptn import Ptn
from tests.cli.test_client_commands import ENTITY, MINER
from tests.live import Live

COLUMNS = 80
COMMANDS = (
    "top",
    "positions",
    "positions --status closed --limit 5",
    "positions --status all --limit 5",
    "orders --limit 5",
    "stats",
    "eliminations",
    "trade-pairs",
    "me",
    "health",
    "stream --count 3",
    "replay --to {now}",
    "keys list --api-keys-file {keys} --data-dir .",
    "positions --trade-pair BTCUSDX",
    "miner nobody",
)
OF_TODAY = (
    f"miner {MINER}",
    "top",
    "positions --status all",
    f"limit-orders {MINER}",
    f"limit-orders {MINER} --cancelled",
    "ledger debt",
    f"account {MINER} --limit 2",
    "collateral",
    f"challenge-period {MINER}",
    "selections",
    "entities",
    f"entities {ENTITY}",
    "eliminations",
    "stats",
)


def commands_of(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command, by its words."""
    found = {}
    for name, command in group.commands.items():
        found[f"{prefix}{name}"] = command
        if hasattr(command, "commands"):
            found |= commands_of(command, f"{prefix}{name} ")
    return found


EVERY = commands_of(typer.main.get_command(app))
HELP = [f"{words} --help" for words in ("", *EVERY)]


def test_every_command_that_prints_rows_is_here() -> None:
    """A new one belongs into the list. (Those of a cluster need one.)"""
    rows = {
        words.split()[0] for words, command in EVERY.items() if "wide" in {p.name for p in command.params}
    }
    assert rows - {"cluster"} <= {words.split()[0] for words in (*COMMANDS, *OF_TODAY)}


def test_no_line_is_wider_than_the_terminal(ptn: Ptn, live: Live, of_today: dict[str, str]) -> None:
    """Against servers with data of the simulator and of a validator of today."""
    given = {"keys": live.keys_file, "now": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    commands = [words.format(**given) for words in COMMANDS]
    shown = dict(zip(commands, ptn.captures(commands, columns=COLUMNS), strict=True))
    today = Ptn(ptn.home, ptn.environment | of_today)
    shown |= {
        f"today: {w}": s for w, s in zip(OF_TODAY, today.captures(OF_TODAY, columns=COLUMNS), strict=True)
    }
    assert not {words for words, text in shown.items() if not text.strip()}
    assert not {words: text for words, text in shown.items() if "Traceback" in text}
    tables = {w: t for w, t in shown.items() if not re.search("BTCUSDX|nobody", w)}  # errors are sentences
    wide = [
        (words, line) for words, text in tables.items() for line in text.split("\n") if len(line) > COLUMNS
    ]
    assert wide == []
    # A title or what was left out names the hotkeys' full length: each row has its own line.
    assert re.search(r"^time +miner +pair +type +leverage", shown["stream --count 3"], re.MULTILINE)
    row = next(line for line in shown["stream --count 3"].splitlines() if re.match(r"\d\d:\d\d:\d\d ", line))
    assert not re.search(r"\d{13}", row)  # a sequence would look like a time


def test_no_help_is_wider_than_the_terminal(stranger: Ptn) -> None:
    wide = [
        (words, line)
        for words, text in zip(HELP, stranger.captures(HELP, columns=COLUMNS), strict=True)
        for line in text.split("\n")
        if len(line) > COLUMNS
    ]
    assert wide == []


def test_me_in_words(ptn: Ptn, live: Live) -> None:
    (text,) = ptn.captures(["me"], columns=80)
    assert "with tier 100: everything, live." in text
    assert "Your key does not expire." in text
    assert re.search(rf"Server: {re.escape(live.rest)}, version \d", text)


def test_health_in_words(stranger: Ptn, live: Live) -> None:
    """The status is 0 only if all is well. No key is needed."""
    ended = stranger("health", "--url", live.rest)
    assert ended.status == (0 if " is well." in ended.stdout else 6), ended.stderr
    assert "Processes: intake up, rest up, stream up." in ended.stdout
    assert "Event log: complete and writable." in ended.stdout


def test_problems_in_words(stranger: Ptn) -> None:
    """Each with its number, since when, and the remedy; those of a newer server by their code."""
    health = {
        "status": "failing",
        "problems": ["files_refused", "from_the_future"],
        "details": {"files_refused": {"since_ms": 1_753_813_961_123, "count": 3}},
        "source": {"stale": True, "reason": "files_refused"},
        "log": {"ready": True, "writable": False},
    }

    def respond(handler: BaseHTTPRequestHandler) -> None:
        content = json.dumps(health).encode()
        handler.send_response(503)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with answering(respond) as url:
        ended = stranger("health", "--url", url)
        (row, other) = map(json.loads, stranger("health", "--url", url, "-o", "ndjson").lines)
        document = json.loads(stranger("health", "--url", url, "--json").stdout)
    assert ended.status == 6
    first, *lines = ended.lines
    assert first == f"{url} cannot do its work."
    assert lines[0].startswith(
        "- files_refused (3 files and folders, since 2025-07-29 18:32:41 UTC): Position "
    )
    assert lines[1].startswith("  Remedy: See position_file_skipped")
    assert lines[2].startswith("- from_the_future")
    assert "Event log: complete and not writable." in lines
    assert (row["code"], row["count"], row["since"]) == ("files_refused", 3, "2025-07-29T18:32:41.123Z")
    assert other["remedy"] is None
    assert document == health
