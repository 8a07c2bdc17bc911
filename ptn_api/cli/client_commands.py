"""The words of those who read a server: what they take, and what they mean."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from ptn_api.cli.time_arguments import moment_ms, speed_of
from ptn_api.model.trade_pair import TRADE_PAIRS

__all__ = ["COMMANDS"]


class Output(str, enum.Enum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


class Status(str, enum.Enum):
    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


class OnError(str, enum.Enum):
    STOP = "stop"
    RETRY = "retry"
    SKIP = "skip"


def _pairs(begun: str) -> list[str]:
    """For the shell's completion."""
    return [pair for pair in TRADE_PAIRS if pair.startswith(begun.upper())]


def _as_known(given: list[str] | None) -> list[str]:
    """Ids are upper case, whoever types them need not be. Unknown ones may be the validator's newest."""
    return [pair.upper() if pair.upper() in TRADE_PAIRS else pair for pair in given or []]


RestUrl = Annotated[
    str | None,
    typer.Option("--url", help="The REST server; http://127.0.0.1:48888 by default.", envvar="PTN_REST_URL"),
]
WsUrl = Annotated[
    str | None,
    typer.Option("--url", help="The WebSocket server; ws://127.0.0.1:8765 by default.", envvar="PTN_WS_URL"),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with your API key, or - for standard input. Otherwise PTN_API_KEY or the config file."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON, as the server says it.")]
Tier = Annotated[int | None, typer.Option(help="0, 30, 50 or 100; your key's if not given.")]
Miners = Annotated[
    list[str] | None, typer.Option("--miner", metavar="HOTKEY", help="Only this miner; repeatable.")
]
TradePairs = Annotated[
    list[str] | None,
    typer.Option(
        "--trade-pair",
        metavar="ID",
        help="Only this trade pair; repeatable.",
        autocompletion=_pairs,
        callback=_as_known,
    ),
]
Since = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="Not before: 2026-11-22T18:30 (UTC) or epoch milliseconds."),
]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before this moment.")]
Count = Annotated[int, typer.Option(help="Stop after so many orders; 0 = never.", min=0)]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for a server that is not there yet.")]
OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", help="How orders are printed; a table unless said otherwise."),
]
JsonLines = Annotated[bool, typer.Option("--json", help="The same as --output ndjson.")]
Exec = Annotated[
    str | None,
    typer.Option(
        "--exec",
        metavar="COMMAND",
        help="Start this for every order instead, with the order's JSON as its standard input.",
    ),
]


def stream(
    url: WsUrl = None,
    api_key_file: ApiKeyFile = None,
    output: OutputOption = None,
    json: JsonLines = False,
    command: Exec = None,
    on_error: Annotated[
        OnError, typer.Option(help="When the command of --exec fails: end, try it again, or go on.")
    ] = OnError.STOP,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    delta: Annotated[bool, typer.Option("--delta", help="Positions without their earlier orders.")] = False,
    count: Count = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last order; --exec always does.")
    ] = False,
    name: Annotated[str, typer.Option(help="Tells several runs that resume apart.")] = "",
    wait: Wait = False,
) -> None:
    """Follow every order as it happens."""
    from ptn_api.cli.stream import run

    run(
        url,
        api_key_file,
        output=_output(output, json),
        command=command,
        on_error=on_error.value,
        miners=miner or [],
        trade_pairs=trade_pair or [],
        delta=delta,
        count=count,
        resume=resume,
        name=name,
        wait=wait,
    )


def positions(
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    tier: Tier = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    status: Annotated[Status, typer.Option(help="Which positions.")] = Status.OPEN,
    json: Json = False,
) -> None:
    """Every miner's positions, best first."""
    from ptn_api.cli.positions import run

    chosen = {"miners": miner or [], "trade_pairs": trade_pair or [], "status": status.value}
    run(url, api_key_file, tier=tier, as_json=json, **chosen)  # type: ignore[arg-type]


def miner(
    hotkey: Annotated[str, typer.Argument(help="The miner's.")],
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Json = False,
) -> None:
    """One miner: returns and all positions."""
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
    limit: Annotated[int, typer.Option(help="The newest so many; 0 = all.", min=0)] = 50,
    json: Annotated[bool, typer.Option("--json", help="A JSON list, one object per order.")] = False,
) -> None:
    """The latest orders, newest last."""
    from ptn_api.cli.orders import run

    run(
        url,
        api_key_file,
        tier=tier,
        miners=miner or [],
        trade_pairs=trade_pair or [],
        span=(moment_ms(since), moment_ms(until)),
        limit=limit,
        as_json=json,
    )


def stats(
    hotkey: Annotated[str | None, typer.Argument(help="One miner's element, whole.")] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="With the ledgers' checkpoints.")
    ] = False,
    json: Json = False,
) -> None:
    """The validator's statistics of every miner."""
    from ptn_api.cli.documents import run_statistics

    run_statistics(url, api_key_file, hotkey=hotkey, checkpoints=checkpoints, as_json=json)


def eliminations(url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False) -> None:
    """Who was eliminated, when and why."""
    from ptn_api.cli.documents import run_eliminations

    run_eliminations(url, api_key_file, as_json=json)


def checkpoint(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where it is written, whole or not at all.")],
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    json: Annotated[bool, typer.Option("--json", help="Say in JSON what was written.")] = False,
) -> None:
    """Download everything a validator restores from (tier 100)."""
    from ptn_api.cli.documents import run_checkpoint

    run_checkpoint(url, api_key_file, output=output, as_json=json)


def me(url: RestUrl = None, api_key_file: ApiKeyFile = None, json: Json = False) -> None:
    """What the server knows about your key."""
    from ptn_api.cli.documents import run_me

    run_me(url, api_key_file, as_json=json)


def record(
    file: Annotated[Path, typer.Argument(help="NDJSON; compressed if the name ends in .zst.")],
    url: WsUrl = None,
    api_key_file: ApiKeyFile = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    count: Count = 0,
    wait: Wait = False,
    json: Annotated[bool, typer.Option("--json", help="Say in JSON what was recorded.")] = False,
) -> None:
    """Write what the stream says to a file; the next run goes on where the file ends."""
    from ptn_api.cli.record import run

    chosen = {"miners": miner or [], "trade_pairs": trade_pair or []}
    run(file, url, api_key_file, count=count, wait=wait, as_json=json, **chosen)


def replay(
    file: Annotated[
        Path | None,
        typer.Argument(help="A recording or a checkpoint; without it: what the server still has."),
    ] = None,
    url: RestUrl = None,
    api_key_file: ApiKeyFile = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it to any client, every key is good.")
    ] = False,
    port: Annotated[int, typer.Option(help="For --serve; 0 = any free one.", min=0, max=65535)] = 8765,
    speed: Annotated[
        str | None, typer.Option(help="1x is as it was; as fast as possible if not given.", metavar="10x")
    ] = None,
    since: Since = None,
    until: Until = None,
    miner: Miners = None,
    trade_pair: TradePairs = None,
    output: OutputOption = None,
    json: JsonLines = False,
    command: Exec = None,
) -> None:
    """Orders of the past, as if they happened now."""
    from ptn_api.cli.replay import run, run_server

    choice = {"miners": miner or [], "trade_pairs": trade_pair or []}
    span, pace = (moment_ms(since), moment_ms(until)), speed_of(speed)
    if serve:
        run_server(file, url, api_key_file, port=port, speed=pace, span=span, **choice)
    else:
        form = _output(output, json)
        run(file, url, api_key_file, output=form, command=command, speed=pace, span=span, **choice)


def _output(output: Output | None, json: bool) -> Literal["table", "json", "ndjson", "csv"]:
    return output.value if output else "ndjson" if json else "table"


COMMANDS = (stream, positions, miner, orders, stats, eliminations, checkpoint, me, record, replay)
