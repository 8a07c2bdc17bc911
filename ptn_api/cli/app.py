"""`ptn`: the words you type."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ptn_api import __version__
from ptn_api.cli import client_commands
from ptn_api.cli.exit_status import exit_status
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


def main() -> None:
    """The console script; `cli/exit_status.py` has the table of exit statuses."""
    _open_what_is_closed()
    try:
        app(prog_name="ptn")
    except PTNError as error:
        print(f"ptn: {error}", file=sys.stderr)
        sys.exit(exit_status(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"ptn: {place}{error.strerror}")


def _open_what_is_closed() -> None:
    """A job may be started without input or output: there it reads nothing, and is heard by nobody."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - until the end
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


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


def _while_read(command: Callable[..., None]) -> Callable[..., None]:
    """`ptn ... | head` has seen enough: no error, and nothing more to be written at the end."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return run


for _command in client_commands.COMMANDS:
    app.command()(_while_read(_command))


@app.command()
def simulate(
    directory: Annotated[Path, typer.Argument(help="Where the validator's directory is written.")],
    miners: Annotated[int, typer.Option(min=1)] = 25,
    positions: Annotated[int, typer.Option(min=0, help="Positions per miner at the start.")] = 20,
    seed: int = 1,
    orders_per_minute: Annotated[float, typer.Option(min=0)] = 60,
    live: Annotated[bool, typer.Option(help="Go on trading until interrupted.")] = False,
    speed: Annotated[str, typer.Option(help="How much faster than the clock.", metavar="10x")] = "1x",
    journal: Annotated[Path | None, typer.Option(help="Append the truth about what was done here.")] = None,
) -> None:
    """Write a validator directory as a validator would."""
    from ptn_api.cli.simulate import run
    from ptn_api.cli.time_arguments import speed_of

    options = {"miners": miners, "positions": positions, "seed": seed, "orders_per_minute": orders_per_minute}
    run(directory, options, live=live, speed=speed_of(speed) or 1.0, journal=journal)


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
