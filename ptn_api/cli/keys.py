"""`ptn keys`: the server's API keys and their use."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from ptn_api.cli.settings_options import Command, CommandGroup
from ptn_api.cli.time_arguments import duration_ms, expiry_ms
from ptn_api.clock import wall_ms
from ptn_api.errors import PTNError, SettingsError
from ptn_api.file_version import owner_of
from ptn_api.process.settings import SETTINGS

__all__ = ["keys_app"]

keys_app = typer.Typer(cls=CommandGroup, help="Manage the server's API keys.", no_args_is_help=True)

DATA_DIR = Path(SETTINGS["data_dir"].default)
User = Annotated[str, typer.Argument(help="The user's name in the key file.")]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The server's key file (default: as `ptn serve` finds it, see --validator-dir).",
        envvar=SETTINGS["api_keys_file"].variable,
    ),
]
ValidatorDir = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="Look for vanta_api/api_keys.json and ptn_api/api_keys.json in this directory, after "
        "ptn_api/api_keys.json in the current one (default: the current directory).",
        envvar=SETTINGS["validator_dir"].variable,
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="The server's data directory, which holds the usage records.",
        envvar=SETTINGS["data_dir"].variable,
    ),
]
Expires = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="Expire the new key after this long (90d, 12h, 30m) or at this time (UTC)."
    ),
]


@keys_app.command(cls=Command)
def add(
    user: User,
    tier: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="TIER",
            help="Grant this tier: 0 = all positions 24 hours late, 30 or 50 = that percentage of them live, "
            "100 = everything live, and WebSocket, 200 = entities as well, without a limit of connections. "
            "Other numbers count as the next lower tier.",
        ),
    ],
    expires: Expires = "",
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Allow this many WebSocket connections (default: the server's limit)."
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Allow this many requests per minute (default: the server's limit)."
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Store this note with the key.")] = None,
    api_keys_file: KeysFile = None,
    validator_dir: ValidatorDir = "",
) -> None:
    """Add a user. The new key is printed once; only its hash is stored."""
    from ptn_api.access import add_key

    path = _key_file(api_keys_file, validator_dir)
    created = not path.exists()
    tier = int(tier) if tier.is_integer() else tier
    key = add_key(
        path,
        user,
        tier,
        expires_ms=expiry_ms(expires, wall_ms(), "--expires"),
        max_connections=max_connections,
        requests_per_minute=requests_per_minute,
        note=note,
    )
    if created and path.stat().st_uid != getattr(os, "geteuid", lambda: 0)():  # with sudo, for a service
        typer.echo(f"Created {path}, which belongs to {owner_of(path)}.", err=True)
    _print_key(f"Added {user} with tier {tier} to {path}.", key, path)


@keys_app.command(cls=Command)
def rotate(
    user: User,
    grace: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Keep the old key valid for this long (7d, 12h); 0 revokes it now."
        ),
    ] = "7d",
    expires: Expires = "",
    api_keys_file: KeysFile = None,
    validator_dir: ValidatorDir = "",
) -> None:
    """Give a user a new key. The old one stays valid for a while (--grace)."""
    from ptn_api.access import rotate_key

    path = _key_file(api_keys_file, validator_dir)
    now_ms, grace_ms = wall_ms(), duration_ms(grace, "--grace")
    expires_ms = expiry_ms(expires, now_ms, "--expires")
    key = rotate_key(path, user, grace_ms=grace_ms, now_ms=now_ms, expires_ms=expires_ms)
    old = f"stays valid for {grace}" if grace_ms else "is revoked"
    _print_key(f"{user} has a new key; the old one {old}.", key, path)


@keys_app.command(cls=Command)
def revoke(user: User, api_keys_file: KeysFile = None, validator_dir: ValidatorDir = "") -> None:
    """Remove a user and all the user's keys. Open connections are closed within a second."""
    from ptn_api.access import revoke_key

    path = _key_file(api_keys_file, validator_dir)
    revoke_key(path, user)
    typer.echo(f"Removed {user} from {path}.", err=True)
    _warn_if_exposed(path)


@keys_app.command("list", cls=Command)
def list_(
    api_keys_file: KeysFile = None, validator_dir: ValidatorDir = "", data_dir: DataDir = DATA_DIR
) -> None:
    """List every key: user, tier, fingerprint, expiry and last use."""
    from ptn_api.access import parse_keys
    from ptn_api.access.usage import UsageFile
    from ptn_api.cli.output import format_time, print_rows

    path = _key_file(api_keys_file, validator_dir)
    parsed = parse_keys(_read_keys(path))
    unused, last_seen = "never", dict[tuple[str, str], int]()
    try:
        last_seen = UsageFile(_existing(data_dir)).last_seen()
    except (sqlite3.Error, PTNError) as error:
        typer.echo(f"ptn: the last use of keys cannot be read: {error}", err=True)
        unused = "unknown"
    rows = []
    for grant in parsed.grants:
        fingerprint = grant.digest.hex()[:8]
        seen = format_time(last_seen.get((grant.alias, fingerprint))) or unused
        expires = format_time(grant.expires_ms) or "never"
        rows.append((grant.alias, str(grant.tier), fingerprint, expires, seen))
    print_rows(("user", "tier", "fingerprint", "expires", "last seen"), rows)
    if parsed.problems:
        counts = f"{len(parsed.problems)} problems in {path}, entries left out: {parsed.left_out}"
        typer.echo(f"ptn: warning: {counts}; see `ptn keys check`", err=True)
    _warn_if_exposed(path)


@keys_app.command(cls=Command)
def check(api_keys_file: KeysFile = None, validator_dir: ValidatorDir = "") -> None:
    """Print all problems in the key file; exit with status 1 if there are any."""
    from ptn_api.access import check_keys, exposed_to, parse_keys

    path = _key_file(api_keys_file, validator_dir)
    content = _read_keys(path)
    problems = [f"{path}:{line}: {sentence}" for line, sentence in check_keys(content)]
    if danger := exposed_to(path):
        problems.append(f"{path}: {danger}")
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{path}: {len(parse_keys(content).grants)} keys, no problems")


@keys_app.command(cls=Command)
def usage(
    days: Annotated[
        int, typer.Option(min=1, metavar="N", help="Cover this many days, including today.")
    ] = 30,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Print requests, bytes and stream messages per user and day (UTC)."""
    from ptn_api.access.usage import UsageFile, day_of
    from ptn_api.cli.output import print_rows

    first_day = day_of(wall_ms() - (days - 1) * 86_400_000)
    totals: dict[tuple[str, str], list[int]] = {}
    try:
        for row in UsageFile(_existing(data_dir)).read(since_day=first_day):
            total = totals.setdefault((row.alias, row.day), [0, 0, 0])
            for n, amount in enumerate((row.requests, row.sent_bytes, row.messages)):
                total[n] += amount
    except sqlite3.Error as error:
        raise PTNError(f"the usage records in {data_dir} cannot be read: {error}") from None
    rows = [(user, day, *map(str, total)) for (user, day), total in totals.items()]
    print_rows(("user", "day", "requests", "bytes", "messages"), rows)


def _existing(data_dir: Path) -> Path:
    """The data directory. Raises SettingsError if it is missing, which must not look like an idle server."""
    if not data_dir.is_dir():
        raise SettingsError(f"no such data directory: {data_dir} (give the server's with --data-dir)")
    return data_dir


def _key_file(given: Path | None, validator_dir: str) -> Path:
    """Returns the key file of a server with the same options; if it is missing, the one to create."""
    from ptn_api.access import find_key_file, key_file_places

    return given or find_key_file(validator_dir) or key_file_places(validator_dir)[0]


def _read_keys(path: Path) -> bytes:
    from ptn_api.access import read_key_file
    from ptn_api.errors import KeyFileError

    try:
        return read_key_file(path)
    except FileNotFoundError:
        raise KeyFileError(f"key file not found: {path} (see --api-keys-file)", code="no_file") from None
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from None


def _print_key(sentence: str, key: str, path: Path) -> None:
    """Prints the key alone on standard output, everything else on standard error."""
    typer.echo(f"{sentence} The key is not shown again:", err=True)
    typer.echo(key)
    _warn_if_exposed(path)


def _warn_if_exposed(path: Path) -> None:
    from ptn_api.access import exposed_to

    if danger := exposed_to(path):
        remedy = f"chown --reference={path.resolve().parent}" if "belongs to" in danger else "chmod o-rw"
        typer.echo(f"ptn: warning: {danger}; {remedy} {path}", err=True)
