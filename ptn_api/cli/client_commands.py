"""The commands that talk to a server: their arguments and help."""

from __future__ import annotations

import enum
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ptn_api.cli.time_arguments import duration_ms, speed_of, time_ms
from ptn_api.model.trade_pair import trade_pairs as table_of_pairs

__all__ = ["CLIENT_COMMANDS", "DOCUMENT_COMMANDS"]


class Output(str, enum.Enum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


class Status(str, enum.Enum):
    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


class TopOrder(str, enum.Enum):
    RANK = "rank"
    ALL_TIME = "all-time"
    WON = "won"
    LOST = "lost"
    OPEN = "open"
    NET = "net"
    LAST = "last"


class LedgerKind(str, enum.Enum):
    PERF = "perf"
    DEBT = "debt"
    EMISSIONS = "emissions"
    PENALTY = "penalty"


class OnError(str, enum.Enum):
    STOP = "stop"
    RETRY = "retry"
    SKIP = "skip"


def _complete_trade_pair(prefix: str) -> list[str]:
    """For the shell's completion."""
    return [pair for pair in table_of_pairs() if pair.upper().startswith(prefix.upper())]


RestUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Use the REST server at this address (default: http://127.0.0.1:48888).",
        envvar="PTN_REST_URL",
    ),
]
WsUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Use the WebSocket server at this address (default: ws://127.0.0.1:8765).",
        envvar="PTN_WS_URL",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Read your API key from this file; - = standard input "
        "(default: PTN_API_KEY, then the config file).",
    ),
]
Hotkey = Annotated[str, typer.Argument(help="The miner's hotkey.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the server sends it.")]
Tier = Annotated[
    int | None, typer.Option(metavar="TIER", help="Show this tier: 0, 30, 50 or 100 (default: your key's).")
]
Miners = Annotated[
    list[str] | None, typer.Option("--miner", metavar="HOTKEY", help="Include only this miner; repeatable.")
]
TradePairs = Annotated[
    list[str] | None,
    typer.Option(
        "--trade-pair",
        metavar="ID",
        help="Include only this trade pair; repeatable.",
        autocompletion=_complete_trade_pair,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="Start at this time: 2026-11-22T18:30 (UTC) or epoch milliseconds."
    ),
]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End before this time.")]
Count = Annotated[int, typer.Option(metavar="N", help="Stop after this many orders; 0 = never.", min=0)]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for a server that is not running yet.")]
OutputOption = Annotated[
    Output | None, typer.Option("--output", "-o", help="Print orders in this format (default: table).")
]
JsonLines = Annotated[bool, typer.Option("--json", help="Same as --output ndjson.")]
Exec = Annotated[
    str | None,
    typer.Option(
        "--exec",
        metavar="COMMAND",
        help="Run this command for each order instead of printing it; the order is JSON on standard input.",
    ),
]


def stream(
    url: WsUrl = None,
    api_key_file: ApiKeyFile = None,
    output: OutputOption = None,
    json: JsonLines = False,
    command: Exec = None,
    on_error: Annotated[
        OnError, typer.Option(help="If the command of --exec fails: stop, retry it, or skip the order.")
    ] = OnError.STOP,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    delta: Annotated[bool, typer.Option("--delta", help="Omit each position's earlier orders.")] = False,
    count: Count = 0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Save the place in the stream and continue there; --exec always does."),
    ] = False,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Save the place for --resume or --exec under this name.")
    ] = "",
    max_age: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Skip older orders, as 30s or 5m; each is reported."),
    ] = None,
    wait: Wait = False,
) -> None:
    """Follow every order as it happens."""
    from ptn_api.cli.stream import run

    run(
        url,
        api_key_file,
        output=_chosen_output(output, json),
        command=command,
        on_error=on_error.value,
        miners=miner or [],
        trade_pairs=trade_pair or [],
        delta=delta,
        count=count,
        resume=resume,
        name=name,
        max_age_ms=None if max_age is None else duration_ms(max_age, "--max-age"),
        wait=wait,
    )


def positions(
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    tier: Tier = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    status: Annotated[Status, typer.Option(help="Show open, closed or all positions.")] = Status.OPEN,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Show them as they were at this time, by hotkey (UTC)."),
    ] = None,
    json: Json = False,
) -> None:
    """Print every miner's positions, best miner first."""
    from ptn_api.cli.positions import run

    chosen = {"miners": miner or [], "trade_pairs": trade_pair or [], "status": status.value}
    run(url, api_key_file, tier=tier, as_json=json, at=time_ms(at), **chosen)  # type: ignore[arg-type]


def top(
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    sort: Annotated[
        TopOrder,
        typer.Option(
            help="Sort by rank, return over all time, share of profitable positions, drawdown (the smallest "
            "first), open positions, net leverage, or newest order."
        ),
    ] = TopOrder.RANK,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Print at most this many miners; 0 = all.", min=0)
    ] = 25,
    live: Annotated[bool, typer.Option("--live", help="Go on, and print again after each change.")] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="With --live, ask the server this often.", min=0.1)
    ] = 2.0,
    output: Annotated[
        Output | None, typer.Option("--output", "-o", help="Print miners in this format (default: table).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Same as --output json.")] = False,
) -> None:
    """Print the leaderboard: returns, drawdown and exposure of the best miners."""
    from ptn_api.cli.positions import run_top

    run_top(
        url,
        api_key_file,
        sort=sort.value,
        limit=limit,
        output=output.value if output else "json" if json else "table",
        live=live,
        interval_s=interval,
    )


def miner(
    hotkey: Hotkey,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> None:
    """Print one miner's returns and positions."""
    from ptn_api.cli.positions import run_miner

    run_miner(url, api_key_file, hotkey, as_json=json)


def orders(
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    tier: Tier = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Print at most this many orders, the newest; 0 = all.", min=0)
    ] = 50,
    json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list with one object per order.")
    ] = False,
) -> None:
    """Print the latest orders, newest last."""
    from ptn_api.cli.positions import run_orders

    run_orders(
        url,
        api_key_file,
        tier=tier,
        miners=miner or [],
        trade_pairs=trade_pair or [],
        span=(time_ms(since), time_ms(until)),
        limit=limit,
        as_json=json,
    )


def stats(
    hotkey: Annotated[str | None, typer.Argument(help="Print only this miner's entry, in full.")] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Include the ledgers' checkpoints.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the validator's statistics for every miner."""
    from ptn_api.cli.documents import run_statistics

    run_statistics(url, api_key_file, hotkey=hotkey, checkpoints=checkpoints, as_json=json)


def eliminations(url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False) -> None:
    """Print the eliminated miners, with time and reason."""
    from ptn_api.cli.documents import run_eliminations

    run_eliminations(url, api_key_file, as_json=json)


def checkpoint(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Write the checkpoint to this file.")
    ],
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print the file name and size as JSON.")] = False,
) -> None:
    """Download the checkpoint that a validator restores from (tier 100)."""
    from ptn_api.cli.documents import run_checkpoint

    run_checkpoint(url, api_key_file, output=output, as_json=json)


def limit_orders(
    hotkey: Hotkey,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Print cancelled orders instead.")] = False,
    json: Json = False,
) -> None:
    """Print one miner's waiting limit orders (tier 100)."""
    from ptn_api.cli.documents import run_limit_orders

    run_limit_orders(url, api_key_file, hotkey, cancelled=cancelled, as_json=json)


def ledger(
    kind: Annotated[LedgerKind, typer.Argument(help="perf, debt, emissions or penalty.")],
    hotkey: Annotated[
        str | None,
        typer.Argument(help="The miner's hotkey; without it, `debt` prints a summary of all miners."),
    ] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> None:
    """Print one miner's perf, debt, emissions or penalty ledger."""
    from ptn_api.cli.documents import run_ledger

    run_ledger(url, api_key_file, kind.value, hotkey, as_json=json)


def account(
    hotkey: Hotkey,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Print the latest snapshots, at most this many.", min=1, max=2160)
    ] = 24,
    json: Json = False,
) -> None:
    """Print one miner's balance and equity, hour by hour."""
    from ptn_api.cli.documents import run_account

    run_account(url, api_key_file, hotkey, limit=limit, as_json=json)


def collateral(
    hotkey: Annotated[str | None, typer.Argument(help="Print only this miner's account size.")] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    every: Annotated[bool, typer.Option("--all", help="Print every record, not only the latest.")] = False,
    json: Json = False,
) -> None:
    """Print the miners' account sizes."""
    from ptn_api.cli.documents import run_collateral

    run_collateral(url, api_key_file, hotkey=hotkey, most_recent=not every, as_json=json)


def challenge_period(
    hotkey: Hotkey, url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False
) -> None:
    """Print the buckets of the competition that one miner has been in, oldest first."""
    from ptn_api.cli.documents import run_challenge_period

    run_challenge_period(url, api_key_file, hotkey, as_json=json)


def selections(url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False) -> None:
    """Print the asset class that each miner chose."""
    from ptn_api.cli.documents import run_selections

    run_selections(url, api_key_file, as_json=json)


def entities(
    hotkey: Annotated[str | None, typer.Argument(help="Print only this entity's subaccounts.")] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> None:
    """Print the entities and their subaccounts (tier 200)."""
    from ptn_api.cli.documents import run_entities

    run_entities(url, api_key_file, hotkey=hotkey, as_json=json)


def trade_pairs(
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    asset_class: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="Print only crypto, forex, equities, commodities, hl_all or all_markets."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print the network's trade pairs."""
    from ptn_api.cli.documents import run_trade_pairs

    run_trade_pairs(url, api_key_file, asset_class=asset_class, as_json=json)


def me(url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False) -> None:
    """Print what the server knows about your key."""
    from ptn_api.cli.documents import run_me

    run_me(url, api_key_file, as_json=json)


def record(
    file: Annotated[
        Path,
        typer.Argument(
            help="Write the recording to this file (NDJSON; compressed if the name ends in .zst)."
        ),
    ],
    url: WsUrl = None,
    api_key_file: ApiKeyFile = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    count: Count = 0,
    wait: Wait = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the number of recorded orders as JSON.")
    ] = False,
) -> None:
    """Record the stream to a file. The next run continues where the file ends."""
    from ptn_api.cli.stream import run_recorder

    chosen = {"miners": miner or [], "trade_pairs": trade_pair or []}
    run_recorder(file, url, api_key_file, count=count, wait=wait, as_json=json, **chosen)


def replay(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Replay this recording or checkpoint (default: the orders that the server still has)."
        ),
    ] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the orders over WebSocket; every API key is accepted.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Serve on this port; 0 = any free port.", min=0, max=65535)
    ] = 8765,
    speed: Annotated[
        str | None,
        typer.Option(
            help="Replay at this speed, such as 1x (as recorded) or 10x (default: as fast as possible).",
            metavar="SPEED",
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    output: OutputOption = None,
    json: JsonLines = False,
    command: Exec = None,
) -> None:
    """Replay past orders as if they happened now."""
    from ptn_api.cli.stream import run_replay, run_replay_server

    choice = {"miners": miner or [], "trade_pairs": trade_pair or []}
    span, pace = (time_ms(since), time_ms(until)), speed_of(speed)
    if serve:
        run_replay_server(file, url, api_key_file, port=port, speed=pace, span=span, **choice)
    else:
        form = _chosen_output(output, json)
        run_replay(file, url, api_key_file, output=form, command=command, speed=pace, span=span, **choice)


def _chosen_output(output: Output | None, json: bool) -> Literal["table", "json", "ndjson", "csv"]:
    return output.value if output else "ndjson" if json else "table"


def _ends_with_reader(command: Callable[..., None]) -> Callable[..., None]:
    """A command that ends without an error when its reader does, as in `ptn ... | head`."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes standard output at exit, which would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return run


_COMMANDS: tuple[Callable[..., None], ...] = (stream, top, positions, miner, orders, me, record, replay)
_DOCUMENTS: tuple[Callable[..., None], ...] = (
    *(stats, eliminations, limit_orders, ledger, account, collateral, challenge_period, selections),
    *(entities, trade_pairs, checkpoint),
)
CLIENT_COMMANDS = [_ends_with_reader(command) for command in _COMMANDS]
DOCUMENT_COMMANDS = [_ends_with_reader(command) for command in _DOCUMENTS]
