"""The commands that talk to a server: their arguments and help."""

from __future__ import annotations

import enum
import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ptn_api.cli.completion import complete_choices, complete_hotkeys, complete_trade_pairs
from ptn_api.cli.exit_status import UNWELL
from ptn_api.cli.row_options import JsonLines, Output, OutputOption, View, Wide, prints_rows, view_of
from ptn_api.cli.time_arguments import duration_ms, speed_of, time_ms
from ptn_api.errors import SettingsError

__all__ = ["CLIENT_COMMANDS", "DOCUMENT_COMMANDS"]


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


class Content(str, enum.Enum):
    POSITIONS = "positions"
    ORDERS = "orders"
    STATISTICS = "statistics"
    LEDGERS = "ledgers"


class FileFormat(str, enum.Enum):
    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"


class OnError(str, enum.Enum):
    STOP = "stop"
    RETRY = "retry"
    SKIP = "skip"


RestUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Use the REST server at this address (default: this machine's, http://127.0.0.1:48888 or as "
        "PTN_API_HOST and PTN_API_REST_PORT set it).",
        envvar="PTN_REST_URL",
    ),
]
WsUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Use the WebSocket server at this address (default: this machine's, ws://127.0.0.1:8765 or as "
        "PTN_API_HOST and PTN_API_WS_PORT set it).",
        envvar="PTN_WS_URL",
    ),
]
WsUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Use the WebSocket server at this address (default: this machine's, ws://127.0.0.1:8765 or as "
        "PTN_API_HOST and PTN_API_WS_PORT set it); repeatable: every order comes once, from the server that "
        "has it first.",
        envvar="PTN_WS_URL",
    ),
]
ApiKeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="Read your API key from this file; - = standard input "
        "(default: PTN_API_KEY, then the config file); repeatable: one for each --url.",
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
Hotkey = Annotated[
    str,
    typer.Argument(
        help="The miner's hotkey, or as many of its first letters as no other has.",
        autocompletion=complete_hotkeys,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the server sends it.")]
Tier = Annotated[
    int | None,
    typer.Option(
        metavar="TIER",
        help="Show this tier: 0, 30, 50 or 100 (default: your key's).",
        autocompletion=complete_choices(("0", "30", "50", "100")),
    ),
]
Miners = Annotated[
    list[str] | None,
    typer.Option(
        "--miner",
        metavar="HOTKEY",
        help="Include only this miner (its first letters are enough); repeatable, or with commas.",
        autocompletion=complete_hotkeys,
    ),
]
TradePairs = Annotated[
    list[str] | None,
    typer.Option(
        "--trade-pair",
        metavar="PAIR",
        help="Include only this trade pair, such as BTCUSD or btc/usd; repeatable, or with commas.",
        autocompletion=complete_trade_pairs,
    ),
]
MaxAge = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Skip older orders, as 30s or 5m; each is reported.")
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
Exec = Annotated[
    str | None,
    typer.Option(
        "--exec",
        metavar="COMMAND",
        help="Run this command for each order instead of printing it; the order is JSON on standard input.",
    ),
]


def _reject(options: Mapping[str, object], reason: str) -> None:
    """Raises SettingsError for the first of these options that was given, as it would have no effect."""
    for option, value in options.items():
        if value:
            raise SettingsError(f"{option}: {reason}")


def stream(
    url: WsUrls = None,
    api_key_file: ApiKeyFiles = None,
    output: OutputOption = None,
    json: JsonLines = False,
    command: Exec = None,
    on_error: Annotated[
        OnError | None,
        typer.Option(
            help="If the command of --exec fails: stop, retry it, or skip the order (default: stop)."
        ),
    ] = None,
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
    max_age: MaxAge = None,
    wait: Wait = False,
    wide: Wide = False,
) -> None:
    """Follow every order as it happens."""
    from ptn_api.cli.show.stream import run

    if command is None:
        _reject({"--on-error": on_error}, "only with --exec")
        if not resume:
            _reject({"--name": name}, "only with --resume or --exec")
    else:
        _reject({"--output": output, "--json": json, "--wide": wide}, "not with --exec, which prints nothing")

    run(
        url or [],
        api_key_file or [],
        view_of(output, json, wide, short=Output.NDJSON),
        command=command,
        on_error=(on_error or OnError.STOP).value,
        miners=miner or [],
        trade_pairs=trade_pair or [],
        delta=delta,
        count=count,
        resume=resume,
        name=name,
        max_age_ms=None if max_age is None else duration_ms(max_age, "--max-age"),
        wait=wait,
    )


def notify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET",
            help="Send to these targets: names of --targets-file or PTN_NOTIFY_TARGETS, or addresses without "
            "a secret (default: all that are named).",
        ),
    ] = None,
    url: WsUrl = None,
    api_key_file: ApiKeyFile = None,
    targets_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read targets from this file of mode 0600, one NAME = URL per line "
            "(default: PTN_NOTIFY_TARGETS, NAME=URL separated by spaces).",
        ),
    ] = None,
    webhook_secret_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Sign webhooks with the secret in this file of mode 0600 (default: PTN_WEBHOOK_SECRET).",
        ),
    ] = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    min_leverage: Annotated[
        float,
        typer.Option(
            metavar="N", help="Leave out orders of a smaller leverage, unless they close a position.", min=0
        ),
    ] = 0.0,
    per_minute: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Send at most this many messages per minute to a target; more orders are summed up in one.",
            min=1,
        ),
    ] = 10,
    max_age: MaxAge = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Save the place in the stream under this name.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait this long for a webhook's response.", min=0.01)
    ] = 15.0,
    retry_max: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait at most this long between two attempts.", min=0.01)
    ] = 300.0,
    test: Annotated[
        bool, typer.Option("--test", help="Only send a test message to each target, and print which took it.")
    ] = False,
    wait: Wait = False,
) -> None:
    """Send orders to chats, mail or webhooks as they happen, each at least once."""
    from ptn_api.cli.show.notify import notification_senders, run_notification_test, run_notifier
    from ptn_api.notify.notifier import NotifyOptions

    senders = notification_senders(targets or [], targets_file, webhook_secret_file, timeout_s=timeout)
    if test:
        run_notification_test(senders)
        return
    run_notifier(
        senders,
        url,
        api_key_file,
        options=NotifyOptions(
            min_leverage=min_leverage,
            per_minute=per_minute,
            retry_first_s=min(1.0, retry_max),
            retry_max_s=retry_max,
        ),
        miners=miner or [],
        trade_pairs=trade_pair or [],
        name=name,
        max_age_ms=None if max_age is None else duration_ms(max_age, "--max-age"),
        wait=wait,
    )


@prints_rows(rows="positions")
def positions(
    view: View,
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
) -> None:
    """Print every miner's positions, best miner first."""
    from ptn_api.cli.show.positions import run

    chosen = {"miners": miner or [], "trade_pairs": trade_pair or [], "status": status.value}
    run(url, api_key_file, view, tier=tier, at=time_ms(at), **chosen)  # type: ignore[arg-type]


@prints_rows(limit=25, rows="miners")
def top(
    view: View,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    sort: Annotated[
        TopOrder,
        typer.Option(
            help="Sort by rank, return over all time, share of profitable positions, drawdown (the smallest "
            "first), open positions, net leverage, or newest order."
        ),
    ] = TopOrder.RANK,
    live: Annotated[bool, typer.Option("--live", help="Go on, and print again after each change.")] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="With --live, ask the server this often.", min=0.1)
    ] = 2.0,
) -> None:
    """Print the leaderboard: returns, drawdown and exposure of the best miners."""
    from ptn_api.cli.show.positions import run_top

    run_top(url, api_key_file, view, sort=sort.value, live=live, interval_s=interval)


@prints_rows(rows="positions, the newest")
def miner(hotkey: Hotkey, view: View, url: RestUrl = None, api_key_file: ApiKeyFile = None) -> None:
    """Print one miner's returns and positions."""
    from ptn_api.cli.show.positions import run_miner

    run_miner(url, api_key_file, view, hotkey)


@prints_rows(limit=50, rows="orders, the newest")
def orders(
    view: View,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    tier: Tier = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Print the latest orders, newest last."""
    from ptn_api.cli.show.positions import run_orders

    chosen = {"miners": miner or [], "trade_pairs": trade_pair or []}
    run_orders(url, api_key_file, view, tier=tier, span=(time_ms(since), time_ms(until)), **chosen)


@prints_rows(rows="miners")
def stats(
    view: View,
    hotkey: Annotated[
        str | None,
        typer.Argument(
            help="Print only this miner's entry, in full, as JSON.", autocompletion=complete_hotkeys
        ),
    ] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Include the ledgers' checkpoints in JSON.")
    ] = False,
) -> None:
    """Print the validator's statistics for every miner, the largest weight first."""
    from ptn_api.cli.show.documents import run_statistics

    run_statistics(url, api_key_file, view, hotkey=hotkey, checkpoints=checkpoints)


@prints_rows(rows="miners")
def eliminations(view: View, url: RestUrl = None, api_key_file: ApiKeyFile = None) -> None:
    """Print the eliminated miners, with time and reason."""
    from ptn_api.cli.show.documents import run_eliminations

    run_eliminations(url, api_key_file, view)


def checkpoint(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Write the checkpoint to this file.")
    ],
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print the file name and size as JSON.")] = False,
) -> None:
    """Download the checkpoint that a validator restores from (tier 100)."""
    from ptn_api.cli.show.documents import run_checkpoint

    run_checkpoint(url, api_key_file, output=output, as_json=json)


@prints_rows(rows="orders")
def limit_orders(
    hotkey: Hotkey,
    view: View,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Print cancelled orders instead.")] = False,
) -> None:
    """Print one miner's waiting limit orders (tier 100)."""
    from ptn_api.cli.show.documents import run_limit_orders

    run_limit_orders(url, api_key_file, view, hotkey, cancelled=cancelled)


@prints_rows(rows="checkpoints of a ledger, the newest, or miners of the summary")
def ledger(
    kind: Annotated[LedgerKind, typer.Argument(help="perf, debt, emissions or penalty.")],
    view: View,
    hotkey: Annotated[
        str | None,
        typer.Argument(
            help="The miner's hotkey or its first letters; without it, `debt` is a summary of all miners.",
            autocompletion=complete_hotkeys,
        ),
    ] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Print the checkpoints of one miner's perf, debt, emissions or penalty ledger, oldest first."""
    from ptn_api.cli.show.documents import run_ledger

    run_ledger(url, api_key_file, view, kind.value, hotkey)


@prints_rows(limit=24, rows="hours, the latest (2160 at most)")
def account(hotkey: Hotkey, view: View, url: RestUrl = None, api_key_file: ApiKeyFile = None) -> None:
    """Print one miner's balance and equity, hour by hour."""
    from ptn_api.cli.show.documents import run_account

    run_account(url, api_key_file, view, hotkey)


@prints_rows(rows="account sizes")
def collateral(
    view: View,
    hotkey: Annotated[
        str | None,
        typer.Argument(help="Print only this miner's account size.", autocompletion=complete_hotkeys),
    ] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    every: Annotated[bool, typer.Option("--all", help="Print every record, not only the latest.")] = False,
) -> None:
    """Print the miners' account sizes."""
    from ptn_api.cli.show.documents import run_collateral

    run_collateral(url, api_key_file, view, hotkey=hotkey, most_recent=not every)


@prints_rows(rows="buckets")
def challenge_period(
    hotkey: Hotkey, view: View, url: RestUrl = None, api_key_file: ApiKeyFile = None
) -> None:
    """Print the buckets of the competition that one miner has been in, oldest first."""
    from ptn_api.cli.show.documents import run_challenge_period

    run_challenge_period(url, api_key_file, view, hotkey)


@prints_rows(rows="miners")
def selections(view: View, url: RestUrl = None, api_key_file: ApiKeyFile = None) -> None:
    """Print the asset class that each miner chose."""
    from ptn_api.cli.show.documents import run_selections

    run_selections(url, api_key_file, view)


@prints_rows(rows="subaccounts")
def entities(
    view: View,
    hotkey: Annotated[str | None, typer.Argument(help="Print only this entity's subaccounts.")] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Print the entities and their subaccounts (tier 200)."""
    from ptn_api.cli.show.documents import run_entities

    run_entities(url, api_key_file, view, hotkey=hotkey)


@prints_rows(rows="trade pairs")
def trade_pairs(
    view: View,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    asset_class: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Print only crypto, forex, equities, commodities, hl_all or all_markets.",
            autocompletion=complete_choices(
                ("crypto", "forex", "equities", "commodities", "hl_all", "all_markets")
            ),
        ),
    ] = None,
) -> None:
    """Print the network's trade pairs."""
    from ptn_api.cli.show.documents import run_trade_pairs

    run_trade_pairs(url, api_key_file, view, asset_class=asset_class)


@prints_rows(rows="problems of a format other than table")
def health(view: View, url: RestUrl = None) -> None:
    """Print the server's health: its problems, each with a remedy, and its processes."""
    from ptn_api.cli.show.server import run_health

    if not run_health(url, view):
        raise typer.Exit(UNWELL)


def me(url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False) -> None:
    """Print what the server knows about your key: its tier, expiry and limits."""
    from ptn_api.cli.show.server import run_me

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
    from ptn_api.cli.show.stream import run_recorder

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
    wide: Wide = False,
) -> None:
    """Replay past orders as if they happened now."""
    from ptn_api.cli.show.stream import run_replay, run_replay_server

    choice = {"miners": miner or [], "trade_pairs": trade_pair or []}
    span, pace = (time_ms(since), time_ms(until)), speed_of(speed)
    printing = {"--output": output, "--json": json, "--wide": wide}
    if serve:
        _reject(printing | {"--exec": command}, "not with --serve")
        run_replay_server(file, url, api_key_file, port=port, speed=pace, span=span, **choice)
    else:
        if command is not None:
            _reject(printing, "not with --exec, which prints nothing")
        view = view_of(output, json, wide, short=Output.NDJSON)
        run_replay(file, url, api_key_file, view, command=command, speed=pace, span=span, **choice)


def export(
    content: Annotated[Content, typer.Argument(help="positions, orders, statistics or ledgers.")],
    file_format: Annotated[
        FileFormat,
        typer.Option("--format", help="Write this format; Parquet needs Polars (the extra `dataframe`)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write to this file (default: standard output)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    tier: Tier = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    status: Annotated[
        Status | None, typer.Option(help="Positions: only open or closed ones (default: all).")
    ] = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Write positions, orders, statistics or perf ledgers to a file for analysis."""
    from ptn_api.cli.show.export import Filters, run

    filters = Filters(
        tier=tier,
        miners=miner or [],
        trade_pairs=trade_pair or [],
        status=status.value if status else None,
        start_ms=time_ms(since),
        end_ms=time_ms(until),
    )
    run(
        url,
        api_key_file,
        content=content.value,
        form=file_format.value,
        out=out,
        force=force,
        filters=filters,
    )


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


_COMMANDS: tuple[Callable[..., None], ...] = (
    *(stream, notify, top, positions, miner, orders, health, me, record, replay),
    export,
)
_DOCUMENTS: tuple[Callable[..., None], ...] = (
    *(stats, eliminations, limit_orders, ledger, account, collateral, challenge_period, selections),
    *(entities, trade_pairs, checkpoint),
)
CLIENT_COMMANDS = [_ends_with_reader(command) for command in _COMMANDS]
DOCUMENT_COMMANDS = [_ends_with_reader(command) for command in _DOCUMENTS]
