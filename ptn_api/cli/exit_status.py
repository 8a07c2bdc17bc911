"""What the exit status of `ptn` says; a table, which the documentation prints."""

from __future__ import annotations

from ptn_api.errors import AuthenticationError, ClientError, PTNError, ServerUnreachableError, SettingsError

__all__ = ["EXIT_STATUSES", "CommandFailed", "exit_status"]

EXIT_STATUSES = {
    0: "fine",
    1: "an error that is told in one line",
    2: "wrong usage: an option or an address that cannot be",
    3: "the API key is missing, unknown, or of too low a tier",
    4: "no server there, or none that answers",
    5: "the command of --exec failed; its order is not done with and comes again",
    130: "interrupted",
}


class CommandFailed(ClientError):  # noqa: N818 - somebody else's failure
    """The command of `--exec` ended with another status than 0."""

    code = "command_failed"


def exit_status(error: PTNError) -> int:
    """For an error that ends a command."""
    by_kind = {SettingsError: 2, AuthenticationError: 3, ServerUnreachableError: 4, CommandFailed: 5}
    return next((status for kind, status in by_kind.items() if isinstance(error, kind)), 1)
