"""How a command line ends: errors become one line on standard error and an exit status."""

from __future__ import annotations

import io
import os
import sys

import typer

from ptn_api.errors import AuthenticationError, ClientError, PTNError, ServerUnreachableError, SettingsError
from ptn_api.summary import wrapped

__all__ = ["EXIT_STATUSES", "UNWELL", "CommandFailed", "exit_status", "run"]

UNWELL = 6
EXIT_STATUSES = {
    0: "success",
    1: "an error, explained in one line",
    2: "wrong usage: a bad option, setting or address",
    3: "the API key is missing, unknown, or its tier is too low",
    4: "the server cannot be reached or does not answer",
    5: "the command of --exec failed; its order is delivered again by the next run",
    UNWELL: "`ptn health`: the server reports a problem",
    130: "interrupted",
}
"""The documentation prints this table."""


class CommandFailed(ClientError):  # noqa: N818 - the failure is the command's, not ours
    """The command of `--exec` ended with a status other than 0."""

    code = "command_failed"


def exit_status(error: PTNError) -> int:
    """The status for an error that ends a command."""
    by_kind = {SettingsError: 2, AuthenticationError: 3, ServerUnreachableError: 4, CommandFailed: 5}
    return next((status for kind, status in by_kind.items() if isinstance(error, kind)), 1)


def run(app: typer.Typer, program: str, arguments: list[str] | None = None) -> None:
    """Runs a command line to its end; `arguments` replace those of the process."""
    # A job may be started with closed streams: then it reads nothing and its output goes nowhere.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - open until the process ends
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    # A user's name may hold any character, and the locale may lack it.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        app(arguments, prog_name=program)
    except PTNError as error:
        print(wrapped(f"{program}: {error}", sys.stderr), file=sys.stderr)
        sys.exit(exit_status(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{program}: {place}{error.strerror}")
