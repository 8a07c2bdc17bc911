"""`ptn`: the words you type."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ptn_api import __version__
from ptn_api.cli.keys import keys_app
from ptn_api.errors import PTNError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ptn",
    help="Serve, follow and read the positions of a Proprietary Trading Network validator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_app, name="keys")

ApiKeyFile = Annotated[
    Path | None,
    typer.Option(help="File with your API key, or - for standard input. Otherwise PTN_API_KEY is used."),
]


def main() -> None:
    """The console script. Exit status: 0 fine, 1 an error that is told in one line, 2 wrong usage."""
    try:
        app()
    except PTNError as error:
        sys.exit(f"ptn: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"ptn {__version__}")
        raise typer.Exit


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def serve(context: typer.Context) -> None:
    """Run the API; `ptn serve --help` lists its options."""
    from ptn_api.cli.serve import serve as run

    raise typer.Exit(run(context.args))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def doctor(context: typer.Context) -> None:
    """Check what a server needs, and what ails a running one; takes the options of `ptn serve`."""
    from ptn_api.cli.doctor import doctor as run

    raise typer.Exit(run(context.args))


@app.command()
def stream(
    url: Annotated[str, typer.Option(help="The WebSocket server.", envvar="PTN_WS_URL")] = (
        "ws://127.0.0.1:8765"
    ),
    api_key_file: ApiKeyFile = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per order.")] = False,
    count: Annotated[int, typer.Option(help="Stop after so many orders; 0 = never.", min=0)] = 0,
    resume: Annotated[bool, typer.Option(help="Go on after the last order that was printed.")] = False,
) -> None:
    """Follow every order as it happens."""
    from ptn_api.cli.stream import run

    run(url, api_key_file, as_json=json, count=count, resume=resume)


@app.command()
def positions(
    url: Annotated[str, typer.Option(help="The REST server.", envvar="PTN_REST_URL")] = (
        "http://127.0.0.1:48888"
    ),
    api_key_file: ApiKeyFile = None,
    tier: Annotated[int | None, typer.Option(help="0, 30, 50 or 100; your key's if not given.")] = None,
    miner: Annotated[str | None, typer.Option(help="Only this miner's hotkey.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The answer as it came.")] = False,
) -> None:
    """Every miner's positions, best first."""
    from ptn_api.cli.positions import run

    run(url, api_key_file, tier=tier, miner=miner, as_json=json)


@app.command()
def simulate(
    directory: Annotated[Path, typer.Argument(help="Where the validator's directory is written.")],
    miners: Annotated[int, typer.Option(min=1)] = 25,
    positions: Annotated[int, typer.Option(min=0, help="Positions per miner at the start.")] = 20,
    seed: int = 1,
    orders_per_minute: Annotated[float, typer.Option(min=0)] = 60,
    live: Annotated[bool, typer.Option(help="Go on trading until interrupted.")] = False,
) -> None:
    """Write a validator directory as a validator would."""
    from ptn_api.cli.simulate import run

    run(directory, miners, positions, seed, orders_per_minute, live=live)


@app.command()
def resync(
    accept_removals: Annotated[
        bool, typer.Option("--accept-removals", help="Yes, those positions are gone.")
    ] = False,
    data_dir: Annotated[Path, typer.Option(envvar="PTN_DATA_DIR")] = Path(".ptn"),
) -> None:
    """Accept a mass removal that the server holds back."""
    from ptn_api.cli.resync import run

    run(data_dir, accept_removals=accept_removals)
