"""The command `ptn` and its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from ptn_api import __version__
from ptn_api.cli import serve
from ptn_api.cli.client_commands import CLIENT_COMMANDS, DOCUMENT_COMMANDS
from ptn_api.cli.cluster import cluster_app
from ptn_api.cli.exit_status import run
from ptn_api.cli.keys import keys_app
from ptn_api.cli.settings_options import EPILOG, Command, CommandGroup, takes_settings
from ptn_api.process.settings import Settings

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    run(app, "ptn")


def doctor(settings: Settings, *, check_log: bool) -> None:
    """Check the prerequisites and diagnose a running server.

    Takes the same options as `ptn serve`.
    """
    from ptn_api.cli.doctor import check_event_log, diagnose

    raise typer.Exit(check_event_log(settings) if check_log else diagnose(settings))


_CHECK_LOG = typer.Option(
    "--check-log", help="Only read the whole event log, and name every damaged part of it."
)


app = typer.Typer(
    name="ptn",
    cls=CommandGroup,
    help="Serve, follow and read the positions of a Proprietary Trading Network validator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_SERVER, _CLIENT, _DOCUMENTS = "Run a server", "Use a server", "Print a validator's documents"
app.command("serve", cls=Command, epilog=EPILOG, rich_help_panel=_SERVER)(takes_settings(serve.serve))
app.command("doctor", cls=Command, epilog=EPILOG, rich_help_panel=_SERVER)(
    takes_settings(doctor, check_log=_CHECK_LOG)
)
app.add_typer(keys_app, name="keys", rich_help_panel=_SERVER)
app.add_typer(cluster_app, name="cluster", rich_help_panel=_SERVER)
app.command(cls=Command, rich_help_panel=_SERVER)(serve.resync)
app.command(cls=Command, rich_help_panel=_SERVER)(serve.simulate)
for panel, commands in ((_CLIENT, CLIENT_COMMANDS), (_DOCUMENTS, DOCUMENT_COMMANDS)):
    for command in commands:
        app.command(cls=Command, rich_help_panel=panel)(command)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"ptn {__version__}")
        raise typer.Exit
